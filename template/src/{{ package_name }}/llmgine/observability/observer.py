# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The one object through which the runtime says what it does: spans and records."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from ..errors import MissingExtraError
from ..messages import Command, Envelope, Event, Message, current_envelope
from . import semconv
from .records import Kind, Record, Sink, timestamp
from .redaction import Redactor

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from ._tracing import Tracing


class Metric(BaseModel):
    """One measured value. `unit` is as in OpenTelemetry: `s`, `By`, `{token}`; `1` for a count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: int | float
    unit: str = "1"
    attributes: dict[str, str | bool | int | float] = Field(default_factory=dict)


class MetricEvent(Event):
    """Something was measured; the values are recorded whether or not content is captured."""

    metrics: Sequence[Metric]


class TraceEvent(Event):
    """Something happened that belongs into the trace; `attributes` are always recorded.

    For work that takes time use `observer.span(...)`: it also says how long.
    """

    name: str
    attributes: dict[str, JsonValue] = Field(default_factory=dict)


class EventRecorder:
    """Makes each event one record: `bus.register_event_handler(Event, recorder.record_event)`.

    A record holds the event's class and identity; its payload only where content is captured.

    Args:
        skip: classes of events that are left out, with those below them, because they come by
            the hundred: streamed text.
    """

    def __init__(self, observer: Observer, *, skip: tuple[type[Event], ...] = ()) -> None:
        self._observer = observer
        self._skip = skip

    async def record_event(self, event: Event) -> None:
        self._observer.hide_span()
        if isinstance(event, self._skip):
            return
        match event:
            case MetricEvent():
                for metric in event.metrics:
                    fields = metric.model_dump(exclude={"name"})
                    self._record(metric.name, fields, kind="metric")
            case TraceEvent():
                self._record(event.name, {"attributes": event.attributes})
            case _:
                content = self._observer.capture_content
                self._record(
                    type(event).__name__, {semconv.MESSAGE_PAYLOAD: event} if content else {}
                )

    def _record(self, name: str, fields: dict[str, object], *, kind: Kind = "event") -> None:
        envelope = current_envelope()
        if envelope is None:
            self._observer.record(name, fields, kind=kind)
            return
        identity = {
            semconv.MESSAGE_ID: envelope.id,
            semconv.MESSAGE_CORRELATION_ID: envelope.correlation_id,
            semconv.MESSAGE_CAUSATION_ID: envelope.causation_id,
            semconv.MESSAGE_KEY: envelope.key,
        }
        self._observer.record(name, identity | fields, kind=kind, span=envelope.traceparent or "")


AttributeValue = str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]
SpanKind = Literal["internal", "client", "consumer", "producer"]


class Span(Protocol):
    """What runs inside `with observer.span(...)`."""

    def set(self, key: str, value: AttributeValue) -> None: ...

    def set_all(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Cheaper than to set one after the other."""
        ...

    def fail(self, error_type: str, message: str = "") -> None:
        """It failed, though no exception leaves the block; `error_type` is one of a few words."""
        ...


class _NoSpan:
    """The span of an observer that nobody listens to."""

    def set(self, key: str, value: AttributeValue) -> None:
        pass

    def set_all(self, attributes: Mapping[str, AttributeValue]) -> None:
        pass

    def fail(self, error_type: str, message: str = "") -> None:
        pass

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NO_SPAN = _NoSpan()
_NO_ATTRIBUTES: Mapping[str, AttributeValue] = {}


