"""What every journal must do; `test_journals.py` runs it on each of them."""

import asyncio
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from app.llmgine.delivery.journal import Entry, Journal, LoggedEvent, Outcome, State, Worker
from app.llmgine.errors import BusError, JournalError
from app.llmgine.messages import new_id

MakeJournal = Callable[[], Awaitable[Journal]]
"""Another journal, open, on the same store if the kind has one that can be shared."""

NOW_NS = 1_800_000_000_000_000_000
SECOND_NS = 1_000_000_000
# What two processes may take to see each other's changes, on a machine with other work.
SOON_S = 5.0


def entry(route: str = "command Do", *, key: str | None = None, **fields: Any) -> Entry:
    given = {"id": new_id(), "name": "Do", "payload": "{}", "created_ns": NOW_NS, **fields}
    return Entry(route=route, key=key, **given)


def told(session_id: str | None = None, **fields: Any) -> LoggedEvent:
    given = {"id": new_id(), "name": "Done", "version": 1, "time_ns": NOW_NS, **fields}
    return LoggedEvent(payload="{}", headers="{}", session_id=session_id, **given)


def outcome(state: State, **fields: Any) -> Outcome:
    return Outcome(state=state, at_ns=NOW_NS, **fields)


async def claimed(
    journal: Journal,
    owner: str = "me",
    *,
    routes: tuple[str, ...] = ("command Do",),
    limit: int = 100,
    now_ns: int = NOW_NS,
    suspects: bool = False,
) -> list[Entry]:
    return await journal.claim(
        owner, dict.fromkeys(routes, limit), limit, now_ns, suspects=suspects
    )


def ids(entries: list[Entry]) -> list[str]:
    return [one.id for one in entries]


