# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What a process does for the journal from time to time: lives, sees who is lost, tidies up."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..clock import sleep
from ..delivery.journal import Entry, RouteStats, State, Worker
from ..delivery.wire import error_data
from ..errors import DeliveryError, HandlerMissingError, MessageUnreadableError
from .queue import depth

if TYPE_CHECKING:
    from .durable import Delivery

logger = logging.getLogger(__name__)

# How long finished entries and events are kept, and for how long an `id` is known again.
KEEP_S = 7 * 24 * 3600.0
KEEP_BYTES = 1_000_000_000
SWEEP_EVERY_S = 60.0
# How long a message server may take to say that it is well.
CHECK_S = 0.5
# Parked and waiting entries that are looked at in one turn.
PAGE = 500


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the process may get work. `problems` say what is missing, and what to do."""

    ready: bool
    problems: tuple[str, ...] = ()
    depth: int = 0
    """Entries that are ready or running, here and elsewhere."""
    lag_s: float = 0.0
    """Age of the oldest entry that is due."""
    in_hand: int = 0
    """Entries that this process has in hand."""


class Upkeep:
    """Beats for this worker, and gives the work of lost ones to others.

    A worker is lost when its count of beats stands still for `lease_s`, by the monotonic clock of
    who watches. So no wall clock that jumps, here or elsewhere, ends a lease.
    """

    def __init__(self, delivery: Delivery, lease_s: float) -> None:
        self.suspects_wait = True
        # How many entries there were of each route when last looked.
        self.snapshot: Sequence[RouteStats] = ()
        self.snapshot_at_ns = 0
        self._delivery = delivery
        self._lease_s = lease_s
        # Of each other worker: its beats, and when they were first seen to be so many.
        self._seen: dict[str, tuple[int, float]] = {}
        # Entries that are said to run here, but do not: seen once, and given back the next time.
        self._strays: set[str] = set()
        self._workers: Sequence[Worker] = ()
        self._beat_at = -math.inf
        self._swept_at = -math.inf

    @property
    def workers(self) -> Sequence[Worker]:
        """Those that did work when last looked."""
        return [one for one in self._workers if one.routes]

    async def begin(self) -> None:
        """Raises: JournalError."""
        workers = await self._beat()
        await self._look(workers)

    async def turn(self) -> None:
        """Wait for a third of the lease, then do all there is to do."""
        clock = self._delivery.bus.clock
        await sleep(clock, self._lease_s / 3)
        workers = await self._beat()
        await self._look(workers)
        await self._give_back_strays()
        await self._delivery.bus.approvals.expire()
        if self._delivery.working and clock.monotonic() - self._swept_at >= SWEEP_EVERY_S:
            self._swept_at = clock.monotonic()
            now_ns = self._delivery.now_ns()
            await self._delivery.journal.sweep(now_ns - int(KEEP_S * 1e9), KEEP_BYTES)

    async def _beat(self) -> list[Worker]:
        journal, now = self._delivery.journal, self._delivery.bus.clock.monotonic()
        try:
            workers = await journal.beat(self._delivery.worker)
        except DeliveryError:
            self._seen.clear()  # Nobody could beat, so nobody is late.
            raise
        if now - self._beat_at > self._lease_s * 2 / 3:
            self._seen.clear()  # This process stood still itself, and did not see the others.
        self._beat_at = now
        self._workers = workers
        for worker in workers:
            beats, since = self._seen.get(worker.id, (-1, now))
            if beats != worker.beats:
                self._seen[worker.id] = (worker.beats, now)
            elif now - since >= self._lease_s and worker.id != self._delivery.worker.id:
                await self._release(worker)
        return workers

    async def _release(self, worker: Worker) -> None:
        del self._seen[worker.id]
        count = await self._delivery.journal.release(worker.id, lost=True)
        logger.warning("Worker %s is lost; %d entries go to others", worker.name, count)
        self.suspects_wait = True
        self._delivery.wake_at(0)

    async def _give_back_strays(self) -> None:
        """Free what this process owns without knowing it: the journal's answer was lost."""
        delivery = self._delivery
        strays = [
            entry
            for entry in await delivery.journal.find(["running"], limit=PAGE)
            if entry.owner == delivery.worker.id and entry.id not in delivery.held
        ]
        for entry in strays:
            if entry.id in self._strays:
                await delivery.give_back(entry)
                delivery.wake_at(0)
        self._strays = {entry.id for entry in strays}

    async def _look(self, workers: Sequence[Worker]) -> None:
        delivery = self._delivery
        self.suspects_wait = True
        self.snapshot_at_ns = delivery.now_ns()
        self.snapshot = await delivery.journal.stats(self.snapshot_at_ns)
        if delivery.working:
            await self._unpark()
            handled = {route for worker in workers for route in worker.routes}
            for one in self.snapshot:
                if one.counts.get("ready") and one.route not in handled:
                    await self._park(one)

    async def _park(self, stats: RouteStats) -> None:
        error = HandlerMissingError(
            f"No process that works the journal handles {stats.route!r}. {_advice(stats)}"
        )
        logger.error("Parked what waits: %s", error)
        for entry in await self._delivery.journal.find(["ready"], route=stats.route, limit=PAGE):
            await self._amend(entry, "parked", error_data(error))

    async def _unpark(self) -> None:
        """Hand out again what can be read and handled here after all."""
        parked = {one.route for one in self.snapshot if one.counts.get("parked")}
        for route in parked & self._delivery.routes.keys():
            for entry in await self._delivery.journal.find(["parked"], route=route, limit=PAGE):
                if self._readable(entry):
                    await self._amend(entry, "ready")
                    self._delivery.wake_at(0)

    def _readable(self, entry: Entry) -> bool:
        try:
            self._delivery.catalogue.read(entry)
        except MessageUnreadableError:
            return False
        return True

    async def _amend(self, entry: Entry, state: State, error: str | None = None) -> None:
        at_ns = self._delivery.now_ns()
        await self._delivery.journal.amend(
            entry.id, was=[entry.state], state=state, at_ns=at_ns, error=error, fresh=error is None
        )

    async def health(self) -> Health:
        """How things stand now; never raises."""
        delivery = self._delivery
        problems = list(delivery.troubles.values())
        if delivery.bus.state != "running":
            problems.append(f"The bus is {delivery.bus.state}.")
        if (transport := delivery.bus.transport) is not None:
            try:
                async with asyncio.timeout(CHECK_S):
                    await transport.check()
            except DeliveryError as error:
                problems.append(str(error))
            except TimeoutError:
                problems.append("The message server does not answer. See whether it runs.")
        try:
            now_ns = delivery.now_ns()
            stats = await delivery.journal.stats(now_ns)
        except DeliveryError as error:
            return Health(ready=False, problems=tuple(dict.fromkeys([str(error), *problems])))
        problems += [
            f"{one.counts['parked']} of {one.route!r} are parked, for no process handles them. "
            + _advice(one)
            for one in stats
            if one.counts.get("parked") and one.route not in delivery.routes
        ]
        due = [one.oldest_due_ns for one in stats if one.oldest_due_ns is not None]
        return Health(
            ready=not problems,
            problems=tuple(problems),
            depth=sum(map(depth, stats)),
            lag_s=max(0.0, (now_ns - min(due)) / 1e9) if due else 0.0,
            in_hand=delivery.in_hand,
        )


def _advice(stats: RouteStats) -> str:
    drop = f"queue drop --all --state parked --message {stats.name}"
    return f"Register its handler, or drop them: {drop}"
