"""Events: any number of handlers, each in a bounded lane of its own."""

import asyncio
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.llmgine.bus import EventHandlerFailedEvent, MessageBus
from app.llmgine.errors import BusStartError, LaneFullError
from app.llmgine.messages import Command, Event


class Counted(Event):
    n: int
    key: str = ""


class CountedTwice(Counted):
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
    async def collect(event: Event) -> None:
        seen.append(event.n)

    return collect


async def test_every_handler_of_the_class_and_of_its_bases_sees_the_event():
    base, exact, everything = [], [], []
    bus = MessageBus()
    bus.register_event_handler(Counted, collector(base))
    bus.register_event_handler(CountedTwice, collector(exact))
    bus.register_event_handler(Event, collector(everything))

    async with bus:
        await bus.publish(CountedTwice(n=1))
        await bus.publish(Counted(n=2))
        await bus.idle()

    assert (base, exact, everything) == ([1, 2], [1], [1, 2])


async def test_a_failing_handler_is_logged_once_and_the_others_still_run(caplog):
    seen, failures = [], []

    async def broken(event: Counted) -> None:
        raise RuntimeError(f"no {event.n}")

    async def note(event: EventHandlerFailedEvent) -> None:
        failures.append((event.event, event.error_type, event.error))

    bus = MessageBus()
    bus.register_event_handler(Counted, broken)
    bus.register_event_handler(Counted, collector(seen))
    bus.register_event_handler(EventHandlerFailedEvent, note)

    with caplog.at_level(logging.ERROR):
        async with bus:
            await bus.publish(Counted(n=1))
            await bus.publish(Counted(n=2))
            await bus.idle()

    assert seen == [1, 2]
    assert failures == [("Counted", "RuntimeError", "no 1"), ("Counted", "RuntimeError", "no 2")]
    assert len(caplog.records) == 2


async def test_a_failing_handler_of_failures_does_not_loop():
    calls = []

    async def broken(_: Event) -> None:
        calls.append(1)
        raise RuntimeError

    bus = MessageBus()
    bus.register_event_handler(EventHandlerFailedEvent, broken)
    bus.register_event_handler(Counted, broken)

    async with bus:
        await bus.publish(Counted(n=1))
        await bus.idle()

    assert len(calls) == 2


async def test_a_handlers_own_cancellation_is_a_failure_and_does_not_stop_the_lane():
    seen = []

    async def cancels_itself(event: Counted) -> None:
        if event.n == 1:
            raise asyncio.CancelledError
        seen.append(event.n)

    bus = MessageBus()
    bus.register_event_handler(Counted, cancels_itself, concurrency=1)

    async with bus:
        await bus.publish(Counted(n=1))
        await bus.publish(Counted(n=2))
        await bus.idle()

    assert seen == [2]


async def test_a_slow_handler_delays_nobody_else():
    slow, seen = Gate(), []
    bus = MessageBus()
    bus.register_event_handler(Counted, slow)
    bus.register_event_handler(Counted, collector(seen))

    async with bus:
        await bus.publish(Counted(n=1))
        await slow.entered.wait()
        assert seen == [1]
        slow.opened.set()


async def test_events_without_a_key_are_handled_side_by_side():
    together, waiting = asyncio.Barrier(16), asyncio.timeout(10)

    async def meet(_: Counted) -> None:
        await together.wait()

    bus = MessageBus()
    bus.register_event_handler(Counted, meet)

    async with waiting, bus:
        for n in range(16):
            await bus.publish(Counted(n=n))
        await bus.idle()


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(st.sampled_from("abc"), max_size=40),
    yields=st.lists(st.integers(0, 3), min_size=40, max_size=40),
    concurrency=st.integers(1, 5),
    capacity=st.integers(1, 6),
)
def test_each_key_stays_in_order_and_every_event_is_handled_exactly_once(
    keys, yields, concurrency, capacity
):
    async def run() -> list[Counted]:
        seen: list[Counted] = []
        active: set[str] = set()

        async def handle(event: Counted) -> None:
            assert event.key not in active, "two events of one key at once"
            active.add(event.key)
            for _ in range(yields[event.n]):
                await asyncio.sleep(0)
            active.remove(event.key)
            seen.append(event)

        bus = MessageBus()
        bus.register_event_handler(
            Counted, handle, concurrency=concurrency, capacity=capacity, overflow="wait"
        )
        async with bus:
            for n, key in enumerate(keys):
                await bus.publish(Counted(n=n, key=key), key=key)
            await bus.idle()
        return seen

    seen = asyncio.run(run())

    assert sorted(event.n for event in seen) == list(range(len(keys)))
    for key in set(keys):
        of_key = [event.n for event in seen if event.key == key]
        assert of_key == sorted(of_key)


async def test_publish_waits_for_room_and_wakes_when_there_is_some():
    gate = Gate()
    bus = MessageBus()
    bus.register_event_handler(Counted, gate, capacity=1, concurrency=1)

    async with bus:
        await bus.publish(Counted(n=1))
        await gate.entered.wait()
        await bus.publish(Counted(n=2))
        blocked = asyncio.create_task(bus.publish(Counted(n=3)))
        await asyncio.sleep(0)
        assert not blocked.done()
        gate.opened.set()
        await blocked
        await bus.idle()

    assert gate.seen == [1, 2, 3]


