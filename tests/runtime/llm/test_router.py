"""What the manager does about targets that fail, are busy, cost too much or take too long."""

import asyncio
from collections import Counter
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from app.llmgine.clock import sleep
from app.llmgine.contracts import (
    LLMRequest,
    LLMResponse,
    Money,
    StreamReset,
    TextDelta,
    Usage,
    accumulate,
)
from app.llmgine.errors import ConfigurationError, LLMError, LLMErrorKind, ScriptError
from app.llmgine.llm import (
    DECISIONS,
    Candidate,
    Decision,
    LLMManager,
    RetryPolicy,
    Route,
    Target,
    best,
    cheapest,
    fastest,
    in_order,
    weighted,
)
from app.llmgine.llm.prices import PriceTable
from app.llmgine.testing import FakeClock, ScriptedProvider
from runtime.llm.actors import Act, Stage, ask, fails

KIND = LLMErrorKind
A, B, C = Target("actors/a"), Target("actors/b"), Target("actors/c")
OK = Act()
USAGE = Usage(input_tokens=1000, output_tokens=100)


def route(*targets: Target, **fields: object) -> dict[str, Route]:
    return {"fast": Route(targets, **fields)}


# Retries and fallbacks.


@pytest.mark.parametrize("kind", KIND)
async def test_the_kind_of_an_error_decides_what_follows(kind: LLMErrorKind) -> None:
    stage = Stage({"a": [fails(kind)], "b": [OK]}, models=route(A, B))

    call = asyncio.create_task(stage.complete("fast"))
    await asyncio.wait([call])

    wanted = {
        Decision.RETRY: ["a", "a", "a", "b"],
        Decision.NEXT: ["a", "b"],
        Decision.RAISE: ["a"],
    }
    assert stage.actors.called == wanted[DECISIONS[kind]]
    assert (call.exception() is None) is (DECISIONS[kind] is not Decision.RAISE)


async def test_an_owner_may_decide_otherwise() -> None:
    retry = RetryPolicy(decisions={**DECISIONS, KIND.CONTENT_FILTER: Decision.NEXT})
    stage = Stage({"a": [fails(KIND.CONTENT_FILTER)], "b": [OK]}, models=route(A, B, retry=retry))

    response = await stage.complete("fast")

    assert response.model == "b"


async def test_each_attempt_stands_in_the_response_with_its_reason() -> None:
    stage = Stage({"a": [fails(KIND.SERVER)], "b": [OK]}, models=route(A, B))

    response = await stage.complete("fast")

    assert [(one.target, one.reason, one.error) for one in response.attempts] == [
        ("actors/a", "in order", KIND.SERVER),
        ("actors/a", "retry after server", KIND.SERVER),
        ("actors/a", "retry after server", KIND.SERVER),
        ("actors/b", "fallback after server", None),
    ]
    # Half of 0.5 s, of 1 s: the dice always show 0.5 here.
    assert [one.waited_s for one in response.attempts] == [0.0, 0.25, 0.5, 0.0]


async def test_a_plain_name_is_tried_again_too() -> None:
    stage = Stage({"a": [fails(KIND.SERVER), OK]})

    response = await stage.complete("actors/a")

    assert [one.reason for one in response.attempts] == ["only target", "retry after server"]


async def test_an_error_that_is_raised_again_says_only_what_was_tried_this_time() -> None:
    error = LLMError("It is down.", kind=KIND.SERVER, provider="scripted")
    manager = LLMManager({"down": lambda: ScriptedProvider([error] * 6)}, random=lambda: 0.0)

    for _ in range(2):
        with pytest.raises(LLMError) as caught:
            await manager.complete(ask("down/a"))

        assert str(caught.value) == "It is down. Tried: down/a (server) 3 times."


async def test_each_target_has_retries_of_its_own() -> None:
    acts = {"a": [fails(KIND.SERVER)], "b": [fails(KIND.SERVER)] * 2 + [OK]}
    stage = Stage(acts, models=route(A, B))

    await stage.complete("fast")

    assert stage.actors.called == ["a", "a", "a", "b", "b", "b"]


