# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""One subscription's own bounded queue, so that a slow handler delays nobody but itself."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, cast, get_args

from ..errors import BusError, LaneFullError
from ..messages import Binding, Envelope, LaneOptions, Overflow, _current
from .failures import tell_failure, tell_high_water
from .handlers import Run, binding_name, is_plain

if TYPE_CHECKING:
    from .bus import MessageBus

logger = logging.getLogger(__name__)

# How long a cancelled handler may take to end before nobody waits for it any more.
CANCEL_TIMEOUT_S = 1.0
# How many events a worker handles before it lets others run, whose handler never waits itself.
TURNS = 64
# How full a lane is, of its capacity, when it is told.
HIGH_WATER = 0.8

# A handler that waited for room in a lane could wait for itself, so what it publishes goes in
# above the capacity instead. Everything below a lane's worker inherits the mark.
in_lane: ContextVar[bool] = ContextVar("llmgine_in_lane", default=False)


class Tally:
    """How many lanes have work, and who waits until none has. A session's counts in its bus's."""

    __slots__ = ("_whole", "busy", "waiters")

    def __init__(self, whole: Tally | None = None) -> None:
        self.busy = 0
        self.waiters: list[asyncio.Future[None]] = []
        self._whole = whole

    def add(self) -> None:
        self.busy += 1
        if self._whole is not None:
            self._whole.add()

    def remove(self) -> None:
        self.busy -= 1
        if self.waiters:
            self.wake()
        if self._whole is not None:
            self._whole.remove()

    async def change(self) -> None:
        """Wait until a lane, or whoever else calls `wake`, has ended its work."""
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        await waiter

    def wake(self) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Lane:
    """Runs one handler for the events put into it.

    Events of one key run in order and one at a time; others run side by side, `concurrency` at
    once. With a concurrency of 1 all of them run in order, whatever their keys. Workers are tasks
    that exist only while there is work: no worker, nothing left to do. A worker handles one event
    after another in one context, so a handler that binds context variables has to unbind them.
    """

    __slots__ = (
        "_behind",
        "_bus",
        "_closed",
        "_mark",
        "_ready",
        "_room",
        "_spare",
        "_tally",
        "_where",
        "binding",
        "capacity",
        "concurrency",
        "dropped",
        "failed",
        "handled",
        "left",
        "name",
        "overflow",
        "queued",
        "restricted",
        "run",
        "workers",
    )

    def __init__(self, bus: MessageBus, tally: Tally, binding: Binding, run: Run) -> None:
        self.binding = binding
        self.name = binding.lane.get("name") or binding_name(binding)
        self.capacity = binding.lane.get("capacity", 10_000)
        self.concurrency = binding.lane.get("concurrency", 16)
        self.overflow = binding.lane.get("overflow", "wait")
        if unknown := set(binding.lane) - set(LaneOptions.__annotations__):
            raise BusError(f"{self.name}: a lane has no option {', '.join(sorted(unknown))}.")
        for option, number in (("capacity", self.capacity), ("concurrency", self.concurrency)):
            if not isinstance(number, int) or number < 1:
                raise BusError(f"{self.name}: {option} must be at least 1, a whole number.")
        if self.overflow not in get_args(Overflow):
            allowed = ", ".join(get_args(Overflow))
            raise BusError(f"{self.name}: overflow {self.overflow!r} must be one of {allowed}.")
        if binding.where is not None and not is_plain(binding.where):
            raise BusError(f"{self.name}: where must be a plain function of the event.")
        self.queued = self.handled = self.failed = self.dropped = 0
        # Whether an event has to be offered although there is room.
        self.restricted = binding.where is not None
        self._where = binding.where
        self.run = run
        self._bus = bus
        self._tally = tally
        self._ready: deque[Envelope] = deque()
        # Each key at work, with the events that wait for their turn behind it.
        self._behind: dict[str, deque[Envelope] | None] = {}
        # Who waits for room, with the event that goes in when there is some.
        self._room: deque[tuple[asyncio.Future[None], Envelope]] = deque()
        self._closed = False
        # What a closed lane did not finish.
        self.left: list[Envelope] = []
        # Each worker, with what it has in hand.
        self.workers: dict[asyncio.Task[None], Envelope | list[Envelope] | None] = {}
        # Whether another worker is on its way. Each looks for one as it takes an event, so a
        # handler that never waits is left with one worker, and any other soon gets all.
        self._spare = False
        # The number of waiting events at which the lane is told to be filling up.
        self._mark = self._high_water()

    def put(self, envelope: Envelope) -> None:
        """Queue the event, full or not; `offer` looks first."""
        if self._closed:
            self.left.append(envelope)
            return
        self.queued = queued = self.queued + 1
        if queued == self._mark:
            self._mark = -1
            tell_high_water(self._bus, self)
        key = envelope.key or envelope.session_id
        if key is not None and self.concurrency > 1:
            if key in self._behind:
                behind = self._behind[key]
                if behind is None:
                    self._behind[key] = deque((envelope,))
                else:
                    behind.append(envelope)
                return
            self._behind[key] = None
        self._ready.append(envelope)
        if (not self._spare or not self.workers) and len(self.workers) < self.concurrency:
            self._start_worker()

    def _start_worker(self) -> None:
        if not self.workers:
            self._tally.add()
        # An empty context: nothing of whoever happened to publish first may stick to the worker.
        worker = asyncio.get_running_loop().create_task(
            self._work(), name=self.name, context=Context()
        )
        worker.add_done_callback(self._ended)
        self.workers[worker] = None
        self._spare = True

    def flush(self) -> None:
        """Start on what waits for company; only a lane of batches has any."""

    async def offer(self, envelope: Envelope) -> None:
        """Take the event in, as the predicate and the rule of a full lane say.

        Raises:
            LaneFullError: the lane is full, and the rule is `reject`.
        """
        if not self.wants(envelope):
            return
        if self.queued >= self.capacity:
            if self.overflow == "reject":
                raise LaneFullError(
                    f"{self.name!r} is full ({self.capacity} events). Give it a larger capacity, "
                    "more concurrency, or another overflow rule where it is registered."
                )
            if self.overflow == "wait" and not in_lane.get():
                room = asyncio.get_running_loop().create_future()
                self._room.append((room, envelope))
                await room
                return
        if self.has_room():
            self.put(envelope)

    def wants(self, envelope: Envelope) -> bool:
        """What the predicate says; one that raises counts as a failure of the handler."""
        if self._where is None:
            return True
        try:
            return bool(self._where(envelope.message))
        except Exception as error:
            self._fail([envelope], error)
            return False

    def has_room(self) -> bool:
        """Whether a new event may come in now, by the rule as far as it goes without waiting."""
        if self.queued < self.capacity or self.overflow == "wait":
            return True
        self.dropped += 1
        if self.dropped == 1:
            logger.warning("%s is full (%d events) and drops some", self.name, self.capacity)
        if self.overflow == "drop_oldest":
            self._drop_oldest()
            return True
        return False

    def _free(self) -> None:
        """One event less waits, so who waits longest for room gets it."""
        self.queued -= 1
        while self._room and self.queued < self.capacity:
            room, envelope = self._room.popleft()
            if not room.done():
                room.set_result(None)
                self.put(envelope)

    def _drop_oldest(self) -> None:
        # Of those whose turn is next: to look at all of them would take longer the fuller it is.
        queues = [self._ready, *filter(None, self._behind.values())]
        oldest = min(filter(None, queues), key=lambda queue: queue[0].time_ns)
        dropped = oldest.popleft()
        if oldest is self._ready and self._behind:
            self._end_turn(dropped)
        self.queued -= 1

    def _end_turn(self, envelope: Envelope) -> None:
        """The next event of its key is ready, or the key is free."""
        key = envelope.key or envelope.session_id
        if key is None:
            return
        if behind := self._behind[key]:
            self._ready.append(behind.popleft())
        else:
            del self._behind[key]

    async def _work(self) -> None:
        in_lane.set(True)
        task = cast("asyncio.Task[None]", asyncio.current_task())
        loop = asyncio.get_running_loop()
        ready, run, workers = self._ready, self.run, self.workers
        self._spare = False
        turns = 0
        try:
            while ready:
                turns += 1
                if turns % TURNS == 0:
                    workers[task] = None
                    await asyncio.sleep(0)
                    if not ready:
                        break
                workers[task] = envelope = ready.popleft()
                if self._room:
                    self._free()
                else:
                    self.queued -= 1
                if ready and not self._spare and len(workers) < self.concurrency:
                    self._spare = True
                    loop.call_soon(self._help)
                _current.set(envelope)
                try:
                    await run(envelope.message)
                    self.handled += 1
                    if self._closed:
                        self._finished([envelope])
                except Exception as error:
                    self._fail([envelope], error)
                except asyncio.CancelledError as error:
                    self._fail([envelope], error)
                    if task.cancelling():  # Otherwise it is the handler's own.
                        raise
                finally:
                    if self._behind:
                        self._end_turn(envelope)
        finally:
            self._leave(task)

    def _help(self) -> None:
        self._spare = False
        if self._ready and len(self.workers) < self.concurrency:
            self._start_worker()

    def _leave(self, task: asyncio.Task[None]) -> None:
        # By the worker and not a done callback: who publishes next must see one worker fewer.
        del self.workers[task]
        if not self.workers:
            if self._mark < 0:
                self._mark = self._high_water()
            self._tally.remove()
        if self._ready and not self.workers:  # The worker was cancelled, but the lane was not.
            self._start_worker()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task in self.workers:  # It was cancelled before it began.
            self._spare = False
            self._leave(task)

    def _high_water(self) -> int:
        return max(1, int(self.capacity * HIGH_WATER))

    def _finished(self, envelopes: list[Envelope]) -> None:
        self.left = [one for one in self.left if one not in envelopes]

    def _fail(self, envelopes: list[Envelope], error: BaseException) -> None:
        if self._closed:  # It is among what is left.
            return
        self.failed += len(envelopes)
        tell_failure(self._bus, self, envelopes, error)

    def close(self) -> None:
        """Cancel what runs and take nothing more; `left` has what nobody will finish."""
        self._closed = True
        for worker, in_hand in self.workers.items():
            if in_hand is not None:
                self.left += in_hand if isinstance(in_hand, list) else [in_hand]
                if worker is not asyncio.current_task():
                    worker.cancel()
        for queue in [self._ready, *filter(None, self._behind.values())]:
            self.left += queue
            queue.clear()
        self.queued = 0
        for room, envelope in self._room:
            if not room.done():
                room.set_result(None)
                self.left.append(envelope)


async def offer_to_each(lanes: Sequence[Lane], envelope: Envelope) -> None:
    """Offer the event to lanes that are full, or that choose.

    Raises:
        LaneFullError: one that rejects is full; the others got the event.
    """
    rejected: LaneFullError | None = None
    for lane in lanes:
        try:
            await lane.offer(envelope)
        except LaneFullError as full:
            rejected = full
    if rejected is not None:
        raise rejected
