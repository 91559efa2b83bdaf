# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""When a target may be called: its limits, its circuit, and the deadline of the call."""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Self

from ..clock import Clock, Timer, sleep

# How much of a minute's share may be used at once.
_BURST = 1 / 6
# Sums of floats that should be equal differ by less.
_NOTHING = 1e-6


class _Bucket:
    """Fills evenly, up to a burst; taking more than there is makes a debt, of a minute at most."""

    def __init__(self, per_minute: float, now: float) -> None:
        self.per_s = per_minute / 60
        self.size = max(1.0, per_minute * _BURST)
        self._level = self.size
        self._at = now

    def wait_s(self, amount: float, queued: float, now: float) -> float:
        """Until so much may be taken after what is queued; of more than fits, a full one is."""
        self._fill(now)
        missing = queued + min(amount, self.size) - self._level
        return missing / self.per_s if missing > _NOTHING else 0.0

    def take(self, amount: float, now: float) -> None:
        """A negative amount goes back."""
        self._fill(now)
        self._level = max(-60 * self.per_s, min(self.size, self._level - amount))

    def _fill(self, now: float) -> None:
        self._level = min(self.size, self._level + (now - self._at) * self.per_s)
        self._at = now


class Limiter:
    """Lets calls through in the order in which they came, no more than the target allows.

    In any time t, in minutes, no more begin than its share of a minute times t and a sixth; one
    call may have more tokens than that sixth, and those after it then wait the longer.
    """

    def __init__(
        self, clock: Clock, requests_per_minute: float | None, tokens_per_minute: float | None
    ) -> None:
        self._clock = clock
        now = clock.monotonic()
        self._requests = _Bucket(requests_per_minute, now) if requests_per_minute else None
        self._tokens = _Bucket(tokens_per_minute, now) if tokens_per_minute else None
        self._turn = asyncio.Lock()
        self._queued_calls = 0
        self._queued_tokens = 0

    def wait_s(self, tokens: int) -> float:
        """How long a call that comes now would wait, about."""
        return self._wait_s(tokens, self._queued_calls, self._queued_tokens)

    async def enter(self, tokens: int) -> None:
        """Wait for a turn, and take it."""
        if not self._queued_calls:
            self._turn = asyncio.Lock()  # The one before may be of an event loop that has ended.
        self._queued_calls += 1
        self._queued_tokens += tokens
        try:
            async with self._turn:
                while wait_s := self._wait_s(tokens, 0, 0):
                    await sleep(self._clock, wait_s)
                self._take(1, tokens)
        finally:
            self._queued_calls -= 1
            self._queued_tokens -= tokens

    def correct(self, tokens: int) -> None:
        """A call took so many tokens more than it said, or fewer."""
        self._take(0, tokens)

    def leave(self, tokens: int) -> None:
        """Give the turn back: the call was not made."""
        self._take(-1, -tokens)

    def _wait_s(self, tokens: int, queued_calls: int, queued_tokens: int) -> float:
        now, wait_s = self._clock.monotonic(), 0.0
        if self._requests:
            wait_s = self._requests.wait_s(1, queued_calls, now)
        if self._tokens:
            wait_s = max(wait_s, self._tokens.wait_s(tokens, queued_tokens, now))
        return wait_s

    def _take(self, calls: int, tokens: int) -> None:
        now = self._clock.monotonic()
        if self._requests:
            self._requests.take(calls, now)
        if self._tokens:
            self._tokens.take(tokens, now)


@dataclass(frozen=True, slots=True)
class Breaker:
    """After so many `failures` in a row a target is left alone for `open_s`; then one call tries.

    Only what means an outage counts, see `router.OUTAGES`.
    """

    failures: int = 5
    open_s: float = 30.0


class Circuit:
    """What a breaker knows of one target."""

    def __init__(self, breaker: Breaker, clock: Clock) -> None:
        self._breaker = breaker
        self._clock = clock
        self._in_a_row = 0
        self._open_until: float | None = None

    def open_s(self) -> float | None:
        """How long it stays open; `None`: a call may be made."""
        if self._open_until is None:
            return None
        left_s = self._open_until - self._clock.monotonic()
        return left_s if left_s > 0 else None

    def begin(self) -> bool:
        """A call begins; whether it is one that tries, which holds the others off for as long."""
        if self._open_until is None:
            return False
        self._open_until = self._clock.monotonic() + self._breaker.open_s
        return True

    def end(self, *, trial: bool, failed: bool | None) -> None:
        """It ended; `None` where that says nothing about the target."""
        # Once it is open, what began before says nothing new.
        if self._open_until is not None and not trial:
            return
        if failed is not None:
            self._in_a_row = self._in_a_row + 1 if failed else 0
            opens = self._in_a_row >= self._breaker.failures
            self._open_until = self._clock.monotonic() + self._breaker.open_s if opens else None
        elif self._open_until is not None:
            self._open_until = self._clock.monotonic()  # The next one tries.


class Deadline:
    """Cancels what is awaited `with` it when the time is over, and raises a `TimeoutError`.

    It may be entered again and again; what happens between is left alone. `asyncio.timeout` cannot
    do that, and knows no other clock than the loop's.
    """

    def __init__(self, clock: Clock, timeout_s: float | None) -> None:
        self.at = inf if timeout_s is None else clock.monotonic() + timeout_s
        self._passed = False
        self._cancelled = False
        self._cancelling = 0
        self._task: asyncio.Task[object] | None = None
        self._timer: Timer | None = None
        if timeout_s is not None:
            self._loop = asyncio.get_running_loop()
            self._timer = clock.call_at(self.at, self._pass)

    def _pass(self) -> None:
        self._passed = True
        if self._task is not None:
            self._cancelled = True
            self._task.cancel()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def __enter__(self) -> Self:
        if self._timer is not None:
            if self._passed:
                raise TimeoutError
            self._task = task = asyncio.current_task(self._loop)
            self._cancelling = task.cancelling() if task is not None else 0
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if task is None or not self._cancelled:
            return
        self._cancelled = False
        if task.uncancel() <= self._cancelling and isinstance(error, CancelledError):
            raise TimeoutError from error
