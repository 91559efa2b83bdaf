"""Runs the command line as its users do, as a process, and faster: inside this one."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest
import structlog
from typer.testing import CliRunner

from . import sample

HERE = Path(__file__).parent
TESTS = HERE.parents[1]
TIMEOUT_S = 30


class Run(Protocol):
    def __call__(
        self,
        *arguments: str,
        stdin: str | bytes = "",
        env: Mapping[str, str] | None = None,
        app: tuple[str, ...] = ...,
    ) -> subprocess.CompletedProcess[str]: ...


APP = ("-m", "app")
SAMPLE = (str(HERE / "sample.py"),)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """As after a login: nothing of the application's is set."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LLMGINE_", "OTEL_")) and not name.endswith("_API_KEY")
    }
    for name in ("NO_COLOR", "PYTHONUNBUFFERED"):
        kept.pop(name, None)
    return {**kept, "PYTHONPATH": str(TESTS), "HOME": str(tmp_path), "TERM": "xterm"}


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Run:
    """Runs the command line in an empty folder of its own."""

    def run(
        *arguments: str,
        stdin: str | bytes = "",
        env: Mapping[str, str] | None = None,
        app: tuple[str, ...] = SAMPLE,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-W", "error", *app, *arguments],
            cwd=tmp_path,
            env={**environment, **(env or {})},
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return run


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """An application that runs in this process takes over its logging."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def invoke(
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    logging_restored: None,
) -> Run:
    """As `run`, inside this process."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ.keys() - environment.keys():
        monkeypatch.delenv(name)

    def invoke(
        *arguments: str,
        stdin: str | bytes = "",
        env: Mapping[str, str] | None = None,
        app: tuple[str, ...] = SAMPLE,
    ) -> subprocess.CompletedProcess[str]:
        assert app == SAMPLE
        result = CliRunner().invoke(
            sample.cli, arguments, input=stdin, env={**environment, **(env or {})}
        )
        return subprocess.CompletedProcess(
            arguments, result.exit_code, result.stdout, result.stderr
        )

    return invoke
