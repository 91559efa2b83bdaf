# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The message bus: commands have one handler and a result, events have any number of handlers."""

from ..messages import Batch, Binding, CommandResult, LaneOptions, Overflow, Receipt
from .approvals import (
    Approval,
    ApprovalDecidedEvent,
    ApprovalRequestedEvent,
    Approvals,
    PendingApproval,
)
from .bus import MessageBus, StopReport
from .failures import (
    CommandErrorEvent,
    CommandResultEvent,
    DeadLetter,
    DeadLetterEvent,
    DeadLetters,
    EventHandlerFailedEvent,
    LaneHighWaterEvent,
    SessionEndedEvent,
    SessionStartedEvent,
)
from .handlers import Middleware, Next, Policy
from .limits import ConcurrencyLimit, Idempotency, RateLimit
from .policies import CircuitBreaker, Retry, Timeout
from .schedule import Scheduled
from .session import Session

__all__ = [
    "Approval",
    "ApprovalDecidedEvent",
    "ApprovalRequestedEvent",
    "Approvals",
    "Batch",
    "Binding",
    "CircuitBreaker",
    "CommandErrorEvent",
    "CommandResult",
    "CommandResultEvent",
    "ConcurrencyLimit",
    "DeadLetter",
    "DeadLetterEvent",
    "DeadLetters",
    "EventHandlerFailedEvent",
    "Idempotency",
    "LaneHighWaterEvent",
    "LaneOptions",
    "MessageBus",
    "Middleware",
    "Next",
    "Overflow",
    "PendingApproval",
    "Policy",
    "RateLimit",
    "Receipt",
    "Retry",
    "Scheduled",
    "Session",
    "SessionEndedEvent",
    "SessionStartedEvent",
    "StopReport",
    "Timeout",
]
