"""A target that fails too often is left alone, and one at its limits is not called."""

import asyncio
from contextlib import aclosing

import pytest

from app.llmgine.contracts import Usage
from app.llmgine.errors import ConfigurationError, LLMError, LLMErrorKind
from app.llmgine.llm import Breaker, RetryPolicy, Route, Target
from app.llmgine.llm.limits import Limiter
from app.llmgine.testing import FakeClock
from runtime.llm.actors import Act, Stage, ask, fails

KIND = LLMErrorKind
A, B = Target("actors/a"), Target("actors/b")
OK = Act()


def route(*targets: Target, **fields: object) -> dict[str, Route]:
    return {"fast": Route(targets, **fields)}


# The circuit.


async def test_a_target_that_keeps_failing_is_left_alone_until_one_call_tries() -> None:
    models = route(A, B, retry=RetryPolicy(retries=0), breaker=Breaker(failures=2, open_s=30))
    acts = {"a": [fails(KIND.SERVER)] * 3 + [OK], "b": [OK]}
    stage = Stage(acts, models=models)

    for _ in range(3):
        response = await stage.complete("fast")
    await stage.clock.advance(30)
    await stage.complete("fast")
    await stage.complete("fast")
    await stage.clock.advance(30)
    await stage.complete("fast")

    assert response.attempts[0].reason == "fallback: actors/a left alone after failures"
    assert "".join(stage.actors.called) == "abab" + "b" + "ab" + "b" + "a"


async def test_while_one_call_tries_the_others_go_elsewhere() -> None:
    models = route(A, B, retry=RetryPolicy(retries=0), breaker=Breaker(failures=1, open_s=30))
    stage = Stage({"a": [fails(KIND.SERVER), Act(gap_s=5)], "b": [OK]}, models=models)
    await stage.complete("fast")
    await stage.clock.advance(30)

    trial = asyncio.create_task(stage.manager.complete(ask("fast")))
    await stage.clock.advance(1)
    other = await stage.complete("fast")
    trial.cancel()
    await asyncio.wait([trial])
    after = asyncio.create_task(stage.manager.complete(ask("fast")))
    await stage.clock.advance(20)

    assert other.model == "b"
    assert (await after).model == "a"


async def test_a_reader_who_stalls_on_the_call_that_tries_holds_nobody_off_for_ever() -> None:
    models = route(A, B, retry=RetryPolicy(retries=0), breaker=Breaker(failures=1, open_s=30))
    stage = Stage({"a": [fails(KIND.SERVER), OK], "b": [OK]}, models=models)
    await stage.complete("fast")
    await stage.clock.advance(30)

    async with aclosing(stage.manager.stream(ask("fast"))) as stalled:
        await anext(stalled)
        early = await stage.complete("fast")
        await stage.clock.advance(30)
        late = await stage.complete("fast")

    assert (early.model, late.model) == ("b", "a")


async def test_with_every_circuit_open_the_error_says_when_to_come_back() -> None:
    models = route(A, breaker=Breaker(failures=1, open_s=30), retry=RetryPolicy(retries=0))
    stage = Stage({"a": [fails(KIND.SERVER)]}, models=models)
    with pytest.raises(LLMError):
        await stage.complete("fast")
    await stage.clock.advance(10)

    with pytest.raises(LLMError, match="tried again in 20 s") as caught:
        await stage.complete("fast")

    assert (caught.value.retry_after_s, caught.value.attempts) == (20, ())
    assert stage.actors.called == ["a"]


async def test_there_is_no_waiting_for_a_retry_behind_an_open_circuit() -> None:
    stage = Stage({"a": [fails(KIND.SERVER)]}, models=route(A, breaker=Breaker(failures=1)))

    with pytest.raises(LLMError, match="a failed"):
        await stage.complete("fast")

    assert (stage.actors.called, stage.clock.monotonic()) == (["a"], 0.0)


async def test_a_caller_who_leaves_says_nothing_about_the_target() -> None:
    models = route(A, breaker=Breaker(failures=2), retry=RetryPolicy(retries=0))
    failed = fails(KIND.SERVER)
    stage = Stage({"a": [failed, Act(gap_s=5), failed]}, models=models)
    calls = [stage.manager.complete(ask("fast")) for _ in range(3)]

    with pytest.raises(LLMError):
        await calls[0]
    left = asyncio.create_task(calls[1])
    await stage.clock.advance(1)
    left.cancel()
    await asyncio.wait([left])
    with pytest.raises(LLMError):
        await calls[2]

    with pytest.raises(LLMError, match="was not called"):
        await stage.complete("fast")


