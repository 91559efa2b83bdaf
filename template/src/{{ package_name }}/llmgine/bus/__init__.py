# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The message bus: commands have one handler and a result, events have any number of handlers."""

from ..messages import (
    CommandErrorEvent,
    CommandResult,
    CommandResultEvent,
    EventHandlerFailedEvent,
)
from .bus import MessageBus, Middleware, Next, StopReport
from .lane import Overflow
from .session import Session

__all__ = [
    "CommandErrorEvent",
    "CommandResult",
    "CommandResultEvent",
    "EventHandlerFailedEvent",
    "MessageBus",
    "Middleware",
    "Next",
    "Overflow",
    "Session",
    "StopReport",
]
