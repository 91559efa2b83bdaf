# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What operators do with the entries of a journal: see them, have them tried again, drop them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from ..clock import Clock
from ..delivery.journal import OPEN, Entry, Journal, RouteStats, State, Worker
from ..errors import DeliveryError, UnknownReceiptError
from ..messages import new_id

NOT_DONE: tuple[State, ...] = (*OPEN, "failed", "dead", "parked")
RETRIABLE: tuple[State, ...] = ("dead", "parked", "failed")
DROPPABLE: tuple[State, ...] = (*RETRIABLE, "ready", "waiting")
PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which entries are meant; `None` means all."""

    states: tuple[State, ...] = NOT_DONE
    route: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """How the queue stands: its routes at one moment, and the workers that its journal knows."""

    routes: Sequence[RouteStats]
    at_ns: int
    workers: Sequence[Worker] = ()

    @property
    def depth(self) -> int:
        return sum(map(depth, self.routes))

    @property
    def lag_s(self) -> float:
        """How long the oldest entry has waited that could run, of all routes; 0.0 if none could."""
        return max((oldest_age_s(one, self.at_ns) for one in self.routes), default=0.0)

    def count(self, state: State) -> int:
        return sum(one.counts.get(state, 0) for one in self.routes)


async def retry_entry(journal: Journal, entry_id: str, was: Collection[State], now_ns: int) -> bool:
    """Have the entry handled again, if it is in one of those states."""
    entry = await journal.get(entry_id)
    note = None
    if entry is not None and entry.route == "relay":
        told = json.loads(entry.note or "{}")
        note = json.dumps({**told, "round": told.get("round", 0) + 1})
    return await journal.amend(
        entry_id, was=was, state="ready", at_ns=now_ns, note=note, fresh=True
    )


def depth(stats: RouteStats) -> int:
    """How many of the route's entries are to be done, those that are being done included.

    A schedule is none of them: it is never done.
    """
    if stats.route == "schedule":
        return 0
    return stats.counts.get("ready", 0) + stats.counts.get("running", 0)


def oldest_age_s(stats: RouteStats, now_ns: int) -> float:
    """How long the oldest of those has waited that are ready and due; 0.0 if there are none."""
    return 0.0 if stats.oldest_due_ns is None else max(now_ns - stats.oldest_due_ns, 0) / 1e9


class Queue:
    """The entries of an open journal. An id may be cut to a beginning that no other entry has.

    Raises:
        JournalError: from any method; the journal fails.
    """

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock

    async def stats(self) -> QueueStats:
        now_ns = self._now_ns()
        return QueueStats(
            routes=await self._journal.stats(now_ns), at_ns=now_ns, workers=await self._workers()
        )

    async def page(
        self, wanted: Filter | None = None, *, after_seq: int = 0, limit: int = 100
    ) -> list[Entry]:
        """The first of the entries after that `seq`, the oldest first."""
        found: list[Entry] = []
        async for entry in self.entries(wanted, after_seq=after_seq):
            if len(found) == limit:
                break
            found.append(entry)
        return found

    async def entries(
        self, wanted: Filter | None = None, *, after_seq: int = 0
    ) -> AsyncIterator[Entry]:
        """All of them, the oldest first."""
        wanted = wanted or Filter()
        while page := await self._journal.find(
            wanted.states, route=wanted.route, after_seq=after_seq, limit=PAGE
        ):
            for entry in page:
                if wanted.name in {None, entry.name}:
                    yield entry
            after_seq = page[-1].seq

    async def get(self, entry_id: str, fit: Collection[State] | None = None) -> Entry:
        """The entry of that id, or the one that is not done and whose id begins so.

        Args:
            entry_id: the id, or its beginning.
            fit: the states it may be in; any if not given.

        Raises:
            UnknownReceiptError: there is none.
            DeliveryError: several begin so, or it is in another state.
        """
        entry = await self._journal.get(entry_id) or await self._beginning(entry_id)
        if fit is not None and entry.state not in fit:
            raise _unfit(entry, fit)
        return entry

    async def retry(self, entry_id: str) -> Entry:
        """Have an entry that failed for good tried again, as if it were new.

        Raises:
            UnknownReceiptError: there is none of that id.
            DeliveryError: several begin so, or it is not dead, parked or failed.
        """
        return await self._apply(self._retry, entry_id, RETRIABLE)

    async def retry_all(self, wanted: Filter) -> int:
        """As `retry`, for all of them; says how many they were.

        Raises:
            DeliveryError: one of the states is not for that.
        """
        return await self._apply_all(self._retry, wanted, RETRIABLE)

    async def drop(self, entry_id: str) -> Entry:
        """Forget an entry that nobody works on.

        Raises:
            UnknownReceiptError: there is none of that id.
            DeliveryError: several begin so, or it is running, sent or done.
        """
        return await self._apply(self._drop, entry_id, DROPPABLE)

    async def drop_all(self, wanted: Filter) -> int:
        """As `drop`, for all of them; says how many they were.

        Raises:
            DeliveryError: one of the states is not for that.
        """
        return await self._apply_all(self._drop, wanted, DROPPABLE)

    async def _retry(self, entry_id: str) -> bool:
        return await retry_entry(self._journal, entry_id, RETRIABLE, self._now_ns())

    async def _drop(self, entry_id: str) -> bool:
        return await self._journal.drop(entry_id, DROPPABLE)

    async def _apply(
        self, change: Callable[[str], Awaitable[bool]], entry_id: str, fit: Collection[State]
    ) -> Entry:
        entry = await self.get(entry_id, fit)
        if not await change(entry.id):
            # Somebody was faster: what is said is what it is now.
            raise _unfit(await self.get(entry.id), fit)
        return entry

    async def _apply_all(
        self, change: Callable[[str], Awaitable[bool]], wanted: Filter, fit: Collection[State]
    ) -> int:
        if others := [state for state in wanted.states if state not in fit]:
            raise DeliveryError(f"Entries that are {_either(others)} stay. {_only(fit)}")
        return sum([await change(entry.id) async for entry in self.entries(wanted)])

    async def _beginning(self, start: str) -> Entry:
        found = [entry async for entry in self.entries() if start and entry.id.startswith(start)]
        if not found:
            raise UnknownReceiptError(start)
        if len(found) > 1:
            raise DeliveryError(
                f"The ids of {len(found)} entries begin with {start!r}; give more of it."
            )
        return found[0]

    async def _workers(self) -> list[Worker]:
        # They are told to whoever beats: this is a worker of nothing, for a moment.
        visitor = Worker(id=new_id(), name="", started_ns=self._now_ns())
        try:
            known = await self._journal.beat(visitor)
        finally:
            await self._journal.release(visitor.id, lost=False)
        return [worker for worker in known if worker.routes]

    def _now_ns(self) -> int:
        return int(self._clock.now().timestamp() * 1e9)


def _unfit(entry: Entry, fit: Collection[State]) -> DeliveryError:
    return DeliveryError(f"Entry {entry.id!r} is {entry.state}. {_only(fit)}")


def _only(fit: Collection[State]) -> str:
    return f"This is for entries that are {_either(fit)}."


def _either(states: Collection[str]) -> str:
    *others, last = states
    return f"{', '.join(others)} or {last}" if others else last
