"""Lanes: what comes in, in which order, alone or in batches, and what is told of it."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.llmgine.bus import EventHandlerFailedEvent, LaneHighWaterEvent, MessageBus, StopReport
from app.llmgine.errors import BusStartError, LaneFullError
from app.llmgine.messages import Command, Event, current_envelope
from app.llmgine.testing.clock import FakeClock


class Counted(Event):
    n: int


class Count(Command[str]):
    pass


class Gate:
    """A handler that waits until it is opened, and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, event: Counted) -> None:
        self.entered.set()
        await self.opened.wait()
        self.seen.append(event.n)


def collector(seen: list[int]):
    async def collect(event: Counted) -> None:
        seen.append(event.n)

    return collect


def batches_into(batches: list[list[int]], *, gate: asyncio.Event | None = None):
    async def collect(events: list[Counted]) -> None:
        batches.append([event.n for event in events])
        if gate is not None:
            await gate.wait()

    return collect


async def publish(bus: MessageBus, *numbers: int) -> None:
    for n in numbers:
        await bus.publish(Counted(n=n))


async def test_events_that_a_predicate_refuses_take_no_room():
    gate = Gate()
    bus = MessageBus()
    lane = {"capacity": 1, "concurrency": 1, "overflow": "reject"}
    bus.register_event_handler(Counted, gate, where=lambda event: event.n >= 0, **lane)

    async with bus:
        await publish(bus, 0)
        await gate.entered.wait()
        await publish(bus, *[-1] * 10)
        await publish(bus, 1)
        with pytest.raises(LaneFullError):
            await publish(bus, 2)
        gate.opened.set()

    assert gate.seen == [0, 1]


async def test_a_predicate_that_raises_is_the_handlers_failure_and_stops_nobody():
    mine, others, failures = [], [], []

    def is_small(event: Counted) -> bool:
        return 10 / event.n > 1

    async def note(event: EventHandlerFailedEvent) -> None:
        failures.append(event.error_type)

    bus = MessageBus()
    bus.register_event_handler(Counted, collector(mine), where=is_small)
    bus.register_event_handler(Counted, collector(others))
    bus.register_event_handler(EventHandlerFailedEvent, note)

    async with bus:
        await publish(bus, 0, 1)
        await bus.idle()

    assert (mine, others, failures) == ([1], [0, 1], ["ZeroDivisionError"])
    assert [letter.message.n for letter in bus.dead_letters] == [0]
    assert bus.lanes()[0].failed == 1


async def test_an_ordered_group_runs_in_order_and_nothing_of_it_after_a_failure():
    order, others = [], []

    def step(name):
        async def handle(event: Counted) -> None:
            await asyncio.sleep(0)
            order.append((name, event.n))
            if (name, event.n) == ("b", 1):
                raise ValueError

        return handle

    bus = MessageBus()
    bus.register_event_handler(Counted, [step("a"), step("b"), step("c")], concurrency=1)
    bus.register_event_handler(Counted, collector(others))

    async with bus:
        await publish(bus, 1, 2)
        await bus.idle()

    assert order == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("c", 2)]
    assert others == [1, 2]
    assert len(bus.dead_letters) == 1


async def test_middleware_goes_around_each_step_of_a_group_so_only_one_is_retried():
    calls = []

    async def first(_: Counted) -> None:
        calls.append("first")

    async def second(_: Counted) -> None:
        calls.append("second")
        if calls.count("second") == 1:
            raise ConnectionError

    async def again(message, envelope, call_next):
        try:
            return await call_next()
        except ConnectionError:
            return await call_next()

    bus = MessageBus()
    bus.register_event_handler(Counted, [first, second], middleware=[again])

    async with bus:
        await publish(bus, 0)
        await bus.idle()

    assert calls == ["first", "second", "second"]


async def test_a_batch_is_handed_over_when_it_is_full():
    batches, clock = [], FakeClock()
    bus = MessageBus(clock=clock)
    bus.register_batch_handler(Counted, batches_into(batches), size=3, within_s=60)

    async with bus:
        await publish(bus, 0, 1)
        await clock.advance(0)
        assert batches == []
        await publish(bus, 2, 3, 4, 5, 6)
        await clock.advance(0)
        assert batches == [[0, 1, 2], [3, 4, 5]]


