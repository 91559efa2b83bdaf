"""Spans that leave the process: free of secrets, sent at the end, and in nobody's way."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.llmgine.errors import MissingExtraError
from app.llmgine.observability import Observer, Redactor, otlp_exporter, semconv

SECRET = "hunter2-and-a-half"


def test_a_span_reaches_the_exporter_without_secrets_and_content() -> None:
    exporter = InMemorySpanExporter()
    observer = Observer(redact=Redactor([SECRET]), exporters=[exporter])
    provider = observer.tracer_provider
    assert provider is not None
    tracer = provider.get_tracer("a library")

    with observer.span(f"chat {SECRET}", kind="client", attributes={"a": 1}) as current:
        current.set(semconv.OUTPUT_MESSAGES, "what the model said")
        current.fail("timeout", SECRET)
        link = trace.Link(trace.get_current_span().get_span_context(), {"b": SECRET})
        with tracer.start_as_current_span(SECRET, links=[link], attributes={"c": SECRET}) as inner:
            inner.add_event(SECRET, {"d": SECRET})
            inner.record_exception(ValueError(SECRET))
    observer.close()

    inside, outside = exporter.get_finished_spans()
    sent = inside.to_json() + outside.to_json()
    assert SECRET not in sent
    assert "what the model said" not in sent
    assert outside.name == "chat [REDACTED]"
    assert outside.kind is trace.SpanKind.CLIENT
    assert outside.attributes == {"a": 1, "error.type": "timeout"}
    assert outside.status.status_code is trace.StatusCode.ERROR
    assert inside.parent == outside.context
    assert [event.name for event in inside.events] == ["[REDACTED]", "exception"]


class Hanging(SpanExporter):
    """Sends nothing until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.let_go.wait()
        return SpanExportResult.SUCCESS


def test_an_exporter_that_hangs_does_not_hold_up_the_end() -> None:
    exporter = Hanging()
    observer = Observer(exporters=[exporter])
    with observer.span("work"):
        pass
    start = time.monotonic()

    observer.close(timeout_s=0.1)

    assert time.monotonic() - start < 5  # Its own shutdown waits for half a minute.
    exporter.let_go.set()


def test_an_observer_that_nobody_closes_still_sends_its_spans() -> None:
    script = """
from app.llmgine.observability import Observer
from opentelemetry.sdk.trace.export import ConsoleSpanExporter
with Observer(exporters=[ConsoleSpanExporter()]).span("the last one"): pass
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "the last one" in done.stdout


def test_no_exporter_is_made_unless_the_environment_asks_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")

    assert otlp_exporter() is None


def test_asking_for_an_exporter_that_is_not_installed_says_what_to_add(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)  # As if it were not there.

    with pytest.raises(MissingExtraError, match="uv sync --extra otlp"):
        otlp_exporter()


class Collector(BaseHTTPRequestHandler):
    """Takes spans as an OpenTelemetry collector does."""

    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Not to stderr."""


def test_spans_arrive_over_otlp(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    exporter = otlp_exporter()
    assert exporter is not None
    observer = Observer(redact=Redactor([SECRET]), exporters=[exporter])

    with observer.span("chat m", attributes={"n": 1, "f": 0.5, "s": ["a"], "x": SECRET}):
        pass
    observer.close()
    server.shutdown()
    server.server_close()

    (body,) = Collector.bodies
    assert b"chat m" in body
    assert SECRET.encode() not in body
