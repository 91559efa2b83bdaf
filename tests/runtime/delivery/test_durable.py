"""What a bus promises for durable messages, on a real journal in a file."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from app.llmgine.bus import Approval, MessageBus, Retry
from app.llmgine.delivery import SQLiteJournal
from app.llmgine.delivery.journal import Entry
from app.llmgine.errors import (
    ApprovalRejectedError,
    BusError,
    BusStartError,
    CursorExpiredError,
    MessageUnreadableError,
    ResultTimeoutError,
    UnknownReceiptError,
)
from app.llmgine.messages import Command, Event, Receipt, current_envelope
from app.llmgine.testing import FakeClock

Make = Callable[..., MessageBus]


class Add(Command[int]):
    durable = True
    a: int
    b: int = 0


class Order(Command[str]):
    durable = True
    item: str


class Ordered(Event):
    durable = True
    item: str


class Shown(Event):
    logged = True
    text: str


class DeclinedError(Exception):
    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"declined with {code}")


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Buses on one journal file, each with a connection of its own, as processes have."""

    def make(**options: Any) -> MessageBus:
        return MessageBus(journal=SQLiteJournal(tmp_path / "app.db"), **options)

    return make


async def add(command: Add) -> int:
    return command.a + command.b


async def test_a_durable_command_is_executed_here_and_its_result_is_kept(make: Make):
    bus = make()
    bus.register_command_handler(Add, add)

    async with bus:
        result = await bus.execute(Add(a=1, b=2), idempotency_key="once")
        again = await bus.execute(Add(a=40, b=2), idempotency_key="once")

    assert (result, again) == (3, 3)


async def test_what_was_sent_is_done_and_its_result_can_be_had_after_a_restart(make: Make):
    first, second = make(), make()
    for bus in (first, second):
        bus.register_command_handler(Add, add)

    async with first:
        receipt = await first.send(Add(a=1, b=2), id="sum")
        await first.idle()
    async with second:
        result = await second.result(Receipt(receipt.id, receipt.name))
        again = await second.send(Add(a=1, b=2), id="sum")

    assert (result, again.duplicate) == (3, True)


async def test_a_bus_that_is_told_not_to_work_leaves_it_to_one_that_does(make: Make):
    client, worker = make(work=False), make()
    worker.register_command_handler(Add, add)

    async with client:
        receipt = await client.send(Add(a=20, b=22))
        with pytest.raises(ResultTimeoutError, match="it is ready"):
            await client.result(receipt, timeout_s=0.01)
        async with worker:
            result = await client.result(receipt, timeout_s=10)

    assert result == 42


async def test_a_handler_s_error_reaches_who_asks_as_itself(make: Make):
    bus = make()

    async def decline(command: Add) -> int:
        raise DeclinedError(402)

    bus.register_command_handler(Add, decline)

    async with bus:
        with pytest.raises(DeclinedError) as executed:
            await bus.execute(Add(a=1))
        receipt = await bus.send(Add(a=1))
        with pytest.raises(DeclinedError) as sent:
            await bus.result(receipt)
        dead = await bus.delivery.journal.find(["dead"])

    assert (executed.value.code, sent.value.code) == (402, 402)
    assert [entry.id for entry in dead] == [receipt.id]


async def test_a_dead_letter_can_be_resent_after_a_restart(make: Make):
    broken, mended = make(), make()

    async def fail(command: Add) -> int:
        raise ValueError("not today")

    broken.register_command_handler(Add, fail)
    mended.register_command_handler(Add, add)

    async with broken:
        receipt = await broken.send(Add(a=1, b=1))
        await broken.idle()
    async with mended:
        await mended.dead_letters.resend(receipt.id)
        result = await mended.result(receipt)

    assert result == 2


async def test_what_a_handler_sends_is_committed_with_its_completion_or_not_at_all(make: Make):
    bus, seen, attempts = make(), [], []

    async def order(command: Order) -> str:
        await bus.publish(Ordered(item=command.item))
        attempts.append(command.item)
        if len(attempts) == 1:
            raise ConnectionError("the shop is away")
        return "ok"

    async def note(event: Ordered) -> None:
        seen.append((event.item, len(attempts)))

    bus.register_command_handler(Order, order, middleware=[Retry(attempts=2, base_s=0)])
    bus.register_event_handler(Ordered, note)

    async with bus:
        receipt = await bus.send(Order(item="tea"))
        result = await bus.result(receipt)
        await bus.idle()

    assert (result, seen) == ("ok", [("tea", 2)])


