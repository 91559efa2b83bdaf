"""What only the SQLite store promises: one durable file, shared, and clear about its troubles."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

from app.llmgine.context import SQLiteStore
from app.llmgine.context.sqlite import MIGRATIONS, migrate, open_database
from app.llmgine.contracts import ChatMessage
from app.llmgine.errors import StoreError

TESTS = Path(__file__).parents[2]


def said(*texts: str) -> list[ChatMessage]:
    return [ChatMessage.user(text) for text in texts]


@asynccontextmanager
async def opened(path: Path, busy_timeout_s: float = 5.0) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(path, busy_timeout_s=busy_timeout_s)
    try:
        yield store
    finally:
        await store.aclose()


@pytest.fixture
async def used(tmp_path: Path) -> Path:
    """A file with a conversation of 200 messages, closed."""
    path = tmp_path / "app.db"
    async with opened(path) as store:
        await store.append("c", said(*(f"message {i} " + "x" * 100 for i in range(200))))
    return path


# The file.


async def test_a_second_store_reads_what_the_first_one_wrote(tmp_path: Path) -> None:
    async with opened(tmp_path / "app.db") as first:
        await first.append("c", said("one"))
    async with opened(tmp_path / "app.db") as second:
        assert await second.read("c") == (ChatMessage.user("one"),)


async def test_the_file_is_made_at_first_use_in_a_folder_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "data" / "deep" / "app.db"
    async with opened(path) as store:
        assert not path.parent.exists()
        await store.check()

        assert path.exists()


async def test_the_files_are_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with opened(folder / "app.db") as store:
        await store.append("c", said("one"))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}

    assert modes == {"app.db": 0o600, "app.db-wal": 0o600, "app.db-shm": 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    with closing(open_database(tmp_path / "app.db", 1.0)) as connection:
        pragmas = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]

    full = 2
    assert pragmas == ["wal", full, 1]


async def test_what_was_deleted_stands_nowhere_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    async with opened(path) as store:
        await store.append("c", said(*["a canary in a coal mine"] * 100))
        await store.delete("c")
    files = b"".join(file.read_bytes() for file in tmp_path.iterdir())

    assert b"canary" not in files


async def test_the_newest_conversation_comes_first_even_if_the_clock_went_back(used: Path) -> None:
    with closing(sqlite3.connect(used)) as connection:
        connection.execute("UPDATE context_conversations SET appended_ns = appended_ns * 2")
        connection.commit()
    async with opened(used) as store:
        await store.append("d", said("one"))

        assert await store.conversations() == ("d", "c")


async def test_a_closed_store_leaves_no_thread_and_no_lock_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    async with opened(tmp_path / "app.db") as store:
        await store.append("c", said("one"))
        (thread,) = set(threading.enumerate()) - before
    thread.join(timeout=30)

    assert not thread.is_alive()
    assert [file.name for file in tmp_path.iterdir()] == ["app.db"]


# Its schema.


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


async def test_a_file_of_a_newer_version_is_refused_and_left_alone(used: Path) -> None:
    with closing(sqlite3.connect(used)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA user_version = 99")
    before = used.read_bytes()

    async with opened(used) as store:
        with pytest.raises(
            StoreError, match=r"schema version 99.*Update the application"
        ) as raised:
            await store.read("c")

    assert str(used) in str(raised.value)
    assert used.read_bytes() == before


def test_a_file_of_an_older_version_runs_only_the_migrations_it_has_not_seen(
    tmp_path: Path,
) -> None:
    path = tmp_path / "app.db"
    first = ["CREATE TABLE notes (text TEXT)"]
    second = ["ALTER TABLE notes ADD COLUMN day TEXT", "UPDATE notes SET day = 'monday'"]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection, [first])
        connection.execute("INSERT INTO notes VALUES ('kept')")
        migrate(connection, [first, second])

        assert connection.execute("SELECT * FROM notes").fetchall() == [("kept", "monday")]
    assert version(path) == 2


def test_a_migration_that_fails_leaves_the_file_at_its_version(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    migrations = [["CREATE TABLE one (a)"], ["CREATE TABLE two (a)", "CREATE TABLE one (a)"]]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection, migrations[:1])
        with pytest.raises(sqlite3.OperationalError, match="already exists"):
            migrate(connection, migrations)

        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("one",)]
    assert version(path) == 1


async def test_every_version_since_the_first_can_still_be_opened(tmp_path: Path) -> None:
    for number in range(len(MIGRATIONS) + 1):
        path = tmp_path / f"{number}.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            migrate(connection, MIGRATIONS[:number])
        async with opened(path) as store:
            await store.append("c", said("one"))

        assert version(path) == len(MIGRATIONS)


async def test_the_owners_own_tables_may_live_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE messages (mine TEXT)")
    async with opened(path) as store:
        await store.append("c", said("one"))

        assert await store.last_seq("c") == 1


# Its troubles.


@pytest.mark.parametrize(
    "content",
    [b"hello", b"not a database at all\n" * 500, b"SQLite format 3\x00" + b"\xff" * 8000],
    ids=["short", "long", "header only"],
)
async def test_a_file_that_is_no_database_is_named_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "app.db"
    path.write_bytes(content)
    async with opened(path) as store:
        for attempt in (store.check, lambda: store.read("c"), lambda: store.append("c", said("1"))):
            with pytest.raises(
                StoreError, match=r"Move the file away .* restore a backup"
            ) as raised:
                await attempt()
            assert str(path) in str(raised.value)

    assert path.read_bytes() == content


@pytest.mark.parametrize("where", ["schema", "rows", "end"])
async def test_a_damaged_file_is_named_and_left_alone(used: Path, where: str) -> None:
    content = bytearray(used.read_bytes())
    match where:
        case "schema":
            content[100:4096] = b"\xff" * 3996
        case "rows":
            content[4096:] = b"\xff" * (len(content) - 4096)
        case "end":
            del content[8192:]
    used.write_bytes(content)
    async with opened(used) as store:
        for attempt in (store.check, lambda: store.read("c"), lambda: store.append("c", said("1"))):
            with pytest.raises(StoreError, match=r"is damaged .* Move the file away") as raised:
                await attempt()
            assert str(used) in str(raised.value)

    assert used.read_bytes() == content


async def test_damage_far_from_what_is_read_is_found_by_the_check(used: Path) -> None:
    async with opened(used) as store:
        await store.append("d", said("one"))
    content = bytearray(used.read_bytes())
    content[-4096:] = b"\xff" * 4096
    used.write_bytes(content)
    async with opened(used) as store:
        assert await store.conversations() == ("d", "c")
        with pytest.raises(StoreError, match="is damaged"):
            await store.check()


async def test_a_message_that_this_version_cannot_read_is_named(used: Path) -> None:
    with closing(sqlite3.connect(used)) as connection:
        connection.execute(
            "UPDATE context_messages SET message = "
            '\'{"role": "user", "parts": [{"type": "hologram"}]}\' WHERE seq = 7'
        )
        connection.commit()
    async with opened(used) as store:
        with pytest.raises(StoreError, match="message of conversation 'c'") as raised:
            await store.read("c")

    assert str(used) in str(raised.value)


async def test_a_file_that_another_process_keeps_locked_is_an_error_after_the_timeout(
    used: Path,
) -> None:
    with closing(sqlite3.connect(used, isolation_level=None)) as other:
        async with opened(used, busy_timeout_s=0.05) as store:
            await store.check()
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="locked by another process") as raised:
                await store.append("c", said("one"))
            assert len(await store.read("c")) == 200
            other.execute("COMMIT")

            assert str(used) in str(raised.value)
            assert await store.append("c", said("one")) == 201


async def test_waiting_for_another_process_does_not_hold_up_the_loop(used: Path) -> None:
    with closing(sqlite3.connect(used, isolation_level=None)) as other:
        async with opened(used, busy_timeout_s=60) as store:
            other.execute("BEGIN IMMEDIATE")
            append = asyncio.create_task(store.append("c", said("one")))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not append.done()
            other.execute("COMMIT")

            assert await append == 201


async def test_a_store_goes_on_after_an_append_was_cancelled_in_the_middle(used: Path) -> None:
    with closing(sqlite3.connect(used, isolation_level=None)) as other:
        async with opened(used, busy_timeout_s=60) as store:
            await store.check()
            other.execute("BEGIN IMMEDIATE")
            running, waiting = (
                asyncio.create_task(store.append("c", said(text, text))) for text in ("one", "two")
            )
            await asyncio.sleep(0)
            running.cancel()
            waiting.cancel()
            await asyncio.gather(running, waiting, return_exceptions=True)
            other.execute("COMMIT")

            assert await store.last_seq("c") in (200, 202)
            assert await store.append("d", said("three")) == 1


async def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    async with opened(tmp_path / "data" / "app.db") as store:
        with pytest.raises(StoreError, match="choose another folder") as raised:
            await store.read("c")

    assert str(tmp_path / "data" / "app.db") in str(raised.value)


async def test_a_path_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with pytest.raises(StoreError, match="cannot be opened"):
            await store.read("c")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is not below one of root's alone, as `tmp_path` may be."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@contextmanager
def without_privileges(folder: Path) -> Iterator[None]:
    """As a user who owns the folder; root itself may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    nobody = 65534
    for path in (folder, *folder.iterdir()):
        os.chown(path, nobody, nobody)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_read_only_folder_is_an_error_that_names_the_file(folder: Path) -> None:
    path = folder / "app.db"
    folder.chmod(0o500)
    with without_privileges(folder):
        async with opened(path) as store:
            with pytest.raises(
                StoreError, match=r"cannot be opened .*Let this user write"
            ) as raised:
                await store.append("c", said("one"))

    folder.chmod(0o700)
    assert str(path) in str(raised.value)
    assert list(folder.iterdir()) == []


