"""The callers, each in a process of its own, in turns, and what becomes of their figures."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..measure import ROOT, environment, median, progress, ratio
from ..memory import STATM
from ..report import Figure, Goal, Report, at_least, at_most

# Enough for a median; a round takes the better part of a minute.
MOST_ROUNDS = 5
AT_ONCE = 100

MANAGED = "llmgine, all telemetry on"
DIRECT = "llmgine, the provider alone"
OPENAI = "openai"
OPENAI_PROVIDER = "llmgine's provider on openai"
LITELLM = "litellm"
LITELLM_PROVIDER = "llmgine's provider on litellm"

# litellm caps openai, so it has an environment of its own; `make bench` makes it.
WITH_LITELLM = ROOT / "build" / "litellm"
OWN = Path(sys.prefix)
CALLERS = {
    MANAGED: (OWN, "managed"),
    DIRECT: (OWN, "direct"),
    OPENAI: (OWN, "openai"),
    OPENAI_PROVIDER: (OWN, "openai_provider"),
    LITELLM: (WITH_LITELLM, "litellm"),
    LITELLM_PROVIDER: (WITH_LITELLM, "litellm_provider"),
}

CALL, MANY, STREAM = "a call", f"a call, {AT_ONCE} at once", "a stream of 23 events"
CASES = {
    CALL: ("complete", 250, 1),
    MANY: ("complete", 400, AT_ONCE),
    STREAM: ("stream", 80, 1),
}
CALLS_KEPT, STREAMS_KEPT = 10_000, 2_000


@dataclass(frozen=True, slots=True)
class Taken:
    """What one call took, and the memory of its process after it."""

    wall_s: float
    cpu_s: float
    memory_mb: float


Times = Mapping[str, Mapping[str, Sequence[Taken]]]


class Caller:
    """A process that calls when it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.loaded: list[str] = json.loads(self._line())

    def call(self, what: str, count: int, limit: int) -> Taken:
        assert self._process.stdin is not None
        print(what, count, limit, file=self._process.stdin, flush=True)
        return Taken(*json.loads(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended; what it said stands above.")
        return line


def compare(rounds: int) -> Report:
    rounds = min(rounds, MOST_ROUNDS)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        url = stack.enter_context(_server())
        callers: dict[str, Caller] = {}
        for name in CALLERS:
            progress(f"llm: starting {name}")
            callers[name] = stack.enter_context(_caller(name, url, folder))
        times = _times(callers, rounds)
        report = _report(times, rounds)
        report.figures.append(
            Figure(
                f"{MANAGED}: libraries before the first call",
                len(callers[MANAGED].loaded),
                "",
                at_most(0),
            )
        )
        if STATM.exists():
            report.figures += _memory(callers[MANAGED])
    return report


def _times(callers: Mapping[str, Caller], rounds: int) -> Times:
    times: dict[str, dict[str, list[Taken]]] = {case: defaultdict(list) for case in CASES}
    for number in range(-1, rounds):
        progress(f"llm: round {number + 1} of {rounds}" if number >= 0 else "llm: warming up")
        for case, (what, count, limit) in CASES.items():
            for name, caller in callers.items():
                taken = caller.call(what, count, limit)
                if number >= 0:
                    times[case][name].append(taken)
    return times


@contextmanager
def _server() -> Iterator[str]:
    with _process(OWN, "benchmarks.llm.server") as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"


@contextmanager
def _caller(name: str, url: str, folder: str) -> Iterator[Caller]:
    home, subject = CALLERS[name]
    if not (home / "bin" / "python").exists():
        raise RuntimeError(f"{str(home)!r} is not there; `make bench` makes it.")
    with _process(home, "benchmarks.llm.caller", subject, url, folder=folder) as process:
        yield Caller(process)


@contextmanager
def _process(
    home: Path, module: str, *arguments: str, folder: str = ""
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [home / "bin" / "python", "-m", module, *arguments],
        cwd=ROOT,
        # litellm otherwise fetches its price list at import.
        env=environment(
            {
                "PYTHONPATH": str(ROOT / "tests"),
                "BENCHMARK_FOLDER": folder,
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            }
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _report(times: Times, rounds: int) -> Report:
    report = Report(
        "Model calls",
        f"To a server on this machine, in a process of its own, which sends the same twenty words "
        f"to everybody. Milliseconds of the caller's processor for one call, and calls each second "
        f"with {AT_ONCE} at once; medians of {rounds} rounds in turns. {_versions()}.",
        ["", *(f"{case}, CPU ms" for case in CASES), f"{AT_ONCE} at once, each second"],
    )
    for name in CALLERS:
        cpu_ms = [median([one.cpu_s for one in times[case][name]]) * 1e3 for case in CASES]
        each_second = 1 / median([one.wall_s for one in times[MANY][name]])
        report.rows.append([name, *(f"{one:.2f}" for one in cpu_ms), f"{each_second:,.0f}"])
    report.figures += _figures(times)
    return report


def _figures(times: Times) -> list[Figure]:
    def cpu(case: str, what: str, than: str, goal: Goal) -> Figure:
        taken = ([one.cpu_s for one in times[case][name]] for name in (what, than))
        return Figure(f"{case}, CPU: {what} / {than}", ratio(*taken), "x", goal)

    def faster(what: str, than: str, goal: Goal) -> Figure:
        taken = ([one.wall_s for one in times[MANY][name]] for name in (than, what))
        return Figure(f"{AT_ONCE} at once, each second: {what} / {than}", ratio(*taken), "x", goal)

    return [
        cpu(CALL, MANAGED, OPENAI, at_most(0.30)),
        cpu(CALL, MANAGED, LITELLM, at_most(0.12)),
        faster(MANAGED, OPENAI, at_least(4)),
        faster(MANAGED, LITELLM, at_least(6)),
        cpu(STREAM, MANAGED, OPENAI, at_most(0.20)),
        cpu(STREAM, MANAGED, LITELLM, at_most(0.08)),
        cpu(CALL, LITELLM_PROVIDER, LITELLM, at_most(1.10)),
        cpu(STREAM, LITELLM_PROVIDER, LITELLM, at_most(1.10)),
    ]


def _memory(caller: Caller) -> list[Figure]:
    """What many calls leave behind in a process that is warm."""
    figures = []
    for case, count in ((CALL, CALLS_KEPT), (STREAM, STREAMS_KEPT)):
        progress(f"llm: memory over {count:,} times {case}")
        what, _, limit = CASES[case]
        before = caller.call(what, 100, limit).memory_mb
        after = caller.call(what, count, limit).memory_mb
        figures.append(
            Figure(
                f"{MANAGED}: memory over {count:,} times {case}, from {before:.1f} MB",
                after - before,
                "MB",
                at_most(2),
            )
        )
    return figures


def _versions() -> str:
    names = {OWN: ["openai"], WITH_LITELLM: ["litellm", "openai"]}
    found = {
        home: [
            path.stem.replace("-", " ")
            for name in wanted
            for path in home.glob(f"lib/*/site-packages/{name}-*.dist-info")
        ]
        for home, wanted in names.items()
    }
    return f"{found[OWN][0]}; {' on '.join(found[WITH_LITELLM])}"
