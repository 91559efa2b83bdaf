# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Messages that are sent later, once or again and again."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..clock import Timer
from ..errors import BusClosedError, BusError, MissingExtraError
from ..messages import Command, Envelope, Event, _current, is_stream, new_id

if TYPE_CHECKING:
    from .bus import MessageBus

logger = logging.getLogger(__name__)

# How long a forward jump of the wall clock may go unnoticed.
WALL_CHECK_S = 60.0

# Seconds of the monotonic clock, or a moment of the wall clock, in UTC.
_Due = float | datetime
_Following = Callable[[], _Due | None]


@dataclass(slots=True, eq=False)
class Scheduled:
    """A message that is sent later. `runs` and `skipped` count its occurrences so far."""

    id: str
    message: Command[Any] | Event
    _scheduler: Scheduler
    _session_id: str | None
    _key: str | None
    _cause: Envelope | None
    _due: _Due | None
    _following: _Following | None
    _task: asyncio.Task[None] | None = None
    runs: int = 0
    skipped: int = 0

    @property
    def next_at(self) -> datetime | None:
        """When it is sent next, in UTC; `None` once it is finished or cancelled."""
        if self._due is None or isinstance(self._due, datetime):
            return self._due
        return self._scheduler.bus.clock.now() + timedelta(seconds=self.wait_s())

    def cancel(self) -> bool:
        """Send it no more. What it started goes on. `False` if there was nothing left to send."""
        return self._scheduler.cancel(self.id)

    def wait_s(self) -> float:
        """Seconds until it is due, as the clocks stand now."""
        clock = self._scheduler.bus.clock
        if isinstance(self._due, datetime):
            return (self._due - clock.now()).total_seconds()
        return math.inf if self._due is None else self._due - clock.monotonic()


def cron_times(
    expression: str, timezone: tzinfo, now: Callable[[], datetime]
) -> Callable[[], datetime | None]:
    """What says the next time of the expression, in UTC, whenever it is called.

    Raises:
        MissingExtraError: the extra `cron` is not installed.
        BusError: the expression cannot be read, or never comes.
    """
    try:
        library: Any = import_module("cronsim")
    except ImportError as error:
        raise MissingExtraError("A schedule by cron", "cron") from error

    def following() -> datetime | None:
        moment = now()
        times = library.CronSim(expression, moment.astimezone(timezone))
        # In the hour that a change of the clocks repeats, the first answers may be past.
        return next((time.astimezone(UTC) for time in times if time > moment), None)

    try:
        found = following()
    except library.CronSimError as wrong:
        raise BusError(f"cron={expression!r} cannot be read: {wrong}.") from wrong
    if found is None:
        raise BusError(f"cron={expression!r} does not come in the next 50 years.")
    return following


