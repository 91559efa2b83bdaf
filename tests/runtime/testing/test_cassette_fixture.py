"""A test says in one line that the application's models are cassettes."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = str(Path(__file__).parents[2])

SUITE = """
import os
import socket

import pytest

from app.llmgine.contracts import ChatMessage, LLMRequest
from app.llmgine.llm import LLMManager
from app.llmgine.testing import ScriptedProvider


@pytest.mark.parametrize("name", ["Ann", "../Bob"])
async def test_a_greeting(cassette, name):
    providers = {"scripted": lambda: ScriptedProvider([f"Hello {name}."])}
    llm = LLMManager(cassette(providers))
    request = LLMRequest(model="scripted", messages=(ChatMessage.user(name),))
    assert (await llm.complete(request)).text == f"Hello {name}."
    if os.environ.get("LLMGINE_RECORD"):
        with pytest.raises(OSError):
            socket.create_connection(("255.255.255.255", 1))
"""


def test_the_fixture_keeps_a_cassette_for_each_test_beside_it(tmp_path):
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["app.llmgine.testing.plugin"]\n')
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")

    def run(**env):
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_suite.py"],
            env={**os.environ, "PYTHONPATH": TESTS, "CI": "", "LLMGINE_RECORD": "", **env},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stdout

    assert "does not exist" in run()
    assert "2 passed" in run(LLMGINE_RECORD="1")
    assert "2 passed" in run()
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jsonl")}
    assert kept == {
        "cassettes/test_suite/test_a_greeting-Ann-.scripted.jsonl",
        "cassettes/test_suite/test_a_greeting-..-Bob-.scripted.jsonl",
    }
