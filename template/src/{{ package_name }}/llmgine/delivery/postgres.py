# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The journal in a Postgres database, for workers on several machines."""

from __future__ import annotations

import asyncio
import inspect
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib import import_module
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..errors import BusError, JournalError, MissingExtraError
from . import _sql_sweep, sql
from ._sql_journal import SqlJournal
from .journal import Entry, Outcome
from .sql import Dialect, Operation, Write

T = TypeVar("T")

# Any numbers, as long as nothing else in the database takes the same advisory locks.
_LOCK = "SELECT pg_advisory_xact_lock(1819045223, {number})"

POSTGRES = Dialect(
    number="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    counter="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    # Not `to_regclass`: it does not see what another process has just committed.
    has_meta="""
        SELECT 1 FROM pg_tables
        WHERE tablename = 'journal_meta' AND schemaname = ANY (current_schemas(false))
    """,
    lock_schema=_LOCK.format(number=1),
    # Two claims at once would each see the other's entry of a key as nobody's, and part the key.
    lock_claims=_LOCK.format(number=2),
    # A cursor is drawn before its transaction commits. Without the lock a later one could commit
    # first, and who read that would never see the earlier one.
    lock_events=_LOCK.format(number=3),
    lock_rows="FOR UPDATE SKIP LOCKED",
    used_bytes="""
        SELECT pg_total_relation_size('journal_entries') + pg_total_relation_size('journal_events')
    """,
    # Appending does not take the lock of the claims.
    keys_when_claimed=True,
)

# How long an operation is tried again when the server is away.
RETRY_S = 5.0
CONNECT_TIMEOUT_S = 5.0
# The server gives up a statement after that time, or a transaction that its client forgot.
STATEMENT_TIMEOUT_S = 30
# Operations that share a transaction at most, so that none waits long for the others.
GROUP = 128
_CHANNEL = "llmgine_journal"
_LAST_WORDS = "SELECT CAST(pg_current_xact_id_if_assigned() AS TEXT)"
_TELL = f"{_LAST_WORDS}, pg_notify('{_CHANNEL}', $1)"

# By the class of the error's code. Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
_AWAY = ("08", "57P01", "57P02", "57P03", "53300")
_AGAIN = ("40001", "40P01")
_FAILURES = {
    "28": ("refuses this user", "Check the user and the password in its address"),
    "3D000": ("does not exist", "Create it, or correct its name in the address"),
    "42501": ("refuses this user", "Let the user create and write tables in it"),
    "25006": ("cannot be written", "Give the address of the primary server"),
    "53100": ("cannot grow", "Nothing was changed. Free some space on its disk"),
    "57014": ("took too long", "See what locks its tables or slows the server, then try again"),
    "XX": ("is damaged", "Look at the server's log, and restore a backup"),
}
_UNREACHABLE = "See that the server runs and that its address is right"


@cache
def _asyncpg() -> Any:
    try:
        return import_module("asyncpg")
    except ImportError as cause:
        raise MissingExtraError("The Postgres journal", "postgres") from cause


def _refusals() -> tuple[type[Exception], ...]:
    """All that the server, the connection or the network may raise."""
    library = _asyncpg()
    # The internal one is raised by a connection that the server ended between two statements.
    return (
        *(library.PostgresError, library.InterfaceError),
        *(library.exceptions.InternalClientError, OSError),
    )


