"""A store that an earlier version left behind opens, migrates and goes on.

`stores/journal-N.sql` is a store of schema version N whose process was killed amid work. A new
version of the schema adds a file; those that are there are never made anew.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from app.llmgine.bus import Approval, MessageBus
from app.llmgine.delivery import SQLiteJournal
from app.llmgine.delivery.sql import MIGRATIONS
from app.llmgine.messages import Command, Event, Receipt
from app.llmgine.testing import FakeClock

STORES = sorted((Path(__file__).parent / "stores").glob("journal-*.sql"))


class Ship(Command[str]):
    durable = True
    item: str


class Refund(Command[str]):
    durable = True
    item: str


class Shipped(Event):
    durable = True
    item: str


def test_there_is_a_store_of_every_version_of_the_schema() -> None:
    versions = [f"journal-{version}" for version in range(1, len(MIGRATIONS) + 1)]

    assert [store.stem for store in STORES] == versions


@pytest.mark.parametrize("store", STORES, ids=lambda store: store.stem)
async def test_work_that_an_earlier_version_left_is_done(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(store.read_text("utf-8"))
    clock, shipped = FakeClock(), []
    bus = MessageBus(journal=SQLiteJournal(path), clock=clock)

    async def ship(command: Ship) -> str:
        shipped.append(command.item)
        await bus.publish(Shipped(item=command.item))
        return command.item

    async def refund(command: Refund) -> str:
        return command.item

    async def tell(event: Shipped) -> None:
        pass

    bus.register_command_handler(Ship, ship)
    bus.register_command_handler(Refund, refund, middleware=[Approval(by="alice")])
    bus.register_event_handler(Shipped, tell, name="tell")

    async with bus:
        assert bus.delivery is not None
        known = await bus.send(Ship(item="done"), id="done")
        [question] = await bus.approvals.pending()
        await bus.approvals.decide(question.id, approve=True, by="alice")
        await bus.dead_letters.resend("Ship:broken")
        while "behind" not in shipped:  # Until the worker that was killed is seen to be lost.
            await clock.advance(3.0)
            await bus.delivery.news()
        results = [
            await bus.result(Receipt[str](name, name.partition(":")[0]), timeout_s=10)
            for name in ("Ship:done", "Ship:broken", "Ship:waiting", "Ship:behind", "Refund:asked")
        ]
        left = await bus.delivery.journal.find(["ready"])
        told = bus.events(after=0)
        names = [(await anext(told)).name for _ in range(4)]

    assert known.duplicate
    assert results == ["done", "broken", "waiting", "behind", "asked"]
    assert shipped.index("waiting") < shipped.index("behind")
    assert [entry.id for entry in left] == ["Ship:later", "Ship:often"]
    assert names[0] == "Shipped"