async def test_a_batch_is_handed_over_when_its_first_event_has_waited_long_enough():
    batches, clock = [], FakeClock()
    bus = MessageBus(clock=clock)
    bus.register_batch_handler(Counted, batches_into(batches), size=3, within_s=5)

    async with bus:
        await publish(bus, 0)
        await clock.advance(4)
        await publish(bus, 1)
        await clock.advance(0.9)
        assert batches == []
        await clock.advance(0.1)
        assert batches == [[0, 1]]
        assert clock.timers == 0


async def test_the_time_of_a_batch_runs_while_its_handler_is_busy():
    batches, clock, gate = [], FakeClock(), asyncio.Event()
    bus = MessageBus(clock=clock)
    bus.register_batch_handler(Counted, batches_into(batches, gate=gate), size=2, within_s=5)

    async with bus:
        await publish(bus, 0, 1, 2)
        await clock.advance(10)
        gate.set()
        await clock.advance(0)
        handed_over = list(batches)

    assert handed_over == [[0, 1], [2]]


@settings(max_examples=40)
@given(
    keys=st.lists(st.sampled_from([None, "a", "b"]), max_size=30),
    size=st.integers(1, 5),
    waits=st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=30, max_size=30),
)
def test_batches_keep_the_order_of_publishing_across_keys_and_lose_nothing(keys, size, waits):
    async def run() -> list[list[int]]:
        batches: list[list[int]] = []
        clock = FakeClock()
        bus = MessageBus(clock=clock)
        bus.register_batch_handler(Counted, batches_into(batches), size=size, within_s=1)
        async with bus:
            for n, key in enumerate(keys):
                await bus.publish(Counted(n=n), key=key)
                await clock.advance(waits[n])
        return batches

    batches = asyncio.run(run())

    assert [n for batch in batches for n in batch] == list(range(len(keys)))
    assert all(1 <= len(batch) <= size for batch in batches)


async def test_idle_and_stop_hand_over_what_still_gathers():
    batches, clock = [], FakeClock()
    bus = MessageBus(clock=clock)
    bus.register_batch_handler(Counted, batches_into(batches), size=100, within_s=60)

    async with asyncio.timeout(10):
        await bus.start()
        await publish(bus, 0, 1)
        await bus.idle()
        assert batches == [[0, 1]]
        await publish(bus, 2)
        report = await bus.stop()

    assert batches == [[0, 1], [2]]
    assert report == StopReport()
    assert clock.timers == 0


async def test_a_stop_without_grace_reports_the_events_of_a_batch():
    batches, clock, gate = [], FakeClock(), asyncio.Event()
    bus = MessageBus(clock=clock)
    bus.register_batch_handler(Counted, batches_into(batches, gate=gate), size=2, within_s=60)
    await bus.start()
    await publish(bus, 0, 1, 2)
    await clock.advance(0)

    report = await bus.stop(grace_s=0)

    assert batches == [[0, 1]]
    assert len(report.events) == 3
    assert clock.timers == 0


@pytest.mark.parametrize(
    ("overflow", "kept"), [("drop_oldest", [[0, 1], [4, 5]]), ("drop_new", [[0, 1], [2, 3]])]
)
async def test_a_full_lane_of_batches_drops_by_its_rule_and_counts(overflow, kept):
    batches, clock, gate = [], FakeClock(), asyncio.Event()
    bus = MessageBus(clock=clock)
    handler = batches_into(batches, gate=gate)
    bus.register_batch_handler(Counted, handler, size=2, within_s=5, capacity=2, overflow=overflow)

    async with bus:
        await publish(bus, 0, 1)
        await clock.advance(0)
        await publish(bus, 2, 3, 4, 5)
        gate.set()
        await bus.idle()

    (lane,) = bus.lanes()
    assert batches == kept
    assert (lane.handled, lane.dropped) == (4, 2)


