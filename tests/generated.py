"""A generated project in its own environment, as its owner has it on the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rendering import commit, git

UV = (
    shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    or "uv"
)
TIMEOUT_S = 300
_NOT_THEIRS = ("ANTHROPIC_", "LLMGINE_", "OPENAI_", "PYTEST_", "PYTHON", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Project:
    """Runs commands the way the owner of the project in this folder would."""

    folder: Path

    def run(self, *command: str, exit_code: int = 0, env: Mapping[str, str] | None = None) -> str:
        """What the command prints; fails when it ends with another exit code."""
        theirs = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_THEIRS)}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**theirs, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == exit_code, (
            f"{command} ended with {done.returncode}:\n{done.stdout}"
        )
        return done.stdout

    def uv(self, *words: str) -> str:
        return self.run(UV, *words)

    def tool(
        self, name: str, *words: str, exit_code: int = 0, env: Mapping[str, str] | None = None
    ) -> str:
        """Run a program of the project's own environment."""
        program = str(self.folder / ".venv" / "bin" / name)
        return self.run(program, *words, exit_code=exit_code, env=env)

    @property
    def package(self) -> str:
        [bootstrap] = self.folder.glob("src/*/bootstrap.py")
        return bootstrap.parent.name

    def app(self, *words: str, exit_code: int = 0, env: Mapping[str, str] | None = None) -> str:
        """Run the application's own command."""
        return self.tool(self.package.replace("_", "-"), *words, exit_code=exit_code, env=env)


def own(render: Path, folder: Path) -> Project:
    """A copy of the render that may be written to, committed to a repository of its own."""
    shutil.copytree(render, folder)
    git(folder, "init", "--quiet")
    commit(folder, "Render the template")
    return Project(folder)
