"""Order per key, one owner and fencing: every journal agrees with a model that can be read."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.llmgine.delivery.journal import OPEN, SUSPECT_LOSSES, Entry, Journal, Outcome, State
from app.llmgine.delivery.postgres import PostgresJournal
from app.llmgine.delivery.sqlite import SQLiteJournal
from servers import PostgresServer

BEGIN_NS = 1_800_000_000_000_000_000
OWNERS = st.sampled_from(["a", "b"])
KEYS = st.sampled_from(["k", "k", "l", None])
APPEND = st.tuples(st.just("append"), KEYS, st.sampled_from([0, 0, 0, 2]))
CLAIM = st.tuples(st.just("claim"), OWNERS, st.integers(1, 3), st.just(False))
SETTLE = st.tuples(
    st.just("settle"),
    st.integers(0, 3),
    st.sampled_from(["done", "failed", "dead", "ready", "ready", "waiting", "sent"]),
    st.sampled_from([0, 2]),
)
# What is often done stands here often.
ACTIONS = st.one_of(
    *(APPEND, APPEND, CLAIM, CLAIM, SETTLE, SETTLE),
    st.tuples(st.just("claim"), OWNERS, st.integers(1, 3), st.just(True)),
    st.tuples(st.just("own"), OWNERS, KEYS),
    st.tuples(st.just("release"), OWNERS, st.booleans()),
    st.tuples(st.just("amend"), st.integers(0, 9)),
    st.tuples(st.just("pass"), st.integers(1, 3)),
)
_routes = itertools.count()
Run = Callable[[list[tuple[Any, ...]]], None]


@dataclass(slots=True)
class Model:
    """The entries as they should be, in the order they were appended."""

    now_ns: int = BEGIN_NS
    entries: list[Entry] = field(default_factory=list)
    held: list[Entry] = field(default_factory=list)
    """Everything that was ever handed out, as it was then."""

    def is_due(self, entry: Entry) -> bool:
        return entry.due_ns <= self.now_ns

    def is_schedule(self, entry: Entry) -> bool:
        return entry.state == "ready" and entry.attempt == 0 and not self.is_due(entry)

    def claimable(self, owner: str, limit: int, suspects: bool) -> list[Entry]:
        taken: list[Entry] = []
        for entry in self.entries:
            if (
                len(taken) < limit
                and entry.state == "ready"
                and self.is_due(entry)
                and (entry.losses >= SUSPECT_LOSSES) == suspects
                and not any(self.blocks(other, entry, owner, taken) for other in self.entries)
            ):
                taken.append(entry)
        return taken

    def blocks(self, other: Entry, entry: Entry, owner: str, taken: list[Entry]) -> bool:
        if other is entry or other.key is None or other.key != entry.key:
            return False
        if other.state == "running":
            return other.owner != owner
        earlier = self.entries.index(other) < self.entries.index(entry)
        open_ = other.state in OPEN and not self.is_schedule(other)
        return earlier and open_ and not any(one is other for one in taken)

    def hand_out(self, entry: Entry, owner: str) -> None:
        entry.state, entry.owner, entry.attempt = "running", owner, entry.attempt + 1
        self.held.append(replace(entry))


async def play(journal: Journal, actions: list[tuple[Any, ...]]) -> None:
    model, route = Model(), f"command {next(_routes)}"
    for action in actions:
        match action:
            case ("append", key, wait):
                due_ns = model.now_ns + wait if wait else 0
                model.entries.append(new := _entry(route, len(model.entries), key, due_ns))
                assert await journal.append([new]) == ["queued"]
            case ("own", owner, key):
                model.entries.append(new := _entry(route, len(model.entries), key, 0))
                busy = any(
                    model.blocks(one, new, owner, [])
                    for one in model.entries
                    if one.due_ns == 0 or one.attempt
                )
                [became] = await journal.append([new], owner=owner)
                if key is None:
                    assert became == "owned"
                if became == "owned":
                    assert not busy
                    model.hand_out(new, owner)
            case ("claim", owner, limit, suspects):
                expected = model.claimable(owner, limit, suspects)
                found = await journal.claim(
                    owner, {route: limit}, limit, model.now_ns, suspects=suspects
                )
                for one in expected:
                    model.hand_out(one, owner)
                assert [(one.id, one.attempt, one.losses) for one in found] == [
                    (one.id, one.attempt, one.losses) for one in expected
                ]
            case ("settle", index, state, wait) if model.held:
                held = model.held[-1 - index % len(model.held)]
                due_ns = model.now_ns + wait if wait and state == "ready" else 0
                outcome = Outcome(state=state, at_ns=model.now_ns, due_ns=due_ns)
                [one] = [one for one in model.entries if one.id == held.id]
                is_held = (one.owner, one.attempt) == (held.owner, held.attempt)
                assert await journal.settle(held, outcome) == is_held
                if is_held:
                    one.state, one.owner, one.due_ns = state, None, due_ns
            case ("release", owner, lost):
                owned = [one for one in model.entries if one.owner == owner]
                assert await journal.release(owner, lost=lost) >= len(owned)
                for one in owned:
                    one.state, one.owner, one.due_ns = "ready", None, 0
                    one.attempt -= not lost
                    one.losses += lost
            case ("amend", index) if model.entries:
                one = model.entries[index % len(model.entries)]
                was: list[State] = ["dead", "waiting", "sent"]
                amended = await journal.amend(one.id, was=was, state="ready", at_ns=1)
                assert amended == (one.state in was)
                if amended:
                    one.state, one.due_ns = "ready", 0
            case ("pass", ns):
                model.now_ns += ns
    found = {one.id: one for one in await journal.find(["ready", "running"], route=route)}
    for one in model.entries:
        if one.state in ("ready", "running"):
            assert (found[one.id].state, found[one.id].owner) == (one.state, one.owner)
    for owner in "ab":
        await journal.release(owner, lost=False)


def _entry(route: str, number: int, key: str | None, due_ns: int) -> Entry:
    return Entry(
        id=f"{route} {number}",
        route=route,
        name="Do",
        payload="{}",
        key=key,
        due_ns=due_ns,
        created_ns=BEGIN_NS,
    )


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    """Runs what is to be done with one open journal, in one event loop."""
    journal: Journal
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        journal = PostgresJournal(server.fresh_url())
    else:
        journal = SQLiteJournal(tmp_path / "a.db" if request.param == "sqlite" else ":memory:")
    with asyncio.Runner() as loop:
        loop.run(journal.open())
        yield lambda actions: loop.run(play(journal, actions))
        loop.run(journal.aclose())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, min_size=20, max_size=60))
def test_a_journal_hands_out_what_the_model_does(
    runner: Run, actions: list[tuple[Any, ...]]
) -> None:
    runner(actions)
