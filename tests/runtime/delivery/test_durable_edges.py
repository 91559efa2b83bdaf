"""What a bus promises for durable messages when two things happen at once, or one goes wrong."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.llmgine.bus import Approval, MessageBus, Retry
from app.llmgine.delivery import SQLiteJournal
from app.llmgine.delivery.journal import Entry, Outcome
from app.llmgine.delivery.transport import Address, Deliver, Done, Source
from app.llmgine.errors import AlreadyDecidedError, BusError, MessageTooLargeError
from app.llmgine.messages import Command, Event
from app.llmgine.testing import FakeClock

Make = Callable[..., MessageBus]


class Brew(Command[str]):
    durable = True
    item: str


class Brewed(Event):
    durable = True
    item: str


class Steaming(Event):
    logged = True
    text: str


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Buses on one journal file, each with a connection of its own, as processes have."""

    def make(**options: Any) -> MessageBus:
        return MessageBus(journal=SQLiteJournal(tmp_path / "app.db"), **options)

    return make


async def take(command: Brew) -> str:
    return command.item


async def logged(bus: MessageBus) -> list[str]:
    await bus.delivery.log.flush()
    return [one.name for one in (await bus.delivery.journal.read(0)).events]


async def test_a_message_whose_caller_left_is_not_given_to_a_second_worker(make: Make):
    clock, begun, again = FakeClock(), [], asyncio.Event()
    bus = make(clock=clock)

    async def brew(command: Brew) -> str:
        begun.append(command.item)
        if len(begun) == 1:
            raise ConnectionError
        again.set()
        await asyncio.Event().wait()
        return ""

    bus.register_command_handler(Brew, brew, middleware=[Retry(attempts=3, base_s=0)])

    await bus.start()
    caller = asyncio.create_task(bus.execute(Brew(item="tea")))
    await again.wait()
    caller.cancel()
    for _ in range(20):  # Two leases: what is held by nobody would have been given back.
        await clock.advance(1)
        await bus.delivery.journal.check()
    await bus.stop(grace_s=0)

    assert begun == ["tea", "tea"]


@pytest.mark.parametrize("call", [MessageBus.send, MessageBus.execute])
async def test_what_is_accepted_while_the_bus_stops_runs_once(make: Make, call: Any):
    first, second, done = make(), make(), []

    async def brew(command: Brew) -> str:
        done.append(command.item)
        return command.item

    for bus in (first, second):
        bus.register_command_handler(Brew, brew)

    await first.start()
    await asyncio.gather(call(first, Brew(item="tea")), first.stop())
    async with second:
        await second.idle()

    assert done == ["tea"]


async def test_what_a_task_sends_while_its_handler_is_committed_is_kept(make: Make):
    bus, committing, go_on = make(), asyncio.Event(), threading.Event()
    loop, tasks = asyncio.get_running_loop(), []

    async def thank() -> Any:
        await committing.wait()
        sending = asyncio.create_task(bus.send(Brew(item="thanks")))
        await asyncio.sleep(0)
        go_on.set()
        return await sending

    async def brew(command: Brew) -> str:
        def write(_: object) -> None:
            loop.call_soon_threadsafe(committing.set)
            go_on.wait(10)

        if command.item == "tea":
            bus.commit_with(write)
            tasks.append(asyncio.create_task(thank()))
        return command.item

    bus.register_command_handler(Brew, brew)

    async with bus:
        await bus.execute(Brew(item="tea"))
        assert await bus.result(await tasks[0]) == "thanks"


async def test_a_logged_event_stays_when_the_durable_one_after_it_was_there_before(make: Make):
    bus = make()

    async def hear(event: Brewed) -> None:
        pass

    bus.register_event_handler(Brewed, hear)

    async with bus:
        await bus.publish(Brewed(item="tea"), idempotency_key="k")
        await bus.publish(Steaming(text="between"))
        await bus.publish(Brewed(item="tea"), idempotency_key="k")
        assert await logged(bus) == ["Brewed", "Steaming"]


async def test_a_logged_event_stays_when_what_its_handler_writes_cannot_be_written(make: Make):
    bus = make()

    async def brew(command: Brew) -> str:
        bus.commit_with(lambda db: db.execute("INSERT INTO nowhere VALUES (1)"))
        await bus.publish(Brewed(item="tea"))
        await bus.publish(Steaming(text="on the stove"))
        return command.item

    bus.register_command_handler(Brew, brew)

    async with bus:
        with pytest.raises(Exception, match="nowhere"):
            await bus.execute(Brew(item="tea"))
        told = await logged(bus)

    assert "Steaming" in told
    assert "Brewed" not in told


