"""What holds of the manager and its targets, whatever fails and whenever."""

import asyncio
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.contracts import (
    Attempt,
    Chunk,
    LLMResponse,
    StreamReset,
    TextDelta,
    accumulate,
)
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.llm import Breaker, RetryPolicy, Route, Target
from app.llmgine.llm.limits import Limiter
from app.llmgine.llm.router import OUTAGES
from app.llmgine.testing import FakeClock
from runtime.llm.actors import Act, Stage, ask

SECONDS = st.sampled_from([0.0, 0.5, 2.0, 9.0])
ACTS = st.builds(
    Act,
    words=st.lists(st.sampled_from(["a", "b"]), max_size=2),
    error=st.none() | st.sampled_from(LLMErrorKind),
    retry_after_s=st.none() | SECONDS,
    gap_s=SECONDS,
)
CASTS = st.lists(st.lists(ACTS, min_size=1, max_size=4), min_size=1, max_size=3)
PLANS = st.fixed_dictionaries(
    {
        "retry": st.builds(RetryPolicy, retries=st.integers(0, 2)),
        "breaker": st.none() | st.builds(Breaker, failures=st.integers(1, 3)),
        "restart_streams": st.booleans(),
    }
)
TIMEOUTS = st.none() | st.sampled_from([0.25, 3.0, 10.0])


class Outcome(NamedTuple):
    """How one call ended, and when."""

    stage: Stage
    result: LLMResponse | LLMError
    chunks: list[Chunk]
    ended_s: float

    @property
    def attempts(self) -> Sequence[Attempt]:
        return self.result.attempts


def perform(
    cast: list[list[Act]], plan: dict[str, Any], timeout_s: float | None, *, streaming: bool
) -> Outcome:
    """One call of a route over the cast, in its order."""

    async def run() -> Outcome:
        names = "xyz"[: len(cast)]
        targets = [Target(f"actors/{name}") for name in names]
        stage = Stage(dict(zip(names, cast, strict=True)), models={"fast": Route(targets, **plan)})
        chunks: list[Chunk] = []
        request = ask("fast", timeout_s=timeout_s)

        async def call() -> Outcome:
            result: LLMResponse | LLMError
            try:
                if streaming:
                    async for chunk in stage.manager.stream(request):
                        chunks.append(chunk)
                    result = accumulate(chunks)
                else:
                    result = await stage.manager.complete(request)
            except LLMError as error:
                result = error
            return Outcome(stage, result, chunks, stage.clock.monotonic())

        return await stage.play(call(), step_s=1)

    return asyncio.run(run())


def told(outcome: Outcome) -> tuple[Any, ...]:
    """What its caller learns, apart from times."""
    attempts = [(one.target, one.reason, one.error) for one in outcome.attempts]
    if isinstance(outcome.result, LLMError):
        return outcome.result.kind, attempts
    return outcome.result.model, outcome.result.text, attempts


@given(CASTS, PLANS, TIMEOUTS, st.booleans())
def test_calls_are_bounded_and_each_stands_in_the_attempts_once_in_order(
    cast: list[list[Act]], plan: dict[str, Any], timeout_s: float | None, streaming: bool
) -> None:
    outcome = perform(cast, plan, timeout_s, streaming=streaming)

    called = [f"actors/{model}" for model in outcome.stage.actors.called]
    assert [one.target for one in outcome.attempts] == called
    assert len(called) <= len(cast) * (1 + plan["retry"].retries)
    failed = isinstance(outcome.result, LLMError)
    assert [one.error is None for one in outcome.attempts] == [False] * (
        len(called) - (not failed)
    ) + [True] * (not failed)


@given(CASTS, PLANS, TIMEOUTS.filter(bool), st.booleans())
def test_no_call_passes_its_deadline_or_leaves_anything_running(
    cast: list[list[Act]], plan: dict[str, Any], timeout_s: float, streaming: bool
) -> None:
    outcome = perform(cast, plan, timeout_s, streaming=streaming)

    assert outcome.ended_s <= timeout_s
    assert outcome.stage.actors.closed == len(outcome.stage.actors.calls)
    assert outcome.stage.clock.timers == 0