async def test_a_batch_makes_room_for_as_many_publishers_as_it_took_events():
    batches, clock, gate = [], FakeClock(), asyncio.Event()
    bus = MessageBus(clock=clock)
    handler = batches_into(batches, gate=gate)
    bus.register_batch_handler(Counted, handler, size=2, within_s=60, capacity=2)

    async with asyncio.timeout(10), bus:
        await publish(bus, 0, 1)
        await clock.advance(0)
        await publish(bus, 2, 3)
        waiting = [asyncio.create_task(publish(bus, n)) for n in (4, 5)]
        await clock.advance(0)
        assert not any(task.done() for task in waiting)
        gate.set()
        await asyncio.gather(*waiting)
        await bus.idle()

    assert batches == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": 1.5},
        {"size": 10_001},
        {"within_s": -1},
        {"within_s": float("nan")},
        {"concurrency": 2},
        {"capacity": 1.5},
    ],
)
async def test_batches_that_could_not_be_are_refused_at_the_start(wrong):
    bus = MessageBus()
    options = {"size": 1, "within_s": 1, **wrong}
    bus.register_batch_handler(Counted, batches_into([]), **options)

    with pytest.raises(BusStartError, match=next(iter(wrong))):
        await bus.start()


async def test_a_lane_that_fills_up_is_told_once_until_it_has_caught_up():
    told, clock, allowed = [], FakeClock(), asyncio.Semaphore(0)

    async def slow(_: Counted) -> None:
        await allowed.acquire()

    async def note(event: LaneHighWaterEvent) -> None:
        told.append((event.queued, event.capacity))

    def let(number: int) -> None:
        for _ in range(number):
            allowed.release()

    bus = MessageBus(clock=clock)
    bus.register_event_handler(Counted, slow, capacity=10, concurrency=1)
    bus.register_event_handler(LaneHighWaterEvent, note)

    async with bus:
        await publish(bus, *range(10))
        let(5)
        await clock.advance(0)
        await publish(bus, *range(5))
        await clock.advance(0)
        assert told == [(8, 10)]
        let(10)
        await bus.idle()
        await publish(bus, *range(10))
        let(10)
        await bus.idle()

    assert told == [(8, 10)] * 2


async def test_the_counters_are_exact():
    gate = Gate()

    async def fails_on_odd(event: Counted) -> None:
        await gate(event)
        if event.n % 2:
            raise ValueError

    bus = MessageBus()
    bus.register_event_handler(
        Counted, fails_on_odd, capacity=4, concurrency=1, overflow="drop_new"
    )

    async with bus:
        (lane,) = bus.lanes()
        await publish(bus, 0)
        await gate.entered.wait()
        await publish(bus, *range(1, 10))
        assert (lane.queued, lane.handled, lane.failed, lane.dropped) == (4, 0, 0, 5)
        gate.opened.set()
        await bus.idle()
        assert (lane.queued, lane.handled, lane.failed, lane.dropped) == (0, 3, 2, 5)


async def test_an_event_that_waits_for_room_in_one_lane_has_reached_the_others():
    gate, seen, clock = Gate(), [], FakeClock()
    bus = MessageBus(clock=clock)
    bus.register_event_handler(Counted, gate, capacity=1, concurrency=1)
    bus.register_event_handler(Counted, collector(seen))

    async with bus:
        await publish(bus, 0)
        await gate.entered.wait()
        await publish(bus, 1)
        waiting = asyncio.create_task(publish(bus, 2))
        await clock.advance(0)
        reached = list(seen)
        gate.opened.set()
        await waiting

    assert reached == [0, 1, 2]


async def test_the_idempotency_key_is_in_the_envelope_of_its_message_alone():
    keys = []

    async def note(message: Count | Counted) -> str:
        envelope = current_envelope()
        keys.append(envelope.idempotency_key if envelope else "none")
        if isinstance(message, Count):
            await bus.publish(Counted(n=0))
        return ""

    bus = MessageBus()
    bus.register_command_handler(Count, note)
    bus.register_event_handler(Counted, note)

    async with bus:
        await bus.execute(Count(), idempotency_key="c1")
        await bus.idle()
        await bus.publish(Counted(n=1), idempotency_key="e1")
        await bus.idle()

    assert keys == ["c1", None, "e1"]
