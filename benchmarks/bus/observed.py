"""A command with a span and a line of JSON, and these two without a bus.

Alone they are the least that writes the same line: the SDK's span, current around the handler, and
a processor that makes a record of it. Nothing looks for secrets, and no identifier is made.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from app.llmgine.bus import MessageBus
from app.llmgine.observability import JsonlSink, Observer, Record, semconv
from app.llmgine.observability.records import timestamp

from ..measure import CpuTimer
from .llmgine import answering, execute
from .subject import Handled, Subject

ID = "019a8f5e-6f4f-7c3a-8000-000000000000"


@contextmanager
def _lines(expected: int) -> Iterator[JsonlSink]:
    """A sink to a file of its own, which must hold as many lines in the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "app.jsonl"
        yield JsonlSink(path)
        written = path.read_bytes().count(b"\n")
    if written != expected:
        raise RuntimeError(f"{written} lines were written instead of {expected}")


async def commands(count: int, timer: CpuTimer, handled: Handled) -> None:
    with _lines(count) as sink:
        observer = Observer([sink])
        bus = MessageBus(middleware=[observer.around_message], traceparent=observer.traceparent)
        async with answering(bus, handled):
            with timer:
                await execute(bus, count)
                observer.close()


class _Recorder(SpanProcessor):
    def __init__(self, sink: JsonlSink) -> None:
        self._sink = sink

    def on_end(self, span: ReadableSpan) -> None:
        assert span.context is not None
        fields: dict[str, Any] = {
            "kind": span.kind.name.lower(),
            "duration_s": ((span.end_time or 0) - (span.start_time or 0)) / 1e9,
            "status": span.status.status_code.name.lower(),
            "attributes": dict(span.attributes or {}),
        }
        trace_id, span_id = f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"
        ts = timestamp(span.start_time)
        self._sink.emit(Record(ts, "span", span.name, trace_id, span_id, fields=fields))


async def alone(count: int, timer: CpuTimer, handled: Handled) -> None:
    async def greet() -> None:
        handled.count += 1

    with _lines(count) as sink:
        provider = TracerProvider(resource=Resource({}), shutdown_on_exit=False)
        provider.add_span_processor(_Recorder(sink))
        tracer = provider.get_tracer("alone")
        with timer:
            for _ in range(count):
                attributes = {semconv.MESSAGE_ID: ID, semconv.MESSAGE_CORRELATION_ID: ID}
                with tracer.start_as_current_span("Greet", attributes=attributes):
                    await greet()
            sink.close()


SUBJECT = Subject("llmgine, span and JSON line", commands, rounds_of=2_000)
ALONE = Subject("span and JSON line alone", alone, rounds_of=2_000)
