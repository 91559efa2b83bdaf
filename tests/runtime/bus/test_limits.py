"""Policies that say how often a handler runs, on a clock that the test moves."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.bus import (
    ConcurrencyLimit,
    Idempotency,
    MessageBus,
    RateLimit,
    Timeout,
)
from app.llmgine.clock import sleep
from app.llmgine.errors import (
    BusError,
    RateLimitedError,
)
from app.llmgine.messages import Envelope
from app.llmgine.testing.clock import FakeClock
from runtime.bus.stage import Ask, Recite, Stage, down

# RateLimit


async def test_calls_beyond_the_rate_wait_their_turn_in_order():
    async with Stage(RateLimit(2, per_s=10)) as stage:
        tasks = [stage.ask(text) for text in "abcde"]
        await stage.clock.advance(30)

        assert await stage.ended(*tasks) == list("ABCDE")
    assert stage.began == [0, 0, 10, 10, 20]


async def test_who_would_wait_too_long_is_refused_at_once():
    async with Stage(RateLimit(1, per_s=10, max_wait_s=15)) as stage:
        tasks = [stage.ask() for _ in range(3)]
        await stage.clock.advance(4)
        with pytest.raises(RateLimitedError, match="in 16 s") as caught:
            await stage.bus.execute(Ask())
        await stage.clock.advance(6)

        results = await stage.ended(*tasks)

    assert caught.value.retry_after_s == 16
    assert [type(result) for result in results] == [str, str, RateLimitedError]


async def test_who_would_wait_past_the_deadline_is_refused_at_once():
    async with Stage(Timeout(5), RateLimit(1, per_s=5)) as stage:
        await stage.bus.execute(Ask())

        with pytest.raises(RateLimitedError):
            await stage.bus.execute(Ask())


async def test_a_cancelled_waiter_gives_its_turn_to_the_next():
    async with Stage(RateLimit(1, per_s=10)) as stage:
        tasks = [stage.ask(text) for text in "abc"]
        await stage.clock.advance(1)
        tasks[1].cancel()
        await stage.clock.advance(9)

        assert await stage.ended(tasks[0], tasks[2]) == ["A", "C"]
    assert stage.began == [0, 10]


async def test_who_comes_when_the_next_turns_begin_does_not_overtake_who_waited():
    async with Stage(RateLimit(2, per_s=10)) as stage:
        newcomers: list[asyncio.Task[str]] = []
        stage.clock.call_at(10, lambda: newcomers.append(stage.ask("came later")))
        await stage.bus.execute(Ask())
        await stage.bus.execute(Ask())
        waiter = stage.ask("waited")
        await stage.clock.advance(10)

        await stage.ended(waiter, *newcomers)
    texts = [envelope.message.text for envelope in stage.seen if isinstance(envelope.message, Ask)]
    assert texts == ["", "", "waited", "came later"]


async def test_who_is_cancelled_when_it_has_just_got_its_turn_gives_it_to_the_next():
    async with Stage(RateLimit(1, per_s=10)) as stage:
        tasks: list[asyncio.Task[str]] = []
        cancelling: list[asyncio.Task[None]] = []

        async def cancel_the_first() -> None:
            tasks[0].cancel()

        def bring_the_next() -> None:
            # The next one's coming gives the first its turn; then this is before it can take it.
            tasks.append(stage.ask("next"))
            cancelling.append(asyncio.create_task(cancel_the_first()))

        stage.clock.call_at(10, bring_the_next)
        await stage.bus.execute(Ask())
        tasks.append(stage.ask("first"))
        await stage.clock.advance(10)

        assert tasks[0].cancelled()
        assert await stage.ended(tasks[1]) == ["NEXT"]
    assert stage.began == [0, 10]


@given(
    st.integers(1, 4),
    st.floats(0.5, 20),
    st.lists(st.tuples(st.floats(0, 8), st.booleans()), min_size=1, max_size=25),
)
async def test_no_window_ever_holds_more_calls_than_allowed(
    calls: int, per_s: float, arrivals: list[tuple[float, bool]]
):
    async with Stage(RateLimit(calls, per_s=per_s)) as stage:
        kept: list[asyncio.Task[str]] = []
        for gap_s, cancelled in arrivals:
            await stage.clock.advance(gap_s)
            task = stage.ask()
            kept.append(task)
            if cancelled:
                kept.pop(len(kept) // 2).cancel()
        await stage.clock.advance(per_s * len(arrivals) + 1)

        assert all(task.done() for task in kept)
    for earlier, later in zip(stage.began, stage.began[calls:], strict=False):
        assert later >= earlier + per_s


# ConcurrencyLimit


async def test_no_more_than_the_limit_run_at_once_and_the_others_in_order():
    async with Stage(ConcurrencyLimit(2)) as stage:
        stage.steps = [10]
        tasks = [stage.ask(text) for text in "abcde"]
        await stage.clock.advance(1)
        tasks[2].cancel()
        await stage.clock.advance(30)

        assert await stage.ended(*tasks[:2], *tasks[3:]) == list("ABDE")
    assert stage.began == [0, 0, 10, 10]


# Idempotency


async def test_messages_with_one_key_run_once_and_get_the_same_result():
    async with Stage(Idempotency()) as stage:
        stage.steps = [10]
        first, second = stage.ask("first", key="k"), stage.ask("second", key="k")
        await stage.clock.advance(10)

        assert await stage.ended(first, second) == ["FIRST", "FIRST"]
        assert await stage.bus.execute(Ask(text="third"), idempotency_key="k") == "FIRST"
    assert stage.began == [0]


async def test_without_a_key_or_with_another_each_message_runs():
    async with Stage(Idempotency()) as stage:
        tasks = [stage.ask(), stage.ask(), stage.ask(key="a"), stage.ask(key="b")]

        await stage.ended(*tasks)

    assert len(stage.seen) == 4


async def test_a_failure_reaches_all_who_waited_and_is_not_remembered():
    async def fail_later() -> None:
        await sleep(stage.clock, 10)
        raise error

    error = down()
    async with Stage(Idempotency()) as stage:
        stage.steps = [fail_later, 0]
        tasks = [stage.ask(key="k"), stage.ask(key="k")]
        await stage.clock.advance(10)

        assert await stage.ended(*tasks) == [error, error]
        assert await stage.bus.execute(Ask(text="again"), idempotency_key="k") == "AGAIN"


async def test_when_the_first_is_cancelled_one_who_waited_runs():
    async with Stage(Idempotency()) as stage:
        stage.steps = [10]
        tasks = [stage.ask(text, key="k") for text in "abc"]
        await stage.clock.advance(1)
        tasks[0].cancel()
        await stage.clock.advance(11)

        assert await stage.ended(*tasks[1:]) == ["B", "B"]
    assert len(stage.seen) == 2


async def test_a_cancelled_waiter_leaves_the_first_running():
    async with Stage(Idempotency()) as stage:
        stage.steps = [10]
        first, waiter = stage.ask(key="k"), stage.ask(key="k")
        await stage.clock.advance(1)
        waiter.cancel()
        await stage.clock.advance(9)

        assert await stage.ended(first) == ["HI"]
    assert waiter.cancelled()


async def test_results_are_forgotten_in_time_and_the_oldest_for_want_of_room():
    async with Stage(Idempotency(capacity=2, ttl_s=60)) as stage:
        for key in ["a", "b", "c", "a", "c"]:
            await stage.bus.execute(Ask(), idempotency_key=key)
        assert len(stage.seen) == 4
        await stage.clock.advance(60)
        await stage.bus.execute(Ask(), idempotency_key="c")

    assert len(stage.seen) == 5


async def test_a_stream_with_a_key_is_refused():
    envelope = Envelope(Recite())
    envelope.mark(idempotency_key="k")
    once = Idempotency().bind(MessageBus(clock=FakeClock()))

    with pytest.raises(BusError, match="'Recite' is streamed"):
        await once(envelope.message, envelope, asyncio.Event().wait)
