# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What every SQL journal has in common: the methods, above an engine that runs operations."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import ClassVar, TypeVar

from . import _sql_sweep as sweeping
from . import sql
from .journal import Appended, Entry, LoggedEvent, LogPage, Outcome, RouteStats, State, Worker
from .sql import Dialect, Operation, Write

T = TypeVar("T")

REWIND_EVERY_S = 2.0
# A database takes no larger number.
_NEWEST = 2**63 - 1


class SqlJournal(ABC):
    """A `Journal` but for its way to the database."""

    dialect: ClassVar[Dialect]
    node: str = ""
    _newest_now_ns: int = _NEWEST
    _rewound_at_s: float = -math.inf

    @abstractmethod
    async def _run(
        self, begin: Callable[[], Operation[T]], *, grouped: bool = False, tells: bool = False
    ) -> T:
        """What the operation returns, once it is committed.

        Args:
            begin: begins it; called again if it is to be run again.
            grouped: it may share a transaction with others.
            tells: wakes who waits for a change.
        """

    async def append(
        self,
        entries: Sequence[Entry],
        events: Sequence[LoggedEvent] = (),
        *,
        owner: str | None = None,
        writes: Sequence[Write] = (),
    ) -> list[Appended]:
        return await self._run(
            partial(sql.append, self.dialect, entries, events, owner, writes),
            grouped=True,
            # Of what begins here at once, nobody else need know.
            tells=owner is None
            or bool(events)
            or any(one.key is not None or one.due_ns or one.state != "ready" for one in entries),
        )

    async def claim(
        self, owner: str, routes: Mapping[str, int], limit: int, now_ns: int, *, suspects: bool
    ) -> list[Entry]:
        # The first claim looks too: the clock may have been set back while nobody worked. And now
        # and then, for what was settled by the old clock may have come after the claim that looked.
        now_s = time.monotonic()
        rewind = now_ns < self._newest_now_ns or now_s >= self._rewound_at_s + REWIND_EVERY_S
        self._newest_now_ns = now_ns
        if rewind:
            self._rewound_at_s = now_s
        if not routes or limit < 1:
            return []
        return await self._run(
            partial(sql.claim, self.dialect, owner, routes, limit, now_ns, suspects, rewind)
        )

    async def settle(self, entry: Entry, outcome: Outcome) -> bool:
        return await self._run(
            partial(sql.settle, self.dialect, entry, outcome), grouped=True, tells=True
        )

    async def amend(
        self,
        entry_id: str,
        *,
        was: Collection[State],
        state: State,
        at_ns: int,
        note_was: str | None = None,
        note: str | None = None,
        result: str | None = None,
        error: str | None = None,
        fresh: bool = False,
    ) -> bool:
        return await self._run(
            partial(sql.amend, entry_id, was, state, at_ns, note_was, note, result, error, fresh),
            tells=True,
        )

    async def drop(self, entry_id: str, was: Collection[State]) -> bool:
        return await self._run(partial(sql.drop, entry_id, was), tells=True)

    async def get(self, entry_id: str) -> Entry | None:
        return await self._run(partial(sql.get, entry_id))

    async def find(
        self,
        states: Collection[State],
        *,
        route: str | None = None,
        after_seq: int = 0,
        limit: int = 100,
    ) -> list[Entry]:
        return await self._run(partial(sql.find, states, route, after_seq, limit))

    async def stats(self, now_ns: int) -> list[RouteStats]:
        return await self._run(partial(sql.stats, now_ns))

    async def beat(self, worker: Worker) -> list[Worker]:
        return await self._run(partial(sql.beat, worker))

    async def release(self, owner: str, *, lost: bool) -> int:
        return await self._run(partial(sql.release, owner, lost), tells=True)

    async def read(self, after: int, *, session_id: str | None = None, limit: int = 500) -> LogPage:
        return await self._run(partial(sql.read, after, session_id, limit))

    async def sweep(self, before_ns: int, keep_bytes: int) -> int:
        used = await self._run(partial(sweeping.used_bytes, self.dialect))
        entries_below = events_below = 0
        if used > keep_bytes:
            # The entries and the events have half of it each.
            entries_below = await self._first_kept("journal_entries", keep_bytes // 2)
            events_below = await self._first_kept("journal_events", keep_bytes // 2)
        deleted = 0
        for sweep, below in (
            (sweeping.sweep_entries, entries_below),
            (sweeping.sweep_events, events_below),
        ):
            upto, more = await self._run(partial(sweep, 0, before_ns, below))
            deleted += more
            while upto:
                upto, more = await self._run(partial(sweep, upto, before_ns, below))
                deleted += more
        return deleted

    async def _first_kept(self, table: sweeping.Table, room: int) -> int:
        seq = _NEWEST
        while seq and room >= 0:
            seq, room = await self._run(partial(sweeping.keep_newest, table, seq, room))
        return seq
