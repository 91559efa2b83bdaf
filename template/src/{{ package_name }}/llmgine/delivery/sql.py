# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What the journals do, once for every SQL engine that runs it.

An operation is a generator. It yields a statement with its parameters and gets the rows back, or of
one that returns none, how many it changed. The engine runs all of it in one transaction, and may
run it again from its beginning. Statements are in what SQLite and Postgres have in common.
"""

# ruff: noqa: S608  # Only our own names and numbers are put together; values are parameters.

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from ..errors import JournalError
from .journal import (
    OPEN,
    SUSPECT_LOSSES,
    Appended,
    Entry,
    LoggedEvent,
    LogPage,
    Outcome,
    RouteStats,
    State,
    Worker,
)

T = TypeVar("T")
Statement = tuple[str, Sequence[Any]]
Write = Callable[[Any], Any]
Operation = Generator[Statement | Write, Any, T]
"""Yields statements, and what the user wants written, which is called with the connection."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """In what the engines differ. A lock that an engine does not need is empty."""

    number: str
    """The type of a key that counts up."""
    counter: str
    """The type of a key that counts up and is never given twice, which costs a write more."""
    has_meta: str
    lock_schema: str
    lock_claims: str
    lock_events: str
    lock_rows: str
    """What locks the rows of a SELECT, and leaves out those that are locked."""
    used_bytes: str
    keys_when_claimed: bool
    """Whether the order of a key is only decided in a claim, not when an entry is appended."""


# Migration n brings a store from version n - 1 to n. Append only: stores that ran the old ones are
# out there. The context store may have its own tables, and its own version, in the same database.
#
# `wake_ns` says what a claim may find: of a ready entry when it is due, and 0 once that time came;
# -1 of one that somebody must decide on; NULL of one that is running or finished. So an entry that
# is appended as running and then done is never in that index.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE journal_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        """
        CREATE TABLE journal_entries (
            seq {number}, id TEXT NOT NULL UNIQUE, route TEXT NOT NULL, name TEXT NOT NULL,
            version BIGINT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, key TEXT,
            due_ns BIGINT NOT NULL, note TEXT, created_ns BIGINT NOT NULL, state TEXT NOT NULL,
            owner TEXT, attempt BIGINT NOT NULL, losses BIGINT NOT NULL, wait_ns BIGINT NOT NULL,
            result TEXT, error TEXT, finished_ns BIGINT, wake_ns BIGINT
        )
        """,
        """
        CREATE INDEX journal_entries_to_wake ON journal_entries (wake_ns, route, seq)
            WHERE wake_ns IS NOT NULL
        """,
        """
        CREATE INDEX journal_entries_running ON journal_entries (route, key, owner)
            WHERE owner IS NOT NULL
        """,
        """
        CREATE INDEX journal_entries_of_key ON journal_entries (route, key, seq)
            WHERE key IS NOT NULL AND finished_ns IS NULL
        """,
        """
        CREATE TABLE journal_events (
            seq {counter}, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
            version BIGINT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL,
            session_id TEXT, time_ns BIGINT NOT NULL
        )
        """,
        """
        CREATE TABLE journal_workers (
            id TEXT PRIMARY KEY, name TEXT NOT NULL, routes TEXT NOT NULL, beats BIGINT NOT NULL,
            started_ns BIGINT NOT NULL
        )
        """,
    ),
)

_FIELDS = tuple(field.name for field in fields(Entry))
_ENTRY = ", ".join(_FIELDS)
_NEW_FIELDS = tuple(name for name in _FIELDS if name != "seq")


def _marks(count: int, first: int = 1) -> str:
    return ", ".join(f"${number}" for number in range(first, first + count))


_INSERT_ENTRY = (
    f"INSERT INTO journal_entries ({', '.join(_NEW_FIELDS)}, wake_ns) "
    f"VALUES ({_marks(len(_NEW_FIELDS) + 1)}) ON CONFLICT (id) DO NOTHING"
)
_INSERT_EVENT = (
    "INSERT INTO journal_events (id, name, version, payload, headers, session_id, time_ns) "
    f"VALUES ({_marks(7)}) ON CONFLICT (id) DO NOTHING"
)
_EVENT = "seq, id, name, version, payload, headers, session_id, time_ns"
# Busy: an earlier one is not finished, except a schedule that never was due; or any runs elsewhere.
_KEY_IS_BUSY = """
    SELECT 1 FROM journal_entries
    WHERE route = $1 AND key = $2 AND finished_ns IS NULL
        AND (owner IS NULL OR owner <> $3) AND NOT (state = 'ready' AND attempt = 0 AND wake_ns > 0)
    LIMIT 1
