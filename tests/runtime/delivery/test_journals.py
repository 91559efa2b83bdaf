"""Every journal does what the contract says."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.llmgine.delivery.journal import Journal
from app.llmgine.delivery.postgres import PostgresJournal
from app.llmgine.delivery.sqlite import SQLiteJournal
from runtime.delivery.journal_contract import JournalContract, MakeJournal, SharedContract
from servers import PostgresServer


class TestSQLiteInMemory(JournalContract):
    @pytest.fixture
    async def make(self) -> AsyncIterator[MakeJournal]:
        async with AsyncExitStack() as opened:

            async def make() -> Journal:
                journal = SQLiteJournal(":memory:")
                opened.push_async_callback(journal.aclose)
                await journal.open()
                return journal

            yield make


class TestSQLite(JournalContract, SharedContract):
    @pytest.fixture
    async def make(self, tmp_path: Path) -> AsyncIterator[MakeJournal]:
        async with AsyncExitStack() as opened:

            async def make() -> Journal:
                journal = SQLiteJournal(tmp_path / "data" / "app.db")
                opened.push_async_callback(journal.aclose)
                await journal.open()
                return journal

            yield make


class TestPostgres(JournalContract, SharedContract):
    @pytest.fixture
    async def make(self, postgres_server: PostgresServer) -> AsyncIterator[MakeJournal]:
        url = postgres_server.fresh_url()
        async with AsyncExitStack() as opened:

            async def make() -> Journal:
                journal = PostgresJournal(url)
                opened.push_async_callback(journal.aclose)
                await journal.open()
                return journal

            yield make