async def test_a_read_only_file_can_be_read_but_not_written(folder: Path) -> None:
    path = folder / "app.db"
    async with opened(path) as store:
        await store.append("c", said("one"))
    before = path.read_bytes()
    path.chmod(0o400)
    with without_privileges(folder):
        async with opened(path) as store:
            assert await store.last_seq("c") == 1
            for attempt in (store.check, lambda: store.append("c", said("two"))):
                with pytest.raises(
                    StoreError, match=r"cannot be written .*Let this user"
                ) as raised:
                    await attempt()
                assert str(path) in str(raised.value)

    assert path.read_bytes() == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_is_an_error_and_loses_nothing(small_disk: Path) -> None:
    path = small_disk / "app.db"
    taken = 0

    async def fill(store: SQLiteStore) -> None:
        nonlocal taken
        while taken < 2000:
            taken = await store.append("c", said("x" * 1000, "y" * 1000))

    async with opened(path) as store:
        with pytest.raises(StoreError, match="Free some space") as raised:
            await fill(store)

        assert str(path) in str(raised.value)
        assert taken > 0
        assert len(await store.read("c")) == taken
        await store.delete("nobody")


# Other processes.

APPENDER = """
import asyncio, sys
from app.llmgine.context import SQLiteStore
from app.llmgine.contracts import ChatMessage

async def main(path, name, times):
    store = SQLiteStore(path, busy_timeout_s=60)
    for number in range(int(times)):
        await store.append("shared", [ChatMessage.user(f"{name} {number} {half}") for half in "ab"])

asyncio.run(main(*sys.argv[1:]))
"""


def appender(path: Path, name: str, times: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(path), name, str(times)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_processes_that_open_a_new_file_at_once_all_append_to_it(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    processes = [appender(path, name, 25) for name in "xyz"]
    ends = [process.communicate(timeout=60)[1] for process in processes]
    async with opened(path) as store:
        found = [message.text for message in await store.read("shared")]

    assert ends == ["", "", ""]
    assert len(found) == 3 * 25 * 2
    for name in "xyz":
        expected = [f"{name} {number} {half}" for number in range(25) for half in "ab"]
        assert [text for text in found if text.startswith(name)] == expected
    # Both halves of an append stand together, whoever else appended.
    halves = zip(found[::2], found[1::2], strict=True)
    assert all(first[:-1] == second[:-1] for first, second in halves)


def test_a_process_that_never_closed_its_store_still_ends(tmp_path: Path) -> None:
    process = appender(tmp_path / "app.db", "x", 1)

    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0