"""
_SETTLE = """
    UPDATE journal_entries
    SET state = $4, owner = NULL, result = $5, error = $6, note = coalesce($7, note), due_ns = $8,
        wait_ns = $9, attempt = attempt - $10, finished_ns = $11, wake_ns = $12
    WHERE id = $1 AND owner = $2 AND attempt = $3
"""
_AMEND = """
    UPDATE journal_entries
    SET state = $2, note = coalesce($3, note), result = coalesce($4, result), due_ns = 0,
        error = coalesce($5, CASE WHEN $6 = 1 THEN NULL ELSE error END), wait_ns = 0,
        attempt = CASE WHEN $6 = 1 THEN 0 ELSE attempt END,
        losses = CASE WHEN $6 = 1 THEN 0 ELSE losses END, finished_ns = $7, wake_ns = $8
    WHERE id = $1 AND owner IS NULL AND (CAST($9 AS TEXT) IS NULL OR note = $9)
        AND state IN ({states})
"""
_RIPEN = "UPDATE journal_entries SET wake_ns = 0 WHERE wake_ns > 0 AND wake_ns <= $1"
# Waits that would last more than twice what they were to: the clock was set back since.
_REWIND = """
    UPDATE journal_entries SET due_ns = $1 + wait_ns, wake_ns = $1 + wait_ns
    WHERE wake_ns > $1 AND wait_ns > 0 AND due_ns - $1 > 2 * wait_ns
"""
# An earlier one that is due is no obstacle, for it comes first in the same claim.
_CANDIDATES = """
    SELECT * FROM (
        SELECT e.seq, e.route, e.key FROM journal_entries e
        WHERE e.wake_ns = 0 AND e.route = ${route} AND e.losses {losses}
            AND (e.key IS NULL OR NOT EXISTS (
                SELECT 1 FROM journal_entries f
                WHERE f.route = e.route AND f.key = e.key AND f.owner <> $1
            ) AND NOT EXISTS (
                SELECT 1 FROM journal_entries f
                WHERE f.route = e.route AND f.key = e.key AND f.finished_ns IS NULL
                    AND f.seq < e.seq AND f.owner IS NULL
                    AND (f.state <> 'ready' OR (f.wake_ns = 0 AND NOT f.losses {losses})
                        OR (f.attempt > 0 AND f.wake_ns > 0))
            ))
        ORDER BY e.seq LIMIT ${most}
    ) AS found
"""
_CLAIM = f"""
    UPDATE journal_entries SET state = 'running', owner = $1, attempt = attempt + 1, wake_ns = NULL
    WHERE seq IN ({{seqs}}) RETURNING {_ENTRY}
"""
_RELEASE = """
    UPDATE journal_entries
    SET state = 'ready', owner = NULL, wake_ns = 0, attempt = attempt - $2, losses = losses + $3
    WHERE owner = $1
"""
_RELEASE_ORPHANS = """
    UPDATE journal_entries SET state = 'ready', owner = NULL, wake_ns = 0, losses = losses + 1
    WHERE owner IS NOT NULL AND owner NOT IN (SELECT id FROM journal_workers)
"""
_GIVE_BACK = """
    UPDATE journal_entries SET state = 'ready', owner = NULL, wake_ns = 0, attempt = attempt - 1
    WHERE id = $1 AND owner = $2
"""
_STATS = """
    SELECT route, name, state, count(*), min(
        CASE WHEN wake_ns >= 0 AND wake_ns <= $1
            THEN CASE due_ns WHEN 0 THEN created_ns ELSE due_ns END END
    )
    FROM journal_entries WHERE {where} GROUP BY route, name, state