async def test_an_event_log_whose_journal_is_gone_ends_with_the_bus(make: Make, tmp_path: Path):
    bus = make()

    async with bus:
        await bus.publish(Steaming(text="kept"))
        await bus.delivery.log.flush()
        for file in tmp_path.iterdir():
            file.unlink()
        await bus.publish(Steaming(text="lost"))
        while not bus.delivery.troubles:
            await bus.delivery.news()
    tasks = {task for task in asyncio.all_tasks() if "EventLog" in repr(task.get_coro())}
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks)


async def test_a_bus_closes_its_journal_also_when_nobody_waits_for_its_stop(
    make: Make, tmp_path: Path
):
    bus, begun, let_go = make(), asyncio.Event(), asyncio.Event()

    async def cling(command: Brew) -> str:
        begun.set()
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await let_go.wait()
        return ""

    bus.register_command_handler(Brew, cling)
    await bus.start()
    await bus.send(Brew(item="tea"))
    await begun.wait()

    stopping = asyncio.create_task(bus.stop(0))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(bus.stop(0))
    while not stopping.done():
        await asyncio.sleep(0)
        stopping.cancel()
    let_go.set()

    async with asyncio.timeout(10):
        await waiting
        # SQLite removes it when the last connection is closed.
        while (tmp_path / "app.db-wal").exists():  # noqa: ASYNC110  a thread does it
            await asyncio.sleep(0)


async def test_a_dead_letter_that_is_resent_has_all_its_attempts_again(make: Make):
    bus, attempts = make(), []

    async def brew(command: Brew) -> str:
        attempts.append(command.item)
        raise ConnectionError

    bus.register_command_handler(Brew, brew, middleware=[Retry(attempts=3, base_s=0)])

    async with bus:
        receipt = await bus.send(Brew(item="tea"))
        await bus.idle()
        await bus.dead_letters.resend(receipt.id)
        await bus.idle()

    assert len(attempts) == 6


async def test_a_command_that_failed_after_retries_runs_again_when_it_is_executed_again(
    make: Make,
):
    bus, attempts = make(), []

    async def brew(command: Brew) -> str:
        attempts.append(command.item)
        if len(attempts) < 3:
            raise ConnectionError("away")
        return command.item

    bus.register_command_handler(Brew, brew, middleware=[Retry(attempts=2, base_s=0)])

    async with bus:
        with pytest.raises(ConnectionError):
            await bus.execute(Brew(item="tea"), idempotency_key="k")
        assert await bus.execute(Brew(item="tea"), idempotency_key="k") == "tea"


async def test_a_rejected_command_that_is_resent_is_asked_for_again(make: Make):
    bus = make()
    bus.register_command_handler(Brew, take, middleware=[Approval()])

    async with bus:
        receipt = await bus.send(Brew(item="tea"))
        await bus.idle()
        [first] = await bus.approvals.pending()
        await bus.approvals.decide(first.id, False, by="alice")
        await bus.idle()
        await bus.dead_letters.resend(receipt.id)
        await bus.idle()
        [again] = await bus.approvals.pending()
        await bus.approvals.decide(again.id, True, by="alice")
        assert await bus.result(receipt) == "tea"


async def test_an_approval_comes_too_late_though_nobody_was_there_when_its_time_ended(make: Make):
    clock = FakeClock()
    asking, deciding = make(clock=clock), make(clock=clock, work=False)
    for bus in (asking, deciding):
        rule = Approval(within=timedelta(hours=1))
        bus.register_command_handler(Brew, take, middleware=[rule])

    async with asking:
        await asking.send(Brew(item="tea"))
        await asking.idle()
    await clock.advance(7200)
    async with deciding:
        [one] = await deciding.approvals.pending()
        with pytest.raises(AlreadyDecidedError) as late:
            await deciding.approvals.decide(one.id, True, by="alice")

    assert (late.value.outcome, late.value.approved) == ("expired", False)


async def test_a_durable_event_s_handler_cannot_wait_for_the_bus_to_be_idle(make: Make):
    bus, told = make(), []

    async def hear(event: Brewed) -> None:
        try:
            await bus.idle()
        except BusError as error:
            told.append(str(error))

    bus.register_event_handler(Brewed, hear)

    async with bus:
        await bus.publish(Brewed(item="tea"))
        await bus.idle()

    assert "would wait for itself" in told[0]


async def test_a_session_cannot_handle_a_durable_command(make: Make):
    async with make() as bus, bus.session() as session:
        with pytest.raises(BusError, match="on the bus, in bootstrap"):
            session.register_command_handler(Brew, take)


