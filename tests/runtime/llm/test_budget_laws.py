"""What holds of the budget: whatever runs at the same time, and whoever dies meanwhile."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.llmgine.errors import BudgetError
from app.llmgine.llm.budget import Budget, Cap, Ledger, Reservation
from app.llmgine.testing import FakeClock
from runtime.llm.test_budget import NOON, PRICES, call, took, usd

TESTS = Path(__file__).parents[2]
HAMMER = """
import asyncio, sys
from pathlib import Path
from runtime.llm.test_budget import PRICES, Budget, BudgetError, Ledger, call, took, usd

async def main(path, calls):
    book = Ledger(Path(path), Budget(day=usd(1_000)), PRICES)
    input()
    async def one(number):
        try:
            place = await book.reserve("m/x", call(20))
        except BudgetError:
            return 0
        await book.settle(place, took(20), None)
        return 1
    print(sum(await asyncio.gather(*map(one, range(calls)))), flush=True)
    await book.aclose()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""
HOLD = """
import asyncio, sys
from pathlib import Path
from runtime.llm.test_budget import PRICES, Budget, Ledger, call, usd

async def main(path):
    book = Ledger(Path(path), Budget(day=usd(1_000)), PRICES)
    for _ in range(3):
        await book.reserve("m/x", call(100))
    print("held", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(sys.argv[1]))
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_processes_that_hammer_one_file_stay_within_the_cap_and_use_all_of_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "app.db"
    both = [start(HAMMER, str(path), "40") for _ in range(2)]
    for one in both:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()

    admitted = [int(one.communicate(timeout=60)[0]) for one in both]

    book = Ledger(path, Budget(day=usd(1_000)), PRICES)
    found = await book.balance("day")
    await book.aclose()
    assert sum(admitted) == 50
    assert (found.spent_usd, found.reserved_usd, found.calls) == (Decimal(1000), Decimal(0), 50)


async def test_what_a_killed_process_had_reserved_counts_as_spent(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    process = start(HOLD, str(path))
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)

    book = Ledger(path, Budget(day=usd(1_000)), PRICES)
    found = await book.balance("day")

    assert (found.open_calls, found.reserved_usd) == (3, Decimal(300))
    with pytest.raises(BudgetError, match=r"300\.00 USD reserved by open calls"):
        await book.reserve("m/x", call(701))
    await book.aclose()


class CapsHold(RuleBasedStateMachine):
    """Two ledgers on a file, calls in any order: the law of `Ledger`, against sums of our own."""

    CAP: ClassVar = {"session": 500, "user": 700, "day": 1_000}

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.open: list[tuple[int, Reservation, dict[str, str], int]] = []
        self.lost: list[tuple[dict[str, str], int]] = []
        self.spent: list[tuple[dict[str, str], int]] = []
        self.excess = 0
        self.crashed: list[Ledger] = []

    @initialize()
    def start(self) -> None:
        self.ledgers = [self.make(), self.make()]

    def make(self) -> Ledger:
        caps = {scope: Cap(usd=Decimal(cap), tokens=cap) for scope, cap in self.CAP.items()}
        return Ledger(Path(self.folder.name) / "app.db", Budget(**caps), PRICES, FakeClock(NOON))

    def standing(self, scope: str, key: str) -> int:
        held = [(keys, need) for _, _, keys, need in self.open]
        return sum(
            amount for keys, amount in [*held, *self.lost, *self.spent] if keys[scope] == key
        )

    @rule(
        which=st.integers(0, 1),
        need=st.integers(50, 400),
        times=st.integers(1, 12),
        session=st.sampled_from("ab"),
        user=st.sampled_from("cd"),
    )
    def reserve(self, which: int, need: int, times: int, session: str, user: str) -> None:
        """Several at once, through both ledgers: exactly as many get in as there is room for."""
        keys = {"session": session, "user": user, "day": ""}
        room = min(
            max(cap - self.standing(scope, keys[scope]), 0) // need
            for scope, cap in self.CAP.items()
        )
        request = call(need, conversation_id=session, user_id=user)
        used = [(which + number) % 2 for number in range(times)]

        async def rush() -> list[Reservation | BaseException]:
            calls = (self.ledgers[one].reserve("m/x", request) for one in used)
            return await asyncio.gather(*calls, return_exceptions=True)

        results = self.runner.run(rush())
        for one, result in zip(used, results, strict=True):
            if isinstance(result, Reservation):
                self.open.append((one, result, keys, need))
            else:
                assert isinstance(result, BudgetError)
        assert sum(isinstance(one, Reservation) for one in results) == min(room, times)

    # Which of the two was faster differs: what is drawn must not depend on it.

    @rule(number=st.integers(0, 999), share=st.sampled_from([0, 0.5, 1, 1, 1.5]))
    def settle(self, number: int, share: float) -> None:
        if self.open:
            which, place, keys, need = self.open.pop(number % len(self.open))
            used = int(need * share)
            self.runner.run(self.ledgers[which].settle(place, took(used), None))
            self.spent.append((keys, used))
            self.excess += max(used - need, 0)

    @rule(number=st.integers(0, 999))
    def release(self, number: int) -> None:
        if self.open:
            which, place, _, _ = self.open.pop(number % len(self.open))
            self.runner.run(self.ledgers[which].release(place))

    @rule(which=st.integers(0, 1))
    def crash(self, which: int) -> None:
        """Nobody settles what it had reserved."""
        self.lost += [(keys, need) for one, _, keys, need in self.open if one == which]
        self.open = [one for one in self.open if one[0] != which]
        self.crashed.append(self.ledgers[which])
        self.ledgers[which] = self.make()

    @invariant()
    def no_cap_is_passed_but_by_what_calls_took_beyond_their_reservation(self) -> None:
        for scope, cap in self.CAP.items():
            for key in {keys[scope] for keys, _ in self.spent}:
                assert self.standing(scope, key) <= cap + self.excess

    @invariant()
    def the_ledger_shows_what_happened(self) -> None:
        if not hasattr(self, "ledgers"):
            return
        found = self.runner.run(self.ledgers[0].balance("day"))
        assert found.spent_usd == sum(amount for _, amount in self.spent)
        assert found.open_calls == len(self.open) + len(self.lost)
        assert found.reserved_tokens == self.standing("day", "") - found.spent_tokens

    def teardown(self) -> None:
        for one in (*getattr(self, "ledgers", ()), *self.crashed):
            self.runner.run(one.aclose())
        self.runner.close()
        self.folder.cleanup()


TestCapsHold = CapsHold.TestCase
TestCapsHold.settings = settings(max_examples=15, stateful_step_count=15)
