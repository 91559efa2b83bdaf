"""Workers that are killed at random moments under load lose nothing and do nothing twice."""

import pytest

from faults.harness import FINISHED_S, LONG, Harness

KILLS = 200 if LONG else 25
NAMES = ("one", "two", "three")


@pytest.mark.timeout(1800 if LONG else 120)
@pytest.mark.parametrize("seed", [20261121])
async def test_killed_workers_lose_nothing_and_do_nothing_twice(
    harness: Harness, seed: int
) -> None:
    await harness.kill_at_random(NAMES, KILLS, seed)
    report = await harness.finish()

    print(f"{KILLS} kills, seed {seed}: {report}")
    harness.assert_faultless(report)
    assert report.finished_s < FINISHED_S
    assert report.accepted > KILLS, "Too little was under way to be hit."
