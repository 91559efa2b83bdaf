# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Spans by the OpenTelemetry SDK. Imported only by an observer that somebody listens to."""

from __future__ import annotations

import atexit
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from . import semconv
from .records import Record, message_of, stack_of, timestamp
from .redaction import Redactor

if TYPE_CHECKING:
    from .observer import AttributeValue, SpanKind


HIDDEN: Final = "llmgine.hidden"
"""The attribute of a span that is not recorded."""

Deliver = Callable[[Record], None]

# Made by the bus of a time and a number, so there is nothing to look for in them.
_MADE = (semconv.MESSAGE_ID, semconv.MESSAGE_CORRELATION_ID)

_KIND_NAMES = {kind: kind.name.lower() for kind in otel.SpanKind}
_STATUSES = {code: code.name.lower() for code in otel.StatusCode}


class Recorder(SpanProcessor):
    """Takes the secrets, and content that is not wanted, out of each span that ended.

    Only what is left becomes a record, and the exporters' to send.
    """

    def __init__(
        self,
        deliver: Deliver,
        redact: Redactor,
        batches: Sequence[BatchSpanProcessor],
        *,
        capture_content: bool,
    ) -> None:
        self._deliver = deliver
        self._redact = redact
        # Names are few; the same ones are not looked through again and again.
        self._name = lru_cache(maxsize=256)(redact.text)
        self._batches = batches
        self._unwanted = frozenset() if capture_content else semconv.CONTENT

    def on_end(self, span: ReadableSpan) -> None:
        # `attributes` is a read-only view; its copy is the cheapest way to a plain dictionary.
        attributes = cast("MappingProxyType[str, Any]", span.attributes).copy()
        if HIDDEN in attributes or span.context is None:
            return
        for key in self._unwanted & attributes.keys():
            del attributes[key]
        made = {key: attributes.pop(key) for key in _MADE if key in attributes}
        name, attributes = self._name(span.name), made | self._redacted(attributes)
        status, events = self._status(span.status), self._events(span)
        fields: dict[str, Any] = {
            "kind": _KIND_NAMES[span.kind],
            "duration_s": ((span.end_time or 0) - (span.start_time or 0)) / 1e9,
            "status": _STATUSES[status.status_code],
            "attributes": attributes,
        }
        if status.description:
            fields["status_message"] = status.description
        if events:
            fields["events"] = [
                {
                    "ts": timestamp(event.timestamp),
                    "name": event.name,
                    "attributes": dict(event.attributes or {}),
                }
                for event in events
            ]
        self._deliver(
            Record(
                timestamp(span.start_time),
                "span",
                name,
                f"{span.context.trace_id:032x}",
                f"{span.context.span_id:016x}",
                None if span.parent is None else f"{span.parent.span_id:016x}",
                fields=fields,
            )
        )
        if self._batches:
            links = [
                otel.Link(link.context, self._redacted(link.attributes)) for link in span.links
            ]
            clean = ReadableSpan(
                name=name,
                context=span.context,
                parent=span.parent,
                resource=span.resource,
                attributes=attributes,
                events=events,
                links=links,
                kind=span.kind,
                status=status,
                start_time=span.start_time,
                end_time=span.end_time,
                instrumentation_scope=span.instrumentation_scope,
            )
            for batch in self._batches:
                batch.on_end(clean)

    def _status(self, status: otel.Status) -> otel.Status:
        if not status.description:
            return status
        return otel.Status(status.status_code, self._redact.text(status.description))

    def _events(self, span: ReadableSpan) -> list[Event]:
        return [
            Event(self._redact.text(event.name), self._redacted(event.attributes), event.timestamp)
            for event in span.events
        ]

    def _redacted(self, attributes: Mapping[str, Any] | None) -> dict[str, Any]:
        return dict(self._redact.fields(attributes or {}))


_KINDS = {
    "internal": otel.SpanKind.INTERNAL,
    "client": otel.SpanKind.CLIENT,
    "consumer": otel.SpanKind.CONSUMER,
    "producer": otel.SpanKind.PRODUCER,
}
# Source: https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


