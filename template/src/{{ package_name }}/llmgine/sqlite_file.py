# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What every SQLite file of the runtime needs: making, WAL, transactions, failures in words."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PERMISSIONS = "Let this user write to the file and its folder, or choose another folder"
_DAMAGED = "Nothing was changed. Move the file away to begin a new one, or restore a backup of it"
FAILURES = {
    sqlite3.SQLITE_NOTADB: ("is not a SQLite database", _DAMAGED),
    sqlite3.SQLITE_CORRUPT: ("is damaged", _DAMAGED),
    sqlite3.SQLITE_BUSY: ("is locked by another process", "Close that one, or try again"),
    sqlite3.SQLITE_LOCKED: ("is locked by another process", "Close that one, or try again"),
    sqlite3.SQLITE_READONLY: ("cannot be written", _PERMISSIONS),
    sqlite3.SQLITE_PERM: ("cannot be opened", _PERMISSIONS),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", _PERMISSIONS),
    sqlite3.SQLITE_FULL: ("cannot grow", "Nothing was changed. Free some space on its disk"),
    sqlite3.SQLITE_IOERR: ("cannot be read or written", "Check its disk and the space left there"),
}


def error_kind(error: sqlite3.Error) -> int:
    """One of the keys of `FAILURES`, or another of SQLite's primary result codes."""
    # The low byte is the kind, the rest the details of it.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


@contextmanager
def explained(what: str, error_type: type[Exception]) -> Iterator[None]:
    """Turn what SQLite and the file system raise into such an error that says what to do.

    `what` names the file, as in `The journal data/app.db`.
    """
    try:
        yield
    except sqlite3.Error as error:
        state, advice = FAILURES.get(error_kind(error), ("failed", "Look at the error in brackets"))
        details = " ".join(str(error).split())
        raise error_type(f"{what} {state} ({details}). {advice}.") from error
    except OSError as error:
        raise error_type(
            f"{what} cannot be opened ({error.strerror}: {error.filename}). {_PERMISSIONS}."
        ) from error


def make_file(path: Path) -> None:
    """Make the file and its folder, for this user alone, if they are not there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Only a new file is opened here. Closing a second descriptor of a file in use would drop the
    # locks this process holds on it. Source: https://www.sqlite.org/howtocorrupt.html, 2.2.
    with suppress(FileExistsError):
        path.touch(mode=0o600, exist_ok=False)


def set_wal(connection: sqlite3.Connection, deadline: float) -> None:
    """Switch the file to its write-ahead log, until `deadline` of `time.monotonic()`."""
    # SQLite does not wait here by itself when another process is just opening the same file.
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error_kind(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and alone: other processes that write wait until it is over."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
