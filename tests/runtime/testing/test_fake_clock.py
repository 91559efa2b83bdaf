"""The fake clock: time passes when the test says so, and all that waits for it runs in order."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from app.llmgine.clock import Clock, sleep
from app.llmgine.testing.clock import FakeClock


async def test_timers_fire_in_the_order_they_are_due_and_then_in_the_order_they_were_set():
    clock, fired = FakeClock(), list[str]()
    for when, name in [(5, "late"), (2, "first"), (2, "second"), (2, "third")]:
        clock.call_at(when, lambda name=name: fired.append(name))

    await clock.advance(10)

    assert fired == ["first", "second", "third", "late"]


async def test_a_timer_not_yet_due_waits_for_the_next_advance():
    clock, fired = FakeClock(), list[float]()
    clock.call_at(3, lambda: fired.append(clock.monotonic()))

    await clock.advance(2.5)
    assert (fired, clock.timers) == ([], 1)
    await clock.advance(2.5)

    assert (fired, clock.timers, clock.monotonic()) == ([3], 0, 5)


async def test_a_cancelled_timer_never_fires():
    clock, fired = FakeClock(), list[str]()
    clock.call_at(1, lambda: fired.append("cancelled")).cancel()

    assert clock.timers == 0
    await clock.advance(2)
    assert fired == []


async def test_timers_set_on_the_way_fire_in_the_same_advance():
    clock, times = FakeClock(), list[float]()

    async def tick() -> None:
        for _ in range(4):
            await sleep(clock, 10)
            times.append(clock.monotonic())

    task = asyncio.create_task(tick())
    await clock.advance(35)

    assert times == [10, 20, 30]
    await clock.advance(5)
    assert task.done()


async def test_all_that_a_timer_sets_off_settles_before_time_goes_on():
    clock, times = FakeClock(), list[float]()

    async def relay(steps: int) -> None:
        if steps:
            await asyncio.create_task(relay(steps - 1))
        else:
            times.append(clock.monotonic())

    async def begin() -> None:
        await sleep(clock, 1)
        await relay(100)

    task = asyncio.create_task(begin())
    clock.call_at(2, lambda: times.append(clock.monotonic()))
    await clock.advance(2)

    assert times == [1, 2]
    await task


async def test_two_advances_at_once_add_up():
    clock = FakeClock()

    await asyncio.gather(clock.advance(2), clock.advance(3))

    assert clock.monotonic() == 5


async def test_wall_time_passes_with_the_clock_and_jumps_alone():
    clock: Clock = FakeClock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    assert isinstance(clock, FakeClock)
    fired: list[str] = []
    clock.call_at(60, lambda: fired.append("due"))

    await clock.advance(30)
    clock.jump(timedelta(hours=-1))

    assert clock.now() == datetime(2026, 3, 1, 11, 0, 30, tzinfo=UTC)
    assert clock.monotonic() == 30
    assert fired == []


async def test_time_does_not_go_back():
    with pytest.raises(ValueError, match="cannot go back by 1 s"):
        await FakeClock().advance(-1)


def test_a_start_without_a_timezone_is_refused():
    with pytest.raises(ValueError, match="no timezone"):
        FakeClock(datetime(2026, 1, 1))