async def test_the_last_error_says_what_was_tried() -> None:
    stage = Stage(
        {"a": [fails(KIND.CONTEXT_LENGTH)], "b": [fails(KIND.AUTHENTICATION)]}, models=route(A, B)
    )

    with pytest.raises(LLMError) as caught:
        await stage.complete("fast")

    assert caught.value.kind is KIND.AUTHENTICATION
    assert str(caught.value) == (
        "b failed. Tried: actors/a (context_length), actors/b (authentication)."
    )
    assert [one.target for one in caught.value.attempts] == ["actors/a", "actors/b"]


async def test_a_mistake_of_the_script_is_never_tried_again() -> None:
    provider = ScriptedProvider()
    retry = RetryPolicy(decisions=dict.fromkeys(KIND, Decision.RETRY))
    models = {"fast": Route((Target("scripted"),), retry=retry)}

    with pytest.raises(ScriptError):
        await LLMManager({"scripted": lambda: provider}, models=models).complete(ask("fast"))

    assert len(provider.requests) == 1


async def test_retry_after_is_waited_for() -> None:
    stage = Stage({"a": [fails(KIND.RATE_LIMIT, retry_after_s=7), OK]}, models=route(A, B))

    await stage.complete("fast", timeout_s=20)

    assert [at for at, _ in stage.actors.calls] == [0.0, 7.0]


@pytest.mark.parametrize(("after_s", "timeout_s"), [(7, 5), (31, None)])
async def test_a_retry_after_that_is_too_long_makes_it_the_next_ones_turn(
    after_s: float, timeout_s: float | None
) -> None:
    acts = {"a": [fails(KIND.RATE_LIMIT, retry_after_s=after_s)], "b": [OK]}
    stage = Stage(acts, models=route(A, B))

    response = await stage.complete("fast", timeout_s=timeout_s)

    assert (response.model, stage.clock.monotonic()) == ("b", 0.0)


async def test_an_error_that_cannot_be_mended_in_time_is_raised_at_once() -> None:
    stage = Stage({"a": [fails(KIND.RATE_LIMIT, retry_after_s=7)]})

    with pytest.raises(LLMError, match="a failed") as caught:
        await stage.complete("actors/a", timeout_s=5)

    assert (caught.value.retry_after_s, stage.clock.monotonic()) == (7, 0.0)


# Time.


async def test_each_attempt_is_given_what_is_left_of_the_time() -> None:
    acts = {"a": [fails(KIND.SERVER, "x", gap_s=1)], "b": [OK]}
    stage = Stage(acts, models=route(A, B, retry=RetryPolicy(retries=0)))

    await stage.complete("fast", timeout_s=10)

    assert [request.timeout_s for _, request in stage.actors.calls] == [10.0, 8.0]


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_provider_that_forgets_the_time_is_stopped(streaming: bool) -> None:
    stage = Stage({"a": [Act(gap_s=3)]})
    call = stage.stream if streaming else stage.complete

    with pytest.raises(LLMError, match="did not answer in time") as caught:
        await call("actors/a", timeout_s=5)

    assert (caught.value.kind, stage.clock.monotonic()) == (KIND.TIMEOUT, 5.0)
    assert stage.actors.closed == 1


async def test_a_target_whose_turn_comes_too_late_is_not_said_to_be_at_its_limit() -> None:
    limited = Target("actors/b", requests_per_minute=60)
    stage = Stage({"a": [Act(gap_s=9)], "b": [OK]}, models=route(A, limited))

    with pytest.raises(LLMError, match=r"Not called: actors/b \(too late\)"):
        await stage.complete("fast", timeout_s=5)


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_target_with_a_time_of_its_own_is_given_up_after_it(streaming: bool) -> None:
    slow = Target("actors/a", timeout_s=2)
    models = route(slow, B, retry=RetryPolicy(retries=0))
    stage = Stage({"a": [Act(gap_s=30)], "b": [OK]}, models=models)

    await (stage.stream if streaming else stage.complete)("fast", timeout_s=60)

    assert [(at, request.model) for at, request in stage.actors.calls] == [(0.0, "a"), (2.0, "b")]


