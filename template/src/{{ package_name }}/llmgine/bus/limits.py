# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Policies that say how often a handler runs: at once, in a time, and for one key."""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections import OrderedDict, deque
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from ..clock import Clock, Timer
from ..errors import BusError, RateLimitedError
from ..messages import Envelope, Message, is_stream
from .handlers import Middleware, Next
from .policies import check, passes

if TYPE_CHECKING:
    from .bus import MessageBus


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `calls` begin within any `per_s` seconds; the others wait, first come first served.

    Who would wait longer than `max_wait_s`, or past the deadline, gets a `RateLimitedError`.
    """

    calls: int
    per_s: float = 1.0
    max_wait_s: float | None = None

    def __post_init__(self) -> None:
        check(self, calls=1, per_s=0.001, max_wait_s=0)

    def bind(self, bus: MessageBus) -> Middleware:
        turns = _Turns(bus.clock, self.calls, self.per_s)
        max_wait_s = inf if self.max_wait_s is None else self.max_wait_s

        async def rate_limit(message: Message, envelope: Envelope, call_next: Next) -> Any:
            left_s = turns.left_s()
            if left_s > max_wait_s or (left_s > 0 and passes(envelope, bus.clock, left_s)):
                raise RateLimitedError(type(message).__name__, retry_after_s=left_s)
            if left_s > 0 or turns.waiting:
                await turns.wait()
            else:
                turns.take()
            return await call_next()

        return rate_limit


class _Turns:
    """When the last calls began, and who waits until the first of these is long enough ago."""

    def __init__(self, clock: Clock, calls: int, per_s: float) -> None:
        self.waiting: deque[asyncio.Future[float]] = deque()
        self._begun: deque[float] = deque(maxlen=calls)
        self._clock, self._calls, self._per_s = clock, calls, per_s
        self._timer: Timer | None = None

    def left_s(self) -> float:
        """Until the turn of one who comes now; not positive if there is no need to wait."""
        if len(self._begun) < self._calls:
            return 0.0
        rounds, place = divmod(len(self.waiting), self._calls)
        return self._begun[place] + self._per_s * (rounds + 1) - self._clock.monotonic()

    def take(self) -> float:
        now = self._clock.monotonic()
        self._begun.append(now)
        return now

    async def wait(self) -> None:
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        self._give()
        try:
            if turn.done():
                await asyncio.sleep(0)  # Who waited before wakes first.
            await turn
        except CancelledError:
            if turn.cancelled():
                self.waiting.remove(turn)
            else:
                self._begun.remove(turn.result())
                self._give()
            raise

    def _give(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        while self.waiting:
            full = len(self._begun) == self._calls
            due = self._begun[0] + self._per_s if full else 0.0
            if due > self._clock.monotonic():
                self._timer = self._clock.call_at(due, self._give)
                break
            self.waiting.popleft().set_result(self.take())


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """At most `limit` run at once; the others wait in order."""

    limit: int

    def __post_init__(self) -> None:
        check(self, limit=1)

    def bind(self, bus: MessageBus) -> Middleware:
        free = asyncio.Semaphore(self.limit)

        async def concurrency_limit(_: Message, __: Envelope, call_next: Next) -> Any:
            async with free:
                return await call_next()

        return concurrency_limit


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What has the same `idempotency_key` runs once, and all get the same result or error.

    Results, not errors, are remembered for `ttl_s`, the newest `capacity` of them. A message
    without a key just runs; a stream with one is refused, for it has no result to remember.
    """

    capacity: int = 10_000
    ttl_s: float = 86_400.0

    def __post_init__(self) -> None:
        check(self, capacity=1, ttl_s=0.001)

    def bind(self, bus: MessageBus) -> Middleware:
        monotonic = bus.clock.monotonic
        results: OrderedDict[str, tuple[float, Any]] = OrderedDict()
        running: dict[str, asyncio.Future[Any]] = {}

        async def run(key: str, call_next: Next) -> Any:
            first = running[key] = asyncio.get_running_loop().create_future()
            try:
                result = await call_next()
            except Exception as error:
                first.set_exception(error)
                first.exception()  # Or asyncio complains when nobody waits for it.
                raise
            else:
                first.set_result(result)
                results[key] = monotonic() + self.ttl_s, result
                if len(results) > self.capacity:
                    results.popitem(last=False)
                return result
            finally:
                del running[key]
                first.cancel()

        async def once(message: Message, envelope: Envelope, call_next: Next) -> Any:
            key = envelope.idempotency_key
            if key is None:
                return await call_next()
            if is_stream(type(message)):
                name = type(message).__name__
                raise BusError(f"{name!r} is streamed; it cannot have an idempotency key.")
            while (first := running.get(key)) is not None:
                await asyncio.wait([first])
                if not first.cancelled():
                    return first.result()
            while results and next(iter(results.values()))[0] <= monotonic():
                results.popitem(last=False)
            return results[key][1] if key in results else await run(key, call_next)

        return once
