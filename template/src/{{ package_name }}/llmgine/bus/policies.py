# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Ready-made middleware, given as configuration: each handler gets a state of its own."""

from __future__ import annotations

import asyncio
import random
from asyncio import CancelledError, current_task
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from math import inf
from typing import TYPE_CHECKING, Any, cast

from ..clock import Clock, sleep
from ..errors import BusError, CircuitOpenError, DeadlineExceededError, LLMError, LLMErrorKind
from ..messages import Command, Envelope, Message, _current, is_stream
from .doing import Postponed, doing_of
from .handlers import Middleware, Next

if TYPE_CHECKING:
    from .bus import MessageBus

Errors = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]

_Kind = LLMErrorKind
_PASSING = {_Kind.RATE_LIMIT, _Kind.TIMEOUT, _Kind.SERVER, _Kind.NETWORK}


def transient(error: Exception) -> bool:
    """Whether the same call may succeed later: the network, a limit or the other side failed."""
    if isinstance(error, LLMError):
        return error.kind in _PASSING
    return isinstance(error, (TimeoutError, ConnectionError))


def outage(error: Exception) -> bool:
    """Any error, but a model's word that the request itself was wrong."""
    return not isinstance(error, LLMError) or transient(error)


@dataclass(frozen=True, slots=True)
class Timeout:
    """The handler has `seconds`, or until the deadline it inherited if that is earlier.

    After it the handler is cancelled, and its caller gets a `DeadlineExceededError`. What the
    handler executes until then inherits the deadline; a command that comes late does not run.
    """

    seconds: float

    def __post_init__(self) -> None:
        check(self, seconds=0.001)

    def bind(self, bus: MessageBus) -> Middleware:
        clock, monotonic, seconds = bus.clock, bus.clock.monotonic, self.seconds
        deadlines = _Deadlines(clock)
        running, hurried = deadlines.running, deadlines.hurried

        async def timeout(message: Message, envelope: Envelope, call_next: Next) -> Any:
            now, timer, book = monotonic(), None, running
            when = now + seconds
            if envelope.deadline is not None and envelope.deadline < when:
                when, book = envelope.deadline, hurried
                if when <= now:
                    raise DeadlineExceededError(type(message).__name__, seconds=when - now)
            # A command's envelope is its own; that of an event is shared by all its handlers.
            due = envelope if isinstance(message, Command) else envelope.copy()
            inherited, due.deadline = due.deadline, when
            token = None if due is envelope else _current.set(due)
            if book is hurried:
                timer = clock.call_at(when, partial(deadlines.hurry, due))
            elif not deadlines.armed:
                deadlines.arm(when)
            task = cast("asyncio.Task[Any]", current_task(deadlines.loop))
            book[due] = task, when
            cancelled_before = task.cancelling()
            try:
                return await call_next()
            except CancelledError as cancelled:
                if due in book or task.cancelling() > cancelled_before + 1:
                    raise
                name = type(message).__name__
                raise DeadlineExceededError(name, seconds=when - now) from cancelled
            finally:
                due.deadline = inherited
                if token is not None:
                    _current.reset(token)
                if book.pop(due, None) is None:
                    task.uncancel()
                elif timer is not None:
                    timer.cancel()

        return timeout


_Running = dict[Envelope, tuple[asyncio.Task[Any], float]]


class _Deadlines:
    """Which task runs until when, by its envelope.

    All in `running` have equally long, so the oldest is due first and one timer serves them all: a
    timer for each would cost more than the message. Who inherits an earlier deadline has its own.
    """

    def __init__(self, clock: Clock) -> None:
        self.running: _Running = {}
        self.hurried: _Running = {}
        self.armed = False
        # Known from the first message on, for asking which loop runs costs half of a message.
        self.loop: asyncio.AbstractEventLoop | None = None
        self._clock = clock

    def arm(self, when: float) -> None:
        self.armed = True
        self.loop = asyncio.get_running_loop()
        self._clock.call_at(when, self._expire)

    def hurry(self, due: Envelope) -> None:
        self.hurried.pop(due)[0].cancel()

    def _expire(self) -> None:
        now = self._clock.monotonic()
        late = takewhile(lambda one: one[1][1] <= now, self.running.items())
        for due, (task, _) in list(late):
            del self.running[due]
            task.cancel()
        self.armed = False
        if self.running:
            self.arm(next(iter(self.running.values()))[1])


