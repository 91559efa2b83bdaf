"""Round trips over our bus and over others, in one process and in turns."""

from __future__ import annotations

import asyncio
import gc
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from ..measure import CpuTimer, median, progress
from ..report import Figure, Goal, Report, at_least, at_most
from . import blinker, bubus, cqrs, floor, llmgine, pyee
from .subject import Handled, Subject

SUBJECTS = [
    *(module.SUBJECT for module in (floor, llmgine, blinker, pyee, cqrs, bubus)),
    cqrs.ALONE,
]
COMMAND, ONE, TEN = "command", "event → 1 handler", "event → 10 handlers"
SCENARIOS = {COMMAND: 0, ONE: 1, TEN: 10}
Seconds = dict[tuple[str, str], list[float]]


def run(rounds: int) -> Report:
    seconds: Seconds = defaultdict(list)
    # What was imported is never garbage: no subject pays for looking through another one.
    gc.collect()
    gc.freeze()
    for number in range(-1, rounds):
        progress(f"bus: round {number + 1} of {rounds}" if number >= 0 else "bus: warming up")
        turn = number % len(SUBJECTS)
        for scenario in SCENARIOS:
            for subject in [*SUBJECTS[turn:], *SUBJECTS[:turn]]:
                taken = asyncio.run(_measure(subject, scenario))
                if taken is not None and number >= 0:
                    seconds[subject.name, scenario].append(taken)
    return _report(seconds, rounds)


async def _measure(subject: Subject, scenario: str) -> float | None:
    """Seconds of processor time for one message, or `None` if the bus has no such thing."""
    timer, handled, handlers = CpuTimer(), Handled(), SCENARIOS[scenario]
    count = max(20, subject.rounds_of // max(1, handlers // 2))
    gc.collect()
    if handlers:
        await subject.events(count, handlers, timer, handled)
    elif subject.commands is not None:
        await subject.commands(count, timer, handled)
    else:
        return None
    expected = count * max(1, handlers)
    if handled.count != expected:
        raise RuntimeError(f"{subject.name} ran {handled.count} handlers instead of {expected}")
    return timer.seconds / count


def _report(seconds: Seconds, rounds: int) -> Report:
    report = Report(
        "Bus",
        f"Processor time for one message, made and handled; medians of {rounds} rounds in turns. "
        "In brackets: times our own. The floor makes a frozen pydantic message with id, time and "
        "correlation id and awaits the handler, for events over an `asyncio.Queue`.",
        ["µs (times llmgine)", *SCENARIOS],
    )
    for subject in SUBJECTS:
        cells = (_cell(seconds, subject.name, scenario) for scenario in SCENARIOS)
        report.rows.append([_versioned(subject.name), *cells])
    ours = "llmgine"
    report.figures += [
        _figure(seconds, COMMAND, ours, "floor", at_most(0.7)),
        _figure(seconds, COMMAND, "python-cqrs", ours, at_least(5, aim=6)),
        _figure(seconds, COMMAND, "bubus", ours, at_least(300, aim=500)),
        _figure(seconds, ONE, ours, "floor", at_most(0.7)),
        _figure(seconds, ONE, "pyee", ours, at_least(3)),
        _figure(seconds, TEN, ours, "floor", at_most(2.2)),
        _figure(seconds, TEN, "pyee", ours, at_least(6)),
    ]
    return report


def _versioned(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name


def _cell(seconds: Seconds, name: str, scenario: str) -> str:
    taken = seconds[name, scenario]
    if not taken:
        return "none"
    ratio = _ratio(taken, seconds["llmgine", scenario])
    return f"{median(taken) * 1e6:.1f} ({ratio:.3g})"


def _figure(seconds: Seconds, scenario: str, of: str, to: str, goal: Goal) -> Figure:
    ratio = _ratio(seconds[of, scenario], seconds[to, scenario])
    return Figure(f"{scenario}: {of} / {to}", ratio, "x", goal)


def _ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """Of the same rounds, so that a slow moment of the machine weighs on both."""
    return median([one / other for one, other in zip(of, to, strict=True)])
