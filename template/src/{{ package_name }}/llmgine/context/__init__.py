# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The conversation's log, and what of it goes into the next model call."""

from .compiler import TokenCounter, compile_context
from .sqlite import SQLiteStore
from .store import ContextStore, MemoryStore

__all__ = [
    "ContextStore",
    "MemoryStore",
    "SQLiteStore",
    "TokenCounter",
    "compile_context",
]