@dataclass(frozen=True, slots=True)
class Retry:
    """Run the handler again after an error that may pass, `attempts` times in all.

    After attempt n it waits a random time up to `base_s * 2 ** (n - 1)` and up to `cap_s`, but
    never less than the error's `retry_after_s`. There is no other attempt past the deadline, nor
    of a stream. The last error is raised as itself, with a note. A durable message waits in the
    journal, holds no worker meanwhile, and goes on after a restart.
    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter (full jitter)
    """

    attempts: int = 3
    base_s: float = 0.1
    cap_s: float = 30.0
    on: Errors = transient

    def __post_init__(self) -> None:
        check(self, attempts=1, base_s=0, cap_s=0)

    def bind(self, bus: MessageBus) -> Middleware:
        clock = bus.clock

        async def retry(message: Message, envelope: Envelope, call_next: Next) -> Any:
            attempt, attempted = 1, envelope
            one = doing_of(message)
            if one is not None:
                attempt = one.note.get("failures", 0) + 1
            try:
                while True:
                    try:
                        return await call_next()
                    except Exception as error:
                        wait_s = self._wait_s(attempt, error)
                        if is_stream(type(message)) or passes(envelope, clock, wait_s):
                            error.add_note(f"Attempts made: {attempt} of {self.attempts}.")
                            raise
                        if one is not None:
                            one.note["failures"] = attempt
                            raise Postponed("ready", wait_s=wait_s, error=error) from error
                    await sleep(clock, wait_s)
                    attempt, attempted = attempt + 1, attempted.again()
                    _current.set(attempted)
            finally:
                _current.set(envelope)

        return retry

    def _wait_s(self, attempt: int, error: Exception) -> float:
        if attempt >= self.attempts or not matches(self.on, error):
            return inf
        # A float has no room for 2 ** 1024; long before that, the cap decides.
        backoff_s = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 1000))
        jittered_s = random.uniform(0, backoff_s)  # noqa: S311  no secret
        return max(jittered_s, getattr(error, "retry_after_s", None) or 0.0)


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """After so many `failures` in a row, refuse for `open_s` with a `CircuitOpenError`.

    Then one call tries, and the others are refused until it ends: failure opens the circuit again,
    all else closes it. Errors that `on` does not match are answers, as results are.
    """

    failures: int = 5
    open_s: float = 30.0
    on: Errors = outage

    def __post_init__(self) -> None:
        check(self, failures=1, open_s=0.001)

    def bind(self, bus: MessageBus) -> Middleware:
        monotonic, in_a_row, trying = bus.clock.monotonic, 0, False
        opened_until: float | None = None

        def ended(*, well: bool) -> None:
            nonlocal in_a_row, opened_until
            in_a_row = 0 if well else in_a_row + 1
            opened_until = monotonic() + self.open_s if in_a_row >= self.failures else None

        async def breaker(message: Message, _: Envelope, call_next: Next) -> Any:
            nonlocal trying
            trial = opened_until is not None
            if opened_until is not None:
                left_s = max(0.0, opened_until - monotonic())
                if left_s or trying:
                    raise CircuitOpenError(type(message).__name__, retry_after_s=left_s)
                trying = True
            try:
                result = await call_next()
            except Exception as error:
                # Once it is open, what began before says nothing new.
                if trial or opened_until is None:
                    ended(well=not matches(self.on, error))
                raise
            else:
                if in_a_row and (trial or opened_until is None):
                    ended(well=True)
                return result
            finally:
                if trial:
                    trying = False

        return breaker


def passes(envelope: Envelope, clock: Clock, wait_s: float) -> bool:
    """Whether that wait would pass the deadline; an infinite one always does."""
    deadline = inf if envelope.deadline is None else envelope.deadline
    return clock.monotonic() + wait_s >= deadline


def matches(kinds: Errors, error: Exception) -> bool:
    return isinstance(error, kinds) if isinstance(kinds, (type, tuple)) else kinds(error)


def check(policy: object, **least: float) -> None:
    """Raises: BusError: an argument is less than it must be at least, or no number."""
    for name, bound in least.items():
        value = getattr(policy, name)
        if value is not None and not bound <= value < inf:
            raise BusError(f"{policy}: {name} must be at least {bound:g}, and not infinite.")