async def test_a_stream_whose_first_target_hangs_leaves_time_for_the_next() -> None:
    stage = Stage({"a": [Act(gap_s=90)], "b": [OK]}, models=route(A, B))

    chunks = await stage.stream("fast", timeout_s=60)

    assert accumulate(chunks).text == "wellthen"
    assert [(at, request.model) for at, request in stage.actors.calls] == [(0.0, "a"), (30.0, "b")]


async def test_a_stream_that_has_begun_has_all_the_time_of_the_call() -> None:
    stage = Stage({"a": [Act(gap_s=1.5)]}, models=route(Target("actors/a", timeout_s=2)))

    chunks = await stage.stream("fast", timeout_s=60)

    assert accumulate(chunks).text == "wellthen"


async def test_a_deadline_leaves_the_reader_of_a_stream_alone() -> None:
    stage = Stage({"a": [OK]})

    async def read_slowly() -> None:
        async with aclosing(stage.manager.stream(ask("actors/a", timeout_s=5))) as chunks:
            await anext(chunks)
            await stage.clock.advance(6)
            with pytest.raises(LLMError, match="in time"):
                await anext(chunks)

    await read_slowly()


async def test_a_call_that_was_stopped_leaves_its_task_uncancelled() -> None:
    stage = Stage({"a": [Act(gap_s=9)]})

    async def call_and_go_on() -> int:
        with pytest.raises(LLMError):
            await stage.manager.complete(ask("actors/a", timeout_s=5))
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert await stage.play(call_and_go_on()) == 0


async def test_who_is_cancelled_while_the_deadline_stops_the_call_is_cancelled() -> None:
    class Clinging(ScriptedProvider):
        async def complete(self, request: LLMRequest) -> LLMResponse:
            try:
                await asyncio.Event().wait()
            finally:
                await sleep(clock, 2)
            raise AssertionError("it was stopped")

    clock = FakeClock()
    manager = LLMManager({"clinging": Clinging}, clock=clock)
    call = asyncio.create_task(manager.complete(ask("clinging", timeout_s=5)))
    await clock.advance(6)

    call.cancel()
    await asyncio.wait([call])

    assert call.cancelled()


async def test_cancelling_passes_through_at_once() -> None:
    stage = Stage({"a": [Act(gap_s=60)]}, models=route(A, B))
    call = asyncio.create_task(stage.manager.complete(ask("fast", timeout_s=90)))
    await stage.clock.advance(1)

    call.cancel()
    await asyncio.wait([call])

    assert call.cancelled()
    assert (stage.actors.called, stage.actors.closed) == (["a"], 1)
    assert stage.clock.timers == 0


# Streams.


async def test_a_stream_falls_back_before_its_first_chunk() -> None:
    stage = Stage({"a": [fails(KIND.AUTHENTICATION)], "b": [OK]}, models=route(A, B))

    response = accumulate(await stage.stream("fast"))

    assert (response.model, response.text) == ("b", "wellthen")
    assert [one.error for one in response.attempts] == [KIND.AUTHENTICATION, None]


async def test_a_stream_that_broke_raises_what_broke_it() -> None:
    stage = Stage({"a": [fails(KIND.NETWORK, "half")], "b": [OK]}, models=route(A, B))

    with pytest.raises(LLMError) as caught:
        await stage.stream("fast")

    assert stage.actors.called == ["a"]
    assert [one.error for one in caught.value.attempts] == [KIND.NETWORK]


async def test_a_route_may_start_streams_again() -> None:
    models = route(A, B, restart_streams=True, retry=RetryPolicy(retries=0))
    stage = Stage({"a": [fails(KIND.NETWORK, "half")], "b": [OK]}, models=models)

    chunks = await stage.stream("fast")

    assert chunks[:3] == [
        TextDelta(text="half"),
        StreamReset(reason="fallback after network"),
        TextDelta(text="well"),
    ]
    assert accumulate(chunks).text == "wellthen"