class Scheduler:
    """Sends messages later, with one timer for all of them.

    It does not survive the process; `bus.send` does, for messages that are durable.

    `after` and `every` count the seconds that the process is awake, whatever happens to the wall
    clock. `at` and `cron` follow the wall clock: set back, it makes them wait as much longer; set
    forward, it is noticed after 60 seconds at most. Occurrences that were missed, because the loop
    was blocked or the machine asleep, are made up for by one, and those after it are on time.
    """

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self._scheduled: dict[str, Scheduled] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: Timer | None = None
        self._wakes_at = math.inf
        self._stopped = False

    async def schedule(
        self,
        message: Command[Any] | Event,
        *,
        at: datetime | None = None,
        after: timedelta | None = None,
        every: timedelta | None = None,
        cron: str | None = None,
        timezone: tzinfo = UTC,
        session_id: str | None = None,
        key: str | None = None,
    ) -> Scheduled:
        """Publish the event, or execute the command, at one of four kinds of time.

        A command that is still running is not started again: that occurrence is `skipped`. One
        that fails is logged and kept in `bus.dead_letters`, for it has no caller.

        Args:
            message: sent as if by the handler in which it is scheduled, if in any.
            at: with a timezone; at once if it is past.
            every: the first time after one interval.
            cron: five fields, as in `0 9 * * 1-5`, or six with the seconds first.
            timezone: whose days and hours `cron` means.
            session_id: the session of the handler in which it is scheduled, if not given.
            key: what an event is ordered by.

        Raises:
            MissingExtraError: `cron` needs the extra of that name.
            BusError: not exactly one time, or one that cannot be, or a streamed command.
            BusClosedError: the bus is stopping.
        """
        name = type(message).__name__
        if self._stopped:
            raise BusClosedError(f"{name!r} is not scheduled: the bus takes no more work.")
        if is_stream(type(message)):
            raise BusError(f"{name!r} is streamed: scheduled, it would have no reader.")
        if message.durable:
            raise BusError(f"{name!r} is durable: await bus.send(..., at=), every= or cron=")
        if sum(given is not None for given in (at, after, every, cron)) != 1:
            raise BusError(f"{name!r} needs exactly one of at=, after=, every= and cron=.")
        following: _Following | None = None
        due: _Due | None
        if at is not None:
            if at.utcoffset() is None:
                raise BusError(f"at={at} has no timezone. Give it one: at.replace(tzinfo=UTC).")
            due = at.astimezone(UTC)
        elif after is not None:
            due = self.bus.clock.monotonic() + after.total_seconds()
        else:
            following = (
                self._every(every)
                if every is not None
                else cron_times(str(cron), timezone, self.bus.clock.now)
            )
            due = following()
        cause = _current.get()
        if cause is not None:
            cause = cause.copy()
            cause.deadline = None  # It was for what the handler does now.
        one = Scheduled(new_id(), message, self, session_id, key, cause, due, following)
        self._scheduled[one.id] = one
        self._wake_in(self._patience(one))
        return one

    def pending(self) -> list[Scheduled]:
        """What is still to be sent, the next one first."""
        return sorted(self._scheduled.values(), key=Scheduled.wait_s)

    def cancel(self, scheduled_id: str) -> bool:
        """Send it no more. `False` if there was nothing left to send."""
        one = self._scheduled.pop(scheduled_id, None)
        if one is None:
            return False
        one._due = None
        if not self._scheduled:
            self._disarm()
        return True

    def stop(self) -> tuple[str, ...]:
        """Send nothing more, and say what was still to be sent; what was begun goes on."""
        self._stopped = True
        self._disarm()
        return tuple(
            f"{type(one.message).__name__} at {one.next_at:%FT%TZ}" for one in self.pending()
        )

    def _every(self, interval: timedelta) -> _Following:
        # Whole microseconds, for a sum of fractions is now short of a step and now beyond it.
        monotonic, step = self.bus.clock.monotonic, interval // timedelta(microseconds=1)
        start = monotonic()
        if step <= 0:
            raise BusError(f"every={interval} must be positive.")

        def following() -> float:
            passed = round((monotonic() - start) * 1e6) // step
            return start + (passed + 1) * step / 1e6

        return following

    def _patience(self, one: Scheduled) -> float:
        # How long the timer may sleep as far as this one goes.
        return min(one.wait_s(), WALL_CHECK_S if isinstance(one._due, datetime) else math.inf)

    def _wake_in(self, seconds: float) -> None:
        """Have the timer wake by then."""
        when = self.bus.clock.monotonic() + max(0.0, seconds)
        if when < self._wakes_at:
            self._disarm()
            self._wakes_at = when
            self._timer = self.bus.clock.call_at(when, self._wake)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._wakes_at = None, math.inf

    def _wake(self) -> None:
        self._disarm()
        for one in self.pending():
            if one.wait_s() > 0:
                break
            one._due = one._following() if one._following else None
            if one._due is None:
                del self._scheduled[one.id]
            self._begin(one)
        if self._scheduled:
            self._wake_in(min(map(self._patience, self._scheduled.values())))

    def _begin(self, one: Scheduled) -> None:
        if one._task is not None and not one._task.done():
            one.skipped += 1
            return
        one.runs += 1
        # An empty context: nothing but the cause may stick to what is sent.
        task = asyncio.get_running_loop().create_task(self._send(one), context=Context())
        one._task = task
        self._tasks.add(task)
        self.bus.tally.add()  # `bus.idle()` waits for it from now on.
        task.add_done_callback(self._ended)

    async def _send(self, one: Scheduled) -> None:
        _current.set(one._cause)
        try:
            if isinstance(one.message, Command):
                await self.bus.execute(one.message, session_id=one._session_id)
            else:
                await self.bus.publish(one.message, session_id=one._session_id, key=one._key)
        except (Exception, asyncio.CancelledError) as error:
            if one._task is not None and one._task.cancelling():  # By the bus, when it stops.
                raise
            logger.error("Scheduled %s failed", type(one.message).__name__, exc_info=error)
            envelope = Envelope(one.message, one._cause, one._session_id, one._key)
            self.bus.dead_letters.add(envelope, "schedule", error)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.bus.tally.remove()
