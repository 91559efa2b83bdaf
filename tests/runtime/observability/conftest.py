"""A log in a folder of its own, and an observer whose records can be looked at."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.llmgine.observability import MemorySink, Observer, Record


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "app.jsonl"


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def observer(sink: MemorySink) -> Observer:
    return Observer([sink])


@pytest.fixture
def span(sink: MemorySink) -> Callable[[str], Record]:
    """The one span of that name among the records."""

    def find(name: str) -> Record:
        (found,) = [r for r in sink.records if r.kind == "span" and r.name == name]
        return found

    return find
