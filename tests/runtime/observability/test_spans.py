"""Our spans are OpenTelemetry's to everybody else: libraries, processors and samplers."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.llmgine.observability import MemorySink, Observer

ELSEWHERE = trace.SpanContext(7, 8, is_remote=True, trace_flags=trace.TraceFlags(1))


def as_a_library_does() -> None:
    span = trace.get_current_span()
    assert span.is_recording()
    span.set_attribute("one", 1)
    span.set_attributes({"one": "another", "list": ["a", "b"]})
    span.add_event("happened", {"how": "well"}, timestamp=5)
    span.add_link(ELSEWHERE, {"why": "follows"})
    span.update_name("renamed")
    span.record_exception(ValueError("no"), {"more": True}, timestamp=6)
    span.set_status(trace.StatusCode.ERROR, "went wrong")


def seen(span: ReadableSpan) -> dict[str, Any]:
    events = [(e.name, e.timestamp, dict(e.attributes or {})) for e in span.events]
    for _, _, attributes in events:
        attributes.pop("exception.stacktrace", None)
    return {
        "name": span.name,
        "kind": span.kind,
        "attributes": span.attributes,
        "events": events,
        "links": [(link.context, dict(link.attributes or {})) for link in span.links],
        "status": (span.status.status_code, span.status.description),
        "parent": span.parent,
        "ended": (span.end_time or 0) >= (span.start_time or 0) > 0,
    }


def test_what_a_library_says_of_the_current_span_is_recorded_as_on_a_span_of_the_sdk() -> None:
    exporter = InMemorySpanExporter()
    theirs = TracerProvider()
    theirs.add_span_processor(SimpleSpanProcessor(exporter))
    with theirs.get_tracer("sdk").start_as_current_span(
        "work", kind=trace.SpanKind.CLIENT, attributes={"zero": 0}
    ):
        as_a_library_does()
    observer = Observer(exporters=[exporter])
    with observer.span("work", kind="client", attributes={"zero": 0}):
        as_a_library_does()
    observer.close()

    of_the_sdk, ours = (seen(span) for span in exporter.get_finished_spans())
    ours["attributes"] = {**ours["attributes"], "list": ("a", "b")}
    for _, _, attributes in of_the_sdk["events"]:
        attributes.pop("exception.escaped", None)
    assert ours == of_the_sdk


def test_a_span_is_recorded_once_however_often_it_is_ended() -> None:
    sink = MemorySink()

    with Observer([sink]).span("work"):
        trace.get_current_span().end()
        assert not trace.get_current_span().is_recording()

    assert [record.name for record in sink.records] == ["work"]


def says_ok_and_then_fails() -> None:
    trace.get_current_span().set_status(trace.StatusCode.OK)
    raise ZeroDivisionError


def says_that_it_fails_and_then_does() -> None:
    trace.get_current_span().set_status(trace.StatusCode.ERROR, "soon")
    raise ZeroDivisionError("no")


def names_the_error_and_then_fails() -> None:
    trace.get_current_span().set_attribute("error.type", "500")
    raise ZeroDivisionError("no")


def takes_back_that_it_failed() -> None:
    trace.get_current_span().set_status(trace.StatusCode.ERROR, "no")
    trace.get_current_span().set_status(trace.StatusCode.UNSET)


@pytest.mark.parametrize(
    ("work", "status", "error_type"),
    [
        (says_ok_and_then_fails, "ok", "ZeroDivisionError"),
        (says_that_it_fails_and_then_does, "error", "ZeroDivisionError"),
        (names_the_error_and_then_fails, "error", "ZeroDivisionError"),
        (takes_back_that_it_failed, "error", None),
    ],
)
def test_a_status_follows_the_rules_of_opentelemetry(
    work: Callable[[], None],
    status: str,
    error_type: str | None,
    sink: MemorySink,
    observer: Observer,
) -> None:
    with suppress(ZeroDivisionError), observer.span("work"):
        work()

    (record,) = sink.records
    assert record.fields["status"] == status
    assert record.fields["attributes"] == ({"error.type": error_type} if error_type else {})
    assert record.fields.get("status_message") == (None if status == "ok" else "no")


def test_what_is_said_of_a_span_after_its_end_changes_nothing(observer: Observer) -> None:
    processor = Baggage()
    assert observer.tracer_provider is not None
    observer.tracer_provider.add_span_processor(processor)
    with observer.span("work"):
        late = trace.get_current_span()
    (span,) = processor.ended
    before = seen(span) | {"attributes": dict(span.attributes or {})}

    late.set_attribute("zero", 0)
    late.add_event("happened")
    late.add_link(ELSEWHERE)
    late.update_name("renamed")
    late.set_status(trace.StatusCode.ERROR, "went wrong")

    assert seen(span) == before


def test_an_event_keeps_what_it_was_given(sink: MemorySink, observer: Observer) -> None:
    with observer.span("work"):
        reused = {"n": 1}
        trace.get_current_span().add_event("happened", reused)
        reused["n"] = 2

    (event,) = cast("list[dict[str, Any]]", sink.records[0].fields["events"])
    assert event["attributes"] == {"n": 1}


class Baggage(SpanProcessor):
    """Writes on each span that begins, and keeps each that ended."""

    def __init__(self) -> None:
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: context.Context | None = None) -> None:
        span.set_attribute("tenant", "ada")

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


def test_a_processor_that_is_added_to_the_provider_sees_every_span() -> None:
    sink, processor = MemorySink(), Baggage()
    observer = Observer([sink])
    provider = observer.tracer_provider
    assert provider is not None
    provider.add_span_processor(processor)

    with observer.span("outer"), provider.get_tracer("other").start_as_current_span("inner"):
        pass

    assert [span.name for span in processor.ended] == ["inner", "outer"]
    assert processor.ended[1].to_json().count('"name": "outer"') == 1
    assert [record.fields["attributes"] for record in sink.records] == [{"tenant": "ada"}] * 2


@pytest.mark.parametrize(
    "variable", [("OTEL_TRACES_SAMPLER", "always_off"), ("OTEL_SDK_DISABLED", "true")]
)
def test_the_standard_variables_turn_spans_off(
    monkeypatch: pytest.MonkeyPatch, variable: tuple[str, str]
) -> None:
    monkeypatch.setenv(*variable)
    sink = MemorySink()
    observer = Observer([sink])

    with observer.span("work") as span:
        span.set("a", 1)
        with observer.span("inside"):
            assert not trace.get_current_span().is_recording()
    observer.record("event", {})

    assert [record.name for record in sink.records] == ["event"]


@pytest.mark.parametrize(("flags", "recorded"), [("00", []), ("01", ["work"])])
def test_a_span_is_sampled_as_the_one_that_it_was_sent_in(flags: str, recorded: list[str]) -> None:
    sink = MemorySink()
    parent = f"00-{7:032x}-{8:016x}-{flags}"

    with Observer([sink]).span("work", parent=parent):
        pass

    assert [record.name for record in sink.records] == recorded


def test_a_traceparent_that_is_none_leaves_the_span_where_it_is(
    sink: MemorySink, observer: Observer
) -> None:
    with observer.span("outer"), observer.span("inner", parent="nonsense"):
        pass

    inner, outer = sink.records
    assert (inner.trace_id, inner.parent_id) == (outer.trace_id, outer.span_id)


@pytest.mark.parametrize(
    ("variable", "limit", "kept"),
    [
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3", {"a": "lon", "b": 2}),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "1", {"b": 2}),
    ],
)
def test_the_standard_limits_of_attributes_hold(
    monkeypatch: pytest.MonkeyPatch, variable: str, limit: str, kept: dict[str, object]
) -> None:
    monkeypatch.setenv(variable, limit)
    sink = MemorySink()

    with Observer([sink]).span("work", attributes={"a": "long"}) as span:
        span.set("b", 2)

    assert sink.records[0].fields["attributes"] == kept


def test_the_flag_of_a_random_trace_goes_on() -> None:
    observer = Observer([MemorySink()])

    with observer.span("work", parent=f"00-{7:032x}-{8:016x}-03"):
        traceparent = observer.traceparent()

    assert traceparent is not None
    assert traceparent.endswith("-03")


def test_a_hidden_span_ends_for_those_who_saw_it_begin(observer: Observer) -> None:
    processor = Baggage()
    assert observer.tracer_provider is not None
    observer.tracer_provider.add_span_processor(processor)

    with observer.span("word", kind="consumer"):
        observer.hide_span()

    assert [span.name for span in processor.ended] == ["word"]
