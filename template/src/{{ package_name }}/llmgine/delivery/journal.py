# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What a journal keeps, and what every journal can do: accepted work outlives its process.

A journal knows nothing of handlers. It keeps entries, hands each to one worker at a time, those of
one key in order, and keeps the events that were told, numbered in the order of their commits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

State = Literal["ready", "running", "waiting", "sent", "done", "failed", "dead", "parked"]
"""What became of an entry.

`ready` to be handed out once it is due; `running` at the worker that owns it; `waiting` for
somebody's word; `sent` over a transport, which will bring the result; `done`; `failed`, which its
caller was told; `dead`, which nobody was told; `parked`, for no process here understands it.
"""

OPEN: tuple[State, ...] = ("ready", "running", "waiting", "sent")

# An entry that lost its worker so often may be what kills them: it is handed out one at a time.
SUSPECT_LOSSES = 2


@dataclass(slots=True, kw_only=True)
class Entry:
    """One thing to be done: a command, or an event for one of its subscriptions.

    The journal writes the fields from `state` on; who appends gives those before.
    """

    id: str
    """Appended once: a second entry of the same id is a duplicate."""
    route: str
    """Who does it: `command <name>`, `event <subscription>`, `schedule` or `relay`."""
    name: str
    """The message class's name on the wire."""
    version: int = 1
    payload: str
    """The message, as JSON."""
    headers: str = "{}"
    """The envelope, as JSON."""
    key: str | None = None
    """Entries of one route and key are handed out in the order they were appended."""
    due_ns: int = 0
    """Wall time before which it is not handed out; 0: at once, whatever the clock says."""
    note: str | None = None
    """What the bus remembers of it between attempts, as JSON: a rule, a decision."""
    created_ns: int

    state: State = "ready"
    seq: int = 0
    owner: str | None = None
    attempt: int = 0
    """How often it was handed out, the times that its worker was lost included."""
    losses: int = 0
    """How often its worker was lost while it ran."""
    wait_ns: int = 0
    """How far ahead `due_ns` was when it was set, to notice a clock that was set back since.

    0: `due_ns` is meant as a time of the wall clock.
    """
    result: str | None = None
    error: str | None = None
    """What went wrong, as JSON; see `wire.error_data`."""
    finished_ns: int | None = None


@dataclass(slots=True, kw_only=True)
class LoggedEvent:
    """An event that was told. `cursor` is its place in the log, and grows with every commit."""

    cursor: int = 0
    id: str
    name: str
    version: int
    payload: str
    headers: str
    session_id: str | None
    time_ns: int


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How handing out an entry ended, with everything to be committed along with it."""

    state: State
    at_ns: int
    result: str | None = None
    error: str | None = None
    note: str | None = None
    """The entry's new note; `None` leaves the old one."""
    due_ns: int = 0
    wait_ns: int = 0
    counts: bool = True
    """False takes the attempt back: the handler did not get it after all."""
    outbox: Sequence[Entry] = ()
    events: Sequence[LoggedEvent] = ()
    writes: Sequence[Callable[[Any], Any]] = ()
    """Called with the connection, inside the transaction; Postgres awaits what they return."""
    give_back: Sequence[Entry] = ()
    """Others of the same owner, to be handed out again as if they never had been."""


Appended = Literal["owned", "queued", "duplicate"]


@dataclass(slots=True, kw_only=True)
class Worker:
    """A process that works the journal. One whose `beats` stand still is lost."""

    id: str
    """Made anew at each start, so two workers of one name are two."""
    name: str
    """Where it runs, for people: host and process."""
    routes: Sequence[str] = ()
    beats: int = 0
    started_ns: int


@dataclass(slots=True, kw_only=True)
class RouteStats:
    """The entries of one route that are not finished, and those that failed for good."""

    route: str
    name: str
    counts: dict[State, int] = field(default_factory=dict)
    oldest_due_ns: int | None = None
    """When the oldest ready and due entry became so (its `created_ns`, if due at once)."""


