"""Policies: what each promises around a handler, on a clock that the test moves."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.bus import (
    CircuitBreaker,
    ConcurrencyLimit,
    Idempotency,
    MessageBus,
    RateLimit,
    Retry,
    Timeout,
)
from app.llmgine.bus.policies import transient
from app.llmgine.clock import sleep
from app.llmgine.errors import (
    BusError,
    CircuitOpenError,
    DeadlineExceededError,
    LLMError,
    LLMErrorKind,
)
from app.llmgine.messages import current_envelope
from app.llmgine.testing.clock import FakeClock
from runtime.bus.stage import Ask, Look, Recite, Stage, down

# Timeout


async def test_a_handler_that_takes_too_long_is_cancelled_and_its_caller_told():
    async with Stage(Timeout(5)) as stage:
        stage.steps = [60]
        slow = stage.ask()
        await stage.clock.advance(4.9)
        assert not slow.done()
        await stage.clock.advance(0.1)

        with pytest.raises(DeadlineExceededError, match="'Ask' was not done within 5 s") as caught:
            await slow

    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.message_type, caught.value.seconds) == ("Ask", 5)
    assert slow.cancelling() == 0


async def test_each_of_many_handlers_has_its_own_time():
    async with Stage(Timeout(5)) as stage:
        stage.steps = [7, 4, 6, 1]
        tasks = []
        for _ in range(4):
            tasks.append(stage.ask())
            await stage.clock.advance(2)
        await stage.clock.advance(2)

        kinds = [type(result) for result in await stage.ended(*tasks)]

    assert kinds == [DeadlineExceededError, str, DeadlineExceededError, str]


async def test_the_next_message_after_a_quiet_time_has_its_time_too():
    async with Stage(Timeout(5)) as stage:
        await stage.bus.execute(Ask())
        await stage.clock.advance(100)
        stage.steps = [60]
        slow = stage.ask()
        await stage.clock.advance(5)

        assert [type(result) for result in await stage.ended(slow)] == [DeadlineExceededError]


async def test_a_handler_that_sends_a_command_ends_at_the_earlier_deadline():
    seen: list[float | None] = []

    async def look(_: Look) -> str:
        envelope = current_envelope()
        seen.append(envelope and envelope.deadline)
        await sleep(stage.clock, 30)
        return ""

    stage = Stage(Timeout(5))
    stage.steps = [lambda: stage.bus.execute(Look())]
    stage.bus.register_command_handler(Look, look, middleware=[Timeout(60)])
    async with stage:
        task = stage.ask()
        await stage.clock.advance(5)

        assert [type(result) for result in await stage.ended(task)] == [DeadlineExceededError]
    assert seen == [5]
    assert task.cancelling() == 0


async def test_a_cancellation_by_the_caller_is_no_timeout():
    async with Stage(Timeout(5)) as stage:
        stage.steps = [60]
        task = stage.ask()
        await stage.clock.advance(4)
        task.cancel()
        await stage.clock.advance(4)

    assert task.cancelled()


async def test_the_callers_cancellation_wins_over_a_timeout_that_comes_while_it_is_under_way():
    async with Stage(Timeout(5)) as stage:

        async def slow_to_end() -> None:
            try:
                await sleep(stage.clock, 60)
            finally:
                await sleep(stage.clock, 10)

        stage.steps = [slow_to_end]
        cancelled_first, timed_out_first = stage.ask(), stage.ask()
        await stage.clock.advance(4)
        cancelled_first.cancel()
        await stage.clock.advance(2)
        timed_out_first.cancel()
        await stage.clock.advance(10)

    assert cancelled_first.cancelled()
    assert timed_out_first.cancelled()


async def test_the_handlers_own_timeout_error_is_not_the_deadline():
    async with Stage(Timeout(5)) as stage:
        stage.steps = [TimeoutError("the socket")]

        with pytest.raises(TimeoutError, match="the socket") as caught:
            await stage.bus.execute(Ask())

    assert type(caught.value) is TimeoutError


# Retry


async def test_minutes_of_backoff_pass_at_once_and_each_attempt_is_counted():
    async with Stage(Retry(attempts=6, base_s=60, cap_s=600)) as stage:
        stage.steps = [down(), down(), down(), down(), 0]
        task = stage.ask()
        await stage.clock.advance(3600)

        assert await stage.ended(task) == ["HI"]
    assert [envelope.attempt for envelope in stage.seen] == [1, 2, 3, 4, 5]
    assert len({envelope.id for envelope in stage.seen}) == 1


async def test_a_timeout_within_a_retry_gives_each_attempt_its_own_time():
    async with Stage(Retry(attempts=3), Timeout(5)) as stage:
        stage.steps = [60, 0]
        task = stage.ask()
        await stage.clock.advance(60)

        assert await stage.ended(task) == ["HI"]
    assert [envelope.attempt for envelope in stage.seen] == [1, 2]


async def test_the_last_error_is_raised_as_itself_with_a_note():
    async with Stage(Retry(attempts=3)) as stage:
        errors = [ConnectionError(str(n)) for n in range(3)]
        stage.steps = [*errors]
        task = stage.ask()
        await stage.clock.advance(60)

        assert await stage.ended(task) == [errors[2]]
    assert errors[2].__notes__ == ["Attempts made: 3 of 3."]


async def test_an_error_that_will_not_pass_is_raised_at_once():
    async with Stage(Retry()) as stage:
        stage.steps = [ValueError("no")]

        with pytest.raises(ValueError, match="no"):
            await stage.bus.execute(Ask())

    assert len(stage.seen) == 1


@pytest.mark.parametrize("on", [ValueError, (KeyError, ValueError), lambda e: "no" in str(e)])
async def test_the_caller_says_which_errors_may_pass(on: Any):
    async with Stage(Retry(on=on)) as stage:
        stage.steps = [ValueError("no"), 0]
        task = stage.ask()
        await stage.clock.advance(1)

        assert await stage.ended(task) == ["HI"]


async def test_an_errors_own_wait_is_honoured_even_beyond_the_cap():
    async with Stage(Retry(cap_s=1)) as stage:
        stage.steps = [model_error(LLMErrorKind.RATE_LIMIT, retry_after_s=45), 0]
        task = stage.ask()
        await stage.clock.advance(100)
        await stage.ended(task)

    assert stage.began == [0, 45]


async def test_there_is_no_attempt_that_would_begin_after_the_deadline():
    async with Stage(Timeout(45), Retry()) as stage:
        stage.steps = [model_error(LLMErrorKind.SERVER, retry_after_s=45)]

        with pytest.raises(LLMError):
            await stage.bus.execute(Ask())

    assert stage.began == [0]


async def test_a_cancelled_handler_is_not_run_again():
    async with Stage(Retry(on=lambda _: True)) as stage:
        stage.steps = [60]
        task = stage.ask()
        await stage.clock.advance(1)
        task.cancel()
        await stage.clock.advance(60)

    assert task.cancelled()
    assert len(stage.seen) == 1


async def test_a_stream_is_never_run_twice():
    runs: list[Recite] = []

    async def recite(command: Recite) -> AsyncIterator[str]:
        runs.append(command)
        yield "first"
        raise down()

    bus = MessageBus(clock=FakeClock(), middleware=[Retry()])
    bus.register_command_handler(Recite, recite)
    got: list[str] = []
    async with bus:
        with pytest.raises(ConnectionError, match="down"):
            async for item in bus.stream(Recite()):
                got.append(item)

    assert (got, len(runs)) == (["first"], 1)


@given(st.integers(1, 6), st.floats(0, 1e6), st.floats(0, 1e6))
async def test_each_backoff_is_within_its_bounds(attempts: int, base_s: float, cap_s: float):
    async with Stage(Retry(attempts=attempts, base_s=base_s, cap_s=cap_s)) as stage:
        stage.steps = [down()]
        task = stage.ask()
        await stage.clock.advance(1e8)
        await stage.ended(task)

    assert len(stage.began) == attempts
    for n, (earlier, later) in enumerate(zip(stage.began, stage.began[1:], strict=False), 1):
        assert later <= earlier + min(cap_s, base_s * 2 ** (n - 1)) + 1e-6


def model_error(kind: LLMErrorKind, retry_after_s: float | None = None) -> LLMError:
    return LLMError("failed", kind=kind, provider="p", retry_after_s=retry_after_s)


def test_limits_time_and_broken_connections_pass_but_bad_requests_do_not():
    passing = [model_error(kind) for kind in LLMErrorKind if transient(model_error(kind))]

    assert {error.kind for error in passing} == {
        LLMErrorKind.RATE_LIMIT,
        LLMErrorKind.TIMEOUT,
        LLMErrorKind.SERVER,
        LLMErrorKind.NETWORK,
    }
    assert transient(TimeoutError())
    assert transient(ConnectionResetError())
    assert transient(DeadlineExceededError("Ask", seconds=1))
    assert not transient(ValueError())


# CircuitBreaker


async def test_after_failures_in_a_row_calls_are_refused_until_it_is_time_to_try():
    async with Stage(CircuitBreaker(failures=2, open_s=30)) as stage:
        stage.steps = [down(), 0, down(), down(), 0]
        await stage.fail()
        await stage.bus.execute(Ask())
        await stage.fail(2)
        await stage.clock.advance(10)

        with pytest.raises(CircuitOpenError, match=r"Try again in 20 s") as caught:
            await stage.bus.execute(Ask())
        await stage.clock.advance(20)
        assert await stage.bus.execute(Ask(text="up")) == "UP"

    assert caught.value.retry_after_s == 20
    assert len(stage.seen) == 5


async def test_only_one_call_tries_and_the_others_are_refused_meanwhile():
    async with Stage(CircuitBreaker(failures=1, open_s=30)) as stage:
        stage.steps = [down(), 5]
        await stage.fail()
        await stage.clock.advance(30)
        trial, other = stage.ask(), stage.ask()
        await stage.clock.advance(5)

        results = await stage.ended(trial, other)

    assert results[0] == "HI"
    assert isinstance(results[1], CircuitOpenError)


async def test_a_cancelled_trial_gives_the_trial_back():
    async with Stage(CircuitBreaker(failures=1, open_s=30)) as stage:
        stage.steps = [down(), 60, 0]
        await stage.fail()
        await stage.clock.advance(30)
        trial = stage.ask()
        await stage.clock.advance(1)
        trial.cancel()
        await stage.clock.advance(1)

        assert await stage.bus.execute(Ask()) == ""


async def test_what_began_before_the_circuit_opened_does_not_close_it():
    async with Stage(CircuitBreaker(failures=1, open_s=30)) as stage:
        stage.steps = [5, down(), 0]
        early = stage.ask()
        await stage.clock.advance(1)
        await stage.fail()
        await stage.clock.advance(5)

        assert await stage.ended(early) == ["HI"]
        with pytest.raises(CircuitOpenError):
            await stage.bus.execute(Ask())


async def test_a_models_word_that_the_request_was_wrong_is_no_outage():
    async with Stage(CircuitBreaker(failures=1)) as stage:
        stage.steps = [model_error(LLMErrorKind.BAD_REQUEST), 0]
        with pytest.raises(LLMError):
            await stage.bus.execute(Ask())

        assert await stage.bus.execute(Ask()) == ""


@given(
    st.integers(1, 3),
    st.lists(st.sampled_from(["fails", "works", "is cancelled", "time passes"]), max_size=30),
)
async def test_the_breaker_agrees_with_its_model(failures: int, happenings: list[str]):
    in_a_row, closed_at = 0, 0.0
    async with Stage(CircuitBreaker(failures=failures, open_s=30)) as stage:
        for happening in happenings:
            now = stage.clock.monotonic()
            if happening == "time passes":
                await stage.clock.advance(20)
                continue
            ran_before = len(stage.seen)
            stage.steps = [{"fails": down(), "works": 0.0, "is cancelled": 1.0}[happening]]
            task = stage.ask()
            await stage.clock.advance(0)
            task.cancel()
            await stage.ended(task)

            runs = now >= closed_at
            assert len(stage.seen) == ran_before + runs
            if runs and happening == "works":
                in_a_row = 0
            elif runs and happening == "fails":
                in_a_row += 1
                closed_at = now + 30 if in_a_row >= failures else closed_at


# All of them


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Timeout(0), "seconds must be at least 0.001"),
        (lambda: Timeout(float("nan")), "seconds must be"),
        (lambda: Timeout(float("inf")), "not infinite"),
        (lambda: Retry(attempts=0), "attempts must be at least 1"),
        (lambda: Retry(base_s=-1), "base_s must be at least 0"),
        (lambda: CircuitBreaker(failures=0), "failures must be at least 1"),
        (lambda: RateLimit(0), "calls must be at least 1"),
        (lambda: RateLimit(1, max_wait_s=-1), "max_wait_s must be at least 0"),
        (lambda: ConcurrencyLimit(0), "limit must be at least 1"),
        (lambda: Idempotency(capacity=0), "capacity must be at least 1"),
    ],
)
def test_an_impossible_argument_is_refused_by_name(make: Callable[[], object], told: str):
    with pytest.raises(BusError, match=told):
        make()


async def test_each_handler_has_a_state_of_its_own():
    async def look(_: Look) -> str:
        return "seen"

    async def fail(_: Ask) -> str:
        raise down()

    bus = MessageBus(clock=FakeClock(), middleware=[CircuitBreaker(failures=1)])
    bus.register_command_handler(Ask, fail)
    bus.register_command_handler(Look, look)
    async with bus:
        with pytest.raises(ConnectionError):
            await bus.execute(Ask())

        assert await bus.execute(Look()) == "seen"
