"""Ways in which message buses are known to fail."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from app.llmgine.bus import CircuitBreaker, CommandErrorEvent, EventHandlerFailedEvent, MessageBus
from app.llmgine.errors import CircuitOpenError
from app.llmgine.messages import Command, Event
from app.llmgine.observability import MemorySink, Observer
from app.llmgine.testing.clock import FakeClock, FakeTimer

TESTS = Path(__file__).parents[2]


class Work(Command[str]):
    n: int = 0


class Worked(Event):
    n: int = 0


class WorkedWell(Worked):
    pass


class Other(Event):
    pass


class CountingClock(FakeClock):
    """Counts the timers that were ever set."""

    def __init__(self) -> None:
        super().__init__()
        self.set = 0

    def call_at(self, when: float, callback: Callable[[], object]) -> FakeTimer:
        self.set += 1
        return super().call_at(when, callback)


def collector(seen: list[int]):
    async def collect(event: Worked) -> None:
        seen.append(event.n)

    return collect


def test_every_module_of_the_bus_imports_under_this_python():
    program = """
import importlib, pkgutil
from app.llmgine import bus
for module in pkgutil.iter_modules(bus.__path__, bus.__name__ + "."):
    importlib.import_module(module.name)
"""

    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert finished.returncode == 0, finished.stderr


async def test_publishing_inside_an_event_handler_does_not_wait_for_itself():
    seen = []

    async def again(event: Worked) -> None:
        seen.append(event.n)
        if event.n < 5:
            await bus.publish(Worked(n=event.n + 1))

    bus = MessageBus()
    bus.register_event_handler(Worked, again, capacity=1, concurrency=1)

    async with asyncio.timeout(10), bus:
        await bus.publish(Worked(n=0), key="same")
        await bus.idle()

    assert seen == [0, 1, 2, 3, 4, 5]


async def test_the_circuit_breaker_sees_failures_and_opens():
    ran, refused = [], []

    async def fail(command: Work) -> str:
        ran.append(command.n)
        raise ConnectionError

    bus = MessageBus(clock=FakeClock())
    bus.register_command_handler(Work, fail, middleware=[CircuitBreaker(failures=3)])

    async with bus:
        for n in range(50):
            result = await bus.try_execute(Work(n=n))
            if isinstance(result.error, CircuitOpenError):
                refused.append(n)

    assert ran == [0, 1, 2]
    assert refused == list(range(3, 50))


async def test_full_dead_letters_hold_up_no_caller():
    async def fail(_: Work) -> str:
        raise ValueError("refused")

    async def fail_too(_: CommandErrorEvent) -> None:
        raise ValueError

    bus = MessageBus()
    bus.dead_letters.capacity = 5
    bus.register_command_handler(Work, fail)
    bus.register_event_handler(CommandErrorEvent, fail_too)

    async with asyncio.timeout(10), bus:
        for _ in range(7):
            with pytest.raises(ValueError, match="refused"):
                await bus.execute(Work())
        await bus.idle()

    assert (len(bus.dead_letters), bus.dead_letters.dropped) == (5, 2)


async def test_stopping_loses_nothing_that_was_queued():
    seen = []

    async def slow(event: Worked) -> None:
        await asyncio.sleep(0)
        seen.append(event.n)

    bus = MessageBus()
    bus.register_event_handler(Worked, slow, concurrency=1)
    await bus.start()
    for n in range(100):
        await bus.publish(Worked(n=n))

    report = await bus.stop()

    assert report.drained
    assert seen == list(range(100))


async def test_stopping_without_grace_names_all_that_was_queued():
    bus = MessageBus()
    bus.register_event_handler(Worked, collector([]), concurrency=1)
    await bus.start()
    for n in range(100):
        await bus.publish(Worked(n=n))

    report = await bus.stop(grace_s=0)

    (lane,) = bus.lanes()
    assert len(report.events) + lane.handled == 100


async def test_a_fast_handler_does_not_wait_behind_a_slow_one_of_another_event():
    stuck, fast = asyncio.Event(), asyncio.Event()

    async def slow(_: Worked) -> None:
        await stuck.wait()

    async def quick(_: Other) -> None:
        fast.set()

    bus = MessageBus()
    bus.register_event_handler(Worked, slow)
    bus.register_event_handler(Other, quick)

    async with bus:
        await bus.publish(Worked())
        await bus.publish(Other())
        async with asyncio.timeout(10):
            await fast.wait()
        stuck.set()


async def test_a_handler_of_a_base_class_sees_the_classes_below_it():
    seen = []
    bus = MessageBus()
    bus.register_event_handler(Worked, collector(seen))

    async with bus:
        await bus.publish(WorkedWell(n=1))
        await bus.idle()

    assert seen == [1]


async def test_an_event_far_ahead_wakes_nobody_until_then():
    seen, clock = [], CountingClock()
    bus = MessageBus(clock=clock)
    bus.register_event_handler(Worked, collector(seen))

    async with bus:
        await bus.schedule(Worked(n=5), after=timedelta(seconds=30))
        await clock.advance(29)
        assert (clock.set, seen) == (1, [])
        await clock.advance(1)
        assert (clock.set, clock.timers) == (1, 0)

    assert seen == [5]


async def test_a_scheduled_event_that_a_stop_forestalls_is_reported():
    bus = MessageBus(clock=FakeClock())
    await bus.start()
    await bus.schedule(Worked(n=5), after=timedelta(seconds=30))

    report = await bus.stop()

    assert not report.drained
    assert report.scheduled == ("Worked at 2026-01-01T00:00:30Z",)


async def test_a_scheduled_event_whose_handler_fails_is_not_gone():
    async def fail(_: Worked) -> None:
        raise ValueError

    clock = FakeClock()
    bus = MessageBus(clock=clock)
    bus.register_event_handler(Worked, fail)

    async with bus:
        await bus.schedule(Worked(n=5), after=timedelta(seconds=30))
        await clock.advance(30)

    assert [letter.message for letter in bus.dead_letters] == [Worked(n=5)]


async def test_a_failing_handler_of_failures_is_called_once_for_each():
    calls = []

    async def fail(_: Worked) -> None:
        raise ValueError

    async def fail_too(_: EventHandlerFailedEvent) -> None:
        calls.append(1)
        raise ValueError

    bus = MessageBus()
    bus.register_event_handler(Worked, fail)
    bus.register_event_handler(EventHandlerFailedEvent, fail_too)

    async with asyncio.timeout(10), bus:
        for _ in range(3):
            await bus.publish(Worked())
        await bus.idle()

    assert len(calls) == 3


async def test_a_cancelled_command_leaves_no_span_open():
    entered, sink = asyncio.Event(), MemorySink()

    async def hang(_: Work) -> str:
        entered.set()
        await asyncio.Event().wait()
        return ""

    bus = MessageBus(middleware=[Observer([sink]).around_message])
    bus.register_command_handler(Work, hang)

    async with bus:
        working = asyncio.create_task(bus.execute(Work()))
        await entered.wait()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    (span,) = [record for record in sink.records if record.kind == "span"]
    assert (span.name, span.fields["status"]) == ("Work", "error")


async def test_counting_keeps_nothing_of_what_was_counted():
    async def work(_: Work) -> str:
        return ""

    async def look(_: Worked) -> None: ...

    bus = MessageBus()
    bus.register_command_handler(Work, work)
    bus.register_event_handler(Worked, look)

    async def run(times: int) -> int:
        for n in range(times):
            await bus.execute(Work(n=n))
            await bus.publish(Worked(n=n))
        await bus.idle()
        gc.collect()
        return len(gc.get_objects())

    async with bus:
        before = await run(100)
        assert await run(5_000) - before < 100

    assert bus.lanes()[0].handled == 5_100