async def test_nothing_is_discarded_for_a_target_that_says_nothing() -> None:
    models = route(A, B, restart_streams=True, retry=RetryPolicy(retries=0))
    acts = {"a": [fails(KIND.NETWORK, "half")], "b": [fails(KIND.SERVER)]}
    stage = Stage(acts, models=models)
    heard = []

    async def listen() -> None:
        async for chunk in stage.manager.stream(ask("fast")):
            heard.append(chunk)

    with pytest.raises(LLMError):
        await stage.play(listen())

    assert heard == [TextDelta(text="half")]


# Strategies.


def candidate(
    name: str, *, cost: str | None = None, latency_s: float | None = None, **fields: float
) -> Candidate:
    money = None if cost is None else Money(amount=Decimal(cost))
    return Candidate(Target(f"actors/{name}", **fields), lambda: money, latency_s)


@pytest.mark.parametrize(
    ("strategy", "order"),
    [(in_order, "xyz"), (cheapest, "zxy"), (fastest, "yzx"), (best, "xyz")],
)
def test_a_strategy_orders_the_candidates(strategy: object, order: str) -> None:
    candidates = [
        candidate("x", cost="2", latency_s=3, quality=9),
        candidate("y", latency_s=None, quality=5),
        candidate("z", cost="1", latency_s=2),
    ]

    found = strategy(candidates, lambda: 0.5)  # type: ignore[operator]  # any of them

    assert [one.target.model for one in found] == [f"actors/{name}" for name in order]


async def test_a_strategy_that_leaves_no_target_is_named() -> None:
    def none_of_them(candidates: object, random: object) -> list[Candidate]:
        return []

    stage = Stage(models=route(A, B, strategy=none_of_them))

    with pytest.raises(ConfigurationError, match="none_of_them"):
        await stage.complete("fast")


@pytest.mark.parametrize("unit", [1, 1e-4, 1e9])
def test_weights_are_shares_of_the_calls(unit: float) -> None:
    random = Random(7).random
    candidates = [candidate("x", weight=unit), candidate("y", weight=3 * unit)]

    first = Counter(weighted(candidates, random)[0].target.model for _ in range(4000))

    assert first["actors/y"] == pytest.approx(3000, abs=100)


async def test_the_fastest_is_known_from_what_was_measured() -> None:
    acts = {"a": [Act(gap_s=2)], "b": [Act(gap_s=1)]}
    stage = Stage(acts, models=route(A, B, strategy=fastest))

    for _ in range(4):
        await stage.complete("fast")

    assert stage.actors.called == ["a", "b", "b", "b"]


async def test_who_never_answers_is_not_the_fastest() -> None:
    acts = {"a": [Act(gap_s=100)], "b": [Act(gap_s=1)]}
    hurried = Target("actors/a", timeout_s=5)
    stage = Stage(acts, models=route(hurried, B, strategy=fastest))

    for _ in range(3):
        await stage.complete("fast")

    assert stage.actors.called == ["a", "b", "b", "b"]


async def test_a_caller_who_leaves_makes_no_target_the_fastest() -> None:
    acts = {"a": [Act(gap_s=100)], "b": [Act(gap_s=1)]}
    stage = Stage(acts, models=route(A, B, strategy=fastest))
    call = asyncio.create_task(stage.manager.complete(ask("fast")))
    while not stage.actors.calls:  # noqa: ASYNC110  it has no event
        await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])

    await stage.complete("fast")
    await stage.complete("fast")
    await stage.complete("fast")

    assert stage.actors.called == ["a", "a", "b", "b"]


async def test_the_cheapest_is_known_from_the_prices(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text(
        '[prices."actors/a"]\ninput = 9\noutput = 9\n[prices."actors/b"]\ninput = 1\noutput = 1\n'
    )
    stage = Stage(
        {"b": [Act(usage=USAGE)]},
        models=route(C, A, B, strategy=cheapest),
        prices=PriceTable.load(prices),
    )

    response = await stage.complete("fast")

    assert [one.reason for one in response.attempts] == ["cheapest"]
    assert response.cost == Money(amount=Decimal("0.0011"))
    assert accumulate(await stage.stream("fast")).cost == response.cost
