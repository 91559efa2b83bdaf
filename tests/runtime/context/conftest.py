"""The stores under test, each made anew."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.llmgine.context import ContextStore, MemoryStore, SQLiteStore


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ContextStore]:
    opened: ContextStore = (
        MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "app.db")
    )
    yield opened
    await opened.aclose()
