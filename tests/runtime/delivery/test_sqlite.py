"""What is special about the journal in a file: the file, and what may become of it."""

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.llmgine.context import SQLiteStore
from app.llmgine.contracts import ChatMessage
from app.llmgine.delivery.sqlite import SQLiteJournal
from app.llmgine.errors import JournalError
from runtime.delivery.journal_contract import claimed, entry, ids, outcome


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "app.db"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[SQLiteJournal]:
    journal = SQLiteJournal(path, busy_timeout_s=0.2)
    await journal.open()
    yield journal
    await journal.aclose()


def move(path: Path, to: Path) -> None:
    to.parent.mkdir(exist_ok=True)
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).rename(to.with_name(to.name + end))


async def ask(journal: SQLiteJournal, statement: str) -> Any:
    """What the journal's own connection answers."""
    answers: list[Any] = []
    await journal.append(
        [], writes=[lambda connection: answers.append(connection.execute(statement).fetchone()[0])]
    )
    return answers[-1]


async def test_only_the_user_may_read_the_file(journal: SQLiteJournal, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_commit_waits_for_the_disk(journal: SQLiteJournal) -> None:
    assert await ask(journal, "PRAGMA synchronous") == 2
    assert await ask(journal, "PRAGMA journal_mode") == "wal"


@pytest.mark.parametrize("first", ["journal", "context"])
async def test_the_journal_and_the_context_store_share_a_file(path: Path, first: str) -> None:
    journal, store = SQLiteJournal(path), SQLiteStore(path)
    if first == "journal":
        await journal.open()
    await store.append("c", [ChatMessage.user("Hello")])
    await journal.open()
    await journal.append([one := entry()])

    await asyncio.gather(
        *(journal.append([entry()]) for _ in range(20)),
        *(store.append("c", [ChatMessage.user("Again")]) for _ in range(20)),
    )

    await journal.aclose()
    await store.aclose()
    again, other = SQLiteJournal(path), SQLiteStore(path)
    await again.open()
    assert ids(await again.find(["ready"]))[0] == one.id
    assert len(await again.find(["ready"])) == 21
    assert len(await other.read("c")) == 21
    await again.aclose()
    await other.aclose()


async def test_a_handler_writes_to_its_own_table_in_the_same_transaction(
    journal: SQLiteJournal,
) -> None:
    def write(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE mine (x)")
        connection.execute("INSERT INTO mine VALUES (7)")

    await journal.append([entry()])
    [taken] = await claimed(journal)
    await journal.settle(taken, outcome("done", writes=[write]))

    assert await ask(journal, "SELECT x FROM mine") == 7


async def test_a_newer_journal_is_left_alone(path: Path) -> None:
    journal = SQLiteJournal(path)
    await journal.open()
    await journal.aclose()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE journal_meta SET value = '99' WHERE name = 'version'")
        connection.commit()
    before = path.read_bytes()

    newer = SQLiteJournal(path)
    with pytest.raises(JournalError, match=r"app\.db has schema version 99.*Update"):
        await newer.open()
    await newer.aclose()

    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("Dear diary, " * 1000)
    journal = SQLiteJournal(path)

    with pytest.raises(JournalError, match=r"app\.db is not a SQLite database.*Move the file"):
        await journal.open()
    await journal.aclose()

    assert path.read_text() == "Dear diary, " * 1000


async def test_a_damaged_file_is_noticed_at_the_start(path: Path) -> None:
    journal = SQLiteJournal(path)
    await journal.open()
    await journal.append([entry(payload=f'"{number:0500}"') for number in range(400)])
    await journal.aclose()
    content = bytearray(path.read_bytes())
    content[-40_000:-20_000] = b"\x55" * 20_000
    path.write_bytes(content)

    again = SQLiteJournal(path)
    with pytest.raises(JournalError, match=r"app\.db is damaged.*restore a backup"):
        await again.open()
    await again.aclose()


async def test_a_folder_that_cannot_be_made_is_explained(path: Path) -> None:
    path.parent.write_text("a file")
    journal = SQLiteJournal(path)

    with pytest.raises(JournalError, match=r"cannot be opened.*another folder"):
        await journal.open()
    path.parent.unlink()
    await journal.open()

    assert await journal.append([entry()]) == ["queued"]
    await journal.aclose()


async def test_a_lock_is_waited_for(path: Path) -> None:
    journal = SQLiteJournal(path, busy_timeout_s=30)
    await journal.open()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        appending = asyncio.ensure_future(journal.append([entry()]))
        await asyncio.wait([appending], timeout=0.2)
        assert not appending.done()

        other.execute("ROLLBACK")

        assert await appending == ["queued"]
    await journal.aclose()


async def test_a_lock_that_stays_is_an_error_until_it_is_gone(
    journal: SQLiteJournal, path: Path
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        errors = await asyncio.gather(
            *(journal.append([entry()]) for _ in range(50)), return_exceptions=True
        )
    assert all("app.db is locked by another process" in str(one) for one in errors)

    assert await journal.append([one := entry()]) == ["queued"]
    assert ids(await journal.find(["ready"])) == [one.id]


async def test_a_full_disk_is_an_error_until_there_is_space(journal: SQLiteJournal) -> None:
    await journal.append([kept := entry()])
    pages = await ask(journal, "PRAGMA page_count")
    await ask(journal, f"PRAGMA max_page_count = {pages + 2}")
    large = [entry(payload=f'"{"x" * 9000}"') for _ in range(10)]

    errors = await asyncio.gather(*(journal.append([one]) for one in large), return_exceptions=True)
    assert any("app.db cannot grow" in str(one) for one in errors)
    assert all(isinstance(one, JournalError) or one == ["queued"] for one in errors)
    accepted = [one for one, error in zip(large, errors, strict=True) if error == ["queued"]]
    await ask(journal, "PRAGMA max_page_count = 100000")

    assert ids(await journal.find(["ready"])) == ids([kept, *accepted])
    assert (await journal.append(large)).count("queued") == len(large) - len(accepted)


async def test_a_deleted_file_is_noticed_until_it_is_back(
    journal: SQLiteJournal, path: Path, tmp_path: Path
) -> None:
    await journal.append([kept := entry()])
    move(path, tmp_path / "away" / "app.db")

    for _ in range(2):
        with pytest.raises(JournalError, match=r"app\.db was deleted or replaced.*Put that"):
            await journal.append([entry()])
    assert not path.exists()

    move(tmp_path / "away" / "app.db", path)
    await journal.append([entry()])
    assert ids(await journal.find(["ready"]))[0] == kept.id


async def test_another_file_in_its_place_is_noticed(journal: SQLiteJournal, path: Path) -> None:
    other = SQLiteJournal(path.with_name("other.db"))
    await other.open()
    await other.aclose()
    path.with_name("other.db").replace(path)

    for _ in range(2):
        with pytest.raises(JournalError, match="deleted or replaced"):
            await journal.append([entry()])


async def test_a_deleted_write_ahead_log_is_noticed(journal: SQLiteJournal, path: Path) -> None:
    path.with_name("app.db-wal").unlink()

    with pytest.raises(JournalError, match="deleted or replaced"):
        await journal.append([entry()])


async def test_one_that_fails_takes_no_other_of_its_group_along(journal: SQLiteJournal) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO journal_meta VALUES ('node', 'twice')")

    became = await asyncio.gather(
        journal.append([first := entry()]),
        journal.append([entry()], writes=[fail]),
        journal.append([last := entry()]),
        return_exceptions=True,
    )

    assert isinstance(became[1], sqlite3.IntegrityError)
    assert ids(await journal.find(["ready"])) == [first.id, last.id]


async def test_a_sweep_holds_up_nobody(journal: SQLiteJournal) -> None:
    await journal.append([entry(state="done") for _ in range(5000)])
    sweeping = asyncio.ensure_future(journal.sweep(2**62, 10**12))

    became = [await journal.append([entry()]) for _ in range(3)]

    assert became == [["queued"]] * 3
    assert not sweeping.done()
    assert await sweeping == 5000