class Tracing:
    """A tracer provider of its own whose spans end as records, and at the exporters."""

    def __init__(
        self,
        deliver: Deliver,
        *,
        redact: Redactor,
        capture_content: bool,
        exporters: Sequence[SpanExporter],
    ) -> None:
        self._batches = [BatchSpanProcessor(exporter) for exporter in exporters]
        # What is true of the whole process is only told to exporters.
        known = Resource.create().attributes if exporters else {}
        self.provider = TracerProvider(
            resource=Resource(cast("Any", redact.fields(known))), shutdown_on_exit=False
        )
        self.provider.add_span_processor(
            Recorder(deliver, redact, self._batches, capture_content=capture_content)
        )
        self._tracer = self.provider.get_tracer("llmgine")
        if exporters:
            atexit.register(self.close)

    def span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, AttributeValue],
        parent: str | None,
        *,
        with_stack: bool = False,
    ) -> LiveSpan:
        context = None if parent is None else _remote(parent)
        span = self._tracer.start_span(name, context, _KINDS[kind], attributes)
        return LiveSpan(span, with_stack=with_stack)

    def ids(self, traceparent: str | None) -> tuple[str | None, str | None]:
        """Trace and span of the traceparent; of the current span where it is `None`."""
        if traceparent is not None:
            match = _TRACEPARENT.fullmatch(traceparent)
            return (match[1], match[2]) if match else (None, None)
        context = otel.get_current_span().get_span_context()
        if not context.is_valid:
            return None, None
        return f"{context.trace_id:032x}", f"{context.span_id:016x}"

    def traceparent(self) -> str | None:
        context = otel.get_current_span().get_span_context()
        if not context.is_valid:
            return None
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def in_span(self) -> bool:
        return otel.get_current_span().get_span_context().is_valid

    def hide_span(self) -> None:
        span = otel.get_current_span()
        if isinstance(span, ReadableSpan) and span.kind is otel.SpanKind.CONSUMER:
            span.set_attribute(HIDDEN, "yes")

    def close(self, timeout_s: float = 5.0) -> None:
        """Let every exporter send what it has, side by side, and end them."""
        atexit.unregister(self.close)
        deadline = time.monotonic() + timeout_s
        # Their own shutdown may take half a minute.
        threads = [
            threading.Thread(target=batch.shutdown, name="close exporter", daemon=True)
            for batch in self._batches
        ]
        for thread in threads:
            try:
                thread.start()
            except RuntimeError:  # Python 3.12 starts no threads while it exits.
                thread.run()
        for thread in threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))


def _remote(traceparent: str) -> otel_context.Context | None:
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    span = otel.NonRecordingSpan(
        otel.SpanContext(trace_id, span_id, is_remote=True, trace_flags=otel.TraceFlags(flags))
    )
    return otel.set_span_in_context(span)


class LiveSpan:
    """A started span; current from entering to leaving the block, and ended by that."""

    __slots__ = ("_failed", "_span", "_token", "_with_stack")

    def __init__(self, span: otel.Span, *, with_stack: bool) -> None:
        self._span = span
        self._with_stack = with_stack
        self._failed = False

    def set(self, key: str, value: AttributeValue) -> None:
        self._span.set_attribute(key, value)

    def set_all(self, attributes: Mapping[str, AttributeValue]) -> None:
        self._span.set_attributes(attributes)

    def fail(self, error_type: str, message: str = "") -> None:
        self._failed = True
        self._span.set_attribute(semconv.ERROR_TYPE, error_type)
        self._span.set_status(otel.StatusCode.ERROR, message)

    def __enter__(self) -> LiveSpan:
        self._token = otel_context.attach(otel.set_span_in_context(self._span))
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            # A generator that is closed early has not failed, nor what is put off until later.
            failed = error is not None and getattr(error, "is_failure", True)
            if error is not None and failed and not isinstance(error, GeneratorExit):
                self._fail_by(error)
            self._span.end()
        finally:
            # Not `detach`, which logs an error where a stream is closed by another task than
            # the one that began it; then there is nothing to put back.
            with suppress(ValueError):
                self._token.var.reset(self._token)

    def _fail_by(self, error: BaseException) -> None:
        message = message_of(error)
        if not self._failed:
            self.fail(type(error).__qualname__, message)
        if self._with_stack and isinstance(error, Exception):
            self._span.add_event(
                semconv.EXCEPTION,
                {
                    semconv.EXCEPTION_TYPE: type(error).__qualname__,
                    semconv.EXCEPTION_MESSAGE: message,
                    semconv.EXCEPTION_STACKTRACE: stack_of(error),
                },
            )
