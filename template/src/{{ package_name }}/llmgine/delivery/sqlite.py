# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The journal in one SQLite file, beside the context store if the two share it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from ..errors import BusError, JournalError
from ..sqlite_file import FAILURES, error_kind, explained, make_file, set_wal
from . import _sql_sweep, sql
from ._sql_journal import SqlJournal
from .sql import Dialect, Operation

T = TypeVar("T")

SQLITE = Dialect(
    number="INTEGER PRIMARY KEY",
    counter="INTEGER PRIMARY KEY AUTOINCREMENT",
    has_meta="SELECT 1 FROM sqlite_master WHERE name = 'journal_meta'",
    # One transaction writes at a time, so nothing needs a lock of its own.
    lock_schema="",
    lock_claims="",
    lock_events="",
    lock_rows="",
    used_bytes="""
        SELECT (page_count - freelist_count) * page_size
        FROM pragma_page_count, pragma_freelist_count, pragma_page_size
    """,
    keys_when_claimed=False,
)

# How often to look whether another process changed something.
POLL_S = 0.1
# Files up to this size are checked at each start, which costs 2 ms for each MB.
QUICK_CHECK_BYTES = 64_000_000
# Operations that share a transaction at most, so that none waits long for the others.
GROUP = 512
# A transaction takes a millisecond or two; SQLite itself would look again after up to 100.
BUSY_POLL_S = 0.001


class _WriteError(Exception):
    """What the user wanted written could not be; the cause says why."""


def run(connection: sqlite3.Connection, operation: Operation[T]) -> T:
    """Bring an operation to its end, inside the transaction that the connection is in."""
    answer: Any = None
    try:
        while True:
            step = operation.send(answer)
            if isinstance(step, tuple):
                statement, parameters = step
                done = connection.execute(_numbered(statement), parameters)
                answer = done.fetchall() if done.description else done.rowcount
            else:
                _write(connection, step)
                answer = None
    except StopIteration as end:
        result: T = end.value
        return result


@lru_cache(256)
def _numbered(statement: str) -> str:
    # To Python, `$1` is a name and not a number.
    return statement.replace("$", "?")


def _write(connection: sqlite3.Connection, write: Callable[[sqlite3.Connection], Any]) -> None:
    try:
        write(connection)
    except sqlite3.Error as error:
        if error_kind(error) in FAILURES:
            raise
        raise _WriteError from error
    except Exception as error:
        raise _WriteError from error
    if not connection.in_transaction:
        raise _WriteError from BusError(
            f"{write!r} ended the transaction it was called in. Leave that to the journal."
        )


@dataclass(slots=True)
class _Job:
    begin: Callable[[], Operation[Any]]
    future: asyncio.Future[Any]
    tells: bool
    result: Any = None
    error: BaseException | None = None


