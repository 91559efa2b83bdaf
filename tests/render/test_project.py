"""A generated project on its owner's machine: installed, checked, run, built, cut off."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from generated import UV, Project, own
from render.answers import DEFAULT, FULLY_TESTED
from render.conftest import Rendered
from rendering import ROOT

pytestmark = pytest.mark.timeout(900)

QUESTION = "What time is it in Tokyo?"
HEAVY = {"aiohttp", "discord", "fastapi", "litellm", "mcp", "openai"}
GUARD = Path(__file__).parent / "no_network"
OWN_NETWORK = ["unshare", "--map-root-user", "--net"]
CAN_UNSHARE = (
    shutil.which("unshare") is not None
    and not subprocess.run([*OWN_NETWORK, "true"], capture_output=True, check=False).returncode
)


@pytest.fixture(scope="module", params=FULLY_TESTED)
def project(
    request: pytest.FixtureRequest, rendered: Rendered, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A project of each kind, installed with `uv sync` alone."""
    project = own(rendered(request.param), tmp_path_factory.mktemp("project") / "app")
    project.uv("sync", "--quiet")
    return project


@pytest.fixture(scope="module")
def default(rendered: Rendered, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project that the default answers give."""
    project = own(rendered(DEFAULT), tmp_path_factory.mktemp("default") / "my agent")
    project.uv("sync", "--quiet")
    return project


@pytest.fixture(scope="module")
def bare(default: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The wheel of the default project alone in an environment, away from its source."""
    wheels = tmp_path_factory.mktemp("wheels")
    default.uv("build", "--quiet", "--wheel", "--out-dir", str(wheels))
    [wheel] = wheels.glob("*.whl")
    elsewhere = Project(tmp_path_factory.mktemp("elsewhere"))
    elsewhere.uv("venv", "--quiet", "--python", sys.executable)
    elsewhere.uv("pip", "install", "--quiet", str(wheel))
    return elsewhere


def test_its_own_checks_and_tests_pass(project: Project) -> None:
    project.tool("ruff", "format", "--check", ".")
    project.tool("ruff", "check", ".")
    project.tool("mypy")
    project.tool("pytest")


def test_it_answers_a_question_with_a_tool_and_without_a_key(project: Project) -> None:
    answer = project.app("ask", QUESTION, "--model", "offline")

    assert "Asia/Tokyo" in answer


def test_its_wheel_builds_whatever_its_names(project: Project, tmp_path: Path) -> None:
    project.uv("build", "--quiet", "--wheel", "--out-dir", str(tmp_path))

    assert [path.name.split("-")[0] for path in tmp_path.glob("*.whl")] == [project.package]


def test_its_configuration_names_the_chosen_model(project: Project) -> None:
    answers = yaml.safe_load((project.folder / ".copier-answers.yml").read_text("utf-8"))
    config = tomllib.loads(next(project.folder.glob("src/*/config.toml")).read_text("utf-8"))

    assert config["model"].endswith(answers["model"])
    assert config["context_store"] == answers["context_store"]


def test_an_installed_wheel_runs_away_from_its_source(bare: Project) -> None:
    assert "Asia/Tokyo" in bare.tool("my-agent", "ask", QUESTION)
    assert "0.1.0" in bare.tool("my-agent", "--version")


def test_the_default_install_has_at_most_32_packages(bare: Project) -> None:
    installed = json.loads(bare.uv("pip", "list", "--quiet", "--format", "json"))

    assert len(installed) <= 32, [package["name"] for package in installed]


def test_an_answer_loads_none_of_the_heavy_packages(default: Project) -> None:
    program = (
        "import sys, runpy; sys.argv = ['my-agent', 'ask', sys.argv[1]]\n"
        "try: runpy.run_module('my_agent', run_name='__main__')\n"
        "finally: print('loaded:', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    printed = default.tool("python", "-c", program, QUESTION)
    loaded = set(printed.rpartition("loaded:")[2].split())

    assert "Asia/Tokyo" in printed
    assert "pydantic" in loaded
    assert loaded & HEAVY == set()


def test_the_first_run_reaches_for_no_network(default: Project, tmp_path: Path) -> None:
    attempts = tmp_path / "attempts.txt"
    data = {"LLMGINE_DATA_DIR": str(tmp_path / "data"), "LLMGINE_LOG_DIR": str(tmp_path / "logs")}
    guard = {"PYTHONPATH": str(GUARD), "NETWORK_ATTEMPTS": str(attempts)}

    for words in (["ask", QUESTION], ["tools", "list"], ["logs", "trace"], ["doctor"]):
        default.app(*words, env=data | guard)

    assert not attempts.exists(), attempts.read_text("utf-8")


def test_the_network_guard_sees_what_reaches_out(default: Project, tmp_path: Path) -> None:
    attempts = tmp_path / "attempts.txt"
    program = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    guard = {"PYTHONPATH": str(GUARD), "NETWORK_ATTEMPTS": str(attempts)}
    default.tool("python", "-c", program, exit_code=1, env=guard)

    assert "192.0.2.1" in attempts.read_text("utf-8")


def test_its_own_tests_fail_when_they_reach_for_the_network(default: Project) -> None:
    reaching = default.folder / "tests" / "test_reaching.py"
    call = "socket.create_connection(('192.0.2.1', 80), timeout=1)"
    reaching.write_text(f"import socket\n\ndef test_it():\n    {call}\n", encoding="utf-8")
    printed = default.tool("pytest", str(reaching), exit_code=1)
    reaching.unlink()

    assert "A test reached for the network" in printed


@pytest.mark.skipif(not CAN_UNSHARE, reason="this machine does not let us take its network away")
def test_the_first_run_works_with_no_network_at_all(default: Project, tmp_path: Path) -> None:
    program = str(default.folder / ".venv" / "bin" / "my-agent")
    data = {"LLMGINE_DATA_DIR": str(tmp_path / "data"), "LLMGINE_LOG_DIR": str(tmp_path / "logs")}

    assert "Asia/Tokyo" in default.run(*OWN_NETWORK, program, "ask", QUESTION, env=data)


def test_the_commands_of_its_readme_work_in_their_order(rendered: Rendered, tmp_path: Path) -> None:
    project = own(rendered(DEFAULT), tmp_path / "app")
    readme = (project.folder / "README.md").read_text("utf-8")
    [first_block] = re.findall(r"^```\n(uv sync\n.*?)^```", readme, re.MULTILINE | re.DOTALL)

    for line in first_block.splitlines():
        program, *words = shlex.split(line)
        assert program == "uv"
        project.uv(*words)


def test_doctor_finds_nothing_wrong_with_a_fresh_project(default: Project) -> None:
    assert "fail" not in default.app("doctor")


def test_pyright_agrees_with_mypy(default: Project) -> None:
    pyright = str(Path(sys.executable).parent / "pyright")
    python = str(default.folder / ".venv" / "bin" / "python")

    assert "0 errors" in default.run(pyright, "--pythonpath", python, "src", "tests")


def test_the_oldest_versions_that_it_allows_work(
    rendered: Rendered, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = own(rendered(DEFAULT), tmp_path_factory.mktemp("oldest") / "app")
    project.uv("sync", "--quiet", "--resolution", "lowest-direct")
    project.tool("pytest")

    assert "Asia/Tokyo" in project.app("ask", QUESTION)


def test_the_commit_hooks_pass_and_stop_what_an_update_left_over(
    rendered: Rendered, tmp_path: Path
) -> None:
    project = own(rendered(DEFAULT), tmp_path / "app")
    project.uv("sync", "--quiet")
    hooks = ("run", "--all-files", "--color", "never")
    project.tool("pre-commit", *hooks, env=_path())
    conflict = "<<<<<<< before updating\na\n=======\nb\n>>>>>>> after updating\n"
    (project.folder / "notes.md").write_text(conflict, encoding="utf-8")
    (project.folder / "bootstrap.py.rej").write_text("a\n", encoding="utf-8")
    project.run("git", "add", "--all")
    stopped = project.tool("pre-commit", *hooks, exit_code=1, env=_path())

    assert "notes.md" in stopped
    assert "bootstrap.py.rej" in stopped


def test_no_package_can_hide_what_the_application_needs(project: Project) -> None:
    copier = yaml.safe_load((ROOT / "copier.yml").read_text("utf-8"))
    taken = set(copier["taken_names"]["default"].split())
    program = (
        "from importlib.metadata import packages_distributions as found, requires\n"
        "import json, re, sys\n"
        "name = lambda text: re.match('[A-Za-z0-9._-]+', text)[0].lower().replace('_', '-')\n"
        "wanted = {name(text) for text in requires(sys.argv[1])} - {sys.argv[1]}\n"
        "print(json.dumps([m for m, d in found().items() if wanted & {name(x) for x in d}]))\n"
    )
    modules = json.loads(project.tool("python", "-c", program, project.package.replace("_", "-")))

    assert "pydantic" in modules
    assert {module for module in modules if not module.startswith("_")} <= taken


def _path() -> dict[str, str]:
    """The hooks call `uv`, which the owner has on the PATH."""
    return {"PATH": f"{Path(UV).parent}:/usr/local/bin:/usr/bin:/bin"}