class JournalContract:
    """What holds for one journal."""

    @pytest.fixture
    async def journal(self, make: MakeJournal) -> Journal:
        return await make()

    # Entries.

    async def test_an_entry_comes_back_as_it_was_appended(self, journal: Journal) -> None:
        given = entry(
            key="k\0\ud800é",
            id="an id\0 of a user \udcff",
            version=3,
            payload='{"text":"\\u0000 \\ud800"}',
            headers='{"session_id":"s"}',
            note='{"rule":1}',
        )

        assert await journal.append([given]) == ["queued"]
        found = await journal.get(given.id)

        assert found == replace(given, seq=found.seq if found else 0)

    async def test_an_id_is_appended_once(self, journal: Journal) -> None:
        one, other = entry(), entry()

        assert await journal.append([one, one]) == ["queued", "duplicate"]
        assert await journal.append([other, one]) == ["queued", "duplicate"]
        assert ids(await journal.find(["ready"])) == [one.id, other.id]

    async def test_what_comes_along_with_a_duplicate_is_not_told_again(
        self, journal: Journal
    ) -> None:
        one, event = entry(), told()
        await journal.append([one], [event])

        await journal.append([one], [told()])

        assert [found.id for found in (await journal.read(0)).events] == [event.id]

    async def test_an_append_is_kept_whole_or_not_at_all(self, journal: Journal) -> None:
        def fail(_: Any) -> None:
            raise LookupError("no")

        others = [asyncio.ensure_future(journal.append([entry()])) for _ in range(3)]
        with pytest.raises(LookupError, match="no"):
            await journal.append([entry(route="lost")], [told()], writes=[fail])

        assert await asyncio.gather(*others) == [["queued"]] * 3
        assert await journal.find(["ready"], route="lost") == []
        assert (await journal.read(0)).last == 0

    async def test_an_owner_begins_at_once_with_what_is_due(self, journal: Journal) -> None:
        due, later, waiting = entry(), entry(due_ns=NOW_NS), entry(state="waiting")

        became = await journal.append([due, later, waiting], owner="me")

        assert became == ["owned", "queued", "queued"]
        running = await journal.get(due.id)
        assert running is not None
        assert (running.state, running.owner, running.attempt) == ("running", "me", 1)
        assert ids(await claimed(journal, now_ns=NOW_NS - 1)) == []

    async def test_an_owner_waits_for_a_key_that_is_busy_elsewhere(self, journal: Journal) -> None:
        first, second = entry(key="k"), entry(key="k")
        await journal.append([first])
        await claimed(journal, "other")

        assert await journal.append([second], owner="me") == ["queued"]

    async def test_one_that_comes_finished_is_kept_as_it_is(self, journal: Journal) -> None:
        await journal.append([one := entry(state="parked", error="{}")], owner="me")

        found = await journal.get(one.id)

        assert found is not None
        assert (found.state, found.owner, found.attempt) == ("parked", None, 0)
        assert await claimed(journal) == []

    # Claims.

    async def test_claims_take_the_oldest_first_and_each_once(self, journal: Journal) -> None:
        entries = [entry() for _ in range(5)]
        await journal.append(entries)

        assert ids(await claimed(journal, limit=2)) == ids(entries[:2])
        assert ids(await claimed(journal, "other", limit=9)) == ids(entries[2:])
        assert [one.attempt for one in await journal.find(["running"])] == [1] * 5

    async def test_claims_take_only_the_routes_they_name(self, journal: Journal) -> None:
        await journal.append([entry("a"), entry("b"), entry("c")])

        found = await claimed(journal, routes=("a", "c", "d"))

        assert [one.route for one in found] == ["a", "c"]
        assert await claimed(journal, routes=()) == []

    async def test_nothing_is_claimed_before_it_is_due(self, journal: Journal) -> None:
        await journal.append([one := entry(due_ns=NOW_NS + 5)])

        assert await claimed(journal, now_ns=NOW_NS + 4) == []
        [found] = await claimed(journal, now_ns=NOW_NS + 5)
        assert (found.id, found.due_ns) == (one.id, NOW_NS + 5)

    async def test_a_clock_set_back_does_not_prolong_a_wait(self, journal: Journal) -> None:
        await journal.append([retried := entry(), entry(due_ns=NOW_NS + 9 * SECOND_NS)])
        [taken] = await claimed(journal)
        due_ns = NOW_NS + 5 * SECOND_NS
        await journal.settle(taken, outcome("ready", due_ns=due_ns, wait_ns=5 * SECOND_NS))

        back_ns = NOW_NS - 3600 * SECOND_NS
        assert await claimed(journal, now_ns=back_ns) == []
        found = await claimed(journal, now_ns=back_ns + 5 * SECOND_NS)

        assert ids(found) == [retried.id]

    async def test_those_of_a_key_come_together_or_one_after_the_other(
        self, journal: Journal
    ) -> None:
        entries = [entry(key="k") for _ in range(3)]
        await journal.append(entries)

        assert ids(await claimed(journal, limit=2)) == ids(entries[:2])
        assert await claimed(journal, "other") == []
        for one in await journal.find(["running"]):
            await journal.settle(one, outcome("done"))
        assert ids(await claimed(journal, "other")) == [entries[2].id]

    async def test_keys_of_two_routes_are_two_keys(self, journal: Journal) -> None:
        await journal.append([entry("a", key="k"), entry("b", key="k")])

        assert len(await claimed(journal, "one", routes=("a",))) == 1
        assert len(await claimed(journal, "other", routes=("b",))) == 1

    @pytest.mark.parametrize("state", ["ready", "waiting", "sent"])
    async def test_those_behind_one_that_is_not_finished_wait(
        self, journal: Journal, state: State
    ) -> None:
        first, second = entry(key="k"), entry(key="k")
        await journal.append([first, second])
        [taken] = await claimed(journal, limit=1)
        await journal.settle(taken, outcome(state, due_ns=NOW_NS + SECOND_NS))

        assert await claimed(journal) == []

    @pytest.mark.parametrize("state", ["done", "failed", "dead", "parked"])
    async def test_those_behind_one_that_is_finished_go_on(
        self, journal: Journal, state: State
    ) -> None:
        first, second = entry(key="k"), entry(key="k")
        await journal.append([first, second])
        [taken] = await claimed(journal, limit=1)
        await journal.settle(taken, outcome(state))

        assert ids(await claimed(journal, "other")) == [second.id]

    async def test_a_schedule_holds_up_nobody_before_its_time(self, journal: Journal) -> None:
        schedule, now = entry(key="k", due_ns=NOW_NS + 1), entry(key="k")
        await journal.append([schedule, now])

        assert ids(await claimed(journal)) == [now.id]
        assert await claimed(journal, "other", now_ns=NOW_NS + 1) == []

    async def test_suspects_are_claimed_apart(self, journal: Journal) -> None:
        suspect, other = entry(), entry()
        await journal.append([suspect])
        for _ in range(2):
            await claimed(journal, "lost")
            await journal.release("lost", lost=True)
        await journal.append([other])

        assert ids(await claimed(journal)) == [other.id]
        [found] = await claimed(journal, suspects=True)
        assert (found.id, found.losses, found.attempt) == (suspect.id, 2, 3)

    async def test_claimers_at_once_share_the_entries_between_them(self, journal: Journal) -> None:
        entries = [entry(key=f"k{number % 5}") for number in range(60)]
        await journal.append(entries)

        async def work(owner: str) -> list[str]:
            done = []
            while taken := await claimed(journal, owner, limit=7):
                for one in taken:
                    assert await journal.settle(one, outcome("done"))
                done += ids(taken)
            return done

        done = await asyncio.gather(*(work(f"w{number}") for number in range(4)))

        assert sorted(itertools.chain(*done)) == sorted(ids(entries))

    # Outcomes.

    async def test_an_outcome_is_committed_with_all_that_belongs_to_it(
        self, journal: Journal
    ) -> None:
        await journal.append([entry()])
        [taken] = await claimed(journal)
        sent, event = entry("next"), told()

        assert await journal.settle(
            taken, outcome("done", result="1", outbox=[sent], events=[event])
        )

        done = await journal.get(taken.id)
        assert done is not None
        assert (done.state, done.result, done.owner, done.finished_ns) == (
            "done",
            "1",
            None,
            NOW_NS,
        )
        assert ids(await claimed(journal, routes=("next",))) == [sent.id]
        assert [one.id for one in (await journal.read(0)).events] == [event.id]

    async def test_nothing_of_an_outcome_is_kept_if_a_write_fails(self, journal: Journal) -> None:
        def fail(_: Any) -> None:
            raise ZeroDivisionError

        await journal.append([entry()])
        [taken] = await claimed(journal)

        with pytest.raises(ZeroDivisionError):
            await journal.settle(taken, outcome("done", outbox=[entry("next")], writes=[fail]))

        assert await journal.find(["ready"]) == []
        assert await journal.settle(taken, outcome("done"))

    async def test_a_write_may_not_end_the_transaction(self, journal: Journal) -> None:
        def commit(connection: Any) -> Any:
            return connection.execute("COMMIT")

        with pytest.raises(BusError, match="ended the transaction"):
            await journal.append([entry()], writes=[commit])

    async def test_a_lost_entry_is_not_settled(self, journal: Journal) -> None:
        await journal.append([entry()])
        [mine] = await claimed(journal)
        await journal.release("me", lost=True)

        assert not await journal.settle(mine, outcome("done", events=[told()]))
        [again] = await claimed(journal)
        assert again.attempt == 2
        assert not await journal.settle(mine, outcome("done", events=[told()]))
        assert (await journal.read(0)).last == 0
        assert await journal.settle(again, outcome("done"))

    async def test_an_attempt_that_does_not_count_is_taken_back(self, journal: Journal) -> None:
        await journal.append([entry()])
        [taken] = await claimed(journal)

        await journal.settle(taken, outcome("ready", counts=False, note="n"))

        [again] = await claimed(journal)
        assert (again.attempt, again.note) == (1, "n")

    async def test_release_gives_all_back_and_forgets_the_worker(self, journal: Journal) -> None:
        await journal.beat(Worker(id="me", name="here", started_ns=1))
        await journal.append([entry(), entry()], owner="me")

        assert await journal.release("me", lost=False) == 2
        assert await journal.release("me", lost=True) == 0
        other = Worker(id="o", name="there", routes=["a"], started_ns=1)
        assert await journal.beat(other) == [replace(other, beats=1)]
        assert [(one.attempt, one.losses) for one in await claimed(journal)] == [(1, 0)] * 2

    async def test_each_beat_counts_one(self, journal: Journal) -> None:
        worker = Worker(id="me", name="host 1", routes=["a", "b"], started_ns=5)

        await journal.beat(worker)
        found = await journal.beat(worker)

        assert found == [replace(worker, beats=2)]

    # What people do to entries.

    async def test_amend_changes_an_entry_that_is_as_said(self, journal: Journal) -> None:
        await journal.append([one := entry(state="waiting", note="a")])
        say = {"state": "ready", "at_ns": NOW_NS}

        assert not await journal.amend(one.id, was=["dead", "parked"], **say)
        assert not await journal.amend(one.id, was=["waiting"], note_was="b", **say)
        assert await journal.amend(one.id, was=["dead", "waiting"], note_was="a", note="c", **say)
        assert not await journal.amend(one.id, was=["waiting"], **say)
        assert [found.note for found in await claimed(journal)] == ["c"]

    async def test_a_dead_entry_begins_afresh(self, journal: Journal) -> None:
        await journal.append([one := entry()])
        [taken] = await claimed(journal)
        await journal.settle(taken, outcome("dead", error="{}"))

        await journal.amend(one.id, was=["dead"], state="ready", at_ns=NOW_NS, fresh=True)

        [again] = await claimed(journal)
        assert (again.attempt, again.error, again.finished_ns) == (1, None, None)

    async def test_nobody_amends_what_runs(self, journal: Journal) -> None:
        await journal.append([one := entry()], owner="me")

        assert not await journal.amend(one.id, was=["running"], state="dead", at_ns=NOW_NS)

    async def test_a_dropped_entry_is_forgotten(self, journal: Journal) -> None:
        await journal.append([one := entry(state="dead")])

        assert not await journal.drop(one.id, ["parked"])
        assert await journal.drop(one.id, ["parked", "dead"])
        assert await journal.get(one.id) is None

    async def test_find_goes_through_the_entries_page_by_page(self, journal: Journal) -> None:
        states: tuple[State, ...] = ("ready", "waiting", "sent", "done", "failed", "dead", "parked")
        entries = [entry(state=state) for state in states for _ in range(2)]
        await journal.append(entries)

        page = await journal.find(states, limit=5)
        rest = await journal.find(states, after_seq=page[-1].seq)

        assert ids(page + rest) == ids(entries)
        assert [one.state for one in await journal.find(["dead"])] == ["dead"] * 2
        assert await journal.find(["dead"], route="other") == []
        assert await journal.find([]) == []

    async def test_stats_count_what_is_not_finished(self, journal: Journal) -> None:
        await journal.append([entry(), entry(created_ns=NOW_NS - 7), entry(state="dead")])
        await journal.append([entry(state="done"), entry(due_ns=NOW_NS + 9), entry("b")])
        await journal.append([entry("c")], owner="me")

        found = {one.route: one for one in await journal.stats(NOW_NS)}

        assert found["command Do"].counts == {"ready": 3, "dead": 1}
        assert found["command Do"].oldest_due_ns == NOW_NS - 7
        assert found["b"].counts == {"ready": 1}
        assert (found["c"].counts, found["c"].oldest_due_ns) == ({"running": 1}, None)

    # The log.

    async def test_events_are_read_once_each_in_their_order(self, journal: Journal) -> None:
        events = [told() for _ in range(7)]
        for one in events:
            await journal.append([], [one])

        first = await journal.read(0, limit=4)
        second = await journal.read(first.upto, limit=4)
        third = await journal.read(second.upto)

        assert [*first.events, *second.events] == [
            replace(one, cursor=found.cursor)
            for one, found in zip(events, [*first.events, *second.events], strict=True)
        ]
        assert list(third.events) == []
        assert third.upto == third.last == second.events[-1].cursor

    async def test_an_event_is_logged_once(self, journal: Journal) -> None:
        event = told()

        await journal.append([], [event])
        await journal.append([], [event])

        assert len((await journal.read(0)).events) == 1

    async def test_a_reader_of_one_session_gets_on_past_the_others(self, journal: Journal) -> None:
        await journal.append([], [told("a"), told("b"), told(None), told("b\0"), told("a")])

        page = await journal.read(0, session_id="a")

        assert [one.session_id for one in page.events] == ["a", "a"]
        assert [one.session_id for one in (await journal.read(0, session_id="b\0")).events] == [
            "b\0"
        ]
        assert (await journal.read(0, session_id="none")).upto == page.last == page.upto

    async def test_an_empty_log_stands_at_zero(self, journal: Journal) -> None:
        page = await journal.read(0)

        assert (list(page.events), page.first, page.last, page.upto) == ([], 0, 0, 0)

    async def test_a_cursor_is_never_given_twice(self, journal: Journal) -> None:
        await journal.append([], [told(), told()])
        last = (await journal.read(0)).last
        await journal.sweep(NOW_NS + 1, 10**12)

        page = await journal.read(0, limit=0)
        assert (page.first, page.last) == (0, last)
        await journal.append([], [told()])
        assert (await journal.read(last)).events[0].cursor > last

    # Retention.

    async def test_a_sweep_deletes_what_finished_long_ago(self, journal: Journal) -> None:
        states: tuple[State, ...] = ("ready", "waiting", "sent", "dead", "parked", "done", "failed")
        old = [entry(state=state) for state in states]
        young = entry(state="done", created_ns=NOW_NS + 1)
        await journal.append([*old, young], [told(), recent := told(time_ns=NOW_NS + 1)])

        assert await journal.sweep(NOW_NS + 1, 10**12) == 3

        kept = await journal.find([*states], limit=100)
        assert ids(kept) == ids([*old[:5], young])
        assert [one.id for one in (await journal.read(0)).events] == [recent.id]

    async def test_a_sweep_keeps_the_newest_that_fit(self, journal: Journal) -> None:
        # Random, for a database that compresses.
        payloads = [f'"{secrets.token_hex(5000)}"' for _ in range(300)]
        entries = [entry(state="done", payload=payload) for payload in payloads]
        await journal.append(entries)

        await journal.sweep(NOW_NS - 1, 2_000_000)

        kept = await journal.find(["done"], limit=1000)
        assert 80 <= len(kept) <= 100
        assert ids(kept) == ids(entries[-len(kept) :])

    # Changes.

    async def test_who_waits_is_told_of_a_change(self, journal: Journal) -> None:
        await journal.changed(0.01)
        waiting = asyncio.ensure_future(journal.changed(60))

        await journal.append([entry()])

        await asyncio.wait_for(waiting, SOON_S)

    async def test_a_change_before_the_call_counts(self, journal: Journal) -> None:
        await journal.changed(0.01)
        await journal.append([entry()])

        await asyncio.wait_for(journal.changed(60), SOON_S)

    async def test_without_a_change_the_time_runs_out(self, journal: Journal) -> None:
        await journal.changed(0.01)
        begin = time.monotonic()

        await journal.changed(0.25)

        assert time.monotonic() - begin >= 0.24

    # The store.

    async def test_a_healthy_journal_says_what_it_is(self, journal: Journal) -> None:
        assert "\n" not in await journal.check()

    async def test_a_closed_journal_takes_no_calls(self, journal: Journal) -> None:
        appending = asyncio.ensure_future(journal.append([entry()]))
        await asyncio.sleep(0)

        await journal.aclose()
        await journal.aclose()

        assert await appending == ["queued"]
        with pytest.raises(JournalError, match="not open"):
            await journal.append([entry()])


