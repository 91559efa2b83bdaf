"""Wall clocks that jump delay nothing, repeat nothing and end no lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.llmgine.bus import MessageBus, Retry
from app.llmgine.clock import SystemClock
from app.llmgine.delivery import SQLiteJournal
from app.llmgine.messages import Command
from faults.effects import Effects

HOUR = timedelta(hours=1)


class Note(Command[None]):
    durable = True
    number: int


class JumpingClock(SystemClock):
    """The machine's, ahead of it by what a test says."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Worker:
    """A process's worth of the application, in this process."""

    def __init__(self, path: Path, noted: Effects) -> None:
        self.clock = JumpingClock()
        self.journal = SQLiteJournal(path)
        self.bus = MessageBus(journal=self.journal, clock=self.clock, lease_s=0.6)
        self._noted = noted
        self.fail_once: set[int] = set()
        self.bus.register_command_handler(
            Note, self._note, middleware=[Retry(attempts=3, base_s=0.5)]
        )

    async def _note(self, note: Note) -> None:
        if note.number in self.fail_once:
            self.fail_once.remove(note.number)
            self._noted.make(f"failed {note.number}")
            raise ConnectionError("The first attempt fails.")
        self._noted.make(str(note.number))


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[tuple[Worker, Worker, Effects]]:
    noted = Effects()
    one, two = Worker(tmp_path / "app.db", noted), Worker(tmp_path / "app.db", noted)
    await one.bus.start()
    await two.bus.start()
    yield one, two, noted
    await one.bus.stop()
    await two.bus.stop()


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_a_jump_ends_no_lease_and_delays_nothing(
    workers: tuple[Worker, Worker, Effects], jump: timedelta
) -> None:
    one, two, noted = workers
    sent = []
    for number in range(60):
        if number in {20, 40}:
            one.clock.ahead += jump
            two.clock.ahead -= jump
        sent.append(await (one, two)[number % 2].bus.send(Note(number=number)))
        await asyncio.sleep(0.03)
    await noted.until(lambda: len(noted.keys) >= 60, 10)
    entries = [await one.journal.get(receipt.id) for receipt in sent]

    assert noted.attempts == {str(number): 1 for number in range(60)}
    assert [entry.losses for entry in entries if entry] == [0] * 60


async def test_a_clock_that_is_set_back_holds_up_no_retry(
    workers: tuple[Worker, Worker, Effects],
) -> None:
    one, two, noted = workers
    one.fail_once = two.fail_once = {7}
    one.clock.ahead = two.clock.ahead = HOUR
    await one.bus.send(Note(number=7))
    await noted.until(lambda: noted.attempts["failed 7"], 10)
    one.clock.ahead = two.clock.ahead = timedelta(0)

    assert await noted.until(lambda: noted.attempts["7"], 10)


async def test_a_clock_that_is_set_ahead_makes_what_is_scheduled_due(
    workers: tuple[Worker, Worker, Effects],
) -> None:
    one, two, noted = workers
    await one.bus.send(Note(number=1), at=one.clock.now() + HOUR)
    await one.bus.send(Note(number=2), at=one.clock.now() + 3 * HOUR)
    one.clock.ahead = two.clock.ahead = 2 * HOUR

    assert await noted.until(lambda: noted.attempts["1"], 10)
    assert not await noted.until(lambda: noted.attempts["2"], 0.5)
