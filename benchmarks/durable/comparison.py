"""The subjects, in turns, and what becomes of their figures."""

from __future__ import annotations

import asyncio
import gc
import platform
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from importlib.metadata import version

from servers import NatsServer

from ..measure import ROOT, median, progress, ratio
from ..measure import run as run_process
from ..memory import STATM
from ..report import Figure, Goal, Report, at_least, at_most
from . import journal, nats, workers
from .memory import EVENTS
from .subject import Taken

# Enough for a median; a round takes the better part of a minute.
MOST_ROUNDS = 5
EVENTS_IN_ALL, EVENTS_IN_LONG = 200_000, 1_000_000
DBOS_FLIGHT = 300

ONE_BY_ONE = "llmgine: execute, one by one"
MANY = f"llmgine: execute, {DBOS_FLIGHT} in flight"
PUBLISH = f"llmgine: publish, {journal.FLIGHT} in flight"
APPEND = f"llmgine: append, {journal.FLIGHT} in flight"
SEND = "llmgine: a single send, p50"
INSERT = "sqlite3: a bare INSERT, p50"
DBOS_ONE = "DBOS: workflow of a step, one by one"
DBOS_MANY = f"DBOS: workflow of a step, {DBOS_FLIGHT} in flight"
STORE = f"JetStream: publish, {nats.PUBLISHING} in flight"
PULL_OURS = "NATS, llmgine: pull, handle, ack"
PULL_BARE = f"NATS, nats-py: pull {nats.PULL}, handle, ack"
PULL_FASTSTREAM = f"NATS, FastStream: pull {nats.PULL}, handle, ack"
WORKER = "llmgine: CPU-bound, one worker process"
WORKERS = "llmgine: CPU-bound, two worker processes"

Times = dict[str, list[Taken]]
RUNTIME = {"PYTHONPATH": str(ROOT / "tests")}


def compare(rounds: int, *, long: bool) -> Report:
    rounds = min(rounds, MOST_ROUNDS)
    times: Times = defaultdict(list)
    gc.collect()
    gc.freeze()
    with NatsServer() as server:
        for number in range(rounds):
            for name, measure in _subjects(server):
                progress(f"durable: round {number + 1} of {rounds}, {name}")
                times[name].append(asyncio.run(_taken(measure)))
            progress(f"durable: round {number + 1} of {rounds}, {SEND}")
            sent, inserted = asyncio.run(journal.sent_and_inserted(500))
            times[SEND].append(sent)
            times[INSERT].append(inserted)
    report = _report(times, rounds)
    report.figures += _memory(EVENTS_IN_LONG if long else EVENTS_IN_ALL)
    return report


def _subjects(server: NatsServer) -> Iterator[tuple[str, Callable[[], Awaitable[Taken] | Taken]]]:
    yield ONE_BY_ONE, lambda: journal.executed(1_000, 1)
    yield DBOS_ONE, lambda: _dbos(100, 1)
    yield MANY, lambda: journal.executed(12_000, DBOS_FLIGHT)
    yield DBOS_MANY, lambda: _dbos(300, DBOS_FLIGHT)
    yield PUBLISH, lambda: journal.published(12_000)
    yield APPEND, lambda: journal.appended(20_000)
    yield STORE, lambda: nats.stored(server.fresh_url(), 4_000)
    yield PULL_OURS, lambda: nats.ours(server.fresh_url(), 5_000)
    yield PULL_BARE, lambda: nats.bare(server.fresh_url(), 5_000)
    yield PULL_FASTSTREAM, lambda: nats.faststream(server.fresh_url(), 5_000)
    yield WORKER, lambda: workers.worked(1_000, 1)
    yield WORKERS, lambda: workers.worked(1_000, 2)


async def _taken(measure: Callable[[], Awaitable[Taken] | Taken]) -> Taken:
    gc.collect()
    found = measure()
    return found if isinstance(found, Taken) else await found


def _dbos(count: int, flight: int) -> Taken:
    command = [sys.executable, "-m", "benchmarks.durable.dbos", str(count), str(flight)]
    wall_s, cpu_s = run_process(command, env=RUNTIME).printed.split()[-2:]
    return Taken(float(wall_s), float(cpu_s))


def _report(times: Times, rounds: int) -> Report:
    versions = ", ".join(f"{name} {version(name)}" for name in ("dbos", "nats-py", "faststream"))
    report = Report(
        f"Durable delivery, Python {platform.python_version()}",
        f"Messages per second on the clock, each kept on the disk before it counts (SQLite "
        f"`synchronous = FULL`, JetStream `sync_interval: always`); medians of {rounds} rounds in "
        f"turns. {versions}.",
        ["", "each second", "µs on the clock", "µs of processor"],
    )
    for name, taken in times.items():
        wall_s = median([one.wall_s for one in taken])
        cpu = [one.cpu_s for one in taken if one.cpu_s is not None]
        shown = f"{median(cpu) * 1e6:,.0f}" if cpu else "not measured"
        report.rows.append([name, f"{1 / wall_s:,.0f}", f"{wall_s * 1e6:,.0f}", shown])
    report.figures += _figures(times)
    return report


def _figures(times: Times) -> list[Figure]:
    def times_faster(what: str, than: str, goal: Goal) -> Figure:
        taken = ([one.wall_s for one in times[name]] for name in (than, what))
        return Figure(f"{what} / {than}", ratio(*taken), "x", goal)

    def each_second(what: str) -> Figure:
        wall_s = median([one.wall_s for one in times[what]])
        return Figure(what, 1 / wall_s, "/s", at_least(10_000))

    single = ([one.wall_s for one in times[name]] for name in (SEND, INSERT))
    return [
        times_faster(MANY, DBOS_MANY, at_least(50)),
        times_faster(PUBLISH, DBOS_MANY, at_least(50)),
        times_faster(APPEND, STORE, at_least(5)),
        Figure(f"{SEND} / {INSERT}", ratio(*single), "x", at_most(1.5)),
        times_faster(PULL_OURS, PULL_BARE, at_least(0.8)),
        times_faster(PULL_OURS, PULL_FASTSTREAM, at_least(2.5)),
        times_faster(WORKERS, WORKER, at_least(1.6)),
        each_second(MANY),
        each_second(PUBLISH),
    ]


def _memory(count: int) -> list[Figure]:
    if not STATM.exists():
        progress(f"durable: memory is left out: there is no {STATM} here")
        return []
    progress(f"durable: memory over {count:,} events")
    command = [sys.executable, "-m", "benchmarks.durable.memory", str(count)]
    first, last = map(float, run_process(command, env=RUNTIME).printed.split())
    what = f"memory after {count:,} durable events, less after {EVENTS:,}"
    return [Figure(what, last - first, "MB", at_most(5))]
