"""What operators do with the entries of a journal."""

from collections.abc import AsyncIterator

import pytest

from app.llmgine.bus.queue import DROPPABLE, NOT_DONE, RETRIABLE, Filter, Queue
from app.llmgine.delivery.journal import Entry, Journal, State, Worker
from app.llmgine.delivery.sqlite import SQLiteJournal
from app.llmgine.errors import DeliveryError, UnknownReceiptError
from app.llmgine.testing import FakeClock

STATES: tuple[State, ...] = (*NOT_DONE, "done")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def journal() -> AsyncIterator[Journal]:
    journal = SQLiteJournal(":memory:")
    await journal.open()
    yield journal
    await journal.aclose()


@pytest.fixture
def queue(journal: Journal, clock: FakeClock) -> Queue:
    return Queue(journal, clock)


def entry(
    entry_id: str,
    state: State = "ready",
    *,
    name: str = "Pay",
    route: str = "",
    created_ns: int = 0,
) -> Entry:
    return Entry(
        id=entry_id,
        route=route or f"command {name}",
        name=name,
        payload='{"amount": 3}',
        created_ns=created_ns,
        state=state,
        attempt=0 if state == "ready" else 3,
        error='{"type": "ValueError", "message": "no"}' if state in RETRIABLE else None,
    )


async def ids(queue: Queue, wanted: Filter) -> list[str]:
    return [one.id for one in await queue.page(wanted)]


async def test_everything_that_is_not_done_is_listed_the_oldest_first(
    journal: Journal, queue: Queue
) -> None:
    await journal.append([entry("running")], owner="somebody")
    await journal.append([entry(state, state) for state in STATES if state != "running"])

    assert await ids(queue, Filter()) == [
        "running",
        *(state for state in NOT_DONE if state != "running"),
    ]


async def test_a_list_is_filtered_by_state_route_and_name(journal: Journal, queue: Queue) -> None:
    await journal.append(
        [
            entry("a", "dead"),
            entry("b", "dead", name="Ship"),
            entry("c", "parked", name="Ship"),
            entry("d", "dead", name="Ship", route="event audit"),
        ]
    )

    assert await ids(queue, Filter(states=("dead",))) == ["a", "b", "d"]
    assert await ids(queue, Filter(name="Ship")) == ["b", "c", "d"]
    assert await ids(queue, Filter(route="command Ship")) == ["b", "c"]


async def test_pages_follow_each_other_without_gap_or_repeat(
    journal: Journal, queue: Queue
) -> None:
    names = [("Pay", "Ship")[number % 3 == 0] for number in range(1_203)]
    await journal.append([entry(f"{no:04}", name=name) for no, name in enumerate(names)])
    wanted, after, seen = Filter(name="Ship"), 0, []

    while page := await queue.page(wanted, after_seq=after, limit=7):
        seen += [one.id for one in page]
        after = page[-1].seq

    assert seen == [f"{no:04}" for no, name in enumerate(names) if name == "Ship"]


@pytest.mark.parametrize("state", [state for state in STATES if state != "running"])
async def test_only_what_failed_for_good_is_retried_and_only_what_is_free_is_dropped(
    journal: Journal, queue: Queue, state: State
) -> None:
    await journal.append([entry("retried", state), entry("dropped", state)])

    for entry_id, act, fit in (
        ("retried", queue.retry, RETRIABLE),
        ("dropped", queue.drop, DROPPABLE),
    ):
        if state in fit:
            await act(entry_id)
        else:
            with pytest.raises(DeliveryError, match=f"'{entry_id}' is {state}"):
                await act(entry_id)

    retried, dropped = await journal.get("retried"), await journal.get("dropped")
    assert retried is not None
    assert retried.state == ("ready" if state in RETRIABLE else state)
    assert (dropped is None) == (state in DROPPABLE)


