"""`worker`, as a process: what it says, how it stops, and what becomes of what it had in hand."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

from app.llmgine.delivery.journal import Entry
from app.llmgine.delivery.sqlite import SQLiteJournal
from app.llmgine.interfaces.cli.worker import TOGETHER_S
from app.llmgine.messages import Command
from app.llmgine.settings import RuntimeSettings

from .conftest import APP, HERE, TESTS, Run
from .crew.application import Cling, Fail, Hold, bootstrap

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")

CREW = ("-m", "crew")
PATH = {"PYTHONPATH": f"{TESTS}:{HERE}"}
PATIENCE_S = 30.0
T = TypeVar("T")
# What two looks at a file or a process may be apart.
LOOK_S = 0.02


class Worker:
    """A worker that runs; what it printed is read as it is asked for."""

    def __init__(self, process: Process, folder: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.folder = folder
        self.address = ""
        self._heard: list[dict[str, Any]] = []

    async def hears(self, event: str, **facts: Any) -> dict[str, Any]:
        """The next line of that event, with these facts, that was not asked for before."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for told in self._heard:
                    if told["event"] == event and facts.items() <= told.items():
                        self._heard.remove(told)
                        return told
                line = await self.process.stdout.readline()
                assert line, f"{event} was not said; it ended with {await self.ended()}"
                told = json.loads(line)
                self.address = self.address or told.get("health") or ""
                self._heard.append(told)

    async def ended(self) -> tuple[int, str]:
        """Its exit code, and what it said on stderr."""
        async with asyncio.timeout(PATIENCE_S):
            _, stderr = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, stderr.decode()

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def health(self, path: str = "/healthz") -> tuple[int, dict[str, Any]]:
        async with aiohttp.ClientSession() as session, session.get(self.address + path) as response:
            return response.status, await response.json()

    async def until(self, path: str, status: int) -> dict[str, Any]:
        """Ask again until it answers with that status."""

        async def answered() -> dict[str, Any] | None:
            found, told = await self.health(path)
            return told if found == status else None

        return await until(answered)

    async def began(self, name: str) -> None:
        await until_file(self.folder / f"{name}.began")


async def until(look: Callable[[], Awaitable[T | None]]) -> T:
    async with asyncio.timeout(PATIENCE_S):
        while (found := await look()) is None:  # noqa: ASYNC110  it is in another process
            await asyncio.sleep(LOOK_S)
    return found


async def until_file(path: Path) -> None:
    async def there() -> bool | None:
        return path.exists() or None

    await until(there)


async def until_gone(pid: int) -> None:
    async def gone() -> bool | None:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        return state == "Z" or None

    await until(gone)


Start = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Start:
    @asynccontextmanager
    async def start(*arguments: str, **env: str) -> AsyncIterator[Worker]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", *CREW, "worker", "--json", *arguments),
            cwd=tmp_path,
            env={**environment, **PATH, **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
        )
        try:
            yield Worker(process, tmp_path)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    return start


@pytest.fixture
def send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logging_restored: None
) -> Callable[..., Awaitable[str]]:
    """Keeps a command in the journal, for workers to do; returns its id."""
    monkeypatch.chdir(tmp_path)

    async def send(command: Command[None]) -> str:
        async with bootstrap(RuntimeSettings.load(work=False)) as app:
            receipt = await app.bus.send(command)
            return receipt.id

    return send


async def kept(folder: Path, entry_id: str) -> Entry:
    journal = SQLiteJournal(folder / "data" / "app.db")
    await journal.open()
    try:
        entry = await journal.get(entry_id)
    finally:
        await journal.aclose()
    assert entry is not None
    return entry


