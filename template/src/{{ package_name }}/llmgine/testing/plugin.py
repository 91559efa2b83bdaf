# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Fixtures for pytest. Load them in the `conftest.py` of your tests:

pytest_plugins = ["<your package>.llmgine.testing.plugin"]
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..llm.providers.scripted import ScriptedProvider
from . import network


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Fails every test that reaches beyond this machine; a fixture of the same name replaces it."""
    with network.no_network():
        yield


@pytest.fixture
def scripted_model() -> Iterator[ScriptedProvider]:
    """A model without steps yet: `scripted_model.add(...)`. Steps left over fail the test."""
    model = ScriptedProvider()
    yield model
    model.assert_complete()
