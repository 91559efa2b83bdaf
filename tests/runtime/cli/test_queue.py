"""`queue`: what operators see and do, without taking any work."""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.llmgine.bus.queue import QueueStats
from app.llmgine.delivery.journal import Entry, RouteStats, State, Worker
from app.llmgine.delivery.sqlite import SQLiteJournal
from app.llmgine.interfaces.cli.queue import entry_line, stats_lines
from app.llmgine.interfaces.cli.render import cells

from .conftest import HERE, TESTS, Run
from .crew.application import cli
from .terminal import Terminal

Queue = Callable[..., Result]
CREW = ("-m", "crew")
PATH = {"PYTHONPATH": f"{TESTS}:{HERE}"}
ERROR = '{"type": "CardError", "message": "card\\u001b[31m declined"}'


@pytest.fixture
def queue(
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    logging_restored: None,
) -> Queue:
    monkeypatch.chdir(tmp_path)

    def queue(*arguments: str, env: Mapping[str, str] | None = None) -> Result:
        return CliRunner().invoke(cli, ["queue", *arguments], env={**environment, **(env or {})})

    return queue


def entry(entry_id: str, state: State = "ready", name: str = "Hold") -> Entry:
    return Entry(
        id=entry_id,
        route=f"command {name}",
        name=name,
        payload='{"name": "secret-content"}',
        created_ns=1,
        state=state,
        error=ERROR if state in {"dead", "parked", "failed"} else None,
    )


def keep(folder: Path, *entries: Entry, worker: Worker | None = None) -> None:
    async def keep() -> None:
        journal = SQLiteJournal(folder / "data" / "app.db")
        await journal.open()
        await journal.append(entries)
        if worker is not None:
            await journal.beat(worker)
        await journal.aclose()

    asyncio.run(keep())


def states(folder: Path, *ids: str) -> list[State | None]:
    async def look() -> list[State | None]:
        journal = SQLiteJournal(folder / "data" / "app.db")
        await journal.open()
        found = [await journal.get(entry_id) for entry_id in ids]
        await journal.aclose()
        return [one.state if one else None for one in found]

    return asyncio.run(look())


def test_the_overview_tells_depth_age_lag_failures_and_workers(
    queue: Queue, tmp_path: Path
) -> None:
    worker = Worker(id="1", name="host:7", routes=["command Hold"], started_ns=1)
    keep(
        tmp_path,
        entry("a"),
        entry("b"),
        entry("c", "dead"),
        entry("d", "parked", "X"),
        worker=worker,
    )

    lines = queue().stdout.splitlines()

    assert lines[0].startswith("command Hold  depth 2, oldest ")
    assert lines[0].endswith(", 1 dead")
    assert lines[1].split() == ["command", "X", "depth", "0,", "1", "parked"]
    assert lines[3].startswith("depth 2 · lag ")
    assert lines[3].endswith(" · in hand 0 · dead 1 · parked 1")
    assert lines[4].startswith("worker host:7, for ")


def test_an_overview_without_worker_says_so(queue: Queue) -> None:
    assert queue().stdout.splitlines() == [
        "depth 0 · lag 0 µs · in hand 0 · dead 0 · parked 0",
        "no worker",
    ]


def test_the_overview_comes_as_one_object(queue: Queue, tmp_path: Path) -> None:
    keep(tmp_path, entry("a"), entry("b", "dead"))

    data = json.loads(queue("--json").stdout)

    assert (data["depth"], data["dead"], data["workers"]) == (1, 1, [])
    assert data["routes"][0]["route"] == "command Hold"
    assert data["lag_s"] == data["routes"][0]["oldest_age_s"] > 0


def test_a_list_has_a_line_for_each_and_no_content(queue: Queue, tmp_path: Path) -> None:
    keep(tmp_path, entry("a1"), entry("b2", "dead"), entry("c3", "done"))

    done = queue("list")

    first, second = done.stdout.splitlines()
    assert first.split()[:2] == ["a1", "ready"]
    assert second.split()[:2] == ["b2", "dead"]
    assert "CardError: card[31m declined" in second
    assert "secret-content" not in done.output


def test_a_list_is_cut_by_number_and_says_that_there_is_more(queue: Queue, tmp_path: Path) -> None:
    keep(tmp_path, *(entry(str(number)) for number in range(5)))

    done = queue("list", "-n", "2")

    assert len(done.stdout.splitlines()) == 2
    assert "more" in done.stderr


def test_a_list_for_programs_is_an_object_a_line_without_content(
    queue: Queue, tmp_path: Path
) -> None:
    keep(tmp_path, entry("a", "dead"), entry("b", "dead", "Fail"), entry("c"))

    done = queue("list", "--json", "--state", "dead", "--message", "Fail")

    (data,) = map(json.loads, done.stdout.splitlines())
    assert (data["id"], data["state"], data["name"]) == ("b", "dead", "Fail")
    assert data["error"].startswith("CardError")
    assert "payload" not in data


def test_one_entry_is_shown_with_its_error_and_content(queue: Queue, tmp_path: Path) -> None:
    keep(tmp_path, entry("abcdef", "dead"))

    text = queue("show", "abc")
    data = json.loads(queue("show", "abc", "--json").stdout)

    assert '"name": "secret-content"' in text.stdout
    assert "CardError: card[31m declined" in text.stdout
    assert "\x1b" not in text.stdout
    assert data["payload"] == {"name": "secret-content"}
    assert data["error"]["type"] == "CardError"


