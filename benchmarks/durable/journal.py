"""Our own bus on a SQLite journal, and the least that SQLite itself takes."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from app.llmgine.bus import MessageBus
from app.llmgine.delivery import SQLiteJournal
from app.llmgine.delivery.journal import Entry

from ..measure import median
from .subject import TEXT, Greet, Greeted, Taken, Watch, in_flight

FLIGHT = 128


@contextmanager
def fresh_journal() -> Iterator[SQLiteJournal]:
    with tempfile.TemporaryDirectory() as folder:
        yield SQLiteJournal(Path(folder) / "app.db")


async def executed(count: int, flight: int) -> Taken:
    """Commands kept, handled, done, with their results."""

    async def greet(command: Greet) -> str:
        return command.text

    with fresh_journal() as journal:
        bus = MessageBus(journal=journal)
        bus.register_command_handler(Greet, greet)
        async with bus:
            with (watch := Watch()):
                await in_flight(
                    count, flight, lambda number: bus.execute(Greet(user=number, text=TEXT))
                )
            return watch.each(count)


def publishing(bus: MessageBus) -> Callable[[int], Awaitable[None]]:
    """What publishes an event and waits until the handler, which this registers, had it."""
    waiting: dict[int, asyncio.Future[None]] = {}

    async def note(event: Greeted) -> None:
        waiting.pop(event.user).set_result(None)

    async def publish(number: int) -> None:
        handled = waiting[number] = asyncio.get_running_loop().create_future()
        await bus.publish(Greeted(user=number, text=TEXT))
        await handled

    bus.register_event_handler(Greeted, note, concurrency=FLIGHT)
    return publish


async def published(count: int) -> Taken:
    """Events kept, logged, handled, done; `FLIGHT` of them not yet handled."""
    with fresh_journal() as journal:
        bus = MessageBus(journal=journal)
        publish = publishing(bus)
        async with bus:
            with (watch := Watch()):
                await in_flight(count, FLIGHT, publish)
                await bus.idle()
    return watch.each(count)


async def appended(count: int) -> Taken:
    """Entries kept, each awaited, by `FLIGHT` senders at once."""

    async def append(number: int) -> None:
        entry = Entry(
            id=str(number),
            route="command Greet",
            name="Greet",
            payload=TEXT,
            created_ns=time.time_ns(),
        )
        await journal.append([entry])

    with fresh_journal() as journal:
        await journal.open()
        with (watch := Watch()):
            await in_flight(count, FLIGHT, append)
        await journal.aclose()
    return watch.each(count)


async def sent_and_inserted(count: int) -> tuple[Taken, Taken]:
    """The median of a single `bus.send`, and of a bare INSERT of as much, in turns."""

    async def greet(command: Greet) -> str:
        return command.text

    sent, inserted = [], []
    with tempfile.TemporaryDirectory() as folder, fresh_journal() as journal:
        bus = MessageBus(journal=journal)
        bus.register_command_handler(Greet, greet)
        bare = sqlite3.connect(Path(folder) / "bare.db", isolation_level=None)
        with closing(bare):
            bare.execute("PRAGMA journal_mode = WAL")
            bare.execute("PRAGMA synchronous = FULL")
            bare.execute("CREATE TABLE kept (seq INTEGER PRIMARY KEY, payload TEXT)")
            async with bus:
                for number in range(count):
                    began_s = time.perf_counter()
                    await bus.send(Greet(user=number, text=TEXT))
                    sent.append(time.perf_counter() - began_s)
                    await bus.idle()
                    began_s = time.perf_counter()
                    bare.execute("INSERT INTO kept (payload) VALUES (?)", (TEXT,))
                    inserted.append(time.perf_counter() - began_s)
    return Taken(median(sent)), Taken(median(inserted))
