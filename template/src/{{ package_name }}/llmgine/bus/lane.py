# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""One subscription's own bounded queue, so that a slow handler delays nobody but itself."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar
from typing import Any, Literal, cast, get_args

from ..errors import BusError, LaneFullError
from ..messages import Envelope, Event, _current

logger = logging.getLogger(__name__)

Overflow = Literal["wait", "drop_oldest", "drop_new", "reject"]
Item = tuple[Event, Envelope, str | None]
"""An event, its envelope, and the key whose events stay in order."""

# How long a cancelled handler may take to end before nobody waits for it any more.
CANCEL_TIMEOUT_S = 1.0

# A handler that waited for room in a lane could wait for itself, so what it publishes goes in
# above the capacity instead. Everything below a lane's worker inherits the mark.
in_lane: ContextVar[bool] = ContextVar("llmgine_in_lane", default=False)


class Lane:
    """Runs one handler for the events put into it.

    Events of one key run in order and one at a time; others run side by side, `concurrency` at
    once. With a concurrency of 1 all of them run in order, whatever their keys. Workers are tasks
    that exist only while there is work: no worker, nothing left to do.
    """

    __slots__ = (
        "_behind",
        "_concurrency",
        "_on_failure",
        "_on_idle",
        "_overflow",
        "_ready",
        "_room",
        "_run",
        "_workers",
        "capacity",
        "dropped",
        "failed",
        "handled",
        "name",
        "queued",
    )

    def __init__(
        self,
        name: str,
        run: Callable[[Any], Awaitable[object]],
        *,
        capacity: int,
        concurrency: int,
        overflow: Overflow,
        on_failure: Callable[[Lane, Event, Envelope, BaseException], None],
        on_idle: Callable[[], None],
    ) -> None:
        if capacity < 1 or concurrency < 1 or overflow not in get_args(Overflow):
            raise BusError(
                f"{name}: capacity {capacity} and concurrency {concurrency} must be at least 1, "
                f"and overflow {overflow!r} one of {', '.join(get_args(Overflow))}."
            )
        self.name = name
        self.capacity = capacity
        self.queued = self.handled = self.failed = self.dropped = 0
        self._run = run
        self._concurrency = concurrency
        self._overflow = overflow
        self._on_failure = on_failure
        self._on_idle = on_idle
        self._ready: deque[Item] = deque()
        # Each key at work, with the events that wait for their turn behind it.
        self._behind: dict[str, deque[Item] | None] = {}
        self._room: deque[asyncio.Future[None]] = deque()
        # Each worker, with the event that it handles.
        self._workers: dict[asyncio.Task[None], Item | None] = {}

    @property
    def idle(self) -> bool:
        return not self._workers

    def put(self, item: Item) -> None:
        """Queue the event, full or not; `make_room` is the caller's to ask first."""
        self.queued += 1
        key = item[2]
        if key is not None and self._concurrency > 1:
            if key in self._behind:
                behind = self._behind[key]
                if behind is None:
                    self._behind[key] = deque((item,))
                else:
                    behind.append(item)
                return
            self._behind[key] = None
        self._ready.append(item)
        if len(self._workers) < self._concurrency:
            self._start_worker()

    def _start_worker(self) -> None:
        # An empty context: nothing of whoever happened to publish first may stick to the worker.
        worker = asyncio.get_running_loop().create_task(
            self._work(), name=f"lane {self.name}", context=Context()
        )
        self._workers[worker] = None

    async def make_room(self) -> bool:
        """Do what the full lane's rule says; whether the new event may then come in.

        Raises:
            LaneFullError: the rule is `reject`.
        """
        if self._overflow == "reject":
            raise LaneFullError(
                f"{self.name!r} is full ({self.capacity} events). Give it a larger capacity, "
                "more concurrency, or another overflow rule where it is registered."
            )
        if self._overflow == "wait" and not in_lane.get():
            while self.queued >= self.capacity:
                await self._wait_for_room()
        return self.admit()

    def admit(self) -> bool:
        """Whether a new event may come in now, by the rule as far as it goes without waiting."""
        if self.queued < self.capacity or self._overflow == "wait":
            return True
        self.dropped += 1
        if self.dropped == 1:
            logger.warning("%s is full (%d events) and drops some", self.name, self.capacity)
        if self._overflow == "drop_oldest":
            self._drop_oldest()
            return True
        return False

    async def _wait_for_room(self) -> None:
        room = asyncio.get_running_loop().create_future()
        self._room.append(room)
        try:
            await room
        except asyncio.CancelledError:
            if not room.cancelled():
                self._wake_one()
            raise

    def _wake_one(self) -> None:
        while self._room:
            room = self._room.popleft()
            if not room.done():
                room.set_result(None)
                return

    def _drop_oldest(self) -> None:
        queues = [self._ready, *filter(None, self._behind.values())]
        oldest = min(filter(None, queues), key=lambda queue: queue[0][1]._stamp)
        _, _, key = oldest.popleft()
        if oldest is self._ready and self._behind and key is not None:
            self._end_turn(key)
        self.queued -= 1

    def _end_turn(self, key: str) -> None:
        """The key's next event is ready, or the key is free."""
        if behind := self._behind[key]:
            self._ready.append(behind.popleft())
        else:
            del self._behind[key]

    async def _work(self) -> None:
        in_lane.set(True)
        task = cast("asyncio.Task[None]", asyncio.current_task())
        ready, run = self._ready, self._run
        try:
            while ready:
                self._workers[task] = item = ready.popleft()
                event, envelope, key = item
                self.queued -= 1
                if self._room:
                    self._wake_one()
                _current.set(envelope)
                try:
                    await run(event)
                    self.handled += 1
                except Exception as error:
                    self._fail(event, envelope, error)
                except asyncio.CancelledError as error:
                    if task.cancelling():  # By `abandon`; otherwise it is the handler's own.
                        raise
                    self._fail(event, envelope, error)
                if self._behind and key is not None:
                    self._end_turn(key)
        finally:
            # Here and not in a done callback: who publishes next must see one worker fewer.
            del self._workers[task]
            if not self._workers:
                self._on_idle()

    def _fail(self, event: Event, envelope: Envelope, error: BaseException) -> None:
        self.failed += 1
        self._on_failure(self, event, envelope, error)

    async def abandon(self) -> list[Item]:
        """Cancel what runs, drop what is queued, and give both back: what nobody will finish."""
        queues = [self._ready, *filter(None, self._behind.values())]
        left = list(filter(None, self._workers.values()))
        left += [item for queue in queues for item in queue]
        for queue in queues:
            queue.clear()
        self.queued = 0
        workers = [worker for worker in self._workers if worker is not asyncio.current_task()]
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers, timeout=CANCEL_TIMEOUT_S)
        while self._room:
            self._wake_one()
        return left