async def test_a_schedule_is_changed_also_when_it_is_due_at_this_moment(make: Make):
    clock, rule = FakeClock(), timedelta(hours=1)
    bus = make(clock=clock, work=False)

    async with bus:
        journal = bus.delivery.journal
        old = await bus.send(Brew(item="tea"), every=rule, id="daily")
        await clock.advance(3600)
        now_ns = bus.delivery.now_ns()
        [due] = await journal.claim("other", {"schedule": 1}, 1, now_ns, suspects=False)
        change = asyncio.create_task(bus.send(Brew(item="milk"), every=rule, id="daily"))
        while not change.done() and not bus.delivery._waiting:
            await journal.check()
        await journal.settle(due, Outcome(state="ready", at_ns=now_ns, due_ns=now_ns, counts=False))
        await change
        changed = await journal.get(old.id)

    assert changed is not None
    assert "milk" in changed.payload


async def test_a_schedule_that_cannot_be_read_any_more_is_replaced_by_one_that_can(make: Make):
    bus, done = make(), asyncio.Event()

    async def brew(command: Brew) -> str:
        done.set()
        return command.item

    bus.register_command_handler(Brew, brew)

    async with bus:
        journal = bus.delivery.journal
        old = await bus.send(Brew(item="tea"), every=timedelta(days=1), id="daily")
        entry = await journal.get(old.id)
        assert entry is not None
        await journal.drop(old.id, ["ready"])
        await journal.append([replace(entry, payload='{"gone": 1}', state="parked")])
        await bus.send(Brew(item="tea"), every=timedelta(milliseconds=10), id="daily")
        await asyncio.wait_for(done.wait(), 10)


async def test_what_is_parked_for_others_does_not_keep_the_rest_parked(make: Make):
    bus = make()
    bus.register_command_handler(Brew, take)
    entries = [
        Entry(
            id=str(number),
            route=f"command {name}",
            name=name,
            payload='{"item": "tea"}',
            headers='{"time": [1, 1]}',
            created_ns=1,
            state="parked",
        )
        for number, name in enumerate([*["Gone"] * 500, "Brew"])
    ]
    journal = SQLiteJournal(bus.journal.path)
    await journal.open()
    await journal.append(entries)

    async with bus:
        await bus.idle()
    last = await journal.get("500")
    await journal.aclose()

    assert last is not None
    assert last.state == "done"


async def test_a_time_that_no_journal_can_count_is_refused(make: Make):
    async with make() as bus:
        with pytest.raises(BusError, match="too far away"):
            await bus.send(Brew(item="tea"), at=datetime(2300, 1, 1, tzinfo=UTC))


class Loop:
    """A transport that brings everything back to the one bus that uses it."""

    requests = False

    def __init__(self) -> None:
        self._consumers: list[tuple[Source, Deliver]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def check(self) -> str:
        return ""

    async def send(self, entry: Entry, address: Address) -> None:
        if (size_bytes := len(entry.payload)) > 500:
            raise MessageTooLargeError(entry.name, size_bytes=size_bytes, limit_bytes=500)
        for source, deliver in self._consumers:
            if address in source.addresses:
                self._tasks.add(asyncio.create_task(self._bring(entry, deliver)))

    async def _bring(self, entry: Entry, deliver: Deliver) -> None:
        while True:
            if isinstance(await deliver(entry, 1), Done):
                return
            await asyncio.sleep(0)

    async def consume(self, source: Source, deliver: Deliver) -> Callable[[], Awaitable[None]]:
        self._consumers.append((source, deliver))

        async def stop() -> None:
            pass

        return stop

    async def request(self, entry: Entry, address: Address, timeout_s: float) -> str:
        raise NotImplementedError


async def test_the_result_of_an_id_with_a_slash_comes_back_over_a_transport(make: Make):
    bus = make(transport=Loop())
    bus.register_command_handler(Brew, take)

    async with bus:
        receipt = await bus.send(Brew(item="tea"), id="march/bob")
        assert await bus.result(receipt, timeout_s=10) == "tea"


async def test_a_message_too_large_for_the_transport_is_dead_and_the_next_of_its_key_goes_on(
    make: Make,
):
    bus = make(transport=Loop())
    bus.register_command_handler(Brew, take)

    async with bus:
        large = await bus.send(Brew(item="x" * 1000), key="k")
        with pytest.raises(MessageTooLargeError):
            await bus.result(large, timeout_s=10)
        small = await bus.send(Brew(item="tea"), key="k")
        assert await bus.result(small, timeout_s=10) == "tea"


async def test_a_handler_gets_the_message_as_it_would_after_a_restart(make: Make):
    bus, got = make(), []

    async def brew(command: Brew) -> str:
        got.append(command)
        return command.item

    bus.register_command_handler(Brew, brew)

    async with bus:
        sent = Brew(item="tea ☕ \ud800")
        result = await bus.result(await bus.send(sent))

    assert got == [sent]
    assert got[0] is not sent
    assert result == sent.item
