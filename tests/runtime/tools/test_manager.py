"""One result for each call, in order, whatever the tool does."""

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.llmgine.contracts import ToolCall, ToolResult, ToolStatus
from app.llmgine.errors import ConfigurationError, ToolDefinitionError
from app.llmgine.tools import ToolManager

OK = ToolStatus.OK
who: ContextVar[str] = ContextVar("who", default="nobody")


def call(name: str, arguments: str = "{}", *, id: str = "1") -> ToolCall:
    return ToolCall(id=id, name=name, arguments=arguments)


def managing(*functions: Callable[..., Any], **limits: Any) -> ToolManager:
    manager = ToolManager(**limits)
    for function in functions:
        manager.register(function)
    return manager


async def run(function: Callable[..., Any], arguments: str = "{}", **limits: Any) -> ToolResult:
    manager = managing(function, **limits)
    (result,) = await manager.execute([call(manager.specs()[0].name, arguments)])
    await manager.aclose()
    assert result.content[:5].lower() != "error"
    return result


async def double(number: int) -> int:
    return number * 2


def triple(number: int) -> int:
    return number * 3


async def slow(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def angry(number: int) -> None:
    raise ValueError(f"not {number}")


def angry_in_a_thread(number: int) -> None:
    raise ValueError(f"not {number}")


async def stuck(number: int) -> None:
    await asyncio.Event().wait()


async def gives_up(number: int) -> None:
    raise asyncio.CancelledError


OUTCOMES = {
    "double": ToolStatus.OK,
    "triple": ToolStatus.OK,
    "slow": ToolStatus.OK,
    "angry": ToolStatus.FAILED,
    "angry_in_a_thread": ToolStatus.FAILED,
    "stuck": ToolStatus.TIMEOUT,
    "gives_up": ToolStatus.CANCELLED,
    "missing": ToolStatus.UNKNOWN_TOOL,
}


@settings(deadline=None, max_examples=60)
@given(
    asked=st.lists(
        st.tuples(
            st.sampled_from(sorted(OUTCOMES)),
            st.sampled_from(['{"number": 1}', '{"number": "x"}', "{", "[]", '{"other": 1}']),
            st.sampled_from(["a", "b", "c"]),
        ),
        max_size=12,
    ),
    concurrency=st.integers(1, 4),
)
async def test_each_call_has_one_result_in_call_order(
    asked: list[tuple[str, str, str]], concurrency: int
) -> None:
    manager = managing(
        double, triple, slow, angry, angry_in_a_thread, gives_up, concurrency=concurrency
    )
    manager.register(stuck, timeout_s=0.001)

    results = await manager.execute([call(*tool, id=id) for *tool, id in asked])
    await manager.aclose()

    assert [(result.name, result.call_id) for result in results] == [
        (name, id) for name, _, id in asked
    ]
    for (name, arguments, _), result in zip(asked, results, strict=True):
        fits = arguments == '{"number": 1}' or name == "missing"
        assert result.status is (OUTCOMES[name] if fits else ToolStatus.INVALID_ARGUMENTS)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_no_calls_have_no_results() -> None:
    assert await managing(double).execute([]) == ()


def test_specs_stand_in_the_order_of_registration_and_are_built_once() -> None:
    manager = managing(triple, double, angry)

    assert [spec.name for spec in manager.specs()] == ["triple", "double", "angry"]
    assert manager.specs()[0] is manager.specs()[0]


def test_a_second_tool_of_the_same_name_is_refused() -> None:
    manager = managing(double)

    with pytest.raises(ToolDefinitionError, match=r"'double'.*test_manager\.double.*`name=`"):
        manager.register(triple, name="double")
    assert [spec.name for spec in manager.specs()] == ["double"]


async def test_the_decorator_registers_and_leaves_the_function_as_it_is() -> None:
    manager = ToolManager()

    @manager.tool
    def half(number: int) -> float:
        return number / 2

    assert half(3) == 1.5
    assert [spec.name for spec in manager.specs()] == ["half"]


@pytest.mark.parametrize("limit", ["timeout_s", "concurrency", "max_threads", "max_result_bytes"])
def test_limits_of_zero_are_refused(limit: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{limit!r} must be above 0, not 0"):
        ToolManager(**{limit: 0})  # type: ignore[arg-type]


def test_a_tool_needs_a_timeout_above_zero() -> None:
    with pytest.raises(ToolDefinitionError, match=r"'double'.*above 0"):
        ToolManager().register(double, timeout_s=0)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("duble", "Closest: double."),
        ("weather", "There are: angry, double, triple."),
        ("x" * 1_000_000, "There are: angry, double, triple."),
    ],
)
async def test_an_unknown_tool_names_the_known_ones(asked: str, says: str) -> None:
    (result,) = await managing(double, triple, angry).execute([call(asked)])

    assert result.status is ToolStatus.UNKNOWN_TOOL
    assert result.name == asked
    assert says in result.content
    assert len(result.content) < 200