class SQLiteJournal(SqlJournal):
    """A `Journal` in a file that several processes may use at once.

    All work is done in one thread. What arrives while a transaction is written to the disk shares
    the next one. Several journals may have `:memory:` as their path; each is alone in it.
    """

    dialect = SQLITE

    def __init__(self, path: Path | str, *, busy_timeout_s: float = 5.0) -> None:
        """`busy_timeout_s`: how long to wait while another process writes."""
        self.path = path if path == ":memory:" else str(Path(path).absolute())
        self._store = _Store(str(self.path), busy_timeout_s)
        self._jobs: SimpleQueue[list[_Job] | None] = SimpleQueue()
        self._handed: list[_Job] = []
        self._thread: threading.Thread | None = None
        self._opening: asyncio.Future[None] | None = None
        self._closed = False
        self._ended: asyncio.Future[None] | None = None
        self._changed = asyncio.Event()
        self._data_version = -1

    async def open(self) -> None:
        if self._closed:
            raise self._is_closed()
        if self._thread is None:
            loop = asyncio.get_running_loop()
            self._ended = loop.create_future()
            self._thread = threading.Thread(
                target=self._work, args=(loop, self._ended), name="journal", daemon=True
            )
            self._thread.start()
        self.node = await self._run(_read_node)

    async def aclose(self) -> None:
        if self._thread is not None and not self._closed:
            self._hand_over()
            self._jobs.put(None)
        self._closed = True
        self._changed.set()
        if self._ended is not None:
            await asyncio.shield(self._ended)

    async def check(self) -> str:
        await self._run(sql.probe)
        size_bytes = await self._run(lambda: _sql_sweep.used_bytes(SQLITE))
        return f"SQLite {sqlite3.sqlite_version}, {self.path}, {size_bytes / 1e6:.1f} MB"

    async def changed(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not self._changed.is_set() and (left_s := deadline - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, POLL_S)):
                    await self._changed.wait()
            if not self._changed.is_set():
                found = await self._run(_read_data_version)
                if found != self._data_version:
                    self._data_version = found
                    break
        self._changed.clear()

    async def _run(
        self, begin: Callable[[], Operation[T]], *, grouped: bool = False, tells: bool = False
    ) -> T:
        if self._closed or self._thread is None:
            raise self._is_closed()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._handed:
            # Once for all that one turn of the loop brings: each handing over wakes the thread.
            loop.call_soon(self._hand_over)
        self._handed.append(_Job(begin, future, tells))
        return await future

    def _hand_over(self) -> None:
        jobs, self._handed = self._handed, []
        if jobs:
            self._jobs.put(jobs)

    def _is_closed(self) -> JournalError:
        return JournalError(f"The journal {self.path} is not open; it takes no calls.")

    # In the thread.

    def _work(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
        go_on = True
        while go_on:
            jobs: list[_Job] = []
            more = self._jobs.get()
            with suppress(Empty):
                while more is not None:
                    jobs += more
                    if len(jobs) >= GROUP:
                        break
                    more = self._jobs.get_nowait()
            if jobs:
                self._store.run_all(jobs)
                _call(loop, self._deliver, jobs)
            go_on = more is not None
        self._store.close()
        _call(loop, ended.set_result, None)

    def _deliver(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            if job.future.cancelled():
                continue
            if job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.error)
        if any(job.tells and job.error is None for job in jobs):
            self._changed.set()


def _call(
    loop: asyncio.AbstractEventLoop, callback: Callable[[Any], object], argument: Any
) -> None:
    with suppress(RuntimeError):  # The loop is closed, and nobody waits any more.
        loop.call_soon_threadsafe(callback, argument)


def _read_node() -> Operation[str]:
    rows = yield "SELECT value FROM journal_meta WHERE name = 'node'", ()
    return str(rows[0][0])


def _read_data_version() -> Operation[int]:
    rows = yield "PRAGMA data_version", ()
    return int(rows[0][0])


class _Store:
    """The connection, and what becomes of it when something is wrong. For one thread."""

    def __init__(self, path: str, busy_timeout_s: float) -> None:
        self._path = path
        self._files = () if path == ":memory:" else (path, f"{path}-wal")
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection | None = None
        # The file and its log, by what the file system knows them.
        self._identity: list[tuple[int, int]] = []
        self._node = ""

    def run_all(self, jobs: Sequence[_Job]) -> None:
        """Give each job its result or its error: in one transaction, or else each in its own."""
        try:
            with explained(f"The journal {self._path}", JournalError):
                connection = self._connected()
                self._begin(connection)
        except Exception as error:
            self._fail(jobs, error)
            return
        try:
            self._commit(connection, jobs)
        except Exception as error:
            if len(jobs) == 1:
                cause = error.__cause__ if isinstance(error, _WriteError) else error
                self._fail(jobs, cause or error)
                return
            for job in jobs:
                self.run_all([job])

    def _commit(self, connection: sqlite3.Connection, jobs: Sequence[_Job]) -> None:
        with explained(f"The journal {self._path}", JournalError):
            try:
                for job in jobs:
                    job.result = run(connection, job.begin())
                connection.execute("COMMIT")
            except BaseException as error:
                with suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                self._drop_if_broken(error)
                raise
            # What went to a file that is gone must not look kept.
            self._see_that_it_is_there()

    def _fail(self, jobs: Sequence[_Job], error: BaseException) -> None:
        for job in jobs:
            job.error = error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            again = bool(self._node)
            if again:
                self._see_that_it_is_there()
            connection, node = open_database(self._path, self._busy_timeout_s, new=not again)
            if again and node != self._node:
                connection.close()
                raise JournalError(
                    f"The journal {self._path} was overwritten while it was open. Restart the "
                    "application to work with what is there."
                )
            self._connection, self._node = connection, node
            self._identity = self._find(self._files)
        return self._connection

    def _begin(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                if error_kind(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    self._drop_if_broken(error)
                    raise
                time.sleep(BUSY_POLL_S)
            else:
                return

    def _find(self, files: Sequence[str]) -> list[tuple[int, int]]:
        with suppress(FileNotFoundError):
            found = [os.stat(file) for file in files]  # noqa: PTH116  # after each commit
            return [(one.st_dev, one.st_ino) for one in found]
        return []

    def _see_that_it_is_there(self) -> None:
        """Raises: JournalError."""
        # SQLite makes a new log by itself, but would play an old one back into any other file.
        files = self._files if self._connection is not None else self._files[:1]
        if self._find(files) != self._identity[: len(files)]:
            self.close()
            raise JournalError(
                f"The journal {self._path} was deleted or replaced while it was open. Put that "
                "file back, or restart the application to work with what is there."
            )

    def _drop_if_broken(self, error: BaseException) -> None:
        """Open the file anew next time, unless there is nothing wrong with this connection."""
        fine = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)
        if (
            self._files
            and isinstance(error, sqlite3.Error)
            and error_kind(error) in FAILURES
            and error_kind(error) not in fine
        ):
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def open_database(
    path: str, busy_timeout_s: float, *, new: bool = True
) -> tuple[sqlite3.Connection, str]:
    """The file with the schema of this version, and what names it; made if it is not there.

    A file that is not ours to write (not a database, damaged, newer) is left as it is.
    """
    if path != ":memory:" and new:
        make_file(Path(path))
    suspicious = path != ":memory:" and _is_suspicious(path)
    connection = sqlite3.connect(
        path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
    )
    try:
        run(connection, sql.refuse_newer(SQLITE, path))
        set_wal(connection, time.monotonic() + busy_timeout_s)
        # FULL waits for the disk at each commit; NORMAL would lose entries in a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        # What is deleted is overwritten where that costs no more writing.
        connection.execute("PRAGMA secure_delete = FAST")
        if suspicious:
            _quick_check(connection)
        connection.execute("BEGIN IMMEDIATE")
        node = run(connection, sql.migrate(SQLITE, path))
        connection.execute("COMMIT")
        # Waiting is done in `_begin`, which looks more often.
        connection.execute("PRAGMA busy_timeout = 0")
    except BaseException:
        connection.close()
        raise
    return connection, node


def _is_suspicious(path: str) -> bool:
    """Whether it may have been left in the middle of something, or is cheap to check."""
    return Path(f"{path}-wal").exists() or Path(path).stat().st_size < QUICK_CHECK_BYTES


def _quick_check(connection: sqlite3.Connection) -> None:
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        damage = sqlite3.DatabaseError(found)
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damage
