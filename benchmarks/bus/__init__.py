"""Round trips over our bus and over others, in one process and in turns."""

from __future__ import annotations

import asyncio
import gc
import platform
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from ..measure import CpuTimer, median, progress, ratio
from ..report import Figure, Goal, Report, at_least, at_most
from . import blinker, bubus, cqrs, floor, fresh, llmgine, observed, pyee, waiting
from .subject import AT_ONCE, Handled, Subject

SUBJECTS = [
    floor.SUBJECT,
    llmgine.SUBJECT,
    llmgine.WITH_POLICIES,
    observed.SUBJECT,
    observed.ALONE,
    blinker.SUBJECT,
    pyee.SUBJECT,
    cqrs.SUBJECT,
    cqrs.ALONE,
    bubus.SUBJECT,
]
COMMAND, MANY = "command", f"{AT_ONCE:,} at once"
ONE, TEN, KEYED = "event → 1 handler", "event → 10 handlers", "event → 10, by key"
# How many handlers an event has; none for a command.
SCENARIOS = {COMMAND: 0, MANY: 0, ONE: 1, TEN: 10, KEYED: 10}
Seconds = dict[tuple[str, str], list[float]]


def run(rounds: int) -> Report:
    seconds: Seconds = defaultdict(list)
    wall_s = []
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
        wall_s.append(asyncio.run(waiting.wall_s()))
    report = _report(seconds, rounds)
    report.figures += [waiting.figure(median(wall_s)), *fresh.figures(rounds)]
    return report


async def _measure(subject: Subject, scenario: str) -> float | None:
    """Seconds of processor time for one message, or `None` if the bus has no such thing."""
    timer, handled, handlers = CpuTimer(), Handled(), SCENARIOS[scenario]
    count = max(20, subject.rounds_of // max(1, handlers // 2))
    gc.collect()
    send = subject.at_once if scenario == MANY else subject.commands
    publish = subject.keyed if scenario == KEYED else subject.events
    if handlers and publish:
        await publish(count, handlers, timer, handled)
    elif send and not handlers:
        await send(count, timer, handled)
    else:
        return None
    expected = count * max(1, handlers)
    if handled.count != expected:
        raise RuntimeError(f"{subject.name} ran {handled.count} handlers instead of {expected}")
    return timer.seconds / count


def _report(seconds: Seconds, rounds: int) -> Report:
    report = Report(
        f"Bus, Python {platform.python_version()}",
        f"Processor time for one message, made and handled; medians of {rounds} rounds in turns. "
        "In brackets: times our own. The floor makes a frozen pydantic message with id, time and "
        "correlation id and awaits the handler, for events over an `asyncio.Queue`. Span and line "
        "alone are OpenTelemetry's SDK and our file: no bus, message, identifier or redaction.",
        ["µs (times llmgine)", *SCENARIOS],
    )
    for subject in SUBJECTS:
        cells = (_cell(seconds, subject.name, scenario) for scenario in SCENARIOS)
        report.rows.append([_versioned(subject.name), *cells])
    report.figures += _figures(seconds)
    return report


def _figures(seconds: Seconds) -> list[Figure]:
    def figure(scenario: str, of: Subject, to: Subject, goal: Goal, base: str = "") -> Figure:
        what = f"{scenario}: {of.name} / {to.name}{base and ' without keys'}"
        taken = seconds[of.name, scenario], seconds[to.name, base or scenario]
        return Figure(what, ratio(*taken), "x", goal)

    ours, least, peer = llmgine.SUBJECT, floor.SUBJECT, pyee.SUBJECT
    return [
        figure(COMMAND, ours, least, at_most(0.7)),
        figure(COMMAND, cqrs.SUBJECT, ours, at_least(6)),
        figure(COMMAND, bubus.SUBJECT, ours, at_least(500)),
        figure(MANY, ours, least, at_most(1.0)),
        _added(seconds[llmgine.WITH_POLICIES.name, COMMAND], seconds[ours.name, COMMAND]),
        figure(COMMAND, observed.SUBJECT, observed.ALONE, at_most(1.4)),
        figure(ONE, ours, least, at_most(0.7)),
        figure(ONE, peer, ours, at_least(3)),
        figure(TEN, ours, least, at_most(2.2)),
        figure(TEN, peer, ours, at_least(6)),
        figure(KEYED, ours, least, at_most(2.6), base=TEN),
    ]


def _added(with_policies: Sequence[float], without: Sequence[float]) -> Figure:
    added = median([one - other for one, other in zip(with_policies, without, strict=True)])
    return Figure("command: added by three policies", added * 1e6, "µs", at_most(3.0))


def _versioned(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name


def _cell(seconds: Seconds, name: str, scenario: str) -> str:
    taken = seconds[name, scenario]
    if not taken:
        return "none"
    times = ratio(taken, seconds["llmgine", scenario])
    shown = f"{times:.3g}" if times < 1000 else f"{times:,.0f}"
    return f"{median(taken) * 1e6:.1f} ({shown})"
