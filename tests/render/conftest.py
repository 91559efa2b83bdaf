"""One snapshot of the template, and each render made once and shared: the tests only read them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from render.answers import ANSWER_SETS
from rendering import render, snapshot

Rendered = Callable[[str], Path]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the working tree, which copier renders from."""
    return snapshot(tmp_path_factory.mktemp("snapshot") / "template")


@pytest.fixture(scope="session")
def rendered(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The project that the named answer set gives. Do not write into it."""

    @cache
    def of(name: str) -> Path:
        return render(template, tmp_path_factory.mktemp(name) / "project", ANSWER_SETS[name])

    return of
