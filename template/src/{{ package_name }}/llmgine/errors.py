# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Every error the runtime raises on purpose.

LlmgineError
├── ConfigurationError          a setting, file or name is wrong; the message says the fix
│   ├── UnknownModelError       no provider answers to that model name
│   ├── MissingKeyError         the provider needs a key that is not set
│   └── MissingExtraError       the feature needs a package that is not installed
├── BusError
│   ├── HandlerMissingError     a command nobody handles
│   ├── HandlerExistsError      a second handler for one command
│   ├── BusClosedError          the bus is not started, or is stopping
│   └── LaneFullError           a subscription that rejects when full is full
├── ToolDefinitionError         a function that cannot be offered as a tool
├── LLMError                    a model call failed; `kind` says how
│   └── ScriptError             a scripted model was asked for more, or less, than its script
├── ContextError
│   ├── ConversationConflictError   somebody else appended first
│   ├── ContextTooLargeError    even the newest message does not fit the budget
│   └── StoreError              the store cannot be opened, read or written
└── TurnLimitError              a turn used up its steps or its time
"""

from __future__ import annotations

from enum import StrEnum


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
        super().__init__(f"{feature} needs the extra {extra!r}. Add it: uv sync --extra {extra}")


class BusError(LlmgineError):
    """The message bus refused something."""


class HandlerMissingError(BusError):
    """A command nobody handles."""


class HandlerExistsError(BusError):
    """A second handler for one command."""


class BusClosedError(BusError):
    """The bus is not started, or is stopping."""


class LaneFullError(BusError):
    """A subscription that rejects when full is full."""


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


class LLMError(LlmgineError):
    """A model call failed."""

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
