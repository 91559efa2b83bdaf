"""What only a fresh process shows: the bus's memory, and what its import costs."""

from __future__ import annotations

import sys
from collections import defaultdict

from ..measure import ROOT, median, progress, ratio
from ..measure import run as run_process
from ..memory import CAPACITY, EVENTS, SESSIONS, STATM
from ..report import Figure, at_most

RUNTIME = {"PYTHONPATH": str(ROOT / "tests")}
BUS = "import app.llmgine.bus"
# The first alone gives no class: pydantic loads what it needs when a name is asked for.
PYDANTIC = ["import pydantic", "from pydantic import BaseModel"]
MEMORY_ROUNDS = 3


def figures(rounds: int) -> list[Figure]:
    return [*_memory(min(rounds, MEMORY_ROUNDS)), *_imports(rounds)]


def _memory(rounds: int) -> list[Figure]:
    if not STATM.exists():
        progress(f"bus: memory is left out: there is no {STATM} here")
        return []
    mb: dict[str, list[list[float]]] = defaultdict(list)
    for number in range(rounds):
        progress(f"bus: memory, round {number + 1} of {rounds}")
        for what in ("events", "sessions"):
            cost = run_process([sys.executable, "-m", "benchmarks.memory", what], env=RUNTIME)
            mb[what].append([float(word) for word in cost.printed.split()])
    peak, kept = map(median, zip(*mb["events"], strict=True))
    (added,) = map(median, zip(*mb["sessions"], strict=True))
    flight = f"{EVENTS:,} events, {CAPACITY:,} of them waiting"
    return [
        Figure(f"{flight}: peak memory added", peak, "MB", at_most(15)),
        Figure(f"{flight}: kept when idle", kept, "MB", at_most(8)),
        Figure(f"{SESSIONS:,} sessions after {SESSIONS:,} others: added", added, "MB", at_most(1)),
    ]


def _imports(rounds: int) -> list[Figure]:
    cpu_s: dict[str, list[float]] = defaultdict(list)
    for number in range(-1, rounds):
        for code in (*PYDANTIC, BUS):
            cost = run_process([sys.executable, "-c", code], env=RUNTIME)
            if number >= 0:
                cpu_s[code].append(cost.cpu_s)
    return [
        Figure(f"`{BUS}` / `{code}`", ratio(cpu_s[BUS], cpu_s[code]), "x", at_most(2.0))
        for code in PYDANTIC
    ]
