"""The manager reserves what a call may cost, and books what it took."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing, closing
from decimal import Decimal
from pathlib import Path
from typing import Protocol

import pytest
from opentelemetry.sdk.trace import SpanProcessor

from app.llmgine.contracts import Usage
from app.llmgine.errors import BudgetError, LLMError, LLMErrorKind
from app.llmgine.llm import Breaker, RetryPolicy, Route, Target
from app.llmgine.llm.budget import Budget, Cap, Ledger
from app.llmgine.llm.prices import PriceTable
from app.llmgine.observability import MemorySink, Observer
from runtime.llm.actors import Act, Stage, ask, fails

KIND = LLMErrorKind
A, B = Target("actors/a"), Target("actors/b")
OK = Act()
USAGE = Usage(input_tokens=1000, output_tokens=100)


def route(*targets: Target, **fields: object) -> dict[str, Route]:
    return {"fast": Route(targets, **fields)}


class MakeLedger(Protocol):
    def __call__(self, prices: PriceTable, **caps: Cap) -> Ledger: ...


@pytest.fixture
async def ledger() -> AsyncIterator[MakeLedger]:
    made: list[Ledger] = []

    def make(prices: PriceTable, **caps: Cap) -> Ledger:
        made.append(Ledger(None, Budget(**caps), prices))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()


async def test_a_call_is_reserved_before_and_settled_after(ledger: MakeLedger) -> None:
    book = ledger(PriceTable(), session=Cap(tokens=10_000))
    stage = Stage({"a": [fails(KIND.SERVER), Act(usage=USAGE)]}, ledger=book)

    await stage.complete("actors/a", conversation_id="c")
    balance = await book.balance("session", "c")

    assert (balance.calls, balance.spent_tokens, balance.open_calls) == (1, 1100, 0)


async def test_what_the_budget_does_not_allow_is_not_called(ledger: MakeLedger) -> None:
    stage = Stage(
        {"a": [OK], "b": [OK]}, models=route(A, B), ledger=ledger(PriceTable(), call=Cap(tokens=10))
    )

    with pytest.raises(BudgetError) as caught:
        await stage.complete("fast")

    assert stage.actors.calls == []
    assert "Not called: actors/a (budget), actors/b (budget)." in str(caught.value)


async def test_a_target_within_the_budget_answers_instead(
    ledger: MakeLedger, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('[prices."actors/b"]\ninput = 1\noutput = 1\n')
    slow = Target("actors/a", requests_per_minute=6)
    stage = Stage(
        {"b": [OK]},
        models=route(slow, B),
        ledger=ledger(PriceTable.load(prices), call=Cap(usd=Decimal(1))),
    )

    for _ in range(2):  # The turn of `a` goes back, or the second call would wait for it.
        response = await stage.complete("fast")

    assert [one.reason for one in response.attempts] == ["fallback after budget"]
    assert stage.clock.monotonic() == 0.0


@pytest.mark.parametrize("how", ["cancelled", "closed", "cut"])
async def test_a_stream_that_ends_early_settles_what_had_arrived(
    ledger: MakeLedger, how: str
) -> None:
    book = ledger(PriceTable(), session=Cap(tokens=10_000))
    words = "word " * 40
    acts = {"a": [fails(KIND.NETWORK, words) if how == "cut" else Act([words] * 9)]}
    stage = Stage(acts, ledger=book, models=route(A, retry=RetryPolicy(retries=0)))
    heard = asyncio.Event()

    async def read() -> None:
        async with aclosing(stage.manager.stream(ask("fast", conversation_id="c"))) as chunks:
            async for _ in chunks:
                heard.set()
                if how == "closed":
                    return
                if how == "cancelled":
                    await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await heard.wait()
    if how == "cancelled":
        task.cancel()
    await asyncio.wait([task])
    balance = await book.balance("session", "c")

    assert task.cancelled() is (how == "cancelled")
    assert (balance.calls, balance.open_calls) == (1, 0)
    assert 50 < balance.spent_tokens < 100


@pytest.mark.parametrize(("streaming", "least"), [(False, 500), (True, 1)])
async def test_a_call_that_was_stopped_settles_what_its_model_may_have_said(
    ledger: MakeLedger, streaming: bool, least: int
) -> None:
    book = ledger(PriceTable(), session=Cap(tokens=10_000))
    stage = Stage({"a": [Act(gap_s=9)]}, ledger=book)
    call = stage.stream if streaming else stage.complete

    with pytest.raises(LLMError):
        await call("actors/a", conversation_id="c", timeout_s=5, max_output_tokens=500)
    balance = await book.balance("session", "c")

    assert (balance.calls, balance.open_calls) == (1, 0)
    assert least <= balance.spent_tokens < least + 20


async def test_the_ledger_is_closed_with_the_manager(tmp_path: Path) -> None:
    stage = Stage({"a": [OK]}, ledger=Ledger(tmp_path / "app.db"))
    await stage.complete("actors/a", conversation_id="c")

    await stage.manager.aclose()

    reopened = Ledger(tmp_path / "app.db")
    assert (await reopened.balance("session", "c")).calls == 1
    await reopened.aclose()


async def test_a_try_that_the_budget_refuses_is_left_to_the_next_call(ledger: MakeLedger) -> None:
    stage = Stage(
        {"a": [fails(KIND.SERVER), OK]},
        models=route(A, breaker=Breaker(failures=1)),
        ledger=ledger(PriceTable(), call=Cap(tokens=1000)),
    )
    with pytest.raises(LLMError, match="a failed"):
        await stage.complete("fast", max_output_tokens=10)
    await stage.clock.advance(30)
    with pytest.raises(BudgetError):
        await stage.complete("fast", max_output_tokens=5000)

    response = await stage.complete("fast", max_output_tokens=10)

    assert response.model == "a"


async def test_a_call_that_cannot_begin_to_be_recorded_gives_its_place_back(
    ledger: MakeLedger,
) -> None:
    book, observer = ledger(PriceTable(), session=Cap(tokens=10_000)), broken("on_start")
    stage = Stage({"a": [OK]}, ledger=book, observer=observer)

    with pytest.raises(ZeroDivisionError):
        await stage.complete("actors/a", conversation_id="c")
    balance = await book.balance("session", "c")

    assert (balance.calls, balance.open_calls) == (0, 0)


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_call_that_cannot_be_recorded_at_its_end_is_settled(
    ledger: MakeLedger, streaming: bool
) -> None:
    book, observer = ledger(PriceTable(), session=Cap(tokens=10_000)), broken("on_end")
    stage = Stage(
        {"a": [Act(usage=USAGE)]},
        models=route(Target("actors/a", timeout_s=5)),
        ledger=book,
        observer=observer,
    )

    with pytest.raises(ZeroDivisionError):
        await (stage.stream if streaming else stage.complete)("fast", conversation_id="c")
    balance = await book.balance("session", "c")

    assert (balance.spent_tokens, balance.open_calls) == (1100, 0)
    assert stage.clock.timers == 0


def broken(what: str) -> Observer:
    """An observer with a processor of somebody else's that fails."""
    observer = Observer([MemorySink()])
    assert observer.tracer_provider is not None
    processor = type("Broken", (SpanProcessor,), {what: lambda *_, **__: 1 / 0})()
    observer.tracer_provider.add_span_processor(processor)
    return observer


async def test_a_target_has_no_more_time_than_the_call_has_when_the_ledger_was_slow(
    tmp_path: Path,
) -> None:
    file = tmp_path / "ledger.db"
    book = Ledger(file, Budget(session=Cap(tokens=10_000)), PriceTable())
    await book.balance("session", "c")
    target = Target("actors/a", timeout_s=8)
    stage = Stage({"a": [Act(gap_s=3)]}, models=route(target), ledger=book)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        call = asyncio.create_task(
            stage.manager.complete(ask("fast", conversation_id="c", timeout_s=10))
        )
        await stage.clock.advance(9)
    while not stage.actors.calls:
        await stage.clock.advance(0)
    await stage.clock.advance(60)
    with pytest.raises(LLMError) as caught:
        await call
    await book.aclose()

    (attempt,) = caught.value.attempts
    assert (attempt.error, attempt.duration_s) == (KIND.TIMEOUT, 1)
