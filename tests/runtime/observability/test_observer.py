"""Spans: what is inside what, how they end, and what they may hold."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import pytest
from opentelemetry import trace

from app.llmgine.observability import MemorySink, Observer, Record, Redactor, semconv

FindSpan = Callable[[str], Record]


def attributes(record: Record) -> dict[str, object]:
    found = record.fields["attributes"]
    assert isinstance(found, dict)
    return dict(found)


def test_a_span_is_one_record_when_it_ends(
    observer: Observer, sink: MemorySink, span: FindSpan
) -> None:
    with observer.span(semconv.chat_span("m"), kind="client", attributes={"a": 1}) as current:
        current.set("b", ("x", "y"))
        before = list(sink.records)

    record = span("chat m")
    assert before == []
    assert attributes(record) == {"a": 1, "b": ["x", "y"]}
    assert record.fields["kind"] == "client"
    assert record.fields["status"] == "unset"
    assert float(str(record.fields["duration_s"])) >= 0
    assert record.parent_id is None


def test_a_span_inside_another_is_its_child(observer: Observer, span: FindSpan) -> None:
    with observer.span("outer"), observer.span("inner"):
        pass

    assert span("inner").parent_id == span("outer").span_id
    assert span("inner").trace_id == span("outer").trace_id
    assert span("inner").ts >= span("outer").ts


def test_an_exception_marks_the_span_and_goes_on(observer: Observer, span: FindSpan) -> None:
    with pytest.raises(KeyError), observer.span("work"):
        raise KeyError("missing")

    record = span("work")
    assert record.fields["status"] == "error"
    assert record.fields["status_message"] == "'missing'"
    assert attributes(record)[semconv.ERROR_TYPE] == "KeyError"


def test_a_failure_that_was_told_is_not_overwritten_by_the_exception(
    observer: Observer, span: FindSpan
) -> None:
    def work() -> None:
        with observer.span("work") as current:
            current.fail("rate_limit", "too many")
            raise RuntimeError("HTTP 429")

    with pytest.raises(RuntimeError):
        work()

    assert attributes(span("work"))[semconv.ERROR_TYPE] == "rate_limit"
    assert span("work").fields["status_message"] == "too many"


async def test_tasks_that_take_turns_keep_their_own_parents(
    observer: Observer, sink: MemorySink
) -> None:
    async def work(number: int) -> None:
        with observer.span("task", attributes={"n": number}):
            for _ in range(3):
                await asyncio.sleep(0)
                with observer.span("step", attributes={"n": number}):
                    await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(work(number))

    tasks = {r.span_id: attributes(r)["n"] for r in sink.records if r.name == "task"}
    steps = [r for r in sink.records if r.name == "step"]
    assert len(tasks) == 5
    assert len(steps) == 15
    assert all(tasks[step.parent_id] == attributes(step)["n"] for step in steps)
    assert len({r.trace_id for r in sink.records}) == 5


async def test_the_span_of_a_cancelled_task_ends(observer: Observer, span: FindSpan) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        with observer.span("work"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert attributes(span("work"))[semconv.ERROR_TYPE] == "CancelledError"


async def numbers(observer: Observer) -> AsyncGenerator[int, None]:
    with observer.span("stream"):
        for number in range(3):
            yield number


async def test_a_stream_that_is_closed_early_has_not_failed(
    observer: Observer, span: FindSpan
) -> None:
    async with aclosing(numbers(observer)) as stream:
        await anext(stream)

    assert span("stream").fields["status"] == "unset"


async def test_a_stream_that_another_task_closes_ends_its_span_without_a_sound(
    observer: Observer, span: FindSpan, caplog: pytest.LogCaptureFixture
) -> None:
    stream = numbers(observer)

    async def begin() -> None:
        await anext(stream)

    await asyncio.create_task(begin())

    await stream.aclose()

    assert span("stream").fields["status"] == "unset"
    assert [line for line in caplog.records if line.levelno >= logging.WARNING] == []
    assert observer.traceparent() is None


def test_a_traceparent_puts_a_span_inside_a_span_elsewhere(
    observer: Observer, span: FindSpan
) -> None:
    with observer.span("here"):
        traceparent = observer.traceparent()
    assert traceparent is not None
    with observer.span("there", parent=traceparent):
        pass

    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", traceparent)
    assert span("there").parent_id == span("here").span_id
    assert span("there").trace_id == span("here").trace_id


@pytest.mark.parametrize("parent", ["", "nonsense", "00-zz-11-01", f"00-{'0' * 32}-{'0' * 16}-01"])
def test_a_traceparent_that_is_none_is_ignored(
    observer: Observer, span: FindSpan, parent: str
) -> None:
    with observer.span("work", parent=parent):
        pass

    assert span("work").parent_id is None


def test_a_record_carries_the_identifiers_of_its_span(
    observer: Observer, sink: MemorySink, span: FindSpan
) -> None:
    observer.record("before", {"n": 1})
    with observer.span("work"):
        observer.record("during", {"n": 2}, kind="metric")

    before, during, work = sink.records
    assert (before.trace_id, before.span_id) == (None, None)
    assert (during.trace_id, during.span_id) == (work.trace_id, work.span_id)
    assert (during.kind, during.fields) == ("metric", {"n": 2})


@pytest.mark.parametrize("capture_content", [False, True])
def test_content_is_recorded_only_where_it_is_asked_for(
    sink: MemorySink, span: FindSpan, *, capture_content: bool
) -> None:
    observer = Observer([sink], capture_content=capture_content)
    with observer.span("chat m", attributes={semconv.INPUT_MESSAGES: "hello", "n": 1}) as current:
        current.set(semconv.TOOL_CALL_RESULT, "42")

    assert ("hello" in str(span("chat m"))) is capture_content
    assert ("42" in str(attributes(span("chat m")))) is capture_content
    assert attributes(span("chat m"))["n"] == 1


def test_no_secret_reaches_a_sink_by_any_way(sink: MemorySink) -> None:
    secret = "hunter2-and-a-half"
    observer = Observer([sink], redact=Redactor([secret]))

    def work() -> None:
        with observer.span(f"chat {secret}", attributes={"a": secret, "b": [secret]}) as current:
            observer.record(secret, {secret: {"deep": [secret]}, "api_key": "short"})
            current.set(f"x-{secret}", 1)
            raise ValueError(secret)

    with pytest.raises(ValueError, match=secret):
        work()

    written = "".join(record.to_json() for record in sink.records)
    assert len(sink.records) == 2
    assert secret not in written
    assert "short" not in written
    assert written.count("[REDACTED]") == 9


class BrokenSink:
    def emit(self, record: Record) -> None:
        raise OSError("no")

    def close(self, timeout_s: float) -> None: ...


def test_a_broken_sink_is_told_once_and_disturbs_nobody(
    sink: MemorySink, capsys: pytest.CaptureFixture[str]
) -> None:
    observer = Observer([BrokenSink(), sink])

    observer.record("one", {})
    with observer.span("two"):
        pass

    assert [record.name for record in sink.records] == ["one", "two"]
    assert capsys.readouterr().err == "llmgine: BrokenSink fails: OSError\n"


def test_its_tracer_provider_is_not_the_global_one_unless_somebody_makes_it_so(
    observer: Observer, sink: MemorySink
) -> None:
    with trace.get_tracer("other").start_as_current_span("elsewhere"):
        pass
    provider = observer.tracer_provider
    assert provider is not None
    with provider.get_tracer("other").start_as_current_span("through it"):
        pass

    assert [record.name for record in sink.records] == ["through it"]


def test_an_observer_that_nobody_listens_to_does_nothing() -> None:
    observer = Observer()

    with observer.span("work", attributes={"a": 1}) as span:
        span.set("b", 2)
        span.fail("timeout")
        traceparent = observer.traceparent()
    observer.record("x", {})
    observer.close()

    assert traceparent is None
    assert observer.tracer_provider is None
    assert not observer.active


def test_every_record_is_json(observer: Observer, sink: MemorySink) -> None:
    with observer.span("work", attributes={"f": float("nan"), "i": 2**70}):
        observer.record("x", {"o": object(), "s": {1, 2}, "p": pytest})

    assert all(Record.from_json(r.to_json()) == r for r in sink.records)
    assert all(json.loads(r.to_json()) for r in sink.records)
