"""What a fresh process costs: our rendered application beside the SDKs it does without."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from rendering import render, snapshot

from .measure import BUILD, Command, Cost, median, progress, uv
from .measure import run as run_process
from .report import Figure, Report, at_least, at_most

PEERS = {
    "litellm": "litellm>=1.106.2,<2,!=1.82.7,!=1.82.8",
    "openai": "openai>=3,<4",
}
BUILD_APP = """
from my_agent.bootstrap import bootstrap
from my_agent.config import Settings
bootstrap(Settings.load())
"""
# litellm otherwise fetches its price list at import; we measure the import, not the network.
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
COMPILED = {"UV_COMPILE_BYTECODE": "1"}
PYTHON, APP, HELP, ASK = "python", "build my-agent", "my-agent --help", "my-agent ask"


def run(rounds: int) -> Report:
    project = _install_app()
    binaries = project / ".venv" / "bin"
    commands: dict[str, Command] = {
        PYTHON: [binaries / "python", "-c", "pass"],
        APP: [binaries / "python", "-c", BUILD_APP],
        HELP: [binaries / "my-agent", "--help"],
        ASK: [binaries / "my-agent", "ask", "What time is it in Tokyo?"],
    }
    for name, requirement in PEERS.items():
        python = _install_peer(name, requirement)
        commands[f"import {name}"] = [python, "-c", f"import {name}"]

    costs: dict[str, list[Cost]] = defaultdict(list)
    for number in range(-1, rounds):
        progress(f"start: round {number + 1} of {rounds}" if number >= 0 else "start: warming up")
        for name, command in commands.items():
            cost = run_process(command, cwd=project, env=OFFLINE)
            if number >= 0:
                costs[name].append(cost)
    return _report(costs, rounds, packages=len(_packages(project / ".venv")) - 1)


def _install_app() -> Path:
    """A project rendered from the template as it lies here, with the default answers."""
    project = BUILD / "my-agent"
    shutil.rmtree(project, ignore_errors=True)
    progress("start: rendering the application")
    with tempfile.TemporaryDirectory() as scratch:
        render(snapshot(Path(scratch) / "template"), project)
    progress("start: installing it")
    run_process([uv(), "sync", "--no-dev", "--python", sys.executable], cwd=project, env=COMPILED)
    return project


def _install_peer(name: str, requirement: str) -> Path:
    environment = BUILD / name
    python = environment / "bin" / "python"
    if not python.exists():
        progress(f"start: installing {name} in an environment of its own")
        run_process([uv(), "venv", "--python", sys.executable, environment])
        run_process([uv(), "pip", "install", "--python", python, requirement], env=COMPILED)
    return python


def _peer_versions() -> list[str]:
    installed = {name: _packages(BUILD / name) for name in PEERS}
    return [p for name, found in installed.items() for p in found if p.startswith(f"{name}-")]


def _packages(environment: Path) -> list[str]:
    """What is installed there, as name-version."""
    return sorted(path.stem for path in environment.glob("lib/*/site-packages/*.dist-info"))


def _report(costs: dict[str, list[Cost]], rounds: int, *, packages: int) -> Report:
    wall_s = {name: median([cost.wall_s for cost in taken]) for name, taken in costs.items()}
    cpu_s = {name: median([cost.cpu_s for cost in taken]) for name, taken in costs.items()}
    report = Report(
        "Start",
        f"Fresh processes, bytecode cached, each library in an environment of its own "
        f"({', '.join(_peer_versions())}); medians of {rounds} rounds in turns.",
        ["process", "wall s", "CPU s", f"CPU / `{APP}`"],
    )
    for name in costs:
        ratio = cpu_s[name] / cpu_s[APP]
        report.rows.append([name, f"{wall_s[name]:.3f}", f"{cpu_s[name]:.3f}", f"{ratio:.2f}"])
    report.figures += [
        Figure(HELP, wall_s[HELP], "s", at_most(0.35)),
        Figure(f"{ASK}, to the answer", wall_s[ASK], "s", at_most(1.0)),
        Figure(
            f"import litellm / {APP}, CPU", cpu_s["import litellm"] / cpu_s[APP], "x", at_least(15)
        ),
        Figure(
            f"{APP} / import openai, CPU", cpu_s[APP] / cpu_s["import openai"], "x", at_most(0.35)
        ),
        Figure("packages installed", packages, "", at_most(32)),
    ]
    return report