async def test_an_error_of_the_caller_opens_no_circuit() -> None:
    models = route(A, breaker=Breaker(failures=1))
    stage = Stage({"a": [fails(KIND.BAD_REQUEST)]}, models=models)

    for _ in range(3):
        with pytest.raises(LLMError, match="a failed"):
            await stage.complete("fast")

    assert stage.actors.called == ["a", "a", "a"]


# Limits.


async def test_calls_wait_for_the_targets_limit() -> None:
    slow = Target("actors/a", requests_per_minute=6)
    stage = Stage({"a": [OK]}, models=route(slow))

    for _ in range(3):
        response = await stage.complete("fast")

    assert [at for at, _ in stage.actors.calls] == [0.0, 10.0, 20.0]
    assert response.attempts[0].waited_s == 10.0


async def test_a_target_at_its_limit_is_passed_over_when_there_is_no_time_to_wait() -> None:
    slow = Target("actors/a", requests_per_minute=6)
    stage = Stage({"a": [OK], "b": [OK]}, models={"fast": Route((slow, B)), "sure": Route((slow,))})
    await stage.complete("fast", timeout_s=5)

    response = await stage.complete("fast", timeout_s=5)
    with pytest.raises(LLMError, match="its limits") as caught:
        await stage.complete("sure", timeout_s=5)

    assert response.attempts[0].reason == "fallback: actors/a at its limit"
    assert (caught.value.kind, caught.value.retry_after_s) == (KIND.RATE_LIMIT, 10.0)


async def test_routes_share_the_limits_and_the_circuit_of_a_target() -> None:
    slow = Target("actors/a", requests_per_minute=6)
    models = {"one": Route((slow,)), "two": Route((slow, B))}
    stage = Stage({"a": [OK], "b": [OK]}, models=models)

    await stage.complete("one")
    response = await stage.complete("two", timeout_s=5)

    assert response.model == "b"


async def test_tokens_are_reserved_by_estimate_and_corrected_by_usage() -> None:
    # A burst of 1,000 tokens, 100 more in each second.
    slow = Target("actors/a", tokens_per_minute=6000)
    usages = [Usage(input_tokens=0, output_tokens=tokens) for tokens in (100, 1100, 0)]
    stage = Stage({"a": [Act(usage=usage) for usage in usages]}, models=route(slow))

    for _ in usages:
        await stage.complete("fast", max_output_tokens=900)

    # The second finds 900 of the 900 and some; the third waits for what the second took too much.
    times = [at for at, _ in stage.actors.calls]
    assert times[0] == 0.0
    assert 0 < times[1] < 1
    assert 10 < times[2] - times[1] < 12


async def test_an_absurd_usage_holds_a_target_back_for_little_more_than_a_minute() -> None:
    limited = Target("actors/a", tokens_per_minute=6000)
    absurd = Act(usage=Usage(input_tokens=10**30, output_tokens=0))
    stage = Stage({"a": [absurd, OK]}, models=route(limited))

    for _ in range(2):
        await stage.complete("fast", max_output_tokens=900)

    assert 60 < stage.clock.monotonic() < 71


async def test_who_gives_up_waiting_leaves_the_turn_to_the_next() -> None:
    slow = Target("actors/a", requests_per_minute=6)
    stage = Stage({"a": [OK]}, models=route(slow))
    await stage.complete("fast")
    impatient, patient = (
        asyncio.create_task(stage.manager.complete(ask("fast"))) for _ in range(2)
    )
    await stage.clock.advance(1)

    impatient.cancel()
    await stage.clock.advance(9)

    assert patient.done()


def test_a_limit_outlives_the_event_loop() -> None:
    clock = FakeClock()
    limiter = Limiter(clock, 6, None)

    async def crowd() -> None:
        calls = [asyncio.create_task(limiter.enter(0)) for _ in range(3)]
        await clock.advance(30)
        await asyncio.gather(*calls)

    asyncio.run(crowd())
    asyncio.run(crowd())


@pytest.mark.parametrize("field", ["weight", "requests_per_minute", "tokens_per_minute"])
def test_a_limit_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ConfigurationError, match=field):
        Target("actors/a", **{field: 0})
