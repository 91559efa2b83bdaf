# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The runtime: what an LLM application stands on. The names below are its surface.

A name is imported when it is first used, so that what an application leaves out costs it nothing;
`__init__.pyi` tells the type checkers the same.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Application": "application",
    "ApplicationBootstrap": "application",
    "ChatMessage": "contracts",
    "Command": "messages",
    "CommandErrorEvent": "bus",
    "CommandResult": "bus",
    "CommandResultEvent": "bus",
    "ContextStore": "context",
    "Envelope": "messages",
    "Event": "messages",
    "EventHandlerFailedEvent": "bus",
    "EventRecorder": "observability",
    "LLMEngine": "engine",
    "LLMError": "errors",
    "LLMManager": "llm",
    "LLMRequest": "contracts",
    "LLMResponse": "contracts",
    "LLMResponseEvent": "engine",
    "LlmgineError": "errors",
    "MemoryStore": "context",
    "MessageBus": "bus",
    "Metric": "observability",
    "MetricEvent": "observability",
    "Observer": "observability",
    "PromptCommand": "engine",
    "PromptResult": "engine",
    "Provider": "llm",
    "Receipt": "bus",
    "Route": "llm",
    "RuntimeSettings": "settings",
    "SQLiteJournal": "delivery",
    "SQLiteStore": "context",
    "Target": "llm",
    "TextDiscardedEvent": "engine",
    "TextStreamedEvent": "engine",
    "ToolCall": "contracts",
    "ToolCallEvent": "engine",
    "ToolManager": "tools",
    "ToolResult": "contracts",
    "ToolResultEvent": "engine",
    "ToolSpec": "contracts",
    "TraceEvent": "observability",
    "Usage": "contracts",
    "current_envelope": "messages",
    "default_journal": "application",
    "default_ledger": "application",
    "default_providers": "application",
    "default_transport": "application",
    "observe": "application",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
