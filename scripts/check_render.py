"""Holds a render with the default answers against the linter and both type checkers."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from rendering import render, snapshot

TOOLS = Path(sys.executable).parent
CHECKS = [
    ["ruff", "format", "--check", "--quiet", "."],
    ["ruff", "check", "--quiet", "."],
    ["mypy"],
    ["pyright", "--pythonpath", sys.executable],
]


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        project = render(snapshot(Path(scratch) / "template"), Path(scratch) / "project")
        for name, *words in CHECKS:
            command = [str(TOOLS / name), *words]
            if subprocess.run(command, cwd=project, check=False).returncode:
                print(f"A fresh render fails `{name} {' '.join(words)}`.", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