async def test_it_says_who_it_is_and_what_it_works_on(start: Start, tmp_path: Path) -> None:
    async with start() as worker:
        told = await worker.hears("started")
        await worker.until("/readyz", 200)
        worker.stop()
        await worker.hears("stopped")

        assert await worker.ended() == (0, "")
    assert told["app"] == "crew"
    assert told["worker"].endswith(f":{worker.pid}")
    assert "app.db" in told["journal"]
    assert told["transport"] is None
    assert told["routes"] == ["command Hold", "command Cling", "command Fail"]
    assert told["health"].startswith("http://127.0.0.1:")


async def test_people_get_a_banner_without_colours(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *CREW, "worker", "--no-health"),
        cwd=tmp_path,
        env={**environment, **PATH},
        stdout=PIPE,
    )
    assert process.stdout is not None

    async with asyncio.timeout(PATIENCE_S):
        lines = [await process.stdout.readline() for _ in range(5)]
        process.terminate()
        rest, _ = await process.communicate()

    title, *facts = [line.decode().rstrip() for line in lines]
    assert title == f"crew worker {title.split()[-1]}"
    assert [fact.split()[0] for fact in facts] == ["journal", "transport", "handles", "health"]
    assert facts[-1].split(maxsplit=1)[1] == "no endpoint"
    assert rest.decode().splitlines()[-1] == "stopped"
    assert process.returncode == 0


async def test_it_does_what_was_sent_before_and_after_it_began(
    start: Start, send: Callable[..., Awaitable[str]], tmp_path: Path
) -> None:
    before = await send(Fail(why="before"))
    async with start() as worker:
        first = await worker.hears("dead_letter", letter_id=before)
        after = await send(Fail(why="after"))
        await worker.hears("dead_letter", letter_id=after)
        worker.stop()

        code, _ = await worker.ended()
    assert code == 0
    assert (first["message"], first["error_type"]) == ("Fail", "ValueError")
    assert (await kept(tmp_path, before)).state == "dead"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_told_to_stop_it_is_not_ready_takes_no_more_and_finishes_what_runs(
    start: Start, send: Callable[..., Awaitable[str]], tmp_path: Path, number: int
) -> None:
    running = await send(Hold(name="running"))
    async with start() as worker:
        await worker.hears("started")
        await worker.began("running")
        worker.stop(number)
        await worker.until("/readyz", 503)
        later = await send(Hold(name="later"))
        assert (await worker.health("/livez"))[0] == 200
        (tmp_path / "running.go").touch()
        await worker.hears("stopped")

        code, _ = await worker.ended()
    assert code == 0
    assert (await kept(tmp_path, running)).state == "done"
    assert (await kept(tmp_path, later)).state == "ready"
    assert not (tmp_path / "later.began").exists()


async def test_what_does_not_end_within_the_grace_is_left_to_others(
    start: Start, send: Callable[..., Awaitable[str]], tmp_path: Path
) -> None:
    entry_id = await send(Hold(name="long"))
    async with start(LLMGINE_STOP_GRACE_S="0.1") as worker:
        await worker.hears("started")
        await worker.began("long")
        worker.stop()

        code, _ = await worker.ended()
    entry = await kept(tmp_path, entry_id)
    assert code == 0
    assert (entry.state, entry.owner, entry.losses) == ("ready", None, 0)


async def test_a_handler_that_holds_on_does_not_keep_the_process(
    start: Start, send: Callable[..., Awaitable[str]]
) -> None:
    await send(Cling(name="limpet"))
    async with start(LLMGINE_STOP_GRACE_S="0.1") as worker:
        await worker.hears("started")
        await worker.began("limpet")
        worker.stop()

        code, stderr = await worker.ended()
    assert code == 1
    assert "error: a handler holds on 2.1 s after the signal" in stderr


async def test_a_signal_that_comes_twice_is_one_and_a_later_one_ends_it_at_once(
    start: Start, send: Callable[..., Awaitable[str]], tmp_path: Path
) -> None:
    entry_id = await send(Hold(name="long"))
    async with start() as worker:
        await worker.hears("started")
        await worker.began("long")
        worker.stop()
        worker.stop()
        await worker.hears("stopping")
        await asyncio.sleep(TOGETHER_S)
        worker.stop()

        code, _ = await worker.ended()
    assert code == 128 + signal.SIGTERM
    assert (await kept(tmp_path, entry_id)).state == "running"


