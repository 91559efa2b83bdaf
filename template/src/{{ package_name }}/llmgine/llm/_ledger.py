# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The ledger's table in a SQLite file, which may be shared with the other stores."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from datetime import date, timedelta
from operator import add
from pathlib import Path
from typing import NamedTuple

from ..errors import StoreError
from ..sqlite_file import make_file, set_wal, transaction

# What is older is forgotten: a session that goes on after so long a pause begins at zero.
KEPT_DAYS = 90
BUSY_TIMEOUT_S = 5.0

# Migration n brings the table from version n - 1 to n. Append only: files that ran the old ones
# are out there. Amounts are in units of 1e-12 USD.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE llm_spent (
            scope TEXT, key TEXT, day TEXT,
            calls INTEGER NOT NULL, usd INTEGER NOT NULL, tokens INTEGER NOT NULL,
            estimated_usd INTEGER NOT NULL, unpriced INTEGER NOT NULL,
            open_calls INTEGER NOT NULL, reserved_usd INTEGER NOT NULL,
            reserved_tokens INTEGER NOT NULL,
            PRIMARY KEY (scope, key, day)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX llm_spent_by_day ON llm_spent (day, scope)",
    ),
)

Account = tuple[str, str, str]
"""Scope, key and day; the key of the scope `day` is ''."""


class Sums(NamedTuple):
    """What one account holds, or a change of it: spent first, then reserved by open calls."""

    calls: int = 0
    usd: int = 0
    tokens: int = 0
    estimated_usd: int = 0
    unpriced: int = 0
    open_calls: int = 0
    reserved_usd: int = 0
    reserved_tokens: int = 0

    def plus(self, other: Sums) -> Sums:
        return Sums(*map(add, self, other))


def open_ledger(path: Path | None) -> sqlite3.Connection:
    """The file with our table, made if it is not there; without a path, one in memory.

    A file that is not ours to write (not a database, damaged, newer) is left as it is.
    """
    if path is not None:
        make_file(path)
    connection = sqlite3.connect(path or ":memory:", timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        _refuse_newer(connection)
        set_wal(connection, time.monotonic() + BUSY_TIMEOUT_S)
        # The disk is not waited for: only a power cut can undo a commit.
        connection.execute("PRAGMA synchronous = NORMAL")
        with transaction(connection):
            _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    version = _refuse_newer(connection)
    if version == len(MIGRATIONS):
        return
    connection.execute("CREATE TABLE IF NOT EXISTS llm_meta (version INTEGER NOT NULL)")
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute("DELETE FROM llm_meta")
    connection.execute("INSERT INTO llm_meta VALUES (?)", (len(MIGRATIONS),))


def _refuse_newer(connection: sqlite3.Connection) -> int:
    """The version of the table, 0 if there is none."""
    # Not `user_version`: that is the context store's, in the same file.
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'llm_meta'").fetchone():
        return 0
    (version,) = connection.execute("SELECT max(version) FROM llm_meta").fetchone()
    if version > len(MIGRATIONS):
        raise StoreError(
            f"The budget ledger has schema version {version}; this application knows version "
            f"{len(MIGRATIONS)} and leaves it alone. Update the application, or choose another "
            "LLMGINE_DATA_DIR."
        )
    return int(version)


def prune(connection: sqlite3.Connection, today: date) -> None:
    oldest = (today - timedelta(days=KEPT_DAYS)).isoformat()
    with transaction(connection):
        connection.execute("DELETE FROM llm_spent WHERE day < ?", (oldest,))


def read(connection: sqlite3.Connection, scope: str, key: str, day: str) -> Sums:
    """Of that day, but of a session, over all its days."""
    row = connection.execute(
        """
        SELECT coalesce(sum(calls), 0), coalesce(sum(usd), 0), coalesce(sum(tokens), 0),
            coalesce(sum(estimated_usd), 0), coalesce(sum(unpriced), 0),
            coalesce(sum(open_calls), 0), coalesce(sum(reserved_usd), 0),
            coalesce(sum(reserved_tokens), 0)
        FROM llm_spent WHERE scope = ?1 AND key = ?2 AND (?1 = 'session' OR day = ?3)
        """,
        (scope, key, day),
    ).fetchone()
    return Sums(*row)


def most_spent(connection: sqlite3.Connection, scope: str, day: str, limit: int) -> list[str]:
    """The keys of those that spent most that day, what is reserved for them included."""
    rows = connection.execute(
        """
        SELECT key FROM llm_spent WHERE day = ? AND scope = ?
        ORDER BY usd + reserved_usd DESC, tokens + reserved_tokens DESC, key LIMIT ?
        """,
        (day, scope, limit),
    ).fetchall()
    return [str(key) for (key,) in rows]


def change(connection: sqlite3.Connection, changes: Mapping[Account, Sums]) -> None:
    """Add to each account, within a transaction."""
    connection.executemany(
        """
        INSERT INTO llm_spent VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (scope, key, day) DO UPDATE SET
            calls = calls + excluded.calls,
            usd = usd + excluded.usd,
            tokens = tokens + excluded.tokens,
            estimated_usd = estimated_usd + excluded.estimated_usd,
            unpriced = unpriced + excluded.unpriced,
            open_calls = open_calls + excluded.open_calls,
            reserved_usd = reserved_usd + excluded.reserved_usd,
            reserved_tokens = reserved_tokens + excluded.reserved_tokens
        """,
        [(*account, *sums) for account, sums in changes.items()],
    )


def book(connection: sqlite3.Connection, changes: Mapping[Account, Sums]) -> None:
    with transaction(connection):
        change(connection, changes)
