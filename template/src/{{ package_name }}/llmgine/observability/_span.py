# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""A span that is under way. Imported only by an observer that somebody listens to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from . import semconv
from .records import message_of, stack_of

_SCOPE: Final = InstrumentationScope("llmgine")


class LiveSpan(otel.Span, ReadableSpan):
    """Current from entering to leaving the block, and ended by that.

    The SDK's own span takes twice as long, most of it to check each attribute. Of ours, the
    redactor makes what can be recorded when it has ended; until then it holds what it is given.
    """

    def __init__(
        self,
        name: str,
        context: otel.SpanContext,
        parent: otel.SpanContext | None,
        kind: otel.SpanKind,
        attributes: Mapping[str, Any],
        *,
        resource: Resource,
        processor: SpanProcessor,
        with_stack: bool,
    ) -> None:
        ReadableSpan.__init__(
            self,
            name,
            context,
            parent,
            resource,
            kind=kind,
            start_time=time.time_ns(),
            instrumentation_scope=_SCOPE,
        )
        self.hidden = False
        self._own_context = context
        self._attributes = self._fields = dict(attributes)
        self._events: list[Event] = []
        self._links: list[otel.Link] = []
        self._processor = processor
        self._with_stack = with_stack

    def get_span_context(self) -> otel.SpanContext:
        return self._own_context

    def is_recording(self) -> bool:
        return self._end_time is None and self._own_context.trace_flags.sampled

    def update_name(self, name: str) -> None:
        self._name = name

    def set_attribute(self, key: str, value: Any) -> None:
        self._fields[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self._fields.update(attributes)

    set = set_attribute
    set_all = set_attributes

    def set_status(
        self, status: otel.Status | otel.StatusCode, description: str | None = None
    ) -> None:
        self._status = (
            status if isinstance(status, otel.Status) else otel.Status(status, description)
        )

    def add_event(
        self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None
    ) -> None:
        self._events.append(Event(name, attributes, timestamp))

    def add_link(
        self, context: otel.SpanContext, attributes: Mapping[str, Any] | None = None
    ) -> None:
        self._links.append(otel.Link(context, attributes))

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        told = {
            semconv.EXCEPTION_TYPE: type(exception).__qualname__,
            semconv.EXCEPTION_MESSAGE: message_of(exception),
            semconv.EXCEPTION_STACKTRACE: stack_of(exception),
        }
        self.add_event(semconv.EXCEPTION, {**told, **(attributes or {})}, timestamp)

    def fail(self, error_type: str, message: str = "") -> None:
        self._fields[semconv.ERROR_TYPE] = error_type
        self._status = otel.Status(otel.StatusCode.ERROR, message)

    def end(self, end_time: int | None = None) -> None:
        recorded = self.is_recording() and not self.hidden
        self._end_time = self._end_time or end_time or time.time_ns()
        if recorded:
            self._processor.on_end(self)

    def __enter__(self) -> LiveSpan:
        self._token = otel_context.attach(otel.set_span_in_context(self))
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
            self.end()
        finally:
            # Not `detach`, which logs an error where a stream is closed by another task than
            # the one that began it; then there is nothing to put back.
            with suppress(ValueError):
                self._token.var.reset(self._token)

    def _fail_by(self, error: BaseException) -> None:
        if self._status.is_unset:
            self.fail(type(error).__qualname__, message_of(error))
        if self._with_stack and isinstance(error, Exception):
            self.record_exception(error)
