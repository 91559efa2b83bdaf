"""Commands that wait for somebody's word."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.bus import MessageBus
from app.llmgine.bus.approvals import (
    Approval,
    ApprovalDecidedEvent,
    ApprovalRequestedEvent,
    Approvals,
    PendingApproval,
)
from app.llmgine.errors import (
    AlreadyDecidedError,
    ApprovalRejectedError,
    BusError,
    NotAllowedError,
    UnknownApprovalError,
)
from app.llmgine.messages import Command, Event
from app.llmgine.testing.clock import FakeClock


class Pay(Command[str]):
    amount: int


class Count(Command[AsyncIterator[int]]):
    pass


class Paid(Event):
    pass


async def pay(command: Pay) -> str:
    return f"paid {command.amount}"


def bus_with(approval: Approval) -> tuple[MessageBus, FakeClock, list[Event]]:
    clock, told = FakeClock(), []
    bus = MessageBus(clock=clock)
    bus.register_command_handler(Pay, pay, middleware=[approval])

    async def note(event: Event) -> None:
        told.append(event)

    bus.register_event_handler(ApprovalRequestedEvent, note)
    bus.register_event_handler(ApprovalDecidedEvent, note)
    return bus, clock, told


async def ask(bus: MessageBus, clock: FakeClock) -> tuple[asyncio.Task[str], PendingApproval]:
    paying = asyncio.create_task(bus.execute(Pay(amount=4711)))
    await clock.advance(0)
    [pending] = await bus.approvals.pending()
    return paying, pending


async def test_an_approved_command_runs_and_both_ends_are_told_without_its_values():
    bus, clock, told = bus_with(Approval(by={"bob", "alice"}, within=timedelta(minutes=10)))

    async with bus:
        paying, pending = await ask(bus, clock)
        waited = not paying.done()
        await bus.approvals.decide(pending.id, approve=True, by="alice", reason="fine")
        result = await paying
        await bus.idle()

    assert waited
    assert result == "paid 4711"
    assert await bus.approvals.pending() == []
    assert (pending.command, pending.by) == (Pay(amount=4711), "alice, bob")
    assert pending.expires_at == pending.requested_at + timedelta(minutes=10)
    assert told == [
        ApprovalRequestedEvent(
            approval_id=pending.id,
            command="Pay",
            command_id=pending.envelope.id,
            by="alice, bob",
            expires_at=pending.expires_at,
        ),
        ApprovalDecidedEvent(
            approval_id=pending.id,
            command="Pay",
            approved=True,
            by="alice",
            reason="fine",
            outcome="decided",
        ),
    ]
    assert not any("4711" in event.model_dump_json() for event in told)


async def test_a_rejected_command_does_not_run_and_says_who_and_why():
    bus, clock, _ = bus_with(Approval())

    async with bus:
        paying, pending = await ask(bus, clock)
        await bus.approvals.decide(pending.id, approve=False, by="alice", reason="too much")
        with pytest.raises(ApprovalRejectedError) as rejected:
            await paying

    error = rejected.value
    assert (error.by, error.reason, error.expired) == ("alice", "too much", False)
    assert "rejected by 'alice': too much" in str(error)


@pytest.mark.parametrize("by", ["alice", {"alice", "bob"}, lambda name: name.startswith("al")])
async def test_who_may_not_decide_changes_nothing(by: object):
    bus, clock, _ = bus_with(Approval(by=by))

    async with bus:
        paying, pending = await ask(bus, clock)
        with pytest.raises(NotAllowedError):
            await bus.approvals.decide(pending.id, approve=True, by="a")
        still_pending = await bus.approvals.pending() == [pending]
        await bus.approvals.decide(pending.id, approve=True, by="alice")
        await paying

    assert still_pending


async def test_whoever_comes_late_hears_who_was_first():
    bus, clock, _ = bus_with(Approval())

    async with bus:
        paying, pending = await ask(bus, clock)
        await bus.approvals.decide(pending.id, approve=True, by="alice")
        with pytest.raises(AlreadyDecidedError, match="approved by 'alice'") as late:
            await bus.approvals.decide(pending.id, approve=False, by="bob")
        with pytest.raises(UnknownApprovalError, match="nothing-like-it"):
            await bus.approvals.decide("nothing-like-it", approve=False, by="bob")
        result = await paying

    assert result == "paid 4711"
    assert (late.value.approved, late.value.by, late.value.at) == (True, "alice", clock.now())


async def test_only_the_last_that_ended_are_remembered():
    bus, clock, _ = bus_with(Approval())
    bus.approvals = Approvals(bus, remembered=1)

    async with bus:
        first, second = [bus.execute(Pay(amount=n)) for n in (1, 2)]
        paying = asyncio.gather(first, second)
        await clock.advance(0)
        ids = [pending.id for pending in await bus.approvals.pending()]
        for approval_id in ids:
            await bus.approvals.decide(approval_id, approve=True, by="alice")
        await paying

        with pytest.raises(UnknownApprovalError):
            await bus.approvals.decide(ids[0], approve=True, by="alice")
        with pytest.raises(AlreadyDecidedError):
            await bus.approvals.decide(ids[1], approve=True, by="alice")


async def test_a_command_nobody_decides_on_is_rejected_when_its_time_is_over():
    bus, clock, told = bus_with(Approval(within=timedelta(minutes=10)))

    async with bus:
        paying, pending = await ask(bus, clock)
        await clock.advance(599)
        waited = not paying.done()
        await clock.advance(1)
        with pytest.raises(ApprovalRejectedError, match="in time") as rejected:
            await paying
        with pytest.raises(AlreadyDecidedError, match="time ran out"):
            await bus.approvals.decide(pending.id, approve=True, by="alice")
        await bus.idle()

    assert waited
    assert rejected.value.expired
    assert told[-1].outcome == "expired"


async def test_a_command_can_be_approved_by_nobodys_objection():
    bus, clock, told = bus_with(Approval(within=timedelta(minutes=10), otherwise="approve"))

    async with bus:
        paying, _ = await ask(bus, clock)
        await clock.advance(600)
        result = await paying
        await bus.idle()

    assert result == "paid 4711"
    assert (told[-1].outcome, told[-1].approved, told[-1].by) == ("expired", True, None)


async def test_a_cancelled_command_withdraws_its_approval():
    bus, clock, told = bus_with(Approval(within=timedelta(minutes=10)))

    async with bus:
        paying, pending = await ask(bus, clock)
        paying.cancel()
        await bus.idle()
        left = await bus.approvals.pending()
        with pytest.raises(AlreadyDecidedError, match="withdrawn"):
            await bus.approvals.decide(pending.id, approve=True, by="alice")

    assert paying.cancelled()
    assert left == []
    assert told[-1].outcome == "withdrawn"
    assert clock.timers == 0


async def test_only_the_commands_that_need_it_wait():
    bus, clock, _ = bus_with(Approval(when=lambda command: command.amount > 100))

    async with bus:
        small = await bus.execute(Pay(amount=100))
        paying, pending = await ask(bus, clock)
        await bus.approvals.decide(pending.id, approve=True, by="alice")
        await paying

    assert small == "paid 100"


async def test_a_stream_begins_once_it_is_approved():
    clock = FakeClock()
    bus = MessageBus(clock=clock)

    async def count(_: Count) -> AsyncIterator[int]:
        yield 1
        yield 2

    bus.register_command_handler(Count, count, middleware=[Approval()])

    async def read() -> list[int]:
        return [item async for item in bus.stream(Count())]

    async with bus:
        reading = asyncio.create_task(read())
        await clock.advance(0)
        [pending] = await bus.approvals.pending()
        waited = not reading.done()
        await bus.approvals.decide(pending.id, approve=True, by="alice")
        items = await reading

    assert waited
    assert items == [1, 2]


async def test_an_events_handler_cannot_wait_for_approval():
    bus = MessageBus()
    seen = []
    bus.register_event_handler(Paid, seen.append, middleware=[Approval()])

    async with bus:
        await bus.publish(Paid())
        await bus.idle()
        [letter] = bus.dead_letters

    assert isinstance(letter.error, BusError)
    assert "'Paid' is an event" in str(letter.error)
    assert seen == []


@pytest.mark.parametrize(
    "wrong", [{"by": []}, {"within": timedelta(0)}, {"otherwise": "aprove"}], ids=str
)
def test_an_approval_nobody_can_mean_is_refused_where_it_is_written(wrong: dict[str, object]):
    with pytest.raises(BusError, match=next(iter(wrong))):
        Approval(**wrong)


VOICES = {"alice": True, "bob": False, "carol": True}


@given(st.permutations([*VOICES, "time", "caller", "stranger"]), st.sets(st.integers(0, 5)))
def test_of_all_that_can_end_an_approval_exactly_one_does(order: list[str], pauses: set[int]):
    asyncio.run(one_ends_it(order, pauses))


async def one_ends_it(order: list[str], pauses: set[int]) -> None:
    bus, clock, told = bus_with(Approval(by=set(VOICES), within=timedelta(seconds=1)))
    async with bus:
        paying, pending = await ask(bus, clock)
        deciding: dict[str, asyncio.Task[None]] = {}
        for n, who in enumerate(order):
            if who == "time":
                await clock.advance(1)
            elif who == "caller":
                paying.cancel()
            else:
                verdict = VOICES.get(who, True)
                decide = bus.approvals.decide(pending.id, approve=verdict, by=who)
                deciding[who] = asyncio.create_task(decide)
            if n in pauses:
                await asyncio.sleep(0)
        await asyncio.wait(deciding.values())
        await asyncio.wait([paying])
        await bus.idle()

    winners = [who for who, task in deciding.items() if task.exception() is None]
    [end] = [event for event in told if isinstance(event, ApprovalDecidedEvent)]
    assert winners == ([end.by] if end.outcome == "decided" else [])
    assert end.approved == (end.outcome == "decided" and VOICES[winners[0]])
    assert end.approved or paying.cancelled() or paying.exception() is not None
