"""A process that dies at any point of its journal or transport loses nothing, and repeats nothing.

The points are all calls that the bus makes of them, before and after.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.llmgine.delivery.journal import Journal
from app.llmgine.delivery.transport import Transport
from faults.conftest import place_on
from faults.crash import KILLED, Point, methods_of
from faults.harness import LONG, Harness, Place, Report
from faults.nursery import Nursery

# What is called to look, not to change: dying there is dying between two of the others. It stays
# in the list all the same where the scenario calls it.
JOURNAL = {
    *("open", "aclose", "append", "claim", "settle", "amend", "drop", "get", "find", "stats"),
    *("beat", "release", "read", "changed", "sweep", "check"),
}
TRANSPORT = {"open", "aclose", "send", "consume", "request", "check"}
# Handled, and dead before that was acknowledged; there is no such method.
ACKNOWLEDGE = "deliver"
NTHS = (1, 2, 3) if LONG else (1,)
# Called once in the life of a process.
ONCE = {"open", "aclose", "release", "consume"}
AT_ONCE = 12
# How soon the process comes to the point, on a busy machine.
DIES_S = 20.0
# One that hangs must not take the others with it.
POINT_S = 90.0

# What the scenario calls of them; the rest is called by operators, and has its own test.
POINTS = {
    "sqlite": [("journal", method) for method in sorted(JOURNAL)],
    "postgres": [("journal", method) for method in sorted(JOURNAL)],
    "nats": [("transport", method) for method in sorted({*TRANSPORT, ACKNOWLEDGE})],
}
CASES = [
    (backend, str(Point(part, method, when, nth)))  # type: ignore[arg-type]  # literals above
    for backend, points in POINTS.items()
    for part, method in points
    for when in ("before", "after")
    for nth in NTHS
    if nth == 1 or method not in ONCE
]


def test_no_method_is_forgotten() -> None:
    assert methods_of(Journal) == JOURNAL
    assert methods_of(Transport) == TRANSPORT


# How the process ended, how the next one did, what became of the work, and what they logged.
Outcome = tuple[int, int, Report, str]


class Outcomes:
    """How it went at each point of one backend; they run side by side, for each mostly waits."""

    def __init__(self, request: pytest.FixtureRequest, nursery: Nursery, folder: Path) -> None:
        self._request = request
        self._nursery = nursery
        self._folder = folder
        self._of: dict[str, dict[str, Outcome | BaseException]] = {}

    def of(self, backend: str, point: str) -> Outcome:
        if backend not in self._of:
            self._of[backend] = asyncio.run(self._all(backend))
        outcome = self._of[backend][point]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def _all(self, backend: str) -> dict[str, Outcome | BaseException]:
        turns = asyncio.Semaphore(AT_ONCE)
        points = [point for one, point in CASES if one == backend]

        async def die_at(point: str) -> Outcome:
            folder = self._folder / backend / point
            folder.mkdir(parents=True)
            place = place_on(backend, self._request, folder)
            async with turns, asyncio.timeout(POINT_S):
                return await die_and_recover(folder, self._nursery, place, point)

        outcomes = await asyncio.gather(*map(die_at, points), return_exceptions=True)
        return dict(zip(points, outcomes, strict=True))


async def die_and_recover(folder: Path, nursery: Nursery, place: Place, point: str) -> Outcome:
    async with Harness(folder, nursery, place, task="scenario") as harness:
        harness.start("one", crash=point)
        died = await harness.ended("one", DIES_S)
        if died != KILLED:
            return died, 0, Report(), harness.last_words()
        harness.start("one")
        recovered = await harness.ended("one")
        harness.start("one", task="load", send=False)  # For what that one left for others.
        return died, recovered, await harness.settled(), harness.last_words()


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> Outcomes:
    return Outcomes(request, nursery, tmp_path_factory.mktemp("points"))


@pytest.mark.timeout(1200 if LONG else 180)
@pytest.mark.parametrize(("backend", "point"), CASES)
def test_a_crash_there_loses_nothing_and_repeats_nothing(
    outcomes: Outcomes, backend: str, point: str
) -> None:
    died, recovered, report, words = outcomes.of(backend, point)

    print(f"{backend} {point}: {report}")
    assert died == KILLED, f"It never came to this point:\n{words}"
    assert recovered == 0, words
    assert report.faults == {}, words
    assert report.accepted == 8
