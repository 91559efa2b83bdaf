# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Durable and distributed delivery: what keeps messages, and what carries them elsewhere.

A name is imported when it is first used, for each brings a library that many leave out.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .faststream import FastStreamTransport as FastStreamTransport
    from .journal import Journal as Journal
    from .nats import NatsTransport as NatsTransport
    from .postgres import PostgresJournal as PostgresJournal
    from .sqlite import SQLiteJournal as SQLiteJournal
    from .transport import Transport as Transport

_HOMES = {
    "FastStreamTransport": "faststream",
    "Journal": "journal",
    "NatsTransport": "nats",
    "PostgresJournal": "postgres",
    "SQLiteJournal": "sqlite",
    "Transport": "transport",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