"""
_BEAT = """
    INSERT INTO journal_workers (id, name, routes, beats, started_ns) VALUES ($1, $2, $3, 1, $4)
    ON CONFLICT (id) DO UPDATE SET routes = excluded.routes, beats = journal_workers.beats + 1
"""
# How many events a reader of one session looks at for one page.
_LOOK = 5000
_EVER_LAST = (
    "coalesce((SELECT max(seq) FROM journal_events), (SELECT CAST(value AS BIGINT) FROM "
    "journal_meta WHERE name = 'swept'), 0)"
)


# Texts that a user chose may hold what Postgres or UTF-8 cannot.
_ESCAPED = "\x01"


def _to_text(text: str | None) -> str | None:
    if text is None or (text.isascii() and "\0" not in text and not text.startswith(_ESCAPED)):
        return text
    return _ESCAPED + json.dumps(text)


def _from_text(text: str | None) -> str | None:
    if text is None or not text.startswith(_ESCAPED):
        return text
    return str(json.loads(text[1:]))


def _entry(row: Sequence[Any]) -> Entry:
    entry = Entry(**dict(zip(_FIELDS, row, strict=True)))
    entry.id, entry.key = _from_text(entry.id) or "", _from_text(entry.key)
    return entry


def _wake_ns(state: State, due_ns: int) -> int | None:
    if state == "ready":
        return due_ns
    return -1 if state in ("waiting", "sent", "dead", "parked") else None


def _version(dialect: Dialect) -> Operation[int]:
    if not (yield dialect.has_meta, ()):
        return 0
    rows = yield "SELECT value FROM journal_meta WHERE name = 'version'", ()
    return int(rows[0][0])


def refuse_newer(dialect: Dialect, store: str) -> Operation[int]:
    """The version of the store.

    Raises:
        JournalError: it is newer than this code.
    """
    version = yield from _version(dialect)
    if version > len(MIGRATIONS):
        raise JournalError(
            f"The journal {store} has schema version {version}; this application knows version "
            f"{len(MIGRATIONS)} and leaves it alone. Update the application, or choose another one."
        )
    return version


def migrate(dialect: Dialect, store: str) -> Operation[str]:
    """Run the migrations that the store has not seen, and return its name for itself."""
    if dialect.lock_schema:
        yield dialect.lock_schema, ()
    version = yield from refuse_newer(dialect, store)
    if version < len(MIGRATIONS):
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                yield statement.format(number=dialect.number, counter=dialect.counter), ()
        yield SET_META, ("version", str(len(MIGRATIONS)))
        yield (
            "INSERT INTO journal_meta VALUES ('node', $1) ON CONFLICT (name) DO NOTHING",
            (uuid.uuid4().hex,),
        )
    rows = yield "SELECT value FROM journal_meta WHERE name = 'node'", ()
    return str(rows[0][0])


SET_META = """
    INSERT INTO journal_meta VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""


def probe() -> Operation[None]:
    """Write something that changes nothing."""
    yield "UPDATE journal_meta SET value = value WHERE name = 'version'", ()


def append(
    dialect: Dialect,
    entries: Sequence[Entry],
    events: Sequence[LoggedEvent],
    owner: str | None,
    writes: Sequence[Write],
) -> Operation[list[Appended]]:
    became = []
    for entry in entries:
        one = yield from _append_one(dialect, entry, owner)
        became.append(one)
    if not became or became[0] != "duplicate":
        yield from _log(dialect, events)
        yield from writes
    return became


def _append_one(dialect: Dialect, entry: Entry, owner: str | None) -> Operation[Appended]:
    key = _to_text(entry.key)
    state, attempt = entry.state, entry.attempt
    owned = owner is not None and state == "ready" and entry.due_ns == 0
    if owned and key is not None:
        owned = not dialect.keys_when_claimed and not (
            yield _KEY_IS_BUSY, (entry.route, key, owner)
        )
    if owned:
        state, attempt = "running", attempt + 1
    finished_ns = entry.finished_ns
    if finished_ns is None and state not in OPEN:
        finished_ns = entry.created_ns
    changed = yield (
        _INSERT_ENTRY,
        (
            *(_to_text(entry.id), entry.route, entry.name, entry.version, entry.payload),
            *(entry.headers, key, entry.due_ns, entry.note, entry.created_ns, state),
            *(owner if owned else None, attempt, entry.losses, entry.wait_ns, entry.result),
            *(entry.error, finished_ns, _wake_ns(state, entry.due_ns)),
        ),
    )
    if not changed:
        return "duplicate"
    return "owned" if owned else "queued"


