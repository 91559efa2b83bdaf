"""A store that fails says so: nothing is accepted that is not kept, and nothing kept is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from app.llmgine.bus import MessageBus, Receipt
from app.llmgine.delivery import SQLiteJournal
from app.llmgine.errors import JournalError
from app.llmgine.messages import Command
from faults.effects import Effects

PAGES = 64 * 1024


class Note(Command[None]):
    durable = True
    number: int
    text: str = ""


@contextlib.asynccontextmanager
async def running(path: Path, noted: Effects) -> AsyncIterator[MessageBus]:
    bus = MessageBus(journal=SQLiteJournal(path), lease_s=0.6)

    async def note(command: Note) -> None:
        noted.make(str(command.number))

    bus.register_command_handler(Note, note)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.stop(grace_s=1)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[bool], None]]:
    """A folder on a disk that can be filled; without the right to mount, files cannot grow."""
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)],
        capture_output=True,
        check=False,
    ).returncode
    filler = folder / "filler"
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(full: bool) -> None:
        if mounted and full:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        elif mounted:
            filler.unlink()
        else:
            size = max(path.stat().st_size for path in folder.iterdir())
            soft = size + PAGES if full else hard
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    try:
        yield fill
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


async def becomes(bus: MessageBus, *, ready: bool) -> bool:
    """Whether it comes to be so, and stays so for some turns of the upkeep."""
    assert bus.delivery is not None
    in_a_row = 0
    for _ in range(100):
        health = await bus.delivery.health()
        in_a_row = in_a_row + 1 if health.ready == ready else 0
        if in_a_row == 20:
            return True
        await asyncio.sleep(0.05)
    return False


async def test_a_full_disk_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    noted = Effects()
    accepted: list[int] = []
    with small_disk(tmp_path) as fill:
        async with running(tmp_path / "app.db", noted) as bus:
            for number in range(20):
                await bus.send(Note(number=number))
                accepted.append(number)
            fill(True)
            with pytest.raises(JournalError):
                for number in range(100, 2_000):
                    await bus.send(Note(number=number, text="x" * 10_000))
                    accepted.append(number)
            assert await becomes(bus, ready=False)
            fill(False)
            await bus.send(Note(number=20))
            accepted.append(20)
            assert await noted.until(lambda: set(map(str, accepted)) <= set(noted.keys), 20)
            assert await becomes(bus, ready=True)
        with contextlib.closing(sqlite3.connect(tmp_path / "app.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    assert set(noted.attempts.values()) == {1}


async def test_a_locked_database_holds_up_and_loses_nothing(tmp_path: Path) -> None:
    noted = Effects()
    async with running(tmp_path / "app.db", noted) as bus:
        with contextlib.closing(sqlite3.connect(tmp_path / "app.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            sending = [asyncio.create_task(bus.send(Note(number=number))) for number in range(9)]
            await asyncio.sleep(1.0)
            other.rollback()
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        kept = {str(n) for n, one in enumerate(outcomes) if not isinstance(one, JournalError)}
        assert await noted.until(lambda: kept <= set(noted.keys), 10)

    assert {type(one) for one in outcomes} <= {Receipt, JournalError}
    assert set(noted.attempts.values()) <= {1}


async def test_a_read_only_database_is_refused_at_the_start(tmp_path: Path) -> None:
    async with running(tmp_path / "app.db", Effects()):
        pass
    with read_only(tmp_path), pytest.raises(JournalError, match=r"app\.db"):
        async with running(tmp_path / "app.db", Effects()):
            pass


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    if os.geteuid():
        for path in (*folder.iterdir(), folder):
            path.chmod(0o500)
        yield
        folder.chmod(0o700)
        return
    # Rights do not hold root back; a mount does.
    for words in (["--bind", str(folder)], ["-o", "remount,bind,ro"]):
        if subprocess.run(
            ["mount", *words, str(folder)], capture_output=True, check=False
        ).returncode:
            pytest.skip("As root, this needs the right to mount.")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_nothing_is_accepted_into_a_database_that_was_deleted(tmp_path: Path) -> None:
    async with running(tmp_path / "app.db", Effects()) as bus:
        await bus.send(Note(number=1))
        for path in tmp_path.glob("app.db*"):
            path.unlink()
        with pytest.raises(JournalError, match=r"app\.db"):
            for number in range(2, 500):
                await bus.send(Note(number=number))
                await asyncio.sleep(0.01)
        assert await becomes(bus, ready=False)


async def test_a_corrupted_database_is_refused_at_the_start(tmp_path: Path) -> None:
    noted = Effects()
    async with running(tmp_path / "app.db", noted) as bus:
        for number in range(200):
            await bus.send(Note(number=number, text="x" * 500))
        await noted.until(lambda: len(noted.keys) == 200, 20)
    path = tmp_path / "app.db"
    content = bytearray(path.read_bytes())
    content[8192 : len(content) - 4096 : 7] = b"\xa5" * len(content[8192 : len(content) - 4096 : 7])
    path.write_bytes(content)

    with pytest.raises(JournalError, match=r"app\.db"):
        async with running(path, noted):
            pass


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    path.write_text("Not a database, but somebody's notes. " * 100)
    with pytest.raises(JournalError, match=r"app\.db"):
        async with running(path, Effects()):
            pass

    assert path.read_text().startswith("Not a database")