async def test_a_publisher_that_gives_up_waiting_leaves_its_place_to_the_next():
    gate = Gate()
    bus = MessageBus()
    bus.register_event_handler(Counted, gate, capacity=1, concurrency=1)

    async with bus:
        await bus.publish(Counted(n=1))
        await gate.entered.wait()
        await bus.publish(Counted(n=2))
        first = asyncio.create_task(bus.publish(Counted(n=3)))
        second = asyncio.create_task(bus.publish(Counted(n=4)))
        await asyncio.sleep(0)
        first.cancel()
        gate.opened.set()
        await second
        await bus.idle()

    assert gate.seen == [1, 2, 4]


@pytest.mark.parametrize(("overflow", "kept"), [("drop_oldest", [1, 3]), ("drop_new", [1, 2])])
async def test_a_full_lane_drops_by_its_rule(overflow, kept):
    gate = Gate()
    bus = MessageBus()
    bus.register_event_handler(Counted, gate, capacity=1, concurrency=1, overflow=overflow)

    async with bus:
        await bus.publish(Counted(n=1))
        await gate.entered.wait()
        await bus.publish(Counted(n=2), key="a")
        await bus.publish(Counted(n=3), key="a")
        gate.opened.set()
        await bus.idle()

    assert gate.seen == kept


async def test_a_lane_that_rejects_tells_the_publisher_and_the_others_get_the_event():
    gate, seen = Gate(), []
    bus = MessageBus()
    bus.register_event_handler(Counted, gate, capacity=1, concurrency=1, overflow="reject")
    bus.register_event_handler(Counted, collector(seen))

    async with bus:
        await bus.publish(Counted(n=1))
        await gate.entered.wait()
        await bus.publish(Counted(n=2))
        with pytest.raises(LaneFullError, match="Gate"):
            await bus.publish(Counted(n=3))
        gate.opened.set()
        await bus.idle()

    assert gate.seen == [1, 2]
    assert seen == [1, 2, 3]


async def test_publishing_from_a_handler_into_its_own_full_lane_does_not_deadlock():
    seen = []

    async def echo(event: Counted) -> None:
        seen.append(event.n)
        if event.n < 20:
            for _ in range(2):
                await bus.publish(Counted(n=event.n + 10))

    bus = MessageBus()
    bus.register_event_handler(Counted, echo, capacity=1, concurrency=1)

    async with asyncio.timeout(10), bus:
        await bus.publish(Counted(n=0))
        await bus.idle()

    assert sorted(seen) == [0, 10, 10, 20, 20, 20, 20]


async def test_a_burst_far_above_the_capacity_is_handled_whole():
    seen = []
    bus = MessageBus()
    bus.register_event_handler(Counted, collector(seen), capacity=10)

    async with asyncio.timeout(20), bus:
        for n in range(5_000):
            await bus.publish(Counted(n=n))
        await bus.idle()

    assert seen == list(range(5_000))


async def test_a_workers_context_holds_nothing_of_the_publisher():
    from contextvars import ContextVar

    variable = ContextVar("variable", default="clean")
    seen = []

    async def look(_: Counted) -> None:
        seen.append(variable.get())

    bus = MessageBus()
    bus.register_event_handler(Counted, look)

    async with bus:
        variable.set("the publisher's")
        await bus.publish(Counted(n=1))
        await bus.idle()

    assert seen == ["clean"]


async def test_idle_leaves_no_task_behind():
    class Noop(Command):
        pass

    async def noop(_: Noop) -> None: ...

    seen = []
    bus = MessageBus()
    bus.register_command_handler(Noop, noop)
    bus.register_event_handler(Counted, collector(seen))
    before = asyncio.all_tasks()

    async with bus:
        for n in range(100):
            await bus.execute(Noop())
            await bus.publish(Counted(n=n))
        await bus.idle()
        assert asyncio.all_tasks() == before


async def test_a_concurrency_of_one_keeps_all_events_in_order_whatever_their_keys():
    seen = []
    bus = MessageBus()
    bus.register_event_handler(Counted, collector(seen), concurrency=1)

    async with bus:
        for n in range(20):
            await bus.publish(Counted(n=n), key="ab"[n % 2])
        await bus.idle()

    assert seen == list(range(20))


async def test_a_handler_whose_error_cannot_be_read_does_not_stop_its_lane():
    class UnreadableError(Exception):
        def __str__(self) -> str:
            raise TypeError

    seen = []

    async def breaks_once(event: Counted) -> None:
        if event.n == 0:
            raise UnreadableError
        seen.append(event.n)

    bus = MessageBus()
    bus.register_event_handler(Counted, breaks_once)

    async with bus:
        for n in range(4):
            await bus.publish(Counted(n=n), key="same")
        await bus.idle()

    assert seen == [1, 2, 3]


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_new"])
async def test_a_lane_that_drops_stays_bounded_when_a_handler_publishes(overflow, caplog):
    gate = Gate()

    async def flood(_: CountedTwice) -> None:
        for n in range(100):
            await bus.publish(Counted(n=n))

    bus = MessageBus()
    bus.register_event_handler(Counted, gate, capacity=5, concurrency=1, overflow=overflow)
    bus.register_event_handler(CountedTwice, flood)

    async with bus:
        await bus.publish(CountedTwice(n=1000))
        await gate.entered.wait()
        gate.opened.set()
        await bus.idle()

    assert len(gate.seen) <= 7
    assert [r.getMessage() for r in caplog.records if "drops" in r.getMessage()]


@pytest.mark.parametrize("wrong", [{"capacity": 0}, {"concurrency": 0}, {"overflow": "explode"}])
async def test_limits_that_would_never_handle_anything_are_refused(wrong):
    bus = MessageBus()
    bus.register_event_handler(Counted, collector([]), **wrong)

    with pytest.raises(BusStartError, match=r"must be (at least 1|one of)"):
        await bus.start()