async def test_what_runs_is_neither_retried_nor_dropped(journal: Journal, queue: Queue) -> None:
    await journal.append([entry("a")], owner="somebody")

    with pytest.raises(DeliveryError, match="'a' is running"):
        await queue.retry("a")
    with pytest.raises(DeliveryError, match="'a' is running"):
        await queue.drop("a")


async def test_what_is_retried_is_as_new_and_can_be_claimed(journal: Journal, queue: Queue) -> None:
    await journal.append([entry("a", "dead")])

    await queue.retry("a")

    (claimed,) = await journal.claim("me", {"command Pay": 1}, 1, 1, suspects=False)
    assert (claimed.id, claimed.attempt, claimed.losses, claimed.error) == ("a", 1, 0, None)


async def test_all_of_a_filter_are_retried_and_no_other(journal: Journal, queue: Queue) -> None:
    await journal.append([entry("a", "dead"), entry("b", "parked"), entry("c", "dead", name="X")])

    number = await queue.retry_all(Filter(states=("dead", "parked"), name="Pay"))

    assert number == 2
    assert await ids(queue, Filter(states=("ready",))) == ["a", "b"]
    assert await ids(queue, Filter(states=("dead",))) == ["c"]


async def test_more_than_a_page_is_dropped_at_once(journal: Journal, queue: Queue) -> None:
    await journal.append([entry(str(number), "dead") for number in range(1_203)])

    assert await queue.drop_all(Filter(states=("dead",))) == 1_203
    assert await queue.page() == []


async def test_a_filter_with_a_state_that_does_not_fit_changes_nothing(
    journal: Journal, queue: Queue
) -> None:
    await journal.append([entry("a", "dead"), entry("b", "done")])

    with pytest.raises(DeliveryError, match="done"):
        await queue.retry_all(Filter(states=("dead", "done")))

    assert await ids(queue, Filter()) == ["a"]


async def test_the_beginning_of_an_id_is_enough_if_no_other_begins_so(
    journal: Journal, queue: Queue
) -> None:
    await journal.append([entry("abc", "dead"), entry("abd"), entry("ab", "done")])

    assert (await queue.get("abc")).id == "abc"
    assert (await queue.get("ab")).id == "ab"
    with pytest.raises(DeliveryError, match="2 entries begin with 'a'"):
        await queue.get("a")


@pytest.mark.parametrize("wrong", ["", "x"])
async def test_an_unknown_id_is_an_error(journal: Journal, queue: Queue, wrong: str) -> None:
    await journal.append([entry("abc")])

    with pytest.raises(UnknownReceiptError):
        await queue.get(wrong)


async def test_the_stats_tell_depth_age_lag_and_what_failed(
    journal: Journal, queue: Queue, clock: FakeClock
) -> None:
    now_ns = int(clock.now().timestamp() * 1e9)
    await journal.append(
        [
            entry("a", created_ns=now_ns),
            entry("b", created_ns=now_ns),
            entry("c", "dead", created_ns=now_ns),
            entry("d", "parked", name="Ship", created_ns=now_ns),
        ]
    )
    await journal.append([entry("e", created_ns=now_ns)], owner="somebody")
    await clock.advance(5)

    stats = await queue.stats()

    assert stats.depth == 3
    assert stats.lag_s == pytest.approx(5)
    assert [stats.count(state) for state in ("running", "dead", "parked")] == [1, 1, 1]


async def test_the_stats_list_the_workers_and_leave_no_trace(
    journal: Journal, queue: Queue
) -> None:
    worker = Worker(id="1", name="host:1", routes=["command Pay"], started_ns=1)
    await journal.beat(worker)

    first, second = await queue.stats(), await queue.stats()

    assert [one.name for one in first.workers] == ["host:1"]
    assert [one.name for one in second.workers] == ["host:1"]
    assert [one.id for one in await journal.beat(worker)] == ["1"]


async def test_an_empty_journal_has_no_lag(queue: Queue) -> None:
    stats = await queue.stats()

    assert (stats.depth, stats.lag_s, stats.workers) == (0, 0.0, [])