async def test_a_command_executed_by_a_handler_runs_once_however_often_the_handler_does(make: Make):
    bus, added, attempts = make(), [], []

    async def add_once(command: Add) -> int:
        added.append(command)
        return command.a + command.b

    async def order(command: Order) -> str:
        total = await bus.execute(Add(a=1, b=2))
        attempts.append(total)
        if len(attempts) < 3:
            raise ConnectionError
        return str(total)

    bus.register_command_handler(Add, add_once)
    bus.register_command_handler(Order, order, middleware=[Retry(attempts=3, base_s=0)])

    async with bus:
        result = await bus.execute(Order(item="tea"))

    assert (result, attempts, len(added)) == ("3", [3, 3, 3], 1)


async def test_messages_of_a_key_are_done_in_order_also_when_one_is_retried(make: Make):
    bus, done, failed = make(), [], set()

    async def order(command: Order) -> str:
        await asyncio.sleep(0)
        if command.item == "a3" and command.item not in failed:
            failed.add(command.item)
            raise ConnectionError
        done.append(command.item)
        return command.item

    bus.register_command_handler(Order, order, middleware=[Retry(attempts=3, base_s=0.01)])

    async with bus:
        for number in range(8):
            await bus.send(Order(item=f"a{number}"), key="a")
            await bus.send(Order(item=f"b{number}"), key="b")
        await bus.idle()

    assert [item for item in done if item[0] == "a"] == [f"a{number}" for number in range(8)]
    assert [item for item in done if item[0] == "b"] == [f"b{number}" for number in range(8)]


async def test_a_message_sent_for_later_waits_and_a_schedule_goes_on_after_a_restart(make: Make):
    clock, done = FakeClock(), []

    async def order(command: Order) -> str:
        done.append((command.item, clock.monotonic()))
        return command.item

    for expected in (2, 3):
        bus = make(clock=clock)
        bus.register_command_handler(Order, order)
        async with bus:
            await bus.send(Order(item="daily"), every=timedelta(hours=1), id="daily")
            await bus.send(Order(item="once"), at=clock.now() + timedelta(minutes=30), id="once")
            await bus.idle()
            await clock.advance(3600)
            while len(done) < expected:
                await bus.delivery.news()

    assert [item for item, _ in done] == ["once", "daily", "daily"]


async def test_an_approval_waits_over_a_restart_and_is_decided_once(make: Make):
    asking, deciding, running = make(), make(work=False), make()
    done = []

    async def order(command: Order) -> str:
        done.append(command.item)
        return command.item

    for bus in (asking, deciding, running):
        rule = Approval(by="alice", when=lambda command: command.item != "free")
        bus.register_command_handler(Order, order, middleware=[rule])

    async with asking:
        bought = await asking.send(Order(item="car"))
        refused = await asking.send(Order(item="boat"))
        free = await asking.send(Order(item="free"))
        assert await asking.result(free) == "free"
        await asking.idle()
    async with deciding:
        pending = await deciding.approvals.pending()
        for one in pending:
            yes = one.command.item == "car"
            await deciding.approvals.decide(one.id, yes, by="alice", reason="budget")
    async with running:
        assert await running.result(bought) == "car"
        with pytest.raises(ApprovalRejectedError, match="budget"):
            await running.result(refused)

    assert [one.command.item for one in pending] == ["car", "boat"]
    assert done == ["free", "car"]


async def test_the_event_log_is_read_from_any_cursor_and_followed_without_gap(make: Make):
    bus = make()
    async with bus:
        for number in range(3):
            await bus.publish(Shown(text=str(number)), session_id="s")
            await bus.publish(Shown(text="other"), session_id="t")
        read = bus.events(after=0, session="s")
        told = [await anext(read) for _ in range(3)]
    later = make()
    async with later:
        follow = later.events(after=told[0].cursor, session="s")
        missed = [await anext(follow) for _ in range(2)]
        coming = asyncio.ensure_future(anext(follow))
        await later.publish(Shown(text="new"), session_id="s")
        new = await coming

    texts = [one.event.text for one in (*missed, new) if isinstance(one.event, Shown)]
    assert texts == ["1", "2", "new"]
    assert new.envelope is not None
    assert new.envelope.session_id == "s"


async def test_a_cursor_of_another_log_is_told_so(make: Make):
    bus = make()
    async with bus:
        with pytest.raises(CursorExpiredError):
            await anext(bus.events(after=1_000))