def _code(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", None) or "")


def _is_away(error: BaseException) -> bool:
    """Whether the connection is lost, or was refused for a while."""
    if isinstance(error, _asyncpg().InterfaceError):
        return "closed" in str(error) or "connection" in str(error)
    lost = (OSError, _asyncpg().exceptions.InternalClientError)
    return isinstance(error, lost) or _code(error).startswith(_AWAY)


class _WriteError(Exception):
    """What the user wanted written could not be; the cause says why."""


class _CommitUnknownError(Exception):
    """The connection was lost while the transaction was committed."""

    def __init__(self, xid: str, results: Sequence[Any]) -> None:
        self.xid = xid
        self.results = results
        super().__init__(xid)


async def run(connection: Any, operation: Operation[T]) -> T:
    """Bring an operation to its end, inside the transaction that the connection is in."""
    answer: Any = None
    try:
        while True:
            step = operation.send(answer)
            if not isinstance(step, tuple):
                await _write(connection, step)
                answer = None
            elif _gives_rows(step[0]):
                answer = await connection.fetch(step[0], *step[1])
            else:
                _, _, count = (await connection.execute(step[0], *step[1])).rpartition(" ")
                answer = int(count) if count.isdigit() else 0
    except StopIteration as end:
        result: T = end.value
        return result


@lru_cache(256)
def _gives_rows(statement: str) -> bool:
    return statement.lstrip().startswith("SELECT") or "RETURNING" in statement


async def _write(connection: Any, write: Write) -> None:
    try:
        written = write(connection)
        if inspect.isawaitable(written):
            await written
    except Exception as error:
        # What is no fault of the writing: that the connection is lost, or others are in the way.
        if not isinstance(error, OSError) and (_is_away(error) or _code(error) in _AGAIN):
            raise
        raise _WriteError from error
    if not connection.is_in_transaction():
        raise _WriteError from BusError(
            f"{write!r} ended the transaction it was called in. Leave that to the journal."
        )


def _place(url: str) -> str:
    """Where the database is, without the login. Raises: JournalError: the address is none."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if "@" not in parts.path:
            return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
    raise JournalError(
        "The address of the Postgres journal cannot be read. Write it as "
        "postgresql://user:password@host:5432/database, and what is special in the user and the "
        "password as %XX: / is %2F, # is %23, @ is %40."
    )


@dataclass(slots=True)
class _Job:
    begin: Callable[[], Operation[Any]]
    future: asyncio.Future[Any]
    tells: bool


class PostgresJournal(SqlJournal):
    """A `Journal` in a database that workers on several machines use at once.

    An operation whose connection is lost is run again for some seconds. If it was lost in the
    middle of a commit, the server is asked what became of that, so nothing is done twice.
    """

    dialect = POSTGRES

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        """`pool_size`: connections at most; one more listens."""
        self._url = url
        self._name = _place(url)
        self._pool_size = pool_size
        self._pool: Any = None
        self._me = uuid.uuid4().hex
        self._jobs: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        # Settlements that were lost in a commit while the server went away.
        self._unknown: dict[Hashable, _CommitUnknownError] = {}

    async def open(self) -> None:
        if self._closed:
            raise self._is_closed()
        if self._pool is None:
            self._pool = _asyncpg().create_pool(
                self._url, min_size=0, max_size=self._pool_size, **_OPTIONS
            )
            await self._pool
        await self._run(partial(sql.refuse_newer, POSTGRES, self._name))
        self.node = await self._run(partial(sql.migrate, POSTGRES, self._name))
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._write_groups(), name="journal writer"),
                asyncio.create_task(self._listen(), name="journal listener"),
            ]

    async def aclose(self) -> None:
        self._closed = True
        self._changed.set()
        self._arrived.set()
        if self._tasks:
            writer, listener = self._tasks
            listener.cancel()
            await asyncio.wait([writer, listener])
        if self._pool is not None:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._pool.close()
            except _refusals():
                self._pool.terminate()

    async def check(self) -> str:
        await self._run(sql.probe)
        size_bytes = await self._run(partial(_sql_sweep.used_bytes, POSTGRES))
        version = await self._run(_version)
        return f"PostgreSQL {version}, {self._name}, {size_bytes / 1e6:.1f} MB"

    async def changed(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        self._changed.clear()

    async def settle(self, entry: Entry, outcome: Outcome) -> bool:
        key = (entry.id, entry.owner, entry.attempt)
        if (unknown := self._unknown.get(key)) is not None:
            committed = await self._explained(partial(self._was_committed, unknown))
            del self._unknown[key]
            if committed:
                return True
        try:
            return await super().settle(entry, outcome)
        except JournalError as error:
            if isinstance(error.__cause__, _CommitUnknownError):
                self._unknown[key] = error.__cause__
            raise

    async def _run(
        self, begin: Callable[[], Operation[T]], *, grouped: bool = False, tells: bool = False
    ) -> T:
        if self._closed or self._pool is None:
            raise self._is_closed()
        if grouped:
            future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            self._jobs.append(_Job(begin, future, tells))
            self._arrived.set()
            return await future
        results = await self._explained(partial(self._insist, [begin], tells))
        only: T = results[0]
        return only

    def _is_closed(self) -> JournalError:
        return JournalError(f"The journal {self._name} is not open; it takes no calls.")

    async def _write_groups(self) -> None:
        while self._jobs or not self._closed:
            if not self._jobs:
                self._arrived.clear()
                await self._arrived.wait()
            group = [self._jobs.popleft() for _ in range(min(GROUP, len(self._jobs)))]
            if group:
                await self._run_group(group)

    async def _run_group(self, jobs: Sequence[_Job]) -> None:
        """Give each job its result or its error: in one transaction, or else each in its own."""
        begins, tells = [job.begin for job in jobs], any(job.tells for job in jobs)
        try:
            results = await self._explained(partial(self._insist, begins, tells))
        except Exception as error:
            cause = error.__cause__
            away = isinstance(error, JournalError) and (
                isinstance(cause, _CommitUnknownError) or (cause is not None and _is_away(cause))
            )
            # With the server away, each of them would only wait for it again.
            if len(jobs) > 1 and not away:
                for job in jobs:
                    await self._run_group([job])
                return
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error)
        else:
            for job, result in zip(jobs, results, strict=True):
                if not job.future.done():
                    job.future.set_result(result)

    async def _explained(self, work: Callable[[], Awaitable[T]]) -> T:
        """Turn what Postgres and the network raise into a `JournalError` that says what to do."""
        try:
            return await work()
        except _WriteError as error:
            raise error.__cause__ or error from None
        except _CommitUnknownError as error:
            raise JournalError(
                f"The journal {self._name} went away during a commit. {_UNREACHABLE}; what was "
                "committed is seen when it is back."
            ) from error
        except _refusals() as error:
            code = _code(error)
            state, advice = next(
                (found for prefix, found in _FAILURES.items() if code.startswith(prefix)),
                ("failed", "Look at the error in brackets"),
            )
            if _is_away(error):
                state, advice = "cannot be reached", _UNREACHABLE
            details = " ".join(str(error).split()) or type(error).__name__
            raise JournalError(
                f"The journal {self._name} {state} ({details}). {advice}."
            ) from error

    async def _insist(
        self, begins: Sequence[Callable[[], Operation[Any]]], tells: bool
    ) -> Sequence[Any]:
        """The results of the operations, in one transaction, tried again while it is of use."""
        deadline, wait_s = time.monotonic() + RETRY_S, 0.02
        while True:
            try:
                results = await self._transact(begins, tells)
            except _CommitUnknownError as unknown:
                if await self._was_committed(unknown):
                    results = unknown.results
                    break
            except Exception as error:
                again = _is_away(error) or _code(error) in _AGAIN
                if not again or time.monotonic() > deadline:
                    raise
            else:
                break
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, 0.5)
        if tells:
            self._changed.set()
        return results

    async def _transact(
        self, begins: Sequence[Callable[[], Operation[Any]]], tells: bool
    ) -> Sequence[Any]:
        """Raises: _CommitUnknownError: the connection was lost in the commit."""
        async with self._connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                results = [await run(connection, begin()) for begin in begins]
                if tells:
                    xid = await connection.fetchval(_TELL, self._me)
                else:
                    xid = await connection.fetchval(_LAST_WORDS)
            except BaseException:
                with suppress(*_refusals()):
                    await transaction.rollback()
                raise
            try:
                await transaction.commit()
            except Exception as error:
                if xid is None or not _is_away(error):
                    raise
                raise _CommitUnknownError(xid, results) from error
        return results

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        connection = await self._pool.acquire(timeout=CONNECT_TIMEOUT_S)
        try:
            yield connection
        except BaseException as error:
            if isinstance(error, _CommitUnknownError) or _is_away(error):
                with suppress(*_refusals()):  # The pool may have noticed first.
                    connection.terminate()
            raise
        finally:
            # What becomes of the connection must not hide what became of the transaction.
            with suppress(*_refusals()):
                await self._pool.release(connection, timeout=CONNECT_TIMEOUT_S)

    async def _was_committed(self, unknown: _CommitUnknownError) -> bool:
        """Raises: _CommitUnknownError: the server did not come back in time to say."""
        deadline = time.monotonic() + RETRY_S
        while True:
            try:
                async with self._connection() as connection:
                    status = await connection.fetchval(
                        "SELECT pg_xact_status(CAST(CAST($1 AS TEXT) AS xid8))", unknown.xid
                    )
            except Exception as error:
                if not _is_away(error):
                    raise
            else:
                # The server may not have noticed yet that the connection is lost.
                if status != "in progress":
                    return bool(status == "committed")
            if time.monotonic() > deadline:
                raise unknown
            await asyncio.sleep(0.1)

    async def _listen(self) -> None:
        """Hear what other processes tell; while the server is away, try again."""
        while True:
            with suppress(*_refusals()):
                connection = await _asyncpg().connect(self._url, **_OPTIONS)
                try:
                    lost = asyncio.Event()
                    connection.add_termination_listener(lambda _, lost=lost: lost.set())
                    await connection.add_listener(_CHANNEL, self._hear)
                    self._changed.set()  # Nobody was listening until now.
                    await lost.wait()
                finally:
                    connection.terminate()
            await asyncio.sleep(0.5)

    def _hear(self, _connection: object, _pid: int, _channel: str, who: str) -> None:
        if who != self._me:
            self._changed.set()


_OPTIONS = {
    "timeout": CONNECT_TIMEOUT_S,
    "command_timeout": STATEMENT_TIMEOUT_S + 5,
    "server_settings": {
        "application_name": "llmgine",
        # What the database says is committed is on its disk, whatever the server's own setting is.
        "synchronous_commit": "on",
        "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
        "idle_in_transaction_session_timeout": f"{STATEMENT_TIMEOUT_S}s",
    },
}


def _version() -> Operation[str]:
    rows = yield "SELECT current_setting('server_version')", ()
    return str(rows[0][0]).split()[0]
