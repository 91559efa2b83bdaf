# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What an application says about itself on the bus, and the handler that records every event."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from ..messages import Event, current_envelope
from . import semconv
from .observer import Observer
from .records import Kind


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