async def test_an_event_s_subscriptions_are_done_each_and_hearers_hear_it_in_memory(make: Make):
    bus, stored, heard = make(), [], []

    async def store(event: Ordered) -> None:
        envelope = current_envelope()
        assert envelope is not None
        stored.append((event.item, envelope.idempotency_key))

    async def hear(event: Event) -> None:
        heard.append(type(event).__name__)

    async def store_too(event: Ordered) -> None:
        await store(event)

    for handler in (store, store_too):
        bus.register_event_handler(Ordered, handler)
    bus.register_event_handler(Event, hear)

    async with bus:
        for _ in range(2):
            await bus.publish(Ordered(item="tea"), idempotency_key="k")
        await bus.publish(Ordered(item="milk"))
        await bus.idle()

    assert sorted(item for item, _ in stored) == ["milk", "milk", "tea", "tea"]
    assert len({key for _, key in stored}) == 3  # The publisher's own, or one for each handler.
    assert heard.count("Ordered") == 2


async def test_writes_of_the_handler_are_committed_with_its_completion(make: Make, tmp_path: Path):
    bus = make()

    async def order(command: Order) -> str:
        bus.commit_with(lambda db: db.execute("CREATE TABLE IF NOT EXISTS orders (item)"))
        bus.commit_with(lambda db: db.execute("INSERT INTO orders VALUES (?)", [command.item]))
        if command.item == "bad":
            bus.commit_with(lambda db: db.execute("INSERT INTO nowhere VALUES (1)"))
        return command.item

    bus.register_command_handler(Order, order)

    async with bus:
        await bus.execute(Order(item="tea"))
        with pytest.raises(Exception, match="nowhere"):
            await bus.execute(Order(item="bad"))
        rows = []
        await bus.delivery.journal.append(
            [], [], writes=[lambda db: rows.extend(db.execute("SELECT item FROM orders"))]
        )

    assert rows == [("tea",)]


async def test_stopping_leaves_what_runs_to_another_worker(make: Make):
    stopping, going_on = make(), make()
    begun, done = asyncio.Event(), []

    async def hang(command: Order) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    async def order(command: Order) -> str:
        envelope = current_envelope()
        assert envelope is not None
        done.append((command.item, envelope.attempt))
        return command.item

    stopping.register_command_handler(Order, hang)
    going_on.register_command_handler(Order, order)

    await stopping.start()
    receipt = await stopping.send(Order(item="tea"))
    await begun.wait()
    await stopping.stop(grace_s=0)
    async with going_on:
        result = await going_on.result(receipt, timeout_s=10)

    assert (result, done) == ("tea", [("tea", 1)])


async def test_a_lost_worker_s_work_is_done_by_another_once_its_beats_stand_still(make: Make):
    clock = FakeClock()
    lost, watching = make(clock=clock), make(clock=clock)
    begun, done = asyncio.Event(), []

    async def hang(command: Order) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    async def order(command: Order) -> str:
        done.append(command.item)
        return command.item

    lost.register_command_handler(Order, hang)
    watching.register_command_handler(Order, order)
    await lost.start()
    receipt = await lost.send(Order(item="tea"))
    await begun.wait()
    for task in lost.delivery._tasks:  # As a process that is killed.
        task.cancel()
    async with watching:
        while not done:
            await clock.advance(3.0)
            await watching.delivery.news()
        result = await watching.result(receipt)
    await lost.stop(grace_s=0)

    assert (result, done) == ("tea", ["tea"])


class Renamed(Command[int]):
    durable = True
    schema_name = "Old"
    schema_version = 2
    total: int

    @classmethod
    def upcast(cls, payload: dict[str, Any], version: int) -> dict[str, Any]:
        return {"total": payload["a"] + payload["b"]}


def _stored(entry_id: str, name: str, payload: str, version: int = 1) -> Entry:
    return Entry(
        id=entry_id,
        route=f"command {name}",
        name=name,
        version=version,
        payload=payload,
        headers='{"time": [1, 1]}',
        created_ns=1,
    )


async def test_older_versions_are_upcast_and_what_cannot_be_read_is_parked(make: Make):
    bus = make()

    async def total(command: Renamed) -> int:
        return command.total

    bus.register_command_handler(Renamed, total)
    bus.register_command_handler(Add, add)

    async with bus:
        await bus.delivery.journal.append(
            [
                _stored("old", "Old", '{"a": 1, "b": 2}'),
                _stored("newer", "Old", '{"total": 1, "unit": "g"}', version=3),
                _stored("invalid", "Add", '{"a": "many"}'),
                _stored("unknown", "Gone", "{}"),
            ]
        )
        result = await bus.result(Receipt[int]("old", "Old"))
        with pytest.raises(MessageUnreadableError, match="newer one"):
            await bus.result(Receipt[int]("newer", "Old"))
        with pytest.raises(MessageUnreadableError, match="a: int_parsing"):
            await bus.result(Receipt[int]("invalid", "Add"))

    assert result == 3