class SharedContract:
    """What holds for several journals on one store, as several processes have them."""

    async def test_a_store_keeps_its_name_and_what_it_has(self, make: MakeJournal) -> None:
        first = await make()
        await first.append([one := entry()], [told()])
        await first.aclose()

        second = await make()

        assert second.node == first.node != ""
        assert ids(await second.find(["ready"])) == [one.id]
        assert len((await second.read(0)).events) == 1

    async def test_many_may_open_a_new_store_at_once(self, make: MakeJournal) -> None:
        journals = await asyncio.gather(*(make() for _ in range(4)))

        assert len({one.node for one in journals}) == 1
        await asyncio.gather(*(one.append([entry()]) for one in journals))
        assert len(await journals[0].find(["ready"])) == 4

    async def test_who_waits_is_told_of_a_change_elsewhere(self, make: MakeJournal) -> None:
        here, there = await make(), await make()
        while True:  # Until what happened at the start is heard.
            begin = time.monotonic()
            await here.changed(0.5)
            if time.monotonic() - begin >= 0.5:
                break
        waiting = asyncio.ensure_future(here.changed(60))

        await there.append([entry()])

        await asyncio.wait_for(waiting, SOON_S)

    async def test_a_key_has_one_owner_among_many_claimers(self, make: MakeJournal) -> None:
        journals = [await make() for _ in range(3)]
        entries = [entry(key=f"k{number % 4}") for number in range(80)]
        await journals[0].append(entries)
        running: dict[str, str] = {}
        done: list[Entry] = []

        async def work(journal: Journal, owner: str) -> None:
            while len(done) < len(entries):
                taken = await claimed(journal, owner, limit=3)
                for one in taken:
                    assert running.setdefault(str(one.key), owner) == owner
                for one in taken:
                    done.append(one)
                    if not any(other.key == one.key and other not in done for other in taken):
                        del running[str(one.key)]
                    assert await journal.settle(one, outcome("done"))

        await asyncio.gather(*(work(one, f"w{n}") for n, one in enumerate(journals)))

        assert len({one.id for one in done}) == len(done) == len(entries)
        for key in ("k0", "k1", "k2", "k3"):
            seqs = [one.seq for one in done if one.key == key]
            assert seqs == sorted(seqs)

    async def test_no_event_comes_in_before_one_that_was_read(self, make: MakeJournal) -> None:
        journals = [await make() for _ in range(3)]
        writing = [
            asyncio.ensure_future(one.append([], [told(), told()]))
            for _ in range(40)
            for one in journals
        ]
        cursor, seen = 0, []
        while len(seen) < 2 * len(writing):
            page = await journals[0].read(cursor, limit=50)
            seen += [one.id for one in page.events]
            cursor = page.upto
        await asyncio.gather(*writing)

        everything = [one.id for one in (await journals[0].read(0)).events]
        assert seen == everything
