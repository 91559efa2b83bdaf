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
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, SpanProcessor
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
        limits: SpanLimits,
        processor: SpanProcessor | None,
        with_stack: bool,
    ) -> None:
        """`processor` is told of its end; without one it is not recorded."""
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
        self._limits = limits
        self._processor = processor
        self._with_stack = with_stack

    def get_span_context(self) -> otel.SpanContext:
        return self._own_context

    def is_recording(self) -> bool:
        return self._end_time is None and self._processor is not None

    def update_name(self, name: str) -> None:
        if self._end_time is None:
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
        if not isinstance(status, otel.Status):
            status = otel.Status(status, description)
        # "Ok" is the last word, and nothing takes back that it failed.
        # Source: https://opentelemetry.io/docs/specs/otel/trace/api/#set-status
        is_final = self._status.status_code is otel.StatusCode.OK
        if self._end_time is None and not is_final and not status.is_unset:
            self._status = status

    def add_event(
        self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None
    ) -> None:
        if self._end_time is None:
            self._events.append(Event(name, dict(attributes or {}), timestamp))

    def add_link(
        self, context: otel.SpanContext, attributes: Mapping[str, Any] | None = None
    ) -> None:
        if self._end_time is None:
            self._links.append(otel.Link(context, dict(attributes or {})))

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
        self.set_status(otel.StatusCode.ERROR, message)

    def end(self, end_time: int | None = None) -> None:
        if self._end_time is not None:
            return
        self._end_time = end_time or time.time_ns()
        limits, fields = self._limits, self._fields
        length, count = limits.max_span_attribute_length, limits.max_span_attributes
        if length is not None or (count is not None and len(fields) > count):
            self._attributes = BoundedAttributes(count, fields, max_value_len=length)
        self._fields = {}  # Others may still write; what an exporter has stays as it is.
        if self._processor is not None:
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
        told = self._status.status_code is otel.StatusCode.ERROR
        if not told or semconv.ERROR_TYPE not in self._fields:
            self.fail(type(error).__qualname__, message_of(error))
        if self._with_stack and isinstance(error, Exception):
            self.record_exception(error)