def test_entries_are_retried_by_the_beginnings_of_their_ids(queue: Queue, tmp_path: Path) -> None:
    keep(tmp_path, entry("abc", "dead"), entry("def", "failed"), entry("xyz", "dead"))

    done = queue("retry", "a", "def", "abc")

    assert done.stdout == "2 entries will be tried again\n"
    assert states(tmp_path, "abc", "def", "xyz") == ["ready", "ready", "dead"]


def test_all_means_dead_and_parked_ones(queue: Queue, tmp_path: Path) -> None:
    keep(tmp_path, entry("a", "dead"), entry("b", "parked"), entry("c", "failed"), entry("d"))

    assert queue("retry", "--all").stdout == "2 entries will be tried again\n"
    assert states(tmp_path, "a", "b", "c", "d") == ["ready", "ready", "failed", "ready"]


@pytest.mark.parametrize("act", ["retry", "drop"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--all"),
        (["a", "--all"], "--all"),
        (["a", "--state", "dead"], "--state"),
        (["--all", "--state", "nonsense"], "nonsense"),
        (["--all", "--state", "running"], "running"),
        (["a", "nothing"], "nothing"),
        (["a", "done"], "done"),
        (["x"], "2 entries"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_changed(
    queue: Queue, tmp_path: Path, act: str, arguments: list[str], said: str
) -> None:
    keep(tmp_path, entry("a", "dead"), entry("done", "done"), entry("x1"), entry("x2"))

    done = queue(act, *arguments)

    assert done.exit_code == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert states(tmp_path, "a", "done", "x1", "x2") == ["dead", "done", "ready", "ready"]


def test_without_a_terminal_more_than_one_is_dropped_only_with_yes(
    queue: Queue, tmp_path: Path
) -> None:
    keep(tmp_path, entry("a", "dead"), entry("b", "dead"), entry("c", "dead"))

    refused = queue("drop", "--all")
    one = queue("drop", "a")
    two = queue("drop", "b", "c", "--yes")

    assert (refused.exit_code, one.exit_code, two.exit_code) == (2, 0, 0)
    assert "--yes" in refused.stderr
    assert two.stdout == "2 entries dropped\n"
    assert states(tmp_path, "a", "b", "c") == [None, None, None]


@pytest.mark.parametrize(("answer", "left"), [("n", "dead"), ("y", None)])
def test_on_a_terminal_it_asks_before_it_drops_more_than_one(
    tmp_path: Path, environment: dict[str, str], answer: str, left: State | None
) -> None:
    keep(tmp_path, entry("a", "dead"), entry("b", "dead"))
    command = [sys.executable, *CREW, "queue", "drop", "--all"]

    with Terminal(command, folder=tmp_path, environment={**environment, **PATH}) as terminal:
        terminal.wait_for("Drop 2 entries for good?")
        terminal.press(f"{answer}\r")
        code = terminal.wait_for_end()

    assert code == (1 if left else 0)
    assert states(tmp_path, "a", "b") == [left, left]


def test_work_that_waits_is_left_to_workers(run: Run, tmp_path: Path) -> None:
    keep(tmp_path, entry("a"))

    for command in (["queue"], ["queue", "list"], ["bus"], ["tools", "list"]):
        assert run(*command, app=CREW, env=PATH).returncode == 0

    assert states(tmp_path, "a") == ["ready"]
    assert not (tmp_path / "secret-content.began").exists()


def test_it_needs_no_key(run: Run) -> None:
    done = run("queue", app=CREW, env={**PATH, "LLMGINE_MODEL": "openai/gpt-5.1"})

    assert (done.returncode, done.stderr) == (0, "")


def test_a_journal_that_cannot_be_read_is_one_line_and_a_code(queue: Queue, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "app.db").write_bytes(b"no database at all" * 100)

    done = queue()

    assert done.exit_code == 6
    assert done.stderr.startswith("error: ")
    assert "app.db" in done.stderr.splitlines()[0]


LONG = RouteStats(
    route="event shop.handlers.audit.write_down",
    name="InvoiceProcessed",
    counts={"ready": 12_000, "running": 128, "waiting": 1, "sent": 2, "dead": 3, "parked": 4},
    oldest_due_ns=1,
)


@pytest.mark.parametrize("width", [20, 21, 40, 80, 200])
def test_lines_fit_the_window(width: int) -> None:
    worker = Worker(id="1", name="a-long-host-name:12345", routes=["x"] * 20, started_ns=1)
    stats = QueueStats(routes=[LONG, LONG], at_ns=10**18, workers=[worker])

    lines = stats_lines(stats, width)
    lines += [entry_line(entry("0" * 36, state), 10**18, width) for state in ("ready", "dead")]

    assert all(cells(line) <= width for line in lines)


def test_a_wide_window_shows_everything_of_a_route() -> None:
    (line, *_) = stats_lines(QueueStats(routes=[LONG], at_ns=3_000_000_001), 200)

    assert line == (
        "event shop.handlers.audit.write_down (InvoiceProcessed)  "
        "depth 12,128, oldest 3 s, 128 in hand, 1 waiting, 2 sent, 3 dead, 4 parked"
    )