class Observer:
    """Makes spans and records, and gives them, free of secrets, to every sink and exporter.

    Without sinks and exporters it does nothing, starts no thread and imports no OpenTelemetry.

    Args:
        sinks: take every record, spans among them.
        redact: goes over everything before any sink or exporter gets it.
        capture_content: whether prompts, answers, payloads, tool arguments and results may be
            recorded. Who makes a span asks this before it sets them.
        exporters: OpenTelemetry's, for spans; each gets a thread.
    """

    def __init__(
        self,
        sinks: Sequence[Sink] = (),
        *,
        redact: Redactor | None = None,
        capture_content: bool = False,
        exporters: Sequence[SpanExporter] = (),
    ) -> None:
        self.capture_content = capture_content
        self._sinks = tuple(sinks)
        self._broken: set[int] = set()
        self.redact = redact or Redactor()
        self._tracing: Tracing | None = None
        if sinks or exporters:
            from ._tracing import Tracing

            self._tracing = Tracing(
                self._deliver,
                redact=self.redact,
                capture_content=capture_content,
                exporters=exporters,
            )

    @property
    def active(self) -> bool:
        """Whether anybody listens."""
        return self._tracing is not None

    @property
    def tracer_provider(self) -> TracerProvider | None:
        """For whoever wants it to be the global one: `trace.set_tracer_provider(...)`."""
        return None if self._tracing is None else self._tracing.provider

    def span(
        self,
        name: str,
        *,
        kind: SpanKind = "internal",
        attributes: Mapping[str, AttributeValue] = _NO_ATTRIBUTES,
        parent: str | None = None,
    ) -> AbstractContextManager[Span]:
        """A span around the block, inside the span that is current here.

        An exception that leaves the block marks the span as failed and goes on.

        Args:
            name: see `semconv`; one of few, so no identifiers in it.
            kind: `client` where the work is done by somebody else.
            attributes: those known at the start; `Span.set` adds others.
            parent: a W3C traceparent, to be inside that span instead.
        """
        if self._tracing is None:
            return _NO_SPAN
        return self._tracing.span(name, kind, attributes, parent)

    def record(
        self,
        name: str,
        fields: Mapping[str, object],
        *,
        kind: Kind = "event",
        span: str | None = None,
    ) -> None:
        """One record to the sinks, with the identifiers of the session and the span it is of.

        `span` is a W3C traceparent, or "" for none; without it, the current span is meant.
        """
        if self._tracing is None or not self._sinks:
            return
        trace_id, span_id = self._tracing.ids(span)
        clean = self.redact.fields(fields)
        self._deliver(
            Record(timestamp(), kind, self.redact.text(name), trace_id, span_id, fields=clean)
        )

    def _deliver(self, record: Record) -> None:
        envelope = current_envelope()
        if envelope is not None and envelope.session_id is not None:
            record = record._replace(session_id=self.redact.text(envelope.session_id))
        for sink in self._sinks:
            try:
                sink.emit(record)
            except Exception as error:
                # A sink is other people's code, and the work that is observed must go on.
                self._report(sink, error)

    def _report(self, sink: Sink, error: Exception) -> None:
        if id(sink) not in self._broken:
            self._broken.add(id(sink))
            with suppress(OSError, ValueError, AttributeError):  # No stderr, or it is closed.
                sys.stderr.write(f"llmgine: {type(sink).__name__} fails: {type(error).__name__}\n")

    def traceparent(self) -> str | None:
        """The current span as a W3C traceparent; `None` outside of any."""
        return None if self._tracing is None else self._tracing.traceparent()

    def hide_span(self) -> None:
        """Leave the run of this event's handler out of the spans: there are too many like it."""
        if self._tracing is not None:
            self._tracing.hide_span()

    async def around_message(
        self, message: Message, envelope: Envelope, call_next: Callable[[], Awaitable[Any]]
    ) -> Any:
        """The bus's middleware: a span around each command, and each run of an event's handler."""
        if self._tracing is None:
            return await call_next()
        message_id = envelope.id
        attributes = {
            semconv.MESSAGE_ID: message_id,
            semconv.MESSAGE_CORRELATION_ID: (
                message_id if envelope.causation_id is None else envelope.correlation_id
            ),
        }
        if envelope.session_id is not None:
            attributes[semconv.SESSION_ID] = envelope.session_id
        # A command runs inside its caller's span. An event's handler runs in a lane, where there
        # is none; the envelope has the one it was published in.
        parent = envelope.traceparent
        if parent is not None and self._tracing.in_span():
            parent = None
        kind: SpanKind = "internal" if isinstance(message, Command) else "consumer"
        with self._tracing.span(type(message).__name__, kind, attributes, parent, with_stack=True):
            return await call_next()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write out and send what was recorded, within that time.

        No exporter gets the spans that end later.
        """
        deadline = time.monotonic() + timeout_s
        for sink in self._sinks:
            sink.close(max(0.0, deadline - time.monotonic()))
        if self._tracing is not None:
            self._tracing.close(max(0.0, deadline - time.monotonic()))


def otlp_exporter() -> SpanExporter | None:
    """The exporter that the standard `OTEL_EXPORTER_OTLP_*` variables ask for, if they ask.

    It sends OTLP over HTTP with protobuf, and reads the variables itself.

    Raises:
        MissingExtraError: they ask, and the package is not installed.
    """
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    try:
        package = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError as error:
        raise MissingExtraError("Sending spans over OTLP", "otlp") from error
    return cast("SpanExporter", package.OTLPSpanExporter())
