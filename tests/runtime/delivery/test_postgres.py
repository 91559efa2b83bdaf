"""What is special about the journal in Postgres: the connections, and what may become of them."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.llmgine.delivery.postgres import PostgresJournal
from app.llmgine.errors import JournalError
from runtime.delivery.journal_contract import claimed, entry, ids, outcome, told
from servers import PostgresServer


@pytest.fixture
async def journal(postgres_server: PostgresServer) -> AsyncIterator[PostgresJournal]:
    journal = PostgresJournal(postgres_server.fresh_url())
    await journal.open()
    yield journal
    await journal.aclose()


async def test_what_has_a_key_is_owned_only_by_a_claim(journal: PostgresJournal) -> None:
    became = await journal.append([entry(key="k"), entry()], owner="me")

    assert became == ["queued", "owned"]


async def test_lost_connections_are_made_anew(
    journal: PostgresJournal, postgres_server: PostgresServer
) -> None:
    await journal.append([entry()])
    await asyncio.to_thread(postgres_server.disconnect_clients)

    assert await journal.append([entry()]) == ["queued"]
    assert len(await claimed(journal)) == 2


async def test_everything_is_done_once_while_connections_are_lost(
    journal: PostgresJournal, postgres_server: PostgresServer
) -> None:
    async def work(number: int) -> None:
        def write(connection: Any) -> Any:
            return connection.execute("INSERT INTO effects VALUES ($1)", number)

        one = entry()
        assert await journal.append([one], owner="me") == ["owned"]
        one.owner, one.attempt = "me", 1
        settled = await journal.settle(one, outcome("done", events=[told()], writes=[write]))
        assert settled

    def create(connection: Any) -> Any:
        return connection.execute("CREATE TABLE effects (number BIGINT)")

    await journal.append([], writes=[create])
    working = asyncio.gather(*(work(number) for number in range(1200)))
    for _ in range(5):
        await asyncio.to_thread(postgres_server.disconnect_clients)
        await asyncio.wait([working], timeout=0.3)
    await working

    found: list[Any] = []

    async def read(connection: Any) -> None:
        found.extend(await connection.fetch("SELECT number FROM effects"))

    await journal.append([], writes=[read])
    assert sorted(row[0] for row in found) == list(range(1200))
    assert len((await journal.read(0, limit=2000)).events) == 1200


async def test_a_killed_server_loses_nothing_that_was_accepted() -> None:
    with PostgresServer() as server:
        journal = PostgresJournal(server.fresh_url())
        await journal.open()
        entries = [entry() for _ in range(400)]
        appending = asyncio.gather(
            *(journal.append([one]) for one in entries), return_exceptions=True
        )
        await asyncio.wait([appending], timeout=0.05)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        became = await appending

        assert all(one == ["queued"] or isinstance(one, JournalError) for one in became)
        kept = set(ids(await journal.find(["ready"], limit=1000)))
        accepted = {e.id for e, one in zip(entries, became, strict=True) if one == ["queued"]}
        assert accepted <= kept
        await journal.aclose()


async def test_a_server_that_is_away_is_an_error_until_it_is_back() -> None:
    with PostgresServer() as server:
        journal = PostgresJournal(server.fresh_url())
        await journal.open()
        await asyncio.to_thread(server.kill)

        with pytest.raises(JournalError, match=r"127\.0\.0\.1:\d+/d1\S+ cannot be reached.*runs"):
            await journal.append([entry()])
        await asyncio.to_thread(server.start)

        assert await journal.append([entry()]) == ["queued"]
        waiting = asyncio.ensure_future(journal.changed(60))
        other = PostgresJournal(server.through(server.port, journal._url))
        await other.open()
        while not waiting.done():  # Until the listener is back.
            await other.append([entry()])
            await asyncio.wait([waiting], timeout=0.1)
        await other.aclose()
        await journal.aclose()


async def test_a_missing_database_is_explained(postgres_server: PostgresServer) -> None:
    url = postgres_server.url.replace("postgres@", "postgres:secret@") + "_none"
    journal = PostgresJournal(url)

    with pytest.raises(JournalError, match=r"postgres_none does not exist.*Create it") as raised:
        await journal.open()
    await journal.aclose()

    assert "secret" not in str(raised.value)


async def test_an_unknown_user_is_explained(postgres_server: PostgresServer) -> None:
    journal = PostgresJournal(postgres_server.url.replace("postgres@", "nobody@"))

    with pytest.raises(JournalError, match=r"refuses this user.*Check the user"):
        await journal.open()
    await journal.aclose()


async def test_a_newer_journal_is_left_alone(postgres_server: PostgresServer) -> None:
    url = postgres_server.fresh_url()
    journal = PostgresJournal(url)
    await journal.open()
    await journal.append(
        [], writes=[lambda connection: connection.execute("UPDATE journal_meta SET value = 99")]
    )
    await journal.aclose()

    newer = PostgresJournal(url)
    with pytest.raises(JournalError, match=r"has schema version 99.*Update"):
        await newer.open()
    await newer.aclose()


async def test_two_that_append_the_same_in_turn_both_get_on(
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.fresh_url()
    one, other = PostgresJournal(url), PostgresJournal(url)
    await one.open()
    await other.open()
    entries = [entry() for _ in range(100)]

    became = await asyncio.gather(
        one.append(entries), other.append(entries[::-1]), one.append(entries[::-1])
    )

    assert sum(each.count("queued") for each in became) == 100
    await one.aclose()
    await other.aclose()


@pytest.mark.parametrize("library", ["asyncpg", "sqlite3"])
def test_the_libraries_are_imported_when_they_are_needed(library: str) -> None:
    code = (
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "import app.llmgine.delivery, app.llmgine.delivery.journal\n"
        "from app.llmgine.errors import MissingExtraError\n"
        "if sys.argv[1] == 'asyncpg':\n"
        "    import asyncio\n"
        "    try: asyncio.run(app.llmgine.delivery.PostgresJournal('postgresql://h/d').open())\n"
        "    except MissingExtraError as error: print(error)\n"
    )
    tests = Path(__file__).parents[2]

    done = subprocess.run(
        [sys.executable, "-c", code, library],
        cwd=tests,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    assert ("uv sync --extra postgres" in done.stdout) == (library == "asyncpg")


@pytest.mark.parametrize("password", ["pa#s3cret", "s3[cret", "12/s3cret"])
def test_an_address_that_cannot_be_read_is_told_without_the_password(password: str) -> None:
    with pytest.raises(JournalError, match="%23") as told:
        PostgresJournal(f"postgresql://u:{password}@h/db")

    assert "s3" not in str(told.value)
