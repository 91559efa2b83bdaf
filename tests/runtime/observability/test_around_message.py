"""The bus's middleware: a span for each command, and for each run of an event's handler."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app.llmgine.bus import CommandResultEvent, MessageBus
from app.llmgine.messages import Command, Event, current_envelope
from app.llmgine.observability import (
    EventRecorder,
    MemorySink,
    Metric,
    MetricEvent,
    Observer,
    Record,
    TraceEvent,
    semconv,
)

FindSpan = Callable[[str], Record]


class Greet(Command[str]):
    name: str


class Greeted(Event):
    name: str


class Waved(Event):
    pass


def bus_of(observer: Observer) -> MessageBus:
    return MessageBus(middleware=[observer.around_message], traceparent=observer.traceparent)


def attributes(record: Record) -> dict[str, object]:
    found = record.fields["attributes"]
    assert isinstance(found, dict)
    return dict(found)


def exceptions(record: Record) -> list[dict[str, str]]:
    events: Any = record.fields["events"]
    return [event["attributes"] for event in events]


async def test_a_command_is_a_span_with_its_identity(observer: Observer, span: FindSpan) -> None:
    async def greet(command: Greet) -> str:
        envelope = current_envelope()
        assert envelope is not None
        return envelope.id

    bus = bus_of(observer)
    bus.register_command_handler(Greet, greet)
    async with bus:
        message_id = await bus.execute(Greet(name="Ada"), session_id="s1")

    record = span("Greet")
    assert record.fields["kind"] == "internal"
    assert record.session_id == "s1"
    assert attributes(record) == {
        semconv.MESSAGE_ID: message_id,
        semconv.MESSAGE_CORRELATION_ID: message_id,
        semconv.SESSION_ID: "s1",
    }
    assert "Ada" not in record.to_json()


async def test_an_event_s_handler_is_a_span_inside_the_command_that_published_it(
    observer: Observer, span: FindSpan
) -> None:
    bus = bus_of(observer)

    async def greet(command: Greet) -> str:
        await bus.publish(Greeted(name=command.name))
        return ""

    async def wave(event: Greeted) -> None:
        with observer.span("wave"):
            await bus.publish(Waved())

    async def notice(event: Waved) -> None: ...

    bus.register_command_handler(Greet, greet)
    bus.register_event_handler(Greeted, wave)
    bus.register_event_handler(Waved, notice)
    async with bus:
        await bus.execute(Greet(name="Ada"))
        await bus.idle()

    assert span("Greeted").fields["kind"] == "consumer"
    assert span("Greeted").parent_id == span("Greet").span_id
    assert span("wave").parent_id == span("Greeted").span_id
    assert span("Waved").parent_id == span("wave").span_id
    assert (
        attributes(span("Waved"))[semconv.MESSAGE_CORRELATION_ID]
        == attributes(span("Greet"))[semconv.MESSAGE_ID]
    )


async def test_the_spans_of_commands_at_once_do_not_mix(
    observer: Observer, sink: MemorySink
) -> None:
    bus = bus_of(observer)

    async def greet(command: Greet) -> str:
        await asyncio.sleep(0)
        with observer.span(f"inside {command.name}"):
            await asyncio.sleep(0)
        return ""

    bus.register_command_handler(Greet, greet)
    async with bus, asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(bus.execute(Greet(name=str(number))))

    commands = {r.span_id: r.trace_id for r in sink.records if r.name == "Greet"}
    inside = [r for r in sink.records if r.name.startswith("inside")]
    assert len(set(commands.values())) == 10
    assert set(commands) == {r.parent_id for r in inside}
    assert all(commands[r.parent_id] == r.trace_id for r in inside)


async def test_the_span_of_a_failed_command_has_the_stack_and_no_variables(
    observer: Observer, span: FindSpan
) -> None:
    bus = bus_of(observer)

    async def greet(command: Greet) -> str:
        password_of_mine = "hunter2-and-a-half"
        raise LookupError(f"nobody of {len(password_of_mine)}")

    bus.register_command_handler(Greet, greet)
    async with bus:
        with pytest.raises(LookupError):
            await bus.execute(Greet(name="Ada"))

    record = span("Greet")
    (told,) = exceptions(record)
    assert attributes(record)[semconv.ERROR_TYPE] == "LookupError"
    assert told[semconv.EXCEPTION_MESSAGE] == "nobody of 18"
    assert "in greet" in str(told)
    assert "Ada" not in record.to_json()


async def test_the_span_of_a_cancelled_command_ends(observer: Observer, span: FindSpan) -> None:
    bus = bus_of(observer)
    inside = asyncio.Event()

    async def greet(command: Greet) -> str:
        inside.set()
        await asyncio.Event().wait()
        return ""

    bus.register_command_handler(Greet, greet)
    async with bus:
        task = asyncio.create_task(bus.execute(Greet(name="Ada")))
        await inside.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert attributes(span("Greet"))[semconv.ERROR_TYPE] == "CancelledError"


async def test_without_a_listener_the_bus_works_as_if_there_were_no_middleware() -> None:
    bus = bus_of(Observer())

    async def greet(command: Greet) -> str:
        return f"Hello {command.name}"

    bus.register_command_handler(Greet, greet)
    async with bus:
        answer = await bus.execute(Greet(name="Ada"))

    assert answer == "Hello Ada"


async def record_events(observer: Observer, *events: Event, **options: tuple[type, ...]) -> None:
    bus = bus_of(observer)

    async def greet(command: Greet) -> str:
        for event in events:
            await bus.publish(event)
        return ""

    bus.register_command_handler(Greet, greet)
    bus.register_event_handler(Event, EventRecorder(observer, **options).record_event)
    async with bus:
        await bus.execute(Greet(name="x"), session_id="s1")
        await bus.idle()


async def test_each_event_is_one_record_in_the_span_that_published_it(
    observer: Observer, sink: MemorySink, span: FindSpan
) -> None:
    await record_events(observer, Greeted(name="Ada"), Waved())

    events = [r for r in sink.records if r.kind == "event"]
    assert [r.name for r in events] == ["Greeted", "Waved", "CommandResultEvent"]
    assert all(r.span_id == span("Greet").span_id for r in events[:2])
    assert all(r.session_id == "s1" for r in events)
    assert (
        events[0].fields[semconv.MESSAGE_CAUSATION_ID]
        == (attributes(span("Greet"))[semconv.MESSAGE_ID])
    )
    assert "Ada" not in str(events)


async def test_recording_an_event_is_no_span_of_its_own(
    observer: Observer, sink: MemorySink
) -> None:
    await record_events(observer, Greeted(name="Ada"))

    assert [r.name for r in sink.records if r.kind == "span"] == ["Greet"]


async def test_only_the_run_of_an_event_s_handler_can_be_hidden(
    observer: Observer, span: FindSpan
) -> None:
    with observer.span("work"):
        await EventRecorder(observer).record_event(Greeted(name="Ada"))

    assert span("work").fields["status"] == "unset"


async def test_an_event_s_payload_is_recorded_where_content_is_captured(sink: MemorySink) -> None:
    await record_events(Observer([sink], capture_content=True), Greeted(name="Ada"))

    (event,) = [r for r in sink.records if r.name == "Greeted"]
    assert event.fields[semconv.MESSAGE_PAYLOAD] == {"name": "Ada"}


async def test_events_that_are_skipped_are_not_recorded(
    observer: Observer, sink: MemorySink
) -> None:
    await record_events(observer, Greeted(name="Ada"), Waved(), skip=(Greeted, CommandResultEvent))

    assert [r.name for r in sink.records if r.kind == "event"] == ["Waved"]


async def test_metrics_and_trace_events_are_recorded_with_their_values(
    observer: Observer, sink: MemorySink
) -> None:
    metrics = [Metric(name="files", value=10), Metric(name="wait", value=0.5, unit="s")]
    await record_events(
        observer, MetricEvent(metrics=metrics), TraceEvent(name="cache", attributes={"hit": True})
    )

    values = {r.name: (r.kind, r.fields.get("value"), r.fields.get("unit")) for r in sink.records}
    (trace,) = [r for r in sink.records if r.name == "cache"]
    assert values["files"] == ("metric", 10, "1")
    assert values["wait"] == ("metric", 0.5, "s")
    assert trace.fields["attributes"] == {"hit": True}
