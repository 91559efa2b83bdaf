"""The command line as a whole: it is there at once, and every command really runs."""

import asyncio
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from app.llmgine.application import Application
from app.llmgine.interfaces.cli import build_cli, run_async
from app.llmgine.settings import RuntimeSettings

from .conftest import APP, Run

HEAVY = {"litellm", "openai", "mcp", "fastapi", "discord", "aiohttp"}
SLOW_TO_IMPORT = {"pydantic", "opentelemetry", "structlog", "rich", "prompt_toolkit", "asyncio"}


def must_not_be_called(*_: object, **__: object) -> Application:
    raise AssertionError("called without need")


def load_nothing(**_: object) -> RuntimeSettings:
    raise AssertionError("called without need")


def commands(cli: typer.Typer) -> Iterator[tuple[str, object]]:
    for command in cli.registered_commands:
        callback: object = command.callback
        yield str(command.name or getattr(callback, "__name__", "")), callback
    for group in cli.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance)


def modules_after(*arguments: str, folder: Path, environment: dict[str, str]) -> set[str]:
    """The top-level packages that a run of the real application has imported by its end."""
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv = ['app', *{list(arguments)!r}]\n"
        "from app.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}


def test_help_imports_nothing_that_is_slow(tmp_path: Path, environment: dict[str, str]) -> None:
    modules = modules_after("--help", folder=tmp_path, environment=environment)

    assert not modules & (HEAVY | SLOW_TO_IMPORT)
    assert "typer" in modules


def test_an_answer_imports_no_heavy_library(tmp_path: Path, environment: dict[str, str]) -> None:
    modules = modules_after("ask", "What time is it?", folder=tmp_path, environment=environment)

    assert not modules & (HEAVY | {"prompt_toolkit"})
    assert "pydantic" in modules


def test_help_needs_neither_settings_nor_application() -> None:
    cli = build_cli("sample", load_nothing, must_not_be_called)

    for arguments in ([], ["--help"], ["ask", "--help"], ["tools", "--help"], ["logs", "--help"]):
        done = CliRunner().invoke(cli, arguments)
        assert "Usage:" in done.output


def test_help_shows_the_exit_codes_one_on_a_line() -> None:
    done = CliRunner().invoke(build_cli("sample", load_nothing, must_not_be_called), ["--help"])

    assert re.search(r"^ +3  a setting, a key, an extra or the wiring is wrong$", done.output, re.M)
    assert re.search(r"^ +130  interrupted$", done.output, re.M)


def test_every_command_is_a_plain_function() -> None:
    """Typer calls an async function and never awaits what it returns."""
    found = dict(commands(build_cli("sample", load_nothing, must_not_be_called)))

    assert found.keys() >= {"ask", "chat", "doctor", "list", "describe", "call", "tail", "trace"}
    for name, callback in found.items():
        assert not inspect.iscoroutinefunction(callback), name


def test_an_async_command_is_awaited() -> None:
    ran = []
    cli = build_cli("sample", load_nothing, must_not_be_called)

    @cli.command()
    @run_async
    async def mine(count: int = 1) -> None:
        await asyncio.sleep(0)
        ran.append(count)

    done = CliRunner().invoke(cli, ["mine", "--count", "3"])

    assert done.exit_code == 0
    assert ran == [3]


def test_an_owners_command_fails_like_the_others() -> None:
    cli = build_cli("sample", load_nothing, must_not_be_called)

    @cli.command()
    @run_async
    async def mine() -> None:
        raise TimeoutError("too slow")

    done = CliRunner().invoke(cli, ["mine"])

    assert done.exit_code == 1
    assert "error: unexpected TimeoutError: too slow" in done.stderr


def test_a_group_of_an_owner_can_be_added() -> None:
    cli = build_cli("sample", load_nothing, must_not_be_called)
    cli.add_typer(typer.Typer(name="mine", cls=TyperGroup, help="Mine."))

    assert "mine" in CliRunner().invoke(cli, ["--help"]).output


def test_the_version_names_application_template_and_python(run: Run) -> None:
    done = run("--version", app=APP)

    assert done.returncode == 0
    assert re.fullmatch(r"app \S+ \(template \S+, Python 3\.\d+\.\d+\S*\)\n", done.stdout)


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["ask", "--nonsense"], ["ask", "one", "two"], ["tools", "call"]]
)
def test_a_wrong_command_line_is_a_usage_error(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)

    assert done.returncode == 2
    assert "Usage:" in done.stderr


def test_it_runs_wherever_it_is_called(run: Run, tmp_path: Path) -> None:
    done = run("ask", "hi", "--model", "echo", env={"LLMGINE_DATA_DIR": str(tmp_path / "a" / "b")})

    assert done.returncode == 0
    assert (tmp_path / "a" / "b" / "app.db").is_file()
