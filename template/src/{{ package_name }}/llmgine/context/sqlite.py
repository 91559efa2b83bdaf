# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Conversations in one SQLite file: an append that returned outlives a crash and a power cut."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from ..contracts import ChatMessage
from ..errors import ConversationConflictError, StoreError
from ..sqlite_file import explained, make_file, set_wal, transaction
from .store import checked

# Migration n brings a file from version n - 1 to n (`PRAGMA user_version`). Append only: files
# that ran the old ones are out there.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE context_conversations (
            id TEXT PRIMARY KEY, last_seq INTEGER NOT NULL, appended_ns INTEGER NOT NULL
        ) WITHOUT ROWID
        """,
        "CREATE INDEX context_conversations_by_time ON context_conversations (appended_ns)",
        """
        CREATE TABLE context_messages (
            conversation_id TEXT REFERENCES context_conversations (id) ON DELETE CASCADE,
            seq INTEGER,
            message TEXT NOT NULL,
            PRIMARY KEY (conversation_id, seq)
        ) WITHOUT ROWID
        """,
    ),
)


def open_database(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """The file, made if it is not there, with the schema of this version.

    A file that is not ours to write (not a database, damaged, newer) is left as it is.
    """
    make_file(path)
    connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None)
    try:
        _refuse_newer(connection, len(MIGRATIONS))
        set_wal(connection, time.monotonic() + busy_timeout_s)
        # FULL waits for the disk at each commit; NORMAL would lose appends in a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        # A deleted conversation is overwritten, not only unlinked.
        connection.execute("PRAGMA secure_delete = ON")
        migrate(connection, MIGRATIONS)
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    """Run the migrations that the file has not seen, all or none.

    Raises:
        StoreError: the file has seen more migrations than there are.
    """
    if _version(connection) == len(migrations):
        return
    with transaction(connection):
        # Asked again, now that no other process can migrate at the same time.
        _refuse_newer(connection, len(migrations))
        for statements in migrations[_version(connection) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")


def file_of(connection: sqlite3.Connection) -> str:
    _, _, path = connection.execute("PRAGMA database_list").fetchone()
    return str(path)


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _refuse_newer(connection: sqlite3.Connection, known: int) -> None:
    version = _version(connection)
    if version > known:
        raise StoreError(
            f"The context store {file_of(connection)} has schema version {version}; this "
            f"application knows version {known} and leaves it alone. Update the application, or "
            "choose another file."
        )


P = ParamSpec("P")
T = TypeVar("T")


class SQLiteStore:
    """A `ContextStore` that several processes may use at once.

    The file is opened by the first call. All work runs in one thread of the store's own, so
    waiting for the disk or for another process never holds up the event loop.
    """

    def __init__(self, path: Path | str, *, busy_timeout_s: float = 5.0) -> None:
        """`busy_timeout_s`: how long to wait while another process writes."""
        self.path = Path(path)
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="context store")
        self._closing: Future[None] | None = None

    async def append(
        self,
        conversation_id: str,
        messages: Sequence[ChatMessage],
        *,
        expected_seq: int | None = None,
    ) -> int:
        return await self._run(_append, checked(conversation_id), messages, expected_seq)

    async def read(self, conversation_id: str) -> tuple[ChatMessage, ...]:
        return await self._run(_read, checked(conversation_id))

    async def last_seq(self, conversation_id: str) -> int:
        return await self._run(_last_seq, checked(conversation_id))

    async def conversations(self) -> tuple[str, ...]:
        return await self._run(_conversations)

    async def delete(self, conversation_id: str) -> None:
        await self._run(_delete, checked(conversation_id))

    async def check(self) -> None:
        """Open the file, read every page of it, and see that it can be written.

        Costs 2 ms for each MB of the file.

        Raises:
            StoreError: something is wrong; the message says what, and what to do.
        """
        await self._run(_check)

    async def aclose(self) -> None:
        if self._closing is None:
            self._closing = self._thread.submit(self._close)
            self._thread.shutdown(wait=False)
        # Shielded: whoever gives up waiting must not keep the file open.
        await asyncio.shield(asyncio.wrap_future(self._closing))

    async def _run(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        if self._closing is not None:
            raise StoreError(f"The context store {self.path} is closed; it takes no more calls.")

        def in_thread() -> T:
            with explained(f"The context store {self.path}", StoreError):
                if self._connection is None:
                    self._connection = open_database(self.path, self._busy_timeout_s)
                return work(self._connection, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._thread, in_thread)

    def _close(self) -> None:
        if self._connection is not None:
            with explained(f"The context store {self.path}", StoreError):
                self._connection.close()


def _append(
    connection: sqlite3.Connection,
    conversation_id: str,
    messages: Sequence[ChatMessage],
    expected_seq: int | None,
) -> int:
    rows = [_to_json(message) for message in messages]
    with transaction(connection):
        last_seq = _last_seq(connection, conversation_id)
        if expected_seq is not None and expected_seq != last_seq:
            raise ConversationConflictError(
                conversation_id, expected_seq=expected_seq, actual_seq=last_seq
            )
        if not rows:
            return last_seq
        # Never the same time twice, and never back: the times alone order the conversations.
        connection.execute(
            """
            INSERT INTO context_conversations VALUES (
                ?, ?, max(?, (SELECT coalesce(max(appended_ns), 0) + 1 FROM context_conversations))
            )
            ON CONFLICT (id)
            DO UPDATE SET last_seq = excluded.last_seq, appended_ns = excluded.appended_ns
            """,
            (conversation_id, last_seq + len(rows), time.time_ns()),
        )
        connection.executemany(
            "INSERT INTO context_messages VALUES (?, ?, ?)",
            ((conversation_id, seq, row) for seq, row in enumerate(rows, last_seq + 1)),
        )
    return last_seq + len(rows)


def _last_seq(connection: sqlite3.Connection, conversation_id: str) -> int:
    row: tuple[int] | None = connection.execute(
        "SELECT last_seq FROM context_conversations WHERE id = ?", (conversation_id,)
    ).fetchone()
    return 0 if row is None else row[0]


def _read(connection: sqlite3.Connection, conversation_id: str) -> tuple[ChatMessage, ...]:
    rows = connection.execute(
        "SELECT message FROM context_messages WHERE conversation_id = ? ORDER BY seq",
        (conversation_id,),
    ).fetchall()
    try:
        return tuple(_from_json(row) for (row,) in rows)
    except ValueError as cause:
        raise StoreError(
            f"A message of conversation {conversation_id!r} in the context store "
            f"{file_of(connection)} cannot be read. A newer version of the application wrote it, "
            "or something else did: update the application, or go on in another conversation."
        ) from cause


def _conversations(connection: sqlite3.Connection) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT id FROM context_conversations ORDER BY appended_ns DESC"
    ).fetchall()
    return tuple(row[0] for row in rows)


def _delete(connection: sqlite3.Connection, conversation_id: str) -> None:
    with transaction(connection):
        connection.execute("DELETE FROM context_conversations WHERE id = ?", (conversation_id,))


def _check(connection: sqlite3.Connection) -> None:
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        damage = sqlite3.DatabaseError(found)
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damage
    with transaction(connection):
        # Written as it is: nothing changes, but the file and its disk must take it.
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _to_json(message: ChatMessage) -> str:
    try:
        return message.model_dump_json()
    except PydanticSerializationError:
        # Half of a surrogate pair, as an undecodable command-line byte leaves it.
        return json.dumps(message.model_dump(mode="json"))


def _from_json(row: str) -> ChatMessage:
    try:
        return ChatMessage.model_validate_json(row)
    except ValidationError:
        return ChatMessage.model_validate(json.loads(row))
