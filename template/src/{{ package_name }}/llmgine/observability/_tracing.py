# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Spans by the OpenTelemetry SDK. Imported only by an observer that somebody listens to."""

from __future__ import annotations

import atexit
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    Event,
    ReadableSpan,
    SpanLimits,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision

from . import semconv
from ._span import LiveSpan
from .records import Record, timestamp
from .redaction import Redactor

if TYPE_CHECKING:
    from .observer import AttributeValue, SpanKind


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
        if span.context is None or getattr(span, "hidden", False):
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
        # It takes those that others add to the provider, too. Its constructor says no types.
        self._processors: SynchronousMultiSpanProcessor = cast(
            "Any", SynchronousMultiSpanProcessor
        )()
        self.provider = TracerProvider(
            resource=Resource(cast("Any", redact.fields(known))),
            shutdown_on_exit=False,
            active_span_processor=self._processors,
        )
        self.provider.add_span_processor(
            Recorder(deliver, redact, self._batches, capture_content=capture_content)
        )
        self._limits = SpanLimits()
        self._sampler = self.provider.sampler
        if isinstance(self.provider.get_tracer("llmgine"), otel.NoOpTracer):
            self._sampler = ALWAYS_OFF  # As OTEL_SDK_DISABLED asks.
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
        context = otel_context.get_current() if parent is None else _remote(parent)
        above = otel.get_current_span(context).get_span_context()
        ids = self.provider.id_generator
        trace_id = above.trace_id if above.is_valid else ids.generate_trace_id()
        sampled = self._sampler.should_sample(context, trace_id, name, _KINDS[kind], attributes)
        flags = above.trace_flags & ~otel.TraceFlags.SAMPLED
        if sampled.decision is Decision.RECORD_AND_SAMPLE:
            flags |= otel.TraceFlags.SAMPLED
        own = otel.SpanContext(
            trace_id,
            ids.generate_span_id(),
            is_remote=False,
            trace_flags=otel.TraceFlags(flags),
            trace_state=sampled.trace_state,
        )
        span = LiveSpan(
            name,
            own,
            above if above.is_valid else None,
            _KINDS[kind],
            sampled.attributes or {},
            resource=self.provider.resource,
            limits=self._limits,
            processor=None if sampled.decision is Decision.DROP else self._processors,
            with_stack=with_stack,
        )
        if span.is_recording():
            self._processors.on_start(cast("Any", span), context)  # It wants the SDK's own class.
        return span

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
        if isinstance(span, LiveSpan) and span.kind is otel.SpanKind.CONSUMER:
            span.hidden = True

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


def _remote(traceparent: str) -> otel_context.Context:
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return otel_context.get_current()
    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    span = otel.NonRecordingSpan(
        otel.SpanContext(trace_id, span_id, is_remote=True, trace_flags=otel.TraceFlags(flags))
    )
    return otel.set_span_in_context(span)