@given(CASTS, PLANS, TIMEOUTS)
def test_after_the_first_chunk_nobody_else_is_asked_unless_the_route_says_so(
    cast: list[list[Act]], plan: dict[str, Any], timeout_s: float | None
) -> None:
    outcome = perform(cast, plan, timeout_s, streaming=True)

    broken = [one for one in outcome.attempts[:-1] if one.time_to_first_chunk_s is not None]
    resets = [chunk for chunk in outcome.chunks if isinstance(chunk, StreamReset)]
    if not plan["restart_streams"]:
        assert broken == resets == []
    # What is void is said to be so before anything else is, and only then.
    for number, chunk in enumerate(outcome.chunks):
        if isinstance(chunk, StreamReset):
            assert isinstance(outcome.chunks[number - 1], TextDelta)


@given(CASTS, PLANS, TIMEOUTS)
def test_a_stream_adds_up_to_what_completes(
    cast: list[list[Act]], plan: dict[str, Any], timeout_s: float | None
) -> None:
    plan = {**plan, "restart_streams": True}
    if len(cast) > 1:
        timeout_s = None  # Of several targets, a stream gives the first ones but a share of it.

    streamed = perform(cast, plan, timeout_s, streaming=True)
    completed = perform(cast, plan, timeout_s, streaming=False)

    assert told(streamed) == told(completed)


@given(
    st.lists(st.none() | st.sampled_from(LLMErrorKind), min_size=1, max_size=8),
    st.lists(st.sampled_from([0.0, 1.0, 20.0, 30.0]), min_size=1, max_size=8),
    st.integers(1, 3),
)
def test_a_target_whose_circuit_is_open_is_not_called(
    errors: list[LLMErrorKind | None], pauses: list[float], failures: int
) -> None:
    async def run() -> list[tuple[float, LLMErrorKind | None]]:
        route = Route(
            [Target("actors/x")], breaker=Breaker(failures=failures), retry=RetryPolicy(retries=0)
        )
        acts = [Act(error=error) for error in errors]
        stage = Stage({"x": acts}, models={"fast": route})
        for pause_s in pauses:
            await asyncio.wait([asyncio.create_task(stage.complete("fast"))])
            await stage.clock.advance(pause_s)
        played = errors + errors[-1:] * len(stage.actors.calls)
        return [(at, played[number]) for number, (at, _) in enumerate(stage.actors.calls)]

    in_a_row, open_until = 0, 0.0
    for at, error in asyncio.run(run()):
        assert at >= open_until
        in_a_row = in_a_row + 1 if error in OUTAGES else 0
        open_until = at + 30 if in_a_row >= failures else 0.0


ARRIVALS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 1.0, 30.0]),  # after the one before
        st.integers(0, 400),  # tokens
        st.none() | st.sampled_from([0.0, 5.0]),  # its patience
    ),
    min_size=1,
    max_size=12,
)


@given(ARRIVALS, st.sampled_from([6, 30, 600]), st.sampled_from([600, 6000]))
def test_in_no_time_do_more_begin_than_the_limit_and_its_burst(
    arrivals: list[tuple[float, int, float | None]], calls: int, tokens: int
) -> None:
    begun: list[tuple[float, int]] = []

    async def run() -> None:
        clock = FakeClock()
        limiter = Limiter(clock, calls, tokens)

        async def arrive(size: int) -> None:
            await limiter.enter(size)
            begun.append((clock.monotonic(), size))

        tasks = []
        for after_s, size, patience_s in arrivals:
            await clock.advance(after_s)
            tasks.append(task := asyncio.create_task(arrive(size)))
            if patience_s is not None:
                clock.call_at(clock.monotonic() + patience_s, task.cancel)
        await clock.advance(3600)
        for task, (_, _, patience_s) in zip(tasks, arrivals, strict=True):
            assert task.done()
            assert patience_s is not None or task.exception() is None

    asyncio.run(run())
    for first, last in combinations_with_replacement(range(len(begun)), 2):
        window_s = begun[last][0] - begun[first][0]
        sizes = [size for _, size in begun[first : last + 1]]
        assert len(sizes) <= calls / 60 * window_s + max(1, calls / 6) + 1e-3
        assert sum(sizes) <= tokens / 60 * window_s + max(tokens / 6, *sizes, 1) + 1e-3
