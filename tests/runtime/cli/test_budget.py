"""`budget`: what an owner sees of the money, and what they see when it is gone."""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.llmgine.application import Application, default_ledger, observe
from app.llmgine.bus import MessageBus
from app.llmgine.context import MemoryStore
from app.llmgine.contracts import ChatMessage, LLMRequest, Money, Usage
from app.llmgine.engine import LLMEngine, PromptCommand
from app.llmgine.interfaces.cli import build_cli
from app.llmgine.interfaces.cli.budget import budget_lines
from app.llmgine.interfaces.cli.render import cells
from app.llmgine.llm import LLMManager
from app.llmgine.llm.budget import Balance, Balances, Budget, Cap, Ledger, Scope
from app.llmgine.settings import RuntimeSettings
from app.llmgine.tools import ToolManager

from .conftest import HERE, TESTS
from .sample import PROVIDERS, load_settings
from .terminal import Terminal

Budgeted = Callable[..., Result]
PATH = {"PYTHONPATH": f"{TESTS}:{HERE}"}


def bootstrap(settings: RuntimeSettings) -> Application:
    """With a ledger, as the template's own."""
    observer, bus, tools = observe(settings), MessageBus(), ToolManager()
    llm = LLMManager(PROVIDERS, ledger=default_ledger(settings))
    store = MemoryStore()
    engine = LLMEngine(
        bus=bus, llm=llm, tools=tools, store=store, settings=settings, observer=observer
    )
    bus.register_command_handler(PromptCommand, engine.prompt)
    return Application(
        settings=settings,
        bus=bus,
        tools=tools,
        llm=llm,
        store=store,
        observer=observer,
        ask=lambda prompt, conversation: PromptCommand(prompt=prompt, conversation_id=conversation),
    )


cli = build_cli("sample", load_settings, bootstrap)


@pytest.fixture
def run(
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    logging_restored: None,
) -> Budgeted:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, env: Mapping[str, str] | None = None) -> Result:
        return CliRunner().invoke(cli, list(arguments), env={**environment, **(env or {})})

    return run


def spend(folder: Path, cost: str | None = "0.5", model: str = "echo/m") -> None:
    async def spend() -> None:
        ledger = Ledger(folder / "data" / "app.db", Budget(day=Cap(tokens=10**6)))
        request = LLMRequest(
            model="m",
            messages=(ChatMessage.user("Hello"),),
            conversation_id="s1",
            user_id="ada\x1b[31m",
        )
        money = None if cost is None else Money(amount=Decimal(cost))
        place = await ledger.reserve(model, request)
        await ledger.settle(place, Usage(input_tokens=1_000, output_tokens=200), money)
        await ledger.aclose()

    asyncio.run(spend())


def test_the_day_and_who_spent_most_of_it_are_shown(run: Budgeted, tmp_path: Path) -> None:
    spend(tmp_path)
    spend(tmp_path, None)

    lines = run("budget", env={"LLMGINE_BUDGET_DAY_USD": "5"}).stdout.splitlines()

    told = "2,400 tokens, 2 calls, 1 of unknown price"
    assert lines[0].endswith(f" (UTC): 0.50 USD of 5.00 USD, {told}")
    assert lines[2:] == [
        "Sessions",
        f"s1  0.50 USD, {told}",
        "",
        "Users",
        f"ada[31m  0.50 USD, {told}",
        "",
        "Models",
        f"echo/m  0.50 USD, {told}",
        "",
        "Caps: day 5.00 USD",
    ]


def test_without_a_budget_it_says_how_to_set_one(run: Budgeted) -> None:
    done = run("budget")

    assert "LLMGINE_BUDGET_DAY_USD=5" in done.stdout
    assert "0.00 USD, 0 tokens, 0 calls" in done.stdout


