"""Renders the template as it lies here, uncommitted changes and all.

Copier renders from git, so `snapshot` makes a repository of the working tree and tags it. The
tests, `make demo` and `make check` render from such a snapshot, never with `unsafe`: a template
that needs trust fails all three.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from copier import run_copy

ROOT = Path(__file__).resolve().parents[1]
VERSION = "v99.0.0"

_SETTINGS = {
    "user.name": "Workshop",
    "user.email": "workshop@example.org",
    "commit.gpgsign": "false",
    "tag.gpgsign": "false",
    "core.hooksPath": "/dev/null",
    "core.autocrlf": "false",
    "init.defaultBranch": "main",
}


def git(folder: Path, *words: str) -> str:
    """What git prints, run in the folder, with settings that do not depend on the machine."""
    settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
    command = ["git", *settings, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"git {' '.join(words)} failed in {folder}: {done.stderr.strip()}")
    return done.stdout


def snapshot(into: Path, *, version: str = VERSION) -> Path:
    """A repository at `into`: this one's history, then the working tree, tagged `version`."""
    if _has_history():
        git(ROOT, "clone", "--quiet", "--no-checkout", str(ROOT), str(into))
    else:
        git(ROOT, "init", "--quiet", str(into))
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, set(listed.split("\0"))):
        source, target = ROOT / name, into / name
        if source.is_symlink() or source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    commit(into, "The working tree", tag=version)
    return into


def commit(repository: Path, message: str, *, tag: str | None = None) -> None:
    """Commit everything in the repository's working tree; an empty commit is fine."""
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--allow-empty", "--message", message)
    if tag:
        git(repository, "tag", "--annotate", tag, "--message", tag)


def render(
    template: Path, into: Path, answers: Mapping[str, Any] | None = None, *, version: str = VERSION
) -> Path:
    """The project that these answers give; the defaults stand for those left out."""
    run_copy(
        str(template),
        into,
        data=dict(answers or {}),
        vcs_ref=version,
        defaults=True,
        quiet=True,
        unsafe=False,
    )
    return into


def files(project: Path) -> list[str]:
    """Every file of a fresh render, as a sorted list of POSIX paths."""
    found = (path for path in project.rglob("*") if path.is_file())
    return sorted(path.relative_to(project).as_posix() for path in found)


def _has_history() -> bool:
    command = ["git", "rev-parse", "--quiet", "--verify", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the template with its default answers.")
    parser.add_argument("folder", type=Path, help="where to; must not exist or be empty")
    into = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as scratch:
        render(snapshot(Path(scratch) / "template"), into)


if __name__ == "__main__":
    main()
