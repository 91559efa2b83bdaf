# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Fixtures for pytest. Load them in the `conftest.py` of your tests:

pytest_plugins = ["<your package>.llmgine.testing.plugin"]
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

from ..llm.provider import Provider
from ..llm.providers.cassette import CassetteProvider
from ..llm.providers.scripted import ScriptedProvider
from . import network

Providers: TypeAlias = Mapping[str, Callable[[], Provider]]


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails every test that reaches beyond this machine; a fixture of the same name replaces it.

    A test that records a cassette is let through.
    """
    if _recording() and "cassette" in request.fixturenames:
        yield
        return
    with network.no_network():
        yield


@pytest.fixture
def scripted_model() -> Iterator[ScriptedProvider]:
    """A model without steps yet: `scripted_model.add(...)`. Steps left over fail the test."""
    model = ScriptedProvider()
    yield model
    model.assert_complete()


@pytest.fixture
def cassette(request: pytest.FixtureRequest) -> Iterator[Callable[[Providers], Providers]]:
    """`bootstrap(settings, providers=cassette(default_providers(settings)))` replays their answers.

    They lie in `cassettes/<test module>/<test>.<provider>.jsonl` beside the test. What is missing
    there is recorded with LLMGINE_RECORD=1, but never in CI. Recordings left over fail the test.
    """
    folder = request.path.parent / "cassettes" / request.path.stem
    stem = re.sub(r"[^\w.-]+", "-", request.node.name)
    made: dict[Path, CassetteProvider] = {}

    def wrap(name: str, inner: Callable[[], Provider]) -> Callable[[], Provider]:
        path = folder / f"{stem}.{name}.jsonl"

        def make() -> CassetteProvider:
            if path not in made:
                made[path] = CassetteProvider(path, inner, "auto" if _recording() else "replay")
            return made[path]

        return make

    yield lambda providers: {name: wrap(name, inner) for name, inner in providers.items()}
    for model in made.values():
        model.assert_complete()


def _recording() -> bool:
    return os.environ.get("LLMGINE_RECORD", "") not in {"", "0"}