def _log(dialect: Dialect, events: Sequence[LoggedEvent]) -> Operation[None]:
    if events and dialect.lock_events:
        yield dialect.lock_events, ()
    for event in events:
        yield (
            _INSERT_EVENT,
            (
                *(_to_text(event.id), event.name, event.version, event.payload, event.headers),
                *(_to_text(event.session_id), event.time_ns),
            ),
        )


def claim(
    dialect: Dialect,
    owner: str,
    routes: Mapping[str, int],
    limit: int,
    now_ns: int,
    suspects: bool,
    rewind: bool,
) -> Operation[list[Entry]]:
    if dialect.lock_claims:
        yield dialect.lock_claims, ()
    if rewind:
        yield _REWIND, (now_ns,)
    yield _RIPEN, (now_ns,)
    losses = f"{'>=' if suspects else '<'} {SUSPECT_LOSSES}"
    found = yield (
        " UNION ALL ".join(
            _CANDIDATES.format(route=number, losses=losses, most=number + len(routes))
            for number in range(3, 3 + len(routes))
        )
        + " ORDER BY seq LIMIT $2",
        (owner, limit, *routes, *routes.values()),
    )
    seqs = [row[0] for row in found]
    if seqs and dialect.lock_rows:
        seqs = yield from _locked(dialect, found)
    if not seqs:
        return []
    rows = yield _CLAIM.format(seqs=_marks(len(seqs), 2)), (owner, *seqs)
    return sorted(map(_entry, rows), key=lambda entry: entry.seq)


def _locked(dialect: Dialect, found: Sequence[Any]) -> Operation[list[int]]:
    """Those of them that nobody else holds, nor one before them of the same key."""
    rows = yield (
        (
            f"SELECT seq FROM journal_entries WHERE seq IN ({_marks(len(found))}) "
            f"AND wake_ns = 0 {dialect.lock_rows}"
        ),
        [row[0] for row in found],
    )
    free = {row[0] for row in rows}
    held = set()
    seqs = []
    for seq, route, key in found:
        if seq not in free:
            held.add((route, key))
        elif key is None or (route, key) not in held:
            seqs.append(seq)
    return seqs


def settle(dialect: Dialect, entry: Entry, outcome: Outcome) -> Operation[bool]:
    state = outcome.state
    changed = yield (
        _SETTLE,
        (
            *(_to_text(entry.id), entry.owner, entry.attempt, state, outcome.result),
            *(outcome.error, outcome.note, outcome.due_ns, outcome.wait_ns),
            *(0 if outcome.counts else 1, None if state in OPEN else outcome.at_ns),
            _wake_ns(state, outcome.due_ns),
        ),
    )
    if not changed:
        return False
    for one in outcome.give_back:
        yield _GIVE_BACK, (_to_text(one.id), one.owner)
    for one in outcome.outbox:
        yield from _append_one(dialect, one, None)
    yield from _log(dialect, outcome.events)
    yield from outcome.writes
    return True


def amend(
    entry_id: str,
    was: Collection[State],
    state: State,
    at_ns: int,
    note_was: str | None,
    note: str | None,
    result: str | None,
    error: str | None,
    fresh: bool,
) -> Operation[bool]:
    changed = yield (
        _AMEND.format(states=_marks(len(was), 10)),
        (
            *(_to_text(entry_id), state, note, result, error, int(fresh)),
            *(None if state in OPEN else at_ns, _wake_ns(state, 0), note_was, *was),
        ),
    )
    return bool(changed)


def drop(entry_id: str, was: Collection[State]) -> Operation[bool]:
    changed = yield (
        f"DELETE FROM journal_entries WHERE id = $1 AND state IN ({_marks(len(was), 2)})",
        (_to_text(entry_id), *was),
    )
    return bool(changed)