async def test_work_without_a_handler_is_parked_and_told_until_somebody_handles_it(make: Make):
    clock = FakeClock()
    without, handling = make(clock=clock), make(clock=clock)
    without.register_command_handler(Order, lambda command: command.item)
    handling.register_command_handler(Add, add)

    async with without:
        receipt = await without.send(Add(a=1, b=2))
        while not (health := await without.delivery.health()).problems:
            await clock.advance(4)
            await without.delivery.news()
        ready_without = health
        async with handling:
            result = await handling.result(receipt, timeout_s=10)

    assert not ready_without.ready
    assert "'command Add' are parked" in ready_without.problems[0]
    assert result == 3


class Socket:
    """Something that pydantic knows nothing of."""


class Connect(Command[Socket]):
    durable = True


class Watch(Command[AsyncIterator[str]]):
    durable = True


async def test_wrong_registrations_of_durable_messages_are_told_at_the_start(make: Make):
    class Add(Command[int]):
        durable = True
        schema_name: ClassVar[str] = "Order"

    async def batch(events: list[Ordered]) -> None:
        pass

    async def watch(command: Watch) -> AsyncIterator[str]:
        yield ""

    bus = make()
    bus.register_command_handler(Add, lambda command: 1)
    bus.register_command_handler(Order, lambda command: command.item)
    bus.register_batch_handler(Ordered, batch, size=2, within_s=1)
    bus.register_command_handler(Connect, lambda command: Socket())
    bus.register_command_handler(Watch, watch)
    without_journal = MessageBus()
    without_journal.register_command_handler(Order, lambda command: command.item)

    with pytest.raises(
        BusStartError, match=r"(?s)both stored as 'Order'.*in batches.*of Connect.*is streamed"
    ):
        await bus.start()
    with pytest.raises(BusStartError, match="no journal to keep it in"):
        await without_journal.start()


async def test_misuse_is_told_with_the_fix(make: Make):
    bus = make()
    bus.register_command_handler(Add, add)

    async with bus:
        with pytest.raises(BusError, match="durable = True"):
            await bus.send(Shown(text="x"))
        with pytest.raises(BusError, match="not both"):
            await bus.send(Add(a=1), every=timedelta(1), cron="* * * * *")
        with pytest.raises(BusError, match="has no timezone"):
            await bus.send(Add(a=1), at=FakeClock().now().replace(tzinfo=None))
        with pytest.raises(BusError, match="must be a positive timedelta"):
            await bus.send(Add(a=1), every=timedelta(0))
        with pytest.raises(BusError, match="key=5 must be a text"):
            await bus.send(Add(a=1), key=5)  # type: ignore[arg-type]  # what is refused
        with pytest.raises(BusError, match="id='' must be a text"):
            await bus.send(Add(a=1), id="")
        with pytest.raises(BusError, match="belongs into the handler"):
            bus.commit_with(print)
        with pytest.raises(UnknownReceiptError):
            await bus.result(Receipt[int]("nothing", "Add"))
        with pytest.raises(BusError, match=r"await bus\.send"):
            await bus.schedule(Add(a=1), after=timedelta(1))


class AwayError(ConnectionError):
    retry_after_s = 60.0


async def test_a_retry_goes_on_after_a_restart_where_it_stood(make: Make):
    clock, attempts = FakeClock(), []

    async def order(command: Order) -> str:
        envelope = current_envelope()
        assert envelope is not None
        attempts.append(envelope.attempt)
        raise AwayError("still away")

    first, second = make(clock=clock), make(clock=clock)
    for bus in (first, second):
        bus.register_command_handler(Order, order, middleware=[Retry(attempts=2)])

    async with first:
        receipt = await first.send(Order(item="tea"))
        await first.idle()
    async with second:
        await second.idle()
        made_before_it_was_due = list(attempts)
        await clock.advance(60)
        with pytest.raises(AwayError, match="still away"):
            await second.result(receipt)

    assert made_before_it_was_due == [1]
    assert attempts == [1, 2]


async def test_a_cursor_whose_events_are_swept_is_told_where_the_log_begins(make: Make):
    bus = make()
    async with bus:
        for number in range(3):
            await bus.publish(Shown(text=str(number)))
        await bus.delivery.log.flush()
        await bus.delivery.journal.sweep(bus.delivery.now_ns(), 1_000_000)
        await bus.publish(Shown(text="new"))
        await bus.delivery.log.flush()

        with pytest.raises(CursorExpiredError) as expired:
            await anext(bus.events(after=1))
        begun = await anext(bus.events(after=expired.value.first - 1))

    assert isinstance(begun.event, Shown)
    assert begun.event.text == "new"
