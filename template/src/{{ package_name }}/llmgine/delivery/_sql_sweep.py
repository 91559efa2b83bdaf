# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""How the SQL journals forget: by age and by size, a little at a time."""

from __future__ import annotations

from typing import Literal

from .sql import SET_META, Dialect, Operation

Table = Literal["journal_entries", "journal_events"]

_WINDOW = 500
_SIZE = "length(payload) + length(headers) + 200"
_LOOK_AT = """
    SELECT max(seq), min({time})
    FROM (SELECT seq, {time} FROM {table} WHERE seq > $1 ORDER BY seq LIMIT $2) AS looked
"""
_ENTRY_SIZE = f"{_SIZE} + coalesce(length(result), 0) + coalesce(length(error), 0)"


def used_bytes(dialect: Dialect) -> Operation[int]:
    rows = yield dialect.used_bytes, ()
    return int(rows[0][0])


def keep_newest(table: Table, before_seq: int, room: int) -> Operation[tuple[int, int]]:
    """Of those before `before_seq`, how far down they fit in the room, and what is left of it.

    Looks at some of them only; the first is 0 if there are no more.
    """
    size = _ENTRY_SIZE if table == "journal_entries" else _SIZE
    rows = yield (
        f"SELECT seq, {size} FROM {table} WHERE seq < $1 ORDER BY seq DESC LIMIT $2",  # noqa: S608
        (before_seq, _WINDOW),
    )
    for seq, size_bytes in rows:
        room -= size_bytes
        if room < 0:
            return seq + 1, room
    return (rows[-1][0] if len(rows) == _WINDOW else 0), room


def sweep_entries(after_seq: int, before_ns: int, below_seq: int) -> Operation[tuple[int, int]]:
    """Look at some entries after that one; return the last of them and how many were deleted.

    The first is 0 when there is no more to delete.
    """
    [(upto, oldest_ns)] = yield (
        _LOOK_AT.format(time="created_ns", table="journal_entries"),
        (
            after_seq,
            _WINDOW,
        ),
    )
    # Nothing is finished before it was created.
    if upto is None or (oldest_ns >= before_ns and after_seq + 1 >= below_seq):
        return 0, 0
    count: int = yield (
        (
            "DELETE FROM journal_entries WHERE seq > $1 AND seq <= $2 "
            "AND state IN ('done', 'failed') AND (finished_ns < $3 OR seq < $4)"
        ),
        (after_seq, upto, before_ns, below_seq),
    )
    return upto, count


def sweep_events(after_seq: int, before_ns: int, below_seq: int) -> Operation[tuple[int, int]]:
    """As `sweep_entries`; the log is only ever cut off at its old end."""
    [(upto, oldest_ns)] = yield (
        _LOOK_AT.format(time="time_ns", table="journal_events"),
        (
            after_seq,
            _WINDOW,
        ),
    )
    if upto is None or (oldest_ns >= before_ns and after_seq + 1 >= below_seq):
        return 0, 0
    [(first_kept,)] = yield (
        (
            "SELECT min(seq) FROM journal_events WHERE seq > $1 AND seq <= $2 AND time_ns >= $3 "
            "AND seq >= $4"
        ),
        (after_seq, upto, before_ns, below_seq),
    )
    cut = upto if first_kept is None else first_kept - 1
    count: int = yield "DELETE FROM journal_events WHERE seq <= $1", (cut,)
    if count:
        yield SET_META, ("swept", str(cut))
    return (upto if first_kept is None else 0), count
