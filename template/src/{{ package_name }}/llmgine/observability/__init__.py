# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What the application does, told as spans and records; independent of the message bus."""

from . import semconv
from .logs import configure_logging
from .observer import (
    AttributeValue,
    EventRecorder,
    Metric,
    MetricEvent,
    Observer,
    Span,
    SpanKind,
    TraceEvent,
    otlp_exporter,
)
from .reading import LogReader, SpanNode, Trace, last_trace_id, log_files, trace_tree
from .records import Kind, Record, Sink
from .redaction import Redactor
from .sinks import JsonlSink, MemorySink

__all__ = [
    "AttributeValue",
    "EventRecorder",
    "JsonlSink",
    "Kind",
    "LogReader",
    "MemorySink",
    "Metric",
    "MetricEvent",
    "Observer",
    "Record",
    "Redactor",
    "Sink",
    "Span",
    "SpanKind",
    "SpanNode",
    "Trace",
    "TraceEvent",
    "configure_logging",
    "last_trace_id",
    "log_files",
    "otlp_exporter",
    "semconv",
    "trace_tree",
]
