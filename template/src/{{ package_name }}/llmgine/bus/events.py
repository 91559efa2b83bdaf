# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What the bus itself says: results, and failures. They cost nothing while nobody listens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, cast

from ..messages import Event, R


@dataclass(frozen=True, slots=True)
class CommandResult(Generic[R]):
    """How a command ended: with a value, or with the error its handler raised."""

    value: R | None = None
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    def unwrap(self) -> R:
        """The value, or the handler's error raised."""
        if self.error is not None:
            raise self.error
        return cast("R", self.value)


class CommandResultEvent(Event):
    """A command's handler returned."""

    command: str
    command_id: str
    result: Any


class CommandErrorEvent(Event):
    """A command's handler raised, or was cancelled (`error_type` is then `CancelledError`)."""

    command: str
    command_id: str
    error_type: str
    error: str


class EventHandlerFailedEvent(Event):
    """A handler of an event raised; the event's other handlers ran all the same."""

    event: str
    event_id: str
    handler: str
    error_type: str
    error: str
