# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Every error the runtime raises on purpose.

LlmgineError
├── ConfigurationError          a setting, file or name is wrong; the message says the fix
│   ├── UnknownModelError       no provider answers to that model name
│   ├── MissingKeyError         the provider needs a key that is not set
│   └── MissingExtraError       the feature needs a package that is not installed
├── BusError
│   ├── BusStartError           what was registered is wrong; `problems` lists all of it
│   ├── HandlerMissingError     a command nobody handles
│   ├── HandlerExistsError      a second handler for one command
│   ├── BusClosedError          the bus is not started, or is stopping
│   ├── LaneFullError           a subscription that rejects when full is full
│   ├── DeadlineExceededError   the handler had no time left; a TimeoutError too
│   ├── CircuitOpenError        too many failures in a row; `retry_after_s` says when to try again
│   ├── RateLimitedError        the turn would come too late; `retry_after_s` says when
│   ├── ApprovalRejectedError   the command needed an approval and did not get it
│   ├── UnknownApprovalError    no approval of that id is pending, or was lately
│   ├── AlreadyDecidedError     the approval has ended: somebody else was first
│   └── NotAllowedError         the approval is for others to decide
├── DeliveryError
│   ├── JournalError            the journal cannot be opened, read or written
│   ├── TransportError          the message server cannot be reached or refuses
│   ├── MessageTooLargeError    more bytes than the journal or the transport takes
│   ├── MessageUnreadableError  a stored or received message is unknown or invalid here
│   ├── ResultTimeoutError      the result of what was sent is not there yet
│   ├── UnknownReceiptError     nothing of that id is kept, or no longer
│   ├── CursorExpiredError      the events after that cursor are no longer all kept
│   ├── WorkerLostError         the message lost its worker too often
│   └── RemoteError             a handler elsewhere raised an error of a class unknown here
├── ToolDefinitionError         a function that cannot be offered as a tool
├── LLMError                    a model call failed; `kind` says how
│   ├── BudgetError             it would have cost more than is left, or nobody knows how much
│   ├── OutputError             no answer was of the type that was asked for
│   │   └── OutputTruncatedError    the answer was cut off before its end
│   ├── CassetteError           the cassette has no answer for this request, or cannot be read
│   └── ScriptError             a scripted model was asked for more, or less, than its script
├── ContextError
│   ├── ConversationConflictError   somebody else appended first
│   ├── ContextTooLargeError    even the newest message does not fit the budget
│   └── StoreError              the store cannot be opened, read or written
└── TurnLimitError              a turn used up its steps or its time
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any


class LlmgineError(Exception):
    """Base of every error the runtime raises on purpose; `str(error)` is fit to show to a user."""


class ConfigurationError(LlmgineError):
    """A setting, file or name is wrong."""


class UnknownModelError(ConfigurationError):
    """No provider answers to that model name."""


class MissingKeyError(ConfigurationError):
    """The provider needs a key that is not set."""


