"""Workers that share a journal: none takes what another has, and none ends the others."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from faults.conftest import place_on
from faults.harness import LONG, Harness, Place
from faults.nursery import Nursery


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_on(request.param, request, tmp_path)


async def test_two_workers_of_one_name_share_the_work(harness: Harness, nursery: Nursery) -> None:
    twin = Harness(harness.folder, nursery, Place(harness.journal_of("one")))
    twin.effects = harness.effects
    harness.start("one")
    await harness.ready("one")
    twin.start("one", send=False)
    await harness.effects.until(lambda: harness.effects.ready["one"] == 2, 30)
    await harness.effects.until(lambda: len(harness.effects.keys) > 200, 30)
    await harness.kill("one")
    report = await twin.settled()
    await twin.kill_all()

    harness.assert_faultless(report)
    assert report.accepted > 50


async def test_a_handler_ten_times_as_long_as_the_lease_runs_once(harness: Harness) -> None:
    harness.start("one", task="slow", lease_s=0.5)
    harness.start("two", send=False, lease_s=0.5)
    report = await harness.settled()

    harness.assert_faultless(report)
    assert harness.effects.attempts == {"pay one.0.1": 1, "thank one.0.1": 1}


async def test_a_message_that_ends_its_process_dies_and_its_neighbours_finish(
    harness: Harness,
) -> None:
    harness.start("one", task="deadly", work=False)
    assert await harness.ended("one") == 0
    for name in ("two", "three"):
        harness.supervise(name, send=False, lease_s=0.5)
    report = await harness.settled(allowed=["dead"])

    harness.assert_faultless(report)
    assert report.accepted == 10
    assert (await harness.states())["dead"] == 1
    assert harness.restarts > 2, "The message did not end its process."


async def test_a_stuck_worker_is_replaced_and_what_it_did_late_does_not_count(
    harness: Harness,
) -> None:
    """Its process stands still, as in a debugger or on a machine out of memory, and goes on."""
    harness.start("one")
    harness.start("two", send=False)
    await harness.ready("one")
    await harness.effects.until(lambda: len(harness.effects.keys) > 50, 30)
    harness.send("one", signal.SIGSTOP)
    await asyncio.sleep(3.0)
    harness.send("one", signal.SIGCONT)
    await harness.effects.until(lambda: len(harness.effects.keys) > 150, 30)
    harness.hush()
    report = await harness.settled()

    harness.assert_running()
    harness.assert_faultless(report)


async def test_a_worker_that_was_replaced_and_then_dies_leaves_nothing_behind(
    harness: Harness,
) -> None:
    """It goes on under its old name, which nobody watches any more, and has no time to beat."""
    harness.start("two", send=False)
    for goes_on_s in (0.0, 0.003, 0.01, 0.03, 0.1) if LONG else (0.005, 0.03):
        harness.start("one")
        await harness.ready("one")
        await harness.under_way(30)
        harness.send("one", signal.SIGSTOP)
        await asyncio.sleep(1.6)
        harness.send("one", signal.SIGCONT)
        await asyncio.sleep(goes_on_s)
        await harness.kill("one")
    report = await harness.settled()

    harness.assert_faultless(report)


async def test_a_subscriber_that_is_stuck_holds_up_nobody_else(harness: Harness) -> None:
    harness.start("one", stuck=True)
    await harness.ready("one")
    thanked = await harness.effects.until(
        lambda: sum(label.startswith("thank") for label in harness.effects.keys) > 400, 30
    )

    assert thanked, harness.last_words()
