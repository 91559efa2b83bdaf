"""Time as the processor counts it, so that other work on the machine weighs as little as it can."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "benchmarks"
# What must not reach a measured process: it starts as on a user's machine, with bytecode cached.
_NOT_THEIRS = ("ANTHROPIC_", "LLMGINE_", "OPENAI_", "PYTHON", "UV_PROJECT", "VIRTUAL_ENV")

Command = Sequence[str | Path]


class CpuTimer:
    """`with timer: ...` leaves the processor time of this process in `seconds`."""

    seconds = 0.0

    def __enter__(self) -> Self:
        self._began_s = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._began_s


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process took: on the clock, and of the processors, its children included."""

    wall_s: float
    cpu_s: float
    printed: str


def run(command: Command, *, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> Cost:
    """Run the command and say what it took.

    Raises:
        RuntimeError: it failed; the message holds what it printed.
    """
    with tempfile.TemporaryFile() as output:
        began_s = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began_s
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read().decode(errors="replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{printed}")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, printed)


def uv() -> str:
    beside = [Path(sys.executable).parent / "uv", ROOT / ".venv" / "bin" / "uv"]
    found = next((str(path) for path in beside if path.exists()), None) or shutil.which("uv")
    if found is None:
        raise RuntimeError("uv is not installed; `make bench` installs it.")
    return found


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(_NOT_THEIRS)
    }
    return {**inherited, **(extra or {})}


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """Of the same rounds, so that a slow moment of the machine weighs on both."""
    return median([one / other for one, other in zip(of, to, strict=True)])


def progress(text: str) -> None:
    """Tell whoever waits; results alone go to standard output."""
    print(f"… {text}", file=sys.stderr, flush=True)


def machine() -> str:
    return (
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"{os.cpu_count()} processors, {platform.system()} {platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