class MissingExtraError(ConfigurationError):
    """The feature needs a package that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        self.feature = feature
        self.extra = extra
        super().__init__(
            f"{feature} needs the extra {extra!r}. Add it: uv sync --extra {extra}, or for good: "
            f'"[runtime,{extra}]" in the first line of `dependencies` in pyproject.toml.'
        )


class BusError(LlmgineError):
    """The message bus refused something."""


class BusStartError(BusError):
    """What was registered is wrong, and the bus did not start."""

    def __init__(self, problems: Sequence[BusError]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            f"The bus cannot start, {len(self.problems)} of what was registered is wrong:"
            + "".join(f"\n- {problem}" for problem in self.problems)
        )


class HandlerMissingError(BusError):
    """A command nobody handles."""


class HandlerExistsError(BusError):
    """A second handler for one command."""


class BusClosedError(BusError):
    """The bus is not started, or is stopping."""


class LaneFullError(BusError):
    """A subscription that rejects when full is full."""


class DeadlineExceededError(BusError, TimeoutError):
    """A handler was not done in `seconds`; if these are not positive, it was not even begun."""

    def __init__(self, message_type: str, *, seconds: float) -> None:
        self.message_type = message_type
        self.seconds = seconds
        super().__init__(
            f"{message_type!r} was not done within {seconds:g} s. Find what it waited for, or give "
            "its Timeout, or that of what sent it, more seconds."
            if seconds > 0
            else f"{message_type!r} was not run: it came {-seconds:g} s after the deadline of what "
            "sent it. Give that more seconds."
        )


class CircuitOpenError(BusError):
    """Refused, because the ones before it failed; 0 s: until the one that tries it has ended."""

    def __init__(self, message_type: str, *, retry_after_s: float) -> None:
        self.message_type = message_type
        self.retry_after_s = retry_after_s
        super().__init__(
            f"{message_type!r} was not run: too many before it failed. "
            f"Try again in {retry_after_s:g} s."
        )


class RateLimitedError(BusError):
    """Refused, because its turn would come too late."""

    def __init__(self, message_type: str, *, retry_after_s: float) -> None:
        self.message_type = message_type
        self.retry_after_s = retry_after_s
        super().__init__(
            f"{message_type!r} was not run: its turn under the rate limit would come too late, "
            f"in {retry_after_s:g} s. Try again then."
        )


class ApprovalRejectedError(BusError):
    """The command needed an approval and did not get it; `by` is `None` if its time ran out."""

    def __init__(self, command: str, *, by: str | None, reason: str, expired: bool) -> None:
        self.command = command
        self.by = by
        self.reason = reason
        self.expired = expired
        what = "was not approved in time" if expired else f"was rejected by {by!r}"
        super().__init__(f"{command!r} {what}: {reason}" if reason else f"{command!r} {what}.")


class UnknownApprovalError(BusError):
    """No approval of that id is pending, or was lately."""

    def __init__(self, approval_id: str) -> None:
        self.approval_id = approval_id
        super().__init__(
            f"No approval {approval_id!r}: it never was, or ended long ago. "
            "await bus.approvals.pending() lists those to decide."
        )


class AlreadyDecidedError(BusError):
    """The approval has ended. `by` is `None` if nobody decided: `outcome` says what happened."""

    def __init__(
        self, approval_id: str, *, approved: bool, by: str | None, at: datetime, outcome: str
    ) -> None:
        self.approval_id = approval_id
        self.approved = approved
        self.by = by
        self.at = at
        self.outcome = outcome
        verdict = "approved" if approved else "rejected"
        if outcome == "withdrawn":
            what = "withdrawn, for its caller was cancelled,"
        elif outcome == "expired":
            what = f"{verdict} because its time ran out,"
        else:
            what = f"{verdict} by {by!r}"
        super().__init__(f"Approval {approval_id!r} was {what} at {at.isoformat()}.")


class NotAllowedError(BusError):
    """The approval is for others to decide, and stays pending."""

    def __init__(self, approval_id: str, *, by: str, allowed: str) -> None:
        self.approval_id = approval_id
        self.by = by
        self.allowed = allowed
        super().__init__(
            f"{by!r} may not decide approval {approval_id!r}; these may: {allowed}. It is pending."
        )


class DeliveryError(LlmgineError):
    """A message could not be kept, carried or brought back."""


class JournalError(DeliveryError):
    """The journal cannot be opened, read or written."""


class TransportError(DeliveryError):
    """The message server cannot be reached, or refuses."""


class MessageTooLargeError(DeliveryError):
    """More bytes than the journal or the transport takes."""

    def __init__(self, message_type: str, *, size_bytes: int, limit_bytes: int) -> None:
        self.message_type = message_type
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            f"{message_type!r} has {size_bytes:,} bytes, more than the {limit_bytes:,} that fit. "
            "Keep the content elsewhere and send where it is."
        )


class MessageUnreadableError(DeliveryError):
    """A stored or received message is unknown or invalid here."""


class ResultTimeoutError(DeliveryError, TimeoutError):
    """The result is not there yet; the message is kept, and can be asked for again."""

    def __init__(self, receipt_id: str, *, timeout_s: float, state: str) -> None:
        self.receipt_id = receipt_id
        self.timeout_s = timeout_s
        self.state = state
        super().__init__(
            f"No result of {receipt_id!r} within {timeout_s:g} s: it is {state}. Ask again later, "
            "and see that a worker runs."
        )


class UnknownReceiptError(DeliveryError):
    """Nothing of that id is kept, or no longer."""

    def __init__(self, receipt_id: str) -> None:
        self.receipt_id = receipt_id
        super().__init__(
            f"Nothing is kept under {receipt_id!r}: it was sent to another journal, or finished "
            "longer ago than results are kept."
        )


class CursorExpiredError(DeliveryError):
    """The events after that cursor are no longer all kept; `first` is the oldest one kept."""

    def __init__(self, cursor: int, *, first: int) -> None:
        self.cursor = cursor
        self.first = first
        super().__init__(
            f"Events after {cursor} are no longer all kept: the oldest one is {first}. Read what "
            f"there is by after={max(first - 1, 0)}, and build the rest anew."
        )


class WorkerLostError(DeliveryError):
    """The message lost its worker too often; it may be what ends them."""

    def __init__(self, message_type: str, *, losses: int) -> None:
        self.message_type = message_type
        self.losses = losses
        super().__init__(
            f"{message_type!r} lost its worker {losses} times while it ran: its handler may end "
            "the process or use up its memory. Mend that, then retry it."
        )


class RemoteError(DeliveryError):
    """A handler elsewhere raised an error of a class unknown here; `error_type` is its name."""

    def __init__(self, error_type: str, error: str) -> None:
        self.error_type = error_type
        self.error = error
        super().__init__(f"{error_type}: {error}" if error else error_type)


class ToolDefinitionError(LlmgineError):
    """A function that cannot be offered as a tool."""


class LLMErrorKind(StrEnum):
    """How a model call failed; what a caller decides on."""

    AUTHENTICATION = "authentication"
    RATE_LIMIT = "rate_limit"
    TIMEOUT = "timeout"
    CONTEXT_LENGTH = "context_length"
    CONTENT_FILTER = "content_filter"
    BAD_REQUEST = "bad_request"
    BAD_RESPONSE = "bad_response"
    SERVER = "server"
    NETWORK = "network"
    BUDGET = "budget"
    LENGTH = "length"
    """The answer was cut off where the whole of it was needed."""


class LLMError(LlmgineError):
    """A model call failed. `attempts` (each a `contracts.Attempt`) says what the manager tried."""

    attempts: tuple[Any, ...] = ()
    tried = ""
    """The same in words, which stand at the end of the message."""

    def __init__(
        self,
        message: str,
        *,
        kind: LLMErrorKind,
        provider: str,
        model: str = "",
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.kind = kind
        self.provider = provider
        self.model = model
        self.status = status
        self.retry_after_s = retry_after_s
        super().__init__(message)

    def __str__(self) -> str:
        return f"{super().__str__()} {self.tried}".rstrip()


class BudgetError(LLMError):
    """The call was not made: it could have cost more than is left, or nobody knows how much.

    `scope` is the cap that stood in the way: `call`, `session`, `user` or `day`.
    """

    def __init__(self, message: str, *, scope: str, model: str) -> None:
        self.scope = scope
        super().__init__(message, kind=LLMErrorKind.BUDGET, provider="budget", model=model)


class OutputError(LLMError):
    """No answer was of the type that was asked for; `tries` says what each of them was."""

    def __init__(self, message: str, *, kind: LLMErrorKind, provider: str, model: str) -> None:
        self.tries: tuple[Any, ...] = ()
        super().__init__(message, kind=kind, provider=provider, model=model)


class OutputTruncatedError(OutputError):
    """The answer was cut off at the limit of output tokens, so it is not whole."""


class CassetteError(LLMError):
    """The cassette has no answer for this request, or cannot be read."""

    def __init__(self, message: str, *, model: str = "") -> None:
        super().__init__(message, kind=LLMErrorKind.BAD_REQUEST, provider="cassette", model=model)


class ScriptError(LLMError):
    """A scripted model was asked for more, or less, than its script."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind=LLMErrorKind.BAD_REQUEST, provider="scripted")


class ContextError(LlmgineError):
    """The conversation's log or its compilation failed."""


class ConversationConflictError(ContextError):
    """Somebody else appended to the conversation first."""

    def __init__(self, conversation_id: str, *, expected_seq: int, actual_seq: int) -> None:
        self.conversation_id = conversation_id
        self.expected_seq = expected_seq
        self.actual_seq = actual_seq
        super().__init__(
            f"Conversation {conversation_id!r} stands at {actual_seq}, not at {expected_seq}: "
            "somebody else appended first. Read it again and retry."
        )


class ContextTooLargeError(ContextError):
    """Even the newest message does not fit the token budget."""

    def __init__(self, message: str, *, needed_tokens: int, budget_tokens: int) -> None:
        self.needed_tokens = needed_tokens
        self.budget_tokens = budget_tokens
        super().__init__(message)


class StoreError(ContextError):
    """The store cannot be opened, read or written."""


class TurnLimitError(LlmgineError):
    """A turn used up its steps or its time."""