def test_a_journal_that_cannot_be_opened_is_one_line_and_a_code(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "app.db").write_bytes(b"no database at all" * 100)

    for arguments in ([], ["--processes", "2"]):
        done = run("worker", *arguments, app=CREW, env=PATH)
        assert (done.returncode, done.stdout) == (6, "")
        assert len([line for line in done.stderr.splitlines() if "error: " in line]) == 1


def test_a_model_that_cannot_be_called_is_said_at_once(run: Run) -> None:
    done = run("worker", app=APP, env={"LLMGINE_MODEL": "openai/gpt-5.1"})

    assert done.returncode == 3
    assert "OPENAI_API_KEY" in done.stderr


async def test_a_health_port_that_is_taken_is_said_at_once(start: Start, run: Run) -> None:
    async with start() as worker:
        port = (await worker.hears("started"))["health"].rpartition(":")[2]

        done = await asyncio.to_thread(run, "worker", "--health-port", port, app=CREW, env=PATH)

    assert done.returncode == 3
    assert port in done.stderr


async def test_a_supervisor_starts_what_died_again_and_stops_all(start: Start) -> None:
    async with start("--processes", "2") as supervisor:
        pids = {no: (await supervisor.hears("started", process=no))["pid"] for no in (1, 2)}
        await supervisor.until("/readyz", 200)
        os.kill(pids[1], signal.SIGKILL)
        died = await supervisor.hears("ended", process=1)
        again = (await supervisor.hears("started", process=1))["pid"]
        await supervisor.until("/readyz", 200)
        supervisor.stop()
        await supervisor.hears("stopped")

        assert await supervisor.ended() == (0, "")
    assert "SIGKILL" in died["text"]
    assert again not in pids.values()
    for pid in (again, pids[2]):
        await until_gone(pid)


async def test_the_health_of_all_is_told_at_one_address(
    start: Start, send: Callable[..., Awaitable[str]], tmp_path: Path
) -> None:
    for name in ("one", "two", "three"):
        await send(Hold(name=name))
    async with start("--processes", "2") as supervisor:
        await supervisor.hears("supervising")
        for name in ("one", "two", "three"):
            await supervisor.began(name)
        ready = await supervisor.until("/healthz", 200)
        supervisor.stop()
        ill = await supervisor.until("/healthz", 503)
        for name in ("one", "two", "three"):
            (tmp_path / f"{name}.go").touch()

        code, _ = await supervisor.ended()
    assert (ready["in_hand"], ready["depth"]) == (3, 3)
    assert "stopping" in ill["problems"]
    assert code == 0


async def test_processes_whose_supervisor_was_killed_finish_and_stop(
    start: Start, send: Callable[..., Awaitable[str]], tmp_path: Path
) -> None:
    entry_id = await send(Hold(name="work"))
    async with start("--processes", "2") as supervisor:
        pids = [(await supervisor.hears("started", process=no))["pid"] for no in (1, 2)]
        await supervisor.began("work")
        supervisor.stop(signal.SIGKILL)
        await until_gone(supervisor.pid)
        (tmp_path / "work.go").touch()

        for pid in pids:
            await until_gone(pid)
    assert (await kept(tmp_path, entry_id)).state == "done"


async def test_a_process_that_does_not_stop_is_killed_and_named(start: Start) -> None:
    async with start("--processes", "2", LLMGINE_STOP_GRACE_S="0") as supervisor:
        pids = [(await supervisor.hears("started", process=no))["pid"] for no in (1, 2)]
        os.kill(pids[1], signal.SIGSTOP)
        supervisor.stop()

        code, stderr = await supervisor.ended()
    assert code == 1
    assert "process 2 did not end and was killed" in stderr
    await until_gone(pids[1])
