"""The bus on the other Pythons that this machine has, each in an environment of its own."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .measure import ROOT, environment, progress, uv
from .measure import run as run_process
from .report import Report

SUPPORTED = ["3.11", "3.13"]
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
NO_DOWNLOADS = {"UV_PYTHON_DOWNLOADS": "never"}


def others() -> list[str]:
    return [version for version in SUPPORTED if version != OWN]


def run_bus(version: str, rounds: int) -> Report | None:
    """What that Python measures, or `None` if it is not here."""
    interpreter = _find(version)
    if interpreter is None:
        return None
    python = _install(version, interpreter)
    progress(f"bus: the same with Python {version}")
    with tempfile.TemporaryDirectory() as scratch:
        measured = Path(scratch) / "report"
        run_process([python, "-m", __name__, str(rounds), measured])
        report: Report = pickle.loads(measured.read_bytes())
    return report


def _find(version: str) -> str | None:
    """One that starts and is of that version: a shim on the path may stand for nothing."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [
        _answer([uv(), "python", "find", "--no-project", version]),
        shutil.which(f"python{version}"),
        *map(str, sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)),
    ]
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    return next(
        (path for path in candidates if path and _answer([path, "-c", ask]) == version), None
    )


def _answer(command: list[str]) -> str:
    asked = subprocess.run(
        command, env=environment(NO_DOWNLOADS), capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() if asked.returncode == 0 else ""


def _install(version: str, interpreter: str) -> Path:
    folder = ROOT / "build" / f"bench-{version}"
    python, ready, wanted = folder / "bin" / "python", folder / ".ready", ROOT / "pyproject.toml"
    if not ready.exists() or ready.stat().st_mtime < wanted.stat().st_mtime:
        progress(f"bus: installing the peers for Python {version}")
        run_process([uv(), "venv", "--clear", "--python", interpreter, folder], env=NO_DOWNLOADS)
        run_process(
            [uv(), "pip", "install", "--python", python, "--group", "bench"],
            env={"UV_COMPILE_BYTECODE": "1"},
        )
        ready.touch()
    return python


def _measure_here(rounds: int, file: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from .bus import run

    file.write_bytes(pickle.dumps(run(rounds)))


if __name__ == "__main__":
    _measure_here(int(sys.argv[1]), Path(sys.argv[2]))