def test_it_comes_as_one_object_with_exact_amounts(run: Budgeted, tmp_path: Path) -> None:
    spend(tmp_path, "0.000000123456")

    data = json.loads(run("budget", "--json", env={"LLMGINE_BUDGET_USER_TOKENS": "9"}).stdout)

    spent = {
        "calls": 1,
        "spent_usd": "0.000000123456",
        "spent_tokens": 1200,
        "estimated_usd": "0",
        "calls_of_unknown_price": 0,
        "open_calls": 0,
        "reserved_usd": "0",
        "reserved_tokens": 0,
    }
    assert date.fromisoformat(data.pop("date"))
    assert data == {
        "caps": {"user": {"tokens": 9}},
        "day": spent,
        "sessions": [{"session": "s1", **spent}],
        "users": [{"user": "ada\x1b[31m", **spent}],
        "models": [{"model": "echo/m", **spent}],
    }


def test_a_ledger_in_memory_cannot_be_seen(run: Budgeted) -> None:
    done = run("budget", env={"LLMGINE_CONTEXT_STORE": "memory"})

    assert done.exit_code == 3
    assert "LLMGINE_CONTEXT_STORE" in done.stderr


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"LLMGINE_BUDGET_CALL_TOKENS": "10"}, "the cap is 10 tokens"),
        ({"LLMGINE_BUDGET_SESSION_USD": "1"}, "The price of echo is not known"),
    ],
)
def test_a_refused_turn_says_why_and_ends_as_a_limit(
    run: Budgeted, env: dict[str, str], said: str
) -> None:
    done = run("ask", "--model", "echo", "Hello", env=env)

    assert said in done.stderr
    assert done.exit_code == 5


def test_a_turn_is_in_the_ledger_when_it_is_over(run: Budgeted) -> None:
    env = {"LLMGINE_BUDGET_DAY_TOKENS": "10000"}
    assert run("ask", "--model", "echo", "Hello", env=env).exit_code == 0

    day = json.loads(run("budget", "--json", env=env).stdout)["day"]

    assert (day["calls"], day["spent_tokens"], day["spent_usd"]) == (1, 1234, "0.0012")
    assert day["open_calls"] == 0


@pytest.mark.parametrize(
    ("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)], ids=["colour", "NO_COLOR"]
)
def test_a_terminal_gets_colour_where_it_is_wanted(
    tmp_path: Path, environment: dict[str, str], env: dict[str, str], coloured: bool
) -> None:
    spend(tmp_path)
    command = [sys.executable, str(HERE / "sample.py"), "budget"]
    full = {**environment, **PATH, **env, "LLMGINE_BUDGET_DAY_USD": "0.5"}
    with Terminal(command, folder=tmp_path, environment=full, columns=40) as screen:
        assert screen.wait_for_end() == 0

    assert ("\x1b[31m" in screen.raw) == coloured
    assert all(cells(line) <= 40 for line in screen.text.splitlines())


def balance(scope: Scope, key: str) -> Balance:
    return Balance(
        scope=scope,
        key=key,
        cap=Cap(usd=Decimal(5), tokens=1_000),
        calls=7,
        spent_usd=Decimal("1.5"),
        spent_tokens=700,
        estimated_usd=Decimal("0.3"),
        unpriced=1,
        open_calls=2,
        reserved_usd=Decimal("0.25"),
        reserved_tokens=50,
    )


FOUND = Balances(
    date(2026, 5, 4),
    balance("day", ""),
    (balance("session", "漢字" * 30), balance("session", "s2")),
    (),
    (balance("model", "openai/gpt-5.1"),),
)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("budget", [Budget(), Budget(day=Cap(usd=Decimal(5), tokens=1_000))])
def test_no_line_is_wider_than_the_window(width: int, budget: Budget) -> None:
    lines = budget_lines(FOUND, budget, width)

    assert [line for line in lines if cells(line) > width] == []


def test_a_narrow_window_cuts_no_figure() -> None:
    said = " ".join(" ".join(budget_lines(FOUND, Budget(), 30)).split())

    assert said.count("7 calls, 1 of unknown price") == 4


def test_what_is_reserved_and_what_is_estimated_is_told() -> None:
    assert budget_lines(FOUND, Budget(), 500)[0] == (
        "2026-05-04 (UTC): 1.50 USD of 5.00 USD, 0.25 USD and 50 tokens reserved by 2 open calls, "
        "20% estimated, 700 of 1,000 tokens, 7 calls, 1 of unknown price"
    )
