# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""A lane that hands its events over in lists."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, cast

from ..clock import Timer
from ..errors import BusError
from ..messages import Batch, Binding, Envelope, LaneOptions, _current
from .handlers import Run
from .lane import Lane, Tally, in_lane

if TYPE_CHECKING:
    from .bus import MessageBus


class BatchLane(Lane):
    """Runs one handler for lists of the events put into it, in the order of publishing.

    Events gather without a worker until they are enough, or the first has waited long enough.
    """

    __slots__ = ("_arrivals", "_batch", "_flushing", "_timer")

    def __init__(self, bus: MessageBus, tally: Tally, binding: Binding, run: Run) -> None:
        options: LaneOptions = {"concurrency": 1, **binding.lane}
        super().__init__(bus, tally, replace(binding, lane=options), run)
        batch = cast("Batch", binding.batch)
        if not isinstance(batch.size, int) or not 1 <= batch.size <= self.capacity:
            raise BusError(f"{self.name}: size must be from 1 to the capacity, {self.capacity}.")
        if not 0 <= batch.within_s < inf:
            raise BusError(f"{self.name}: within_s must be at least 0 seconds, and not infinite.")
        if self.concurrency != 1:
            raise BusError(f"{self.name}: batches keep the order, so concurrency must be 1.")
        self.binding = binding
        self._batch = batch
        self._arrivals: deque[float] = deque()
        self._flushing = False
        self._timer: Timer | None = None

    def put(self, envelope: Envelope) -> None:
        self._arrivals.append(self._bus.clock.monotonic())
        super().put(envelope)

    def _drop_oldest(self) -> None:
        self._arrivals.popleft()
        super()._drop_oldest()

    def _is_due(self) -> bool:
        now = self._bus.clock.monotonic()
        return (
            len(self._ready) >= self._batch.size
            or self._flushing
            or now >= self._arrivals[0] + self._batch.within_s
        )

    def _start_worker(self) -> None:
        if self._is_due():
            self._stop_gathering()
            super()._start_worker()
        elif self._timer is None:
            self._tally.add()
            due = self._arrivals[0] + self._batch.within_s
            self._timer = self._bus.clock.call_at(due, self.flush)

    def _stop_gathering(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._tally.remove()

    def flush(self) -> None:
        if self._ready and not self.workers:
            self._flushing = True
            self._start_worker()

    async def _work(self) -> None:
        in_lane.set(True)
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._spare = False
        ready = self._ready
        try:
            while ready and self._is_due():
                self._flushing = False
                items = [ready.popleft() for _ in range(min(len(ready), self._batch.size))]
                self.workers[task] = items
                for _ in items:
                    self._arrivals.popleft()
                    self._free()
                await self._hand_over(task, items)
        finally:
            self._leave(task)

    async def _hand_over(self, task: asyncio.Task[None], envelopes: list[Envelope]) -> None:
        first = envelopes[0]
        if first.idempotency_key is not None:  # It is the first event's, not the batch's.
            first = first.copy()
            first.mark(idempotency_key=None)
        _current.set(first)
        try:
            await self.run([envelope.message for envelope in envelopes])
            self.handled += len(envelopes)
            if self._closed:
                self._finished(envelopes)
        except Exception as error:
            self._fail(envelopes, error)
        except asyncio.CancelledError as error:
            self._fail(envelopes, error)
            if task.cancelling():
                raise

    def close(self) -> None:
        self._stop_gathering()
        super().close()
