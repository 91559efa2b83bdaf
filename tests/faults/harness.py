"""Runs several copies of the application, lets faults happen, and says what became of the work."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from app.llmgine.delivery.journal import OPEN

from .effects import Effects
from .ledger import Ledger
from .nursery import Nursery
from .workload import make_journal

LONG = bool(os.environ.get("LLMGINE_TEST_LONG"))
FINISHED_S = 30.0
LOST_FOR_GOOD = ("failed", "dead", "parked")


@dataclass(frozen=True)
class Place:
    """Where the workers keep their work. With a transport each has a journal of its own."""

    journal: str = ""
    transport: str = ""


@dataclass
class Report:
    """What became of the work. `lost` and the like are labels."""

    sent: int = 0
    accepted: int = 0
    executed: int = 0
    effects: int = 0
    duplicates: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)
    """Effects of what nobody sent."""
    disordered: list[str] = field(default_factory=list)
    """Effects of one key, out of order."""
    unfinished: dict[str, int] = field(default_factory=dict)
    """How many entries are in a state in which none should be."""
    finished_s: float = 0.0

    def __str__(self) -> str:
        return (
            f"sent {self.sent}, accepted {self.accepted}, executed {self.executed}, "
            f"effects {self.effects}, duplicates {len(self.duplicates)}, lost {len(self.lost)}, "
            f"finished in {self.finished_s:.1f} s"
        )

    @property
    def is_complete(self) -> bool:
        return bool(self.accepted) and not self.lost and not self.unfinished

    @property
    def faults(self) -> dict[str, Any]:
        """Everything that should be empty and is not."""
        names = ("duplicates", "lost", "invented", "disordered", "unfinished")
        return {name: value for name in names if (value := getattr(self, name))}


class Harness:
    """Workers of one application on one or more journals: `async with Harness(...) as harness`."""

    def __init__(self, folder: Path, nursery: Nursery, place: Place, **more: Any) -> None:
        self.folder = folder
        self.nursery = nursery
        self.effects = Effects()
        self._journal = place.journal
        # What handlers send over a transport comes from as many places as there are workers.
        self._ordered = ("pay",) if place.transport else ("pay", "thank")
        self._settings = {"transport": place.transport, "lease_s": 1.0, **more}
        self._pids: dict[str, int] = {}
        self._started: dict[str, int] = defaultdict(int)
        self._supervisors: list[asyncio.Task[None]] = []
        self._began = time.monotonic()
        self.restarts = 0

    async def __aenter__(self) -> Self:
        await self.effects.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.kill_all()
        await self.effects.close()
        if error is not None:
            print(self.last_words())

    def journal_of(self, name: str) -> str:
        return self._journal or str(self.folder / f"{name}.db")

    def start(self, name: str, **settings: Any) -> int:
        """Start a worker, under that name again if it ran before."""
        assert name not in self._pids, f"{name} runs."
        self._began = time.monotonic()
        self._started[name] += 1
        self._pids[name] = self.nursery.start(
            self.folder / f"{name}.log",
            **{
                "name": name,
                "journal": self.journal_of(name),
                "effects": self.effects.port,
                "folder": str(self.folder),
                **self._settings,
                **settings,
            },
        )
        return self._pids[name]

    async def ready(self, name: str) -> None:
        count, pid = self._started[name], self._pids[name]
        await self.effects.until(
            lambda: self.effects.ready[name] >= count or not self.nursery.is_running(pid),
            FINISHED_S,
        )
        assert self.nursery.is_running(pid), f"{name} ended by itself:\n{self.last_words()}"
        assert self.effects.ready[name] >= count, f"{name} is not ready:\n{self.last_words()}"

    def supervise(self, name: str, **settings: Any) -> None:
        """Start it, and start it again whenever it ends, as an init system does."""

        async def again_and_again() -> None:
            self.start(name, **settings)
            while True:
                await self.nursery.ended(self._pids[name])
                await asyncio.sleep(0.1)
                del self._pids[name]
                self.restarts += 1
                self.start(name, **settings)

        self._supervisors.append(asyncio.create_task(again_and_again()))

    def send(self, name: str, sign: signal.Signals) -> None:
        os.killpg(self._pids[name], sign)

    async def kill(self, name: str, sign: signal.Signals = signal.SIGKILL) -> int:
        return await self.nursery.kill(self._pids.pop(name), sign)

    async def ended(self, name: str, timeout_s: float = FINISHED_S) -> int:
        """Wait until it ends by itself, and say how; one that does not in that time is killed."""
        pid = self._pids.pop(name)
        try:
            return await asyncio.wait_for(self.nursery.ended(pid), timeout_s)
        except TimeoutError:
            return await self.nursery.kill(pid)

    async def under_way(self, effects: int) -> None:
        """Wait until so many effects more were made."""
        made = self.effects.keys
        count = len(made) + effects
        done = await self.effects.until(lambda: len(made) >= count, FINISHED_S)
        assert done, f"Nothing is done any more:\n{self.last_words()}"

    def hush(self) -> None:
        """Have all of them send no more, and work on."""
        self._began = time.monotonic()
        for pid in self._pids.values():
            os.kill(pid, signal.SIGUSR1)

    def assert_running(self) -> None:
        for name, pid in self._pids.items():
            assert self.nursery.is_running(pid), f"{name} ended by itself:\n{self.last_words()}"

    async def kill_all(self) -> None:
        for supervisor in self._supervisors:
            supervisor.cancel()
        for name in list(self._pids):
            await self.kill(name)

    async def kill_at_random(self, names: Collection[str], kills: int, seed: int) -> None:
        """Kill one of them and start it again, so many times, at moments that the seed decides."""
        dice = random.Random(seed)
        for name in names:
            self.start(name)
        for _ in range(kills):
            name = dice.choice(sorted(names))
            await self.ready(name)
            await asyncio.sleep(dice.uniform(0.0, 0.5))
            await self.kill(name)
            self.start(name)

    async def finish(self, allowed: Collection[str] = ()) -> Report:
        """Have all of them send no more, and wait until everything accepted is finished.

        `allowed`: states for good in which entries may end.
        """
        names = list(self._pids)
        await self.kill_all()
        for name in names:
            self.start(name, send=False)
        return await self.settled(allowed)

    async def settled(self, allowed: Collection[str] = ()) -> Report:
        """Wait until everything accepted is finished, and count."""
        began = self._began
        deadline = began + FINISHED_S
        report = await self._count(allowed)
        clean = 0
        # Twice, for what moves while it is counted may be in neither place.
        while (clean := clean + 1 if report.is_complete else 0) < 2:
            if time.monotonic() > deadline:
                break
            await self.effects.until(lambda: not self._missing(self._ledgers()), 0.2)
            await asyncio.sleep(0.05)
            report = await self._count(allowed)
        report.finished_s = time.monotonic() - began
        return report

    def _ledgers(self) -> tuple[set[str], set[str]]:
        sent: set[str] = set()
        accepted: set[str] = set()
        for path in self.folder.glob("*.ledger"):
            ledger = Ledger(path)
            sent |= set(ledger.sent)
            accepted |= set(ledger.accepted)
            ledger.close()
        return sent, accepted

    def _missing(self, ledgers: tuple[set[str], set[str]]) -> list[str]:
        expected = {f"{what} {label}" for label in ledgers[1] for what in ("pay", "thank")}
        return sorted(expected - set(self.effects.keys))

    async def _count(self, allowed: Collection[str]) -> Report:
        effects = self.effects
        sent, accepted = ledgers = self._ledgers()
        return Report(
            sent=len(sent),
            accepted=len(accepted),
            executed=effects.attempts.total(),
            effects=sum(map(len, effects.keys.values())),
            duplicates=sorted(label for label, keys in effects.keys.items() if len(keys) > 1),
            lost=self._missing(ledgers),
            invented=sorted(label for label in effects.keys if label.split()[1] not in sent),
            disordered=_disordered(effects.order, self._ordered),
            unfinished={
                f"{state} {count}": count
                for state, count in (await self.states()).items()
                if state in {*OPEN, *LOST_FOR_GOOD} - {*allowed} and count
            },
        )

    async def states(self) -> dict[str, int]:
        """How many entries the journals have in each state."""
        counts: dict[str, int] = defaultdict(int)
        for url in {self.journal_of(name) for name in self._started}:
            journal = make_journal(url)
            await journal.open()
            try:
                for route in await journal.stats(time.time_ns()):
                    for state, count in route.counts.items():
                        counts[state] += count
            finally:
                await journal.aclose()
        return counts

    def assert_faultless(self, report: Report) -> None:
        if report.faults:
            some = {name: list(value)[:10] for name, value in report.faults.items()}
            pytest.fail(f"{report}\n{some}\n{self.last_words()}", pytrace=False)

    def last_words(self) -> str:
        """The end of what each worker logged."""
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-1500:]}"
            for path in sorted(self.folder.glob("*.log"))
        )


def _disordered(order: list[str], whats: Collection[str]) -> list[str]:
    """Labels that came after a later one of their key. Every other loop of a sender has a key."""
    newest: dict[tuple[str, str], int] = {}
    found: list[str] = []
    for label in order:
        if match := re.fullmatch(r"(\w+) (\w+\.(\d+))\.(\d+)", label):
            what, loop, loop_number, number = match.groups()
            if what in whats and int(loop_number) % 2 == 0:
                if int(number) < newest.get((what, loop), 0):
                    found.append(label)
                newest[what, loop] = max(int(number), newest.get((what, loop), 0))
    return found
