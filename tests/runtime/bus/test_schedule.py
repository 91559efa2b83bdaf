"""Messages that are sent later."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.llmgine.bus import MessageBus, Timeout
from app.llmgine.errors import BusClosedError, BusError, LaneFullError, MissingExtraError
from app.llmgine.messages import Command, Event, current_envelope
from app.llmgine.testing.clock import FakeClock, FakeTimer

BERLIN = ZoneInfo("Europe/Berlin")


class Remind(Event):
    pass


class Sweep(Command[None]):
    pass


class Begin(Command[None]):
    pass


class Count(Command[AsyncIterator[int]]):
    pass


class LateClock(FakeClock):
    """Calls back too late by each of these in turn, as a loop does that is blocked."""

    def __init__(self, late_us: list[int]) -> None:
        super().__init__()
        self.late_us = list(late_us)

    def call_at(self, when: float, callback: Callable[[], object]) -> FakeTimer:
        late_us = self.late_us.pop(0) if self.late_us else 0
        return super().call_at(when + late_us / 1e6, callback)


def bus_that_notes(clock: FakeClock) -> tuple[MessageBus, list[datetime]]:
    """The bus, and when it was reminded."""
    bus, reminded = MessageBus(clock=clock), []

    async def note(_: Remind) -> None:
        reminded.append(clock.now())

    bus.register_event_handler(Remind, note)
    return bus, reminded


async def test_a_message_after_a_time_is_sent_then_and_once():
    clock = FakeClock()
    start = clock.now()
    bus, reminded = bus_that_notes(clock)

    async with bus:
        scheduled = await bus.schedule(Remind(), after=timedelta(seconds=30))
        promised = scheduled.next_at
        await clock.advance(29.9)
        before = list(reminded)
        await clock.advance(60)

    assert promised == start + timedelta(seconds=30)
    assert before == []
    assert reminded == [start + timedelta(seconds=30)]
    assert (scheduled.runs, scheduled.next_at) == (1, None)
    assert bus.scheduler.pending() == []
    assert clock.timers == 0


async def test_what_is_due_in_the_past_is_sent_at_once():
    clock = FakeClock()
    bus, reminded = bus_that_notes(clock)

    async with bus:
        await bus.schedule(Remind(), at=clock.now() - timedelta(days=1))
        await clock.advance(0)

    assert len(reminded) == 1


async def test_what_follows_wall_time_is_never_early_and_notices_a_jump_within_a_minute():
    clock = FakeClock()
    start = clock.now()
    bus, reminded = bus_that_notes(clock)

    async with bus:
        await bus.schedule(Remind(), at=start + timedelta(hours=1))
        clock.jump(timedelta(hours=-2))
        await clock.advance(3 * 3600 - 1)
        early = list(reminded)
        await clock.advance(1)
        await bus.schedule(Remind(), at=clock.now() + timedelta(hours=1))
        clock.jump(timedelta(hours=2))
        await clock.advance(60)

    assert early == []
    assert reminded[0] == start + timedelta(hours=1)
    assert len(reminded) == 2


async def test_what_counts_from_now_does_not_mind_wall_time():
    clock = FakeClock()
    bus, reminded = bus_that_notes(clock)

    async with bus:
        await bus.schedule(Remind(), after=timedelta(seconds=10))
        await bus.schedule(Remind(), every=timedelta(seconds=20))
        clock.jump(timedelta(days=1))
        await clock.advance(9)
        clock.jump(timedelta(days=-2))
        early = len(reminded)
        await clock.advance(11)

    assert early == 0
    assert len(reminded) == 2


@given(st.integers(1, 10**8), st.lists(st.floats(0, 5), min_size=1, max_size=8))
@example(100_000, [0.0] * 8)
@example(1, [1.0] * 8)
def test_every_keeps_its_phase_and_makes_up_for_what_it_missed_by_one(
    every_us: int, late: list[float]
):
    late_us = [round(every_us * share) for share in late]
    expected, now_us = [], 0
    for one_us in late_us:
        now_us = (now_us // every_us + 1) * every_us + one_us
        expected.append(now_us)

    async def run() -> list[int]:
        clock = LateClock(late_us)
        start = clock.now()
        bus, reminded = bus_that_notes(clock)
        async with bus:
            await bus.schedule(Remind(), every=timedelta(microseconds=every_us))
            await clock.advance(now_us / 1e6 + 1e-7)
        return [(at - start) // timedelta(microseconds=1) for at in reminded]

    assert asyncio.run(run()) == expected


def matching(
    start: datetime, minutes: set[int], hours: set[int], zone: ZoneInfo
) -> Iterator[datetime]:
    """Every minute of the day after `start` whose local time is among these."""
    all_minutes = (start + timedelta(minutes=n) for n in range(1, 24 * 60 + 1))
    for at in (one.astimezone(zone) for one in all_minutes):
        if at.minute in minutes and at.hour in hours:
            yield at


@settings(max_examples=20)
@given(
    st.sets(st.integers(0, 59), min_size=1, max_size=3),
    st.sets(st.integers(0, 23), min_size=1, max_size=3),
    st.integers(0, 60 * 24 * 200),
)
def test_cron_sends_at_each_matching_minute_of_the_zone(
    minutes: set[int], hours: set[int], minutes_after_april: int
):
    async def run() -> tuple[list[datetime], datetime]:
        clock = FakeClock(datetime(2026, 4, 1, tzinfo=UTC) + timedelta(minutes=minutes_after_april))
        start = clock.now()
        bus, reminded = bus_that_notes(clock)
        async with bus:
            cron = f"{','.join(map(str, minutes))} {','.join(map(str, hours))} * * *"
            await bus.schedule(Remind(), cron=cron, timezone=BERLIN)
            await clock.advance(24 * 3600)
        return reminded, start

    reminded, start = asyncio.run(run())
    assert reminded == list(matching(start, minutes, hours, BERLIN))


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("2026-03-28T12:00Z", ["2026-03-29T01:00Z", "2026-03-30T00:30Z"]),
        ("2026-10-24T12:00Z", ["2026-10-25T00:30Z", "2026-10-26T01:30Z"]),
        ("2026-10-25T01:10Z", ["2026-10-26T01:30Z"]),
    ],
    ids=["the hour is left out", "the hour comes twice", "begun in the hour's second time"],
)
async def test_a_night_in_which_the_clocks_change_is_one_night(start: str, expected: list[str]):
    clock = FakeClock(datetime.fromisoformat(start))
    bus, reminded = bus_that_notes(clock)

    async with bus:
        await bus.schedule(Remind(), cron="30 2 * * *", timezone=BERLIN)
        await clock.advance(40 * 3600)

    assert reminded == [datetime.fromisoformat(at) for at in expected]


async def test_what_cron_missed_while_the_machine_slept_is_made_up_for_by_one():
    clock = FakeClock(datetime(2026, 5, 1, 8, tzinfo=UTC))
    bus, reminded = bus_that_notes(clock)

    async with bus:
        await bus.schedule(Remind(), cron="0 9 * * *")
        clock.jump(timedelta(days=3, hours=4))
        await clock.advance(24 * 3600)

    assert reminded[0] - datetime(2026, 5, 4, 12, tzinfo=UTC) <= timedelta(seconds=60)
    assert reminded[1:] == [datetime(2026, 5, 5, 9, tzinfo=UTC)]


async def test_a_command_that_still_runs_is_not_started_again():
    clock, release, began = FakeClock(), asyncio.Event(), []
    bus = MessageBus(clock=clock)

    async def sweep(_: Sweep) -> None:
        began.append(clock.monotonic())
        await release.wait()

    bus.register_command_handler(Sweep, sweep)

    async with bus:
        scheduled = await bus.schedule(Sweep(), every=timedelta(seconds=10))
        await clock.advance(35)
        counted = (scheduled.runs, scheduled.skipped)
        release.set()
        await clock.advance(10)
        scheduled.cancel()

    assert counted == (1, 2)
    assert began == [10, 40]


async def test_what_a_handler_schedules_is_caused_by_it_and_inherits_nothing_that_is_over():
    clock, seen = FakeClock(), []
    user: ContextVar[str | None] = ContextVar("user", default=None)
    bus = MessageBus(clock=clock)

    async def note(_: Sweep | Begin) -> None:
        seen.append((current_envelope(), user.get()))

    async def begin(command: Begin) -> None:
        await note(command)
        await bus.schedule(Sweep(), after=timedelta(hours=1))

    bus.register_command_handler(Begin, begin, middleware=[Timeout(5)])
    bus.register_command_handler(Sweep, note)

    user.set("alice")
    async with bus:
        await bus.execute(Begin(), session_id="s1")
        await clock.advance(3600)

    (cause, caused_by), (effect, effected_by) = seen
    assert (caused_by, effected_by) == ("alice", None)
    assert effect.causation_id == cause.id
    assert effect.correlation_id == cause.correlation_id
    assert effect.deadline is None
    assert effect.session_id == "s1"


async def test_a_scheduled_message_goes_to_the_session_and_key_it_is_given():
    clock, seen = FakeClock(), []
    bus = MessageBus(clock=clock)

    async def note(_: Remind) -> None:
        seen.append(current_envelope())

    bus.register_event_handler(Remind, note)

    async with bus:
        await bus.schedule(Remind(), after=timedelta(0), session_id="s1", key="k")
        await clock.advance(0)

    assert [(envelope.session_id, envelope.key) for envelope in seen] == [("s1", "k")]


@pytest.mark.parametrize("error", [RuntimeError("no broom"), asyncio.CancelledError()], ids=repr)
async def test_a_scheduled_command_that_fails_is_logged_and_kept(
    error: BaseException, caplog: pytest.LogCaptureFixture
):
    clock = FakeClock()
    bus = MessageBus(clock=clock)

    async def sweep(_: Sweep) -> None:
        raise error

    bus.register_command_handler(Sweep, sweep)

    async with bus:
        scheduled = await bus.schedule(Sweep(), every=timedelta(seconds=10), session_id="s1")
        await clock.advance(20)
        letters = list(bus.dead_letters)
        scheduled.cancel()

    assert scheduled.runs == 2
    assert [letter.handler for letter in letters] == ["schedule", "schedule"]
    assert letters[0].message == Sweep()
    assert letters[0].error is error
    assert letters[0].envelope.session_id == "s1"
    assert "Scheduled Sweep failed" in caplog.text


async def test_a_scheduled_event_that_a_lane_rejects_is_kept():
    clock, entered, release = FakeClock(), asyncio.Event(), asyncio.Event()
    bus = MessageBus(clock=clock)

    async def note(_: Remind) -> None:
        entered.set()
        await release.wait()

    bus.register_event_handler(Remind, note, capacity=1, concurrency=1, overflow="reject")

    async with bus:
        await bus.publish(Remind())
        await entered.wait()
        await bus.publish(Remind())
        await bus.schedule(Remind(), after=timedelta(seconds=1))
        await clock.advance(1)
        [letter] = bus.dead_letters
        release.set()

    assert isinstance(letter.error, LaneFullError)


async def test_what_is_cancelled_is_not_sent():
    clock = FakeClock()
    bus, reminded = bus_that_notes(clock)

    async with bus:
        one = await bus.schedule(Remind(), after=timedelta(seconds=1))
        other = await bus.schedule(Remind(), cron="* * * * *")
        cancelled = [one.cancel(), bus.scheduler.cancel(other.id), other.cancel()]
        timers = clock.timers
        await clock.advance(600)

    assert cancelled == [True, True, False]
    assert reminded == []
    assert (one.next_at, other.next_at) == (None, None)
    assert timers == 0


async def test_one_timer_serves_all_and_the_next_one_is_listed_first():
    clock = FakeClock()
    bus, reminded = bus_that_notes(clock)

    async with bus:
        late = await bus.schedule(Remind(), after=timedelta(seconds=50))
        soon = await bus.schedule(Remind(), at=clock.now() + timedelta(seconds=20))
        daily = await bus.schedule(Remind(), cron="0 9 * * *")
        listed, timers = bus.scheduler.pending(), clock.timers
        await clock.advance(20)
        sent = len(reminded)

    assert listed == [soon, late, daily]
    assert timers == 1
    assert sent == 1


async def test_stop_says_what_was_still_scheduled_and_takes_no_more():
    clock = FakeClock(datetime(2026, 11, 21, 9, tzinfo=UTC))
    bus, reminded = bus_that_notes(clock)
    await bus.start()
    await bus.schedule(Remind(), after=timedelta(minutes=30))

    report = await bus.stop()
    await clock.advance(3600)

    assert report.scheduled == ("Remind at 2026-11-21T09:30:00Z",)
    assert reminded == []
    with pytest.raises(BusClosedError):
        await bus.schedule(Remind(), after=timedelta(minutes=30))


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({}, "exactly one of at=, after=, every= and cron="),
        ({"after": timedelta(1), "cron": "* * * * *"}, "exactly one"),
        ({"at": datetime(2026, 1, 1)}, "tzinfo=UTC"),
        ({"every": timedelta(0)}, "positive"),
        ({"cron": "61 * * * *"}, "'61 \\* \\* \\* \\*' cannot be read: Bad minute"),
        ({"cron": "* * */20 * 1L"}, "50 years"),
    ],
    ids=["no time", "two times", "no timezone", "no interval", "bad cron", "never"],
)
async def test_a_time_that_cannot_be_is_refused_with_the_fix(wrong: dict[str, Any], hint: str):
    async with MessageBus(clock=FakeClock()) as bus:
        with pytest.raises(BusError, match=hint):
            await bus.schedule(Remind(), **wrong)

        assert bus.scheduler.pending() == []


async def test_a_stream_without_a_reader_is_refused():
    async with MessageBus() as bus:
        with pytest.raises(BusError, match="'Count' is streamed"):
            await bus.schedule(Count(), after=timedelta(seconds=1))


async def test_idle_waits_for_what_has_fallen_due_although_it_has_not_begun():
    callbacks = []

    class HandClock(FakeClock):
        def call_at(self, when: float, callback: Callable[[], object]) -> FakeTimer:
            callbacks.append(callback)
            return super().call_at(when, callback)

    bus, reminded = bus_that_notes(HandClock())

    async with bus:
        await bus.schedule(Remind(), after=timedelta(0))
        [fall_due] = callbacks
        fall_due()
        await bus.idle()
        sent = len(reminded)

    assert sent == 1


async def test_cron_without_its_extra_says_how_to_add_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cronsim", None)

    async with MessageBus() as bus:
        with pytest.raises(MissingExtraError, match="uv sync --extra cron"):
            await bus.schedule(Remind(), cron="0 9 * * *")