def get(entry_id: str) -> Operation[Entry | None]:
    rows = yield f"SELECT {_ENTRY} FROM journal_entries WHERE id = $1", (_to_text(entry_id),)
    return _entry(rows[0]) if rows else None


def find(
    states: Collection[State], route: str | None, after_seq: int, limit: int
) -> Operation[list[Entry]]:
    # By an index for each kind of state that has one; the finished ones are most of the table.
    places = [
        where
        for where, kinds in (
            ("wake_ns = -1", ("waiting", "sent", "dead", "parked")),
            ("wake_ns >= 0", ("ready",)),
            ("owner IS NOT NULL", ("running",)),
            ("finished_ns IS NOT NULL AND wake_ns IS NULL", ("done", "failed")),
        )
        if not set(kinds).isdisjoint(states)
    ]
    chosen = " UNION ALL ".join(
        f"SELECT * FROM (SELECT {_ENTRY} FROM journal_entries WHERE {where} "
        f"AND state IN ({_marks(len(states), 4)}) AND seq > $1 "
        "AND (CAST($2 AS TEXT) IS NULL OR route = $2) ORDER BY seq LIMIT $3) AS found"
        for where in places
    )
    if not places:
        return []
    rows = yield f"{chosen} ORDER BY seq LIMIT $3", (after_seq, route, limit, *states)
    return [_entry(row) for row in rows]


def stats(now_ns: int) -> Operation[list[RouteStats]]:
    waiting = yield _STATS.format(where="wake_ns IS NOT NULL"), (now_ns,)
    running = yield _STATS.format(where="owner IS NOT NULL"), (now_ns,)
    found: dict[tuple[str, str], RouteStats] = {}
    for route, name, state, count, oldest_due_ns in (*waiting, *running):
        one = found.setdefault((route, name), RouteStats(route=route, name=name))
        one.counts[state] = count
        if oldest_due_ns is not None:
            one.oldest_due_ns = oldest_due_ns
    return list(found.values())


def beat(worker: Worker) -> Operation[list[Worker]]:
    yield _BEAT, (worker.id, worker.name, json.dumps(list(worker.routes)), worker.started_ns)
    yield _RELEASE_ORPHANS, ()
    rows = yield "SELECT id, name, routes, beats, started_ns FROM journal_workers ORDER BY id", ()
    return [
        Worker(id=one, name=name, routes=json.loads(routes), beats=beats, started_ns=started_ns)
        for one, name, routes, beats, started_ns in rows
    ]


def release(owner: str, lost: bool) -> Operation[int]:
    count: int = yield _RELEASE, (owner, int(not lost), int(lost))
    yield "DELETE FROM journal_workers WHERE id = $1", (owner,)
    return count


def read(after: int, session_id: str | None, limit: int) -> Operation[LogPage]:
    [(first, last)] = yield (
        f"SELECT (SELECT coalesce(min(seq), 0) FROM journal_events), {_EVER_LAST}",
        (),
    )
    if limit == 0:
        return LogPage(events=(), first=first, last=last, upto=after)
    upto = last
    if session_id is not None:
        rows = yield (
            (
                "SELECT max(seq) FROM (SELECT seq FROM journal_events WHERE seq > $1 "
                "ORDER BY seq LIMIT $2) AS looked"
            ),
            (after, _LOOK),
        )
        upto = rows[0][0] or last
    rows = yield (
        (
            f"SELECT {_EVENT} FROM journal_events WHERE seq > $1 AND seq <= $2 "
            "AND (CAST($3 AS TEXT) IS NULL OR session_id = $3) ORDER BY seq LIMIT $4"
        ),
        (after, upto, _to_text(session_id), limit),
    )
    events = [_event(row) for row in rows]
    if len(events) == limit:
        upto = events[-1].cursor
    return LogPage(events=events, first=first, last=last, upto=max(after, upto))


def _event(row: Sequence[Any]) -> LoggedEvent:
    cursor, event_id, name, version, payload, headers, session_id, time_ns = row
    return LoggedEvent(
        cursor=cursor,
        id=_from_text(event_id) or "",
        name=name,
        version=version,
        payload=payload,
        headers=headers,
        session_id=_from_text(session_id),
        time_ns=time_ns,
    )