@dataclass(slots=True, kw_only=True)
class LogPage:
    """Some events of the log, and where they stand in it."""

    events: Sequence[LoggedEvent]
    first: int
    """The oldest cursor that is kept; 0 if none is."""
    last: int
    """The newest cursor that was ever given, also if its event is no longer kept; 0 if none was."""
    upto: int
    """Where to go on: up to here the page looked, also at events of other sessions."""


class Journal(Protocol):
    """Entries and events that outlive the process. Whatever returned is committed.

    Raises:
        JournalError: from any method; says which store, what is wrong and what to do.
    """

    node: str
    """Names this store for as long as it lives; known once it is open."""

    async def open(self) -> None:
        """Connect, check, and bring the schema to this version. Calling it again does nothing."""
        ...

    async def aclose(self) -> None:
        """Finish what was begun and let go of the store. Calling it again does nothing."""
        ...

    async def append(
        self,
        entries: Sequence[Entry],
        events: Sequence[LoggedEvent] = (),
        *,
        owner: str | None = None,
        writes: Sequence[Callable[[Any], Any]] = (),
    ) -> list[Appended]:
        """Keep all or none, in this order; say of each entry what became of it.

        If the first entry is a duplicate, the events are not told again, nor `writes` made.

        With an `owner`, an entry due at once begins as `running` at it, unless its key is busy
        elsewhere. An entry that comes with a state other than `ready` is kept as it is.
        """
        ...

    async def claim(
        self, owner: str, routes: Mapping[str, int], limit: int, now_ns: int, *, suspects: bool
    ) -> list[Entry]:
        """Own entries that are due, the oldest first, with one attempt more.

        Of each route up to as many as is said with it, and up to `limit` in all. One of a key comes
        only if those before it are done, dead, or the same owner's. Without `suspects`, none that
        lost its worker `SUSPECT_LOSSES` times; with it, only these.
        """
        ...

    async def settle(self, entry: Entry, outcome: Outcome) -> bool:
        """Commit the outcome with all that belongs to it; `False` if the entry was lost.

        It was if another worker owns it by now, or its attempt is another: nothing is written.
        """
        ...

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
        """Give an entry that nobody owns another state, due at once; `False` if it is not as said.

        Args:
            entry_id: the entry.
            was: the states it may be in.
            state: its new one; an open one forgets when it was finished.
            at_ns: when, by the clock of who asks.
            note_was: the note it must still have, if given.
            note: its new note, if given.
            result: its result, if given.
            error: its new error, if given.
            fresh: forget its attempts, losses and error.
        """
        ...

    async def drop(self, entry_id: str, was: Collection[State]) -> bool:
        """Forget the entry, if it is in one of these states."""
        ...

    async def get(self, entry_id: str) -> Entry | None: ...

    async def find(
        self,
        states: Collection[State],
        *,
        route: str | None = None,
        after_seq: int = 0,
        limit: int = 100,
    ) -> list[Entry]:
        """Entries in those states, the oldest first."""
        ...

    async def stats(self, now_ns: int) -> list[RouteStats]: ...

    async def beat(self, worker: Worker) -> list[Worker]:
        """Say that the worker lives, with one beat more; return all workers there are.

        What a worker owns that is not among them, for it was taken for lost, is ready again.
        """
        ...

    async def release(self, owner: str, *, lost: bool) -> int:
        """Make what the worker owns ready again, forget the worker, and say how much it was.

        `lost` counts it against the entries; otherwise the attempt is taken back.
        """
        ...

    async def read(self, after: int, *, session_id: str | None = None, limit: int = 500) -> LogPage:
        """The events after that cursor, in the order of their commits.

        None ever comes in before one that was read. A `limit` of 0 only says where the log stands.
        """
        ...

    async def changed(self, timeout_s: float) -> None:
        """Return when the journal may have changed since the last call, or after that time.

        Changes by other processes count too.
        """
        ...

    async def sweep(self, before_ns: int, keep_bytes: int) -> int:
        """Delete finished entries and events from before then, and the oldest beyond that size.

        `dead` and `parked` entries stay. Works in small transactions; says how many it deleted.
        """
        ...

    async def check(self) -> str:
        """What a healthy store says of itself, in one line; an unhealthy one raises."""
        ...
