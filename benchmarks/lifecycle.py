"""What copying and updating a project costs, through copier's own command line."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from rendering import commit, files, git, snapshot

from .measure import Command, Cost, median, progress
from .measure import run as run_process
from .report import Figure, Report, at_most

COPIER: Command = [sys.executable, "-m", "copier"]
OLD, NEW = "v1.0.0", "v1.1.0"
# A large release: two thirds of the runtime.
CHANGED_FILES = 40
RUNTIME = Path("template/src/{{ package_name }}/llmgine")
COPY, UPDATE = "copier copy", "copier update"


def run(rounds: int) -> Report:
    costs: dict[str, list[Cost]] = {COPY: [], UPDATE: []}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        template = _two_versions(scratch / "template")
        for number in range(rounds):
            progress(f"lifecycle: round {number + 1} of {rounds}")
            project = scratch / "project"
            shutil.rmtree(project, ignore_errors=True)
            copy = [*COPIER, "copy", "--defaults", "--quiet", "--vcs-ref", OLD]
            costs[COPY].append(run_process([*copy, template, project], cwd=scratch))
            count = len(files(project))
            _live_in(project)
            update = [*COPIER, "update", "--defaults", "--quiet", "--vcs-ref", NEW]
            costs[UPDATE].append(run_process(update, cwd=project))
            _check_updated(project)
    return _report(costs, rounds, file_count=count)


def _two_versions(template: Path) -> Path:
    """The template as it lies here, and a next version that changes much of the runtime."""
    snapshot(template, version=OLD)
    for path in sorted((template / RUNTIME).rglob("*.py"))[-CHANGED_FILES:]:
        path.write_text(
            path.read_text(encoding="utf-8") + "# The next version.\n", encoding="utf-8"
        )
    commit(template, "The next version", tag=NEW)
    return template


def _live_in(project: Path) -> None:
    """An owner's day: the project is under git, and a file of theirs has changed."""
    bootstrap = next(project.glob("src/*/bootstrap.py"))
    bootstrap.write_text(bootstrap.read_text(encoding="utf-8") + "# Ours.\n", encoding="utf-8")
    git(project, "init", "--quiet")
    commit(project, "Begin")


def _check_updated(project: Path) -> None:
    manager = next(project.glob("src/*/llmgine/tools/manager.py")).read_text(encoding="utf-8")
    bootstrap = next(project.glob("src/*/bootstrap.py")).read_text(encoding="utf-8")
    if "# The next version." not in manager or "# Ours." not in bootstrap:
        raise RuntimeError(
            f"The update of {project} did not do what it should; nothing to measure."
        )


def _report(costs: dict[str, list[Cost]], rounds: int, *, file_count: int) -> Report:
    wall_s = {name: median([cost.wall_s for cost in taken]) for name, taken in costs.items()}
    report = Report(
        "Copy and update",
        f"The commands, from a local clone, with default answers; medians of {rounds} rounds. The "
        f"update changes {CHANGED_FILES} files of the runtime in a project that its owner edited.",
        ["command", "wall s", "CPU s"],
    )
    for name, taken in costs.items():
        cpu_s = median([cost.cpu_s for cost in taken])
        report.rows.append([name, f"{wall_s[name]:.2f}", f"{cpu_s:.2f}"])
    report.figures += [
        Figure(COPY, wall_s[COPY], "s", at_most(3.0)),
        Figure(UPDATE, wall_s[UPDATE], "s", at_most(6.0)),
        Figure("files of a fresh copy", file_count, "", at_most(165)),
    ]
    return report