async def test_an_unknown_tool_where_there_is_none_says_so() -> None:
    (result,) = await ToolManager().execute([call("weather")])

    assert result.content == "There is no tool 'weather', nor any other."


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("too late"), "ValueError: too late"),
        (TimeoutError("of the tool's own"), "TimeoutError: of the tool's own"),
        (StopIteration("over"), "StopIteration"),
        (SystemExit(2), "SystemExit: 2"),
        (ExceptionGroup("both", [ValueError("a")]), "ExceptionGroup: both"),
        (UnprintableError(), "UnprintableError"),
    ],
)
@pytest.mark.parametrize("threaded", [False, True], ids=["async", "thread"])
async def test_a_tool_that_raises_is_a_failure_with_type_and_message(
    error: BaseException, says: str, threaded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def in_a_thread() -> None:
        raise error

    async def in_the_loop() -> None:
        raise error

    result = await run(in_a_thread if threaded else in_the_loop)

    assert result.status is ToolStatus.FAILED
    assert says in result.content
    assert "Traceback" not in result.content
    (logged,) = caplog.records
    assert logged.levelno == logging.ERROR
    assert logged.exc_info is not None


async def test_an_async_tool_that_takes_too_long_is_stopped() -> None:
    ended = False

    async def wait() -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            ended = True

    result = await run(wait, timeout_s=0.01)

    assert ended
    assert result.status is ToolStatus.TIMEOUT
    assert result.content == "The tool 'wait' did not end within 0.01 s and was stopped."


async def test_a_tool_that_fails_while_it_is_stopped_has_timed_out() -> None:
    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("on the way out")

    assert (await run(wait, timeout_s=0.01)).status is ToolStatus.TIMEOUT


async def test_a_threads_slot_is_taken_until_its_function_really_ends() -> None:
    release = threading.Event()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait() -> str:
        release.wait()
        loop.call_soon_threadsafe(ended.set)
        return "too late"

    def next_one() -> str:
        return "done"

    manager = managing(wait, next_one, timeout_s=0.02, max_threads=1)
    (first,) = await manager.execute([call("wait")])
    (second,) = await manager.execute([call("next_one")])
    release.set()
    await ended.wait()
    (third,) = await manager.execute([call("next_one")])
    await manager.aclose()

    assert first.status is second.status is ToolStatus.TIMEOUT
    assert "may still be running" in first.content
    assert "never started" in second.content
    assert third.content == "done"


async def test_a_tools_own_timeout_comes_before_the_managers() -> None:
    manager = ToolManager(timeout_s=30)
    manager.register(stuck, timeout_s=0.01)

    (result,) = await manager.execute([call("stuck", '{"number": 1}')])

    assert result.status is ToolStatus.TIMEOUT
    assert "0.01 s" in result.content


async def test_no_more_calls_than_allowed_run_at_once() -> None:
    running = peak = 0

    async def count() -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1

    manager = managing(count, concurrency=3)
    await asyncio.gather(*(manager.execute([call("count")] * 5) for _ in range(3)))

    assert peak == 3


async def test_calls_run_side_by_side() -> None:
    met = asyncio.Barrier(3)

    async def meet() -> None:
        await met.wait()

    results = await managing(meet).execute([call("meet")] * 3)

    assert [result.status for result in results] == [OK, OK, OK]


async def test_functions_run_in_a_bounded_number_of_threads() -> None:
    used: set[int] = set()
    three = threading.Barrier(3)

    def note() -> None:
        three.wait()
        used.add(threading.get_ident())

    manager = managing(note, max_threads=3, concurrency=30)
    results = await manager.execute([call("note")] * 30)
    await manager.aclose()

    assert {result.status for result in results} == {OK}
    assert len(used) == 3
    assert threading.get_ident() not in used


async def test_async_tools_need_no_thread() -> None:
    before = set(threading.enumerate())

    async def here() -> int:
        return threading.get_ident()

    result = await run(here)

    assert result.content == str(threading.get_ident())
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("threaded", [False, True], ids=["async", "thread"])
async def test_tools_see_the_callers_context_variables_and_keep_their_own(threaded: bool) -> None:
    def in_a_thread() -> str:
        seen = who.get()
        who.set("the tool")
        return seen

    async def in_the_loop() -> str:
        return in_a_thread()

    token = who.set("the caller")

    result = await run(in_a_thread if threaded else in_the_loop)

    assert result.content == "the caller"
    assert who.get() == "the caller"
    who.reset(token)


class Counter:
    def __init__(self) -> None:
        self.total = 0

    async def add(self, number: int) -> int:
        self.total += number
        return self.total

    async def __call__(self, number: int) -> int:
        return await self.add(number)


def doubled(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    "tool",
    [
        Counter().add,
        Counter(),
        functools.partial(Counter().add),
        functools.partial(Counter()),
        doubled(double),
    ],
    ids=["method", "object", "partial method", "partial object", "sync wrapper"],
)
async def test_every_kind_of_callable_runs(tool: Any) -> None:
    result = await run(tool, '{"number": 5}')

    assert (result.status, result.content) in [(OK, "5"), (OK, "10")]


async def test_cancelling_cancels_every_running_call_and_leaves_no_task() -> None:
    started = asyncio.Barrier(3)
    ended: list[str] = []

    async def wait(name: str) -> None:
        try:
            await started.wait()
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    manager = managing(wait, concurrency=2)
    calls = [call("wait", f'{{"name": "{name}"}}') for name in "abc"]
    execution = asyncio.create_task(manager.execute(calls))
    await started.wait()
    execution.cancel()
    with pytest.raises(asyncio.CancelledError):
        await execution

    assert sorted(ended) == ["a", "b"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_cancelling_does_not_wait_for_a_thread() -> None:
    started = asyncio.Event()
    release = threading.Event()
    loop = asyncio.get_running_loop()

    def wait() -> None:
        loop.call_soon_threadsafe(started.set)
        release.wait()

    execution = asyncio.create_task(managing(wait).execute([call("wait")]))
    await started.wait()
    execution.cancel()
    with pytest.raises(asyncio.CancelledError):
        await execution
    release.set()

    assert asyncio.all_tasks() == {asyncio.current_task()}


async def cancels_its_task(number: int) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


def gives_up_in_a_thread(number: int) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("tool", [gives_up, cancels_its_task, gives_up_in_a_thread])
async def test_a_call_that_cancels_itself_disturbs_no_other(tool: Callable[..., Any]) -> None:
    results = await managing(tool, slow).execute(
        [call(name, '{"number": 1}') for name in ("slow", tool.__name__, "slow")]
    )

    assert [result.status for result in results] == [OK, ToolStatus.CANCELLED, OK]
    assert results[1].content == f"The tool '{tool.__name__}' was cancelled before it ended."


async def test_threads_end_when_the_manager_is_closed() -> None:
    threads: list[threading.Thread] = []

    def note() -> None:
        threads.append(threading.current_thread())

    manager = managing(note)
    await manager.execute([call("note")])
    await manager.aclose()
    (thread,) = threads
    await asyncio.to_thread(thread.join, 10)

    assert not thread.is_alive()
    (result,) = await manager.execute([call("note")])
    assert result.status is ToolStatus.FAILED
    assert "closed" in result.content


async def test_an_idle_thread_is_used_again() -> None:
    used: list[int] = []

    def note() -> None:
        used.append(threading.get_ident())

    manager = managing(note)
    for _ in range(50):
        await manager.execute([call("note")])
    await manager.aclose()

    assert len(set(used)) < 8
