# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What travels on the bus: payloads that say what, envelopes that say who, when and why.

A payload is a frozen pydantic model that holds only its own fields. Identity travels beside it in
an `Envelope`; whatever a handler sends is linked to its cause by itself.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypeVar

R = TypeVar("R", default=None)

# What an identifier is made of, when somebody reads it: the time in nanoseconds, and a counter.
_Stamp = tuple[int, int]


class Message(BaseModel):
    """Base of commands and events: immutable, and strict about what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Command(Message, Generic[R]):
    """An order: exactly one handler, which returns an `R`. Name it as one: `ProcessInvoice`."""


class Event(Message):
    """A past fact: any number of handlers. Name it as one: `InvoiceProcessed`."""


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


class Envelope:
    """Identity of one message: who caused it, when, in which session.

    Identifiers are UUIDs of version 7 and sort by the time they were made.
    """

    __slots__ = (
        "_cause",
        "_origin",
        "_stamp",
        "key",
        "session_id",
        "time_ns",
        "traceparent",
    )

    time_ns: int
    key: str | None
    session_id: str | None
    traceparent: str | None
    _stamp: _Stamp
    _cause: _Stamp | None
    _origin: _Stamp

    def __init__(
        self,
        cause: Envelope | None = None,
        session_id: str | None = None,
        key: str | None = None,
        traceparent: str | None = None,
    ) -> None:
        self.time_ns = now = time.time_ns()
        self._stamp = stamp = (now, _next_count())
        self.key = key
        if cause is None:
            self._cause = None
            self._origin = stamp
            self.session_id = session_id
            self.traceparent = traceparent
        else:
            self._cause = cause._stamp
            self._origin = cause._origin
            self.session_id = session_id or cause.session_id
            self.traceparent = traceparent or cause.traceparent

    @property
    def id(self) -> str:
        return _uuid7(self._stamp)

    @property
    def correlation_id(self) -> str:
        """The `id` of the message that began it all."""
        return _uuid7(self._origin)

    @property
    def causation_id(self) -> str | None:
        """The `id` of the message whose handler sent this one."""
        return None if self._cause is None else _uuid7(self._cause)

    @property
    def time(self) -> datetime:
        return datetime.fromtimestamp(self.time_ns / 1e9, UTC)

    def __repr__(self) -> str:
        return f"Envelope(id={self.id!r}, session_id={self.session_id!r}, key={self.key!r})"


_current: ContextVar[Envelope | None] = ContextVar("llmgine_envelope", default=None)


def current_envelope() -> Envelope | None:
    """The envelope of the message being handled here, or `None` outside of any handler."""
    return _current.get()


# Drawing random bits for each identifier would cost more than handling the message, so the random
# part is a counter with a random start, drawn anew in each process.
def _restart_counter() -> None:
    global _next_count
    _next_count = itertools.count(random.SystemRandom().getrandbits(61)).__next__


_next_count: Callable[[], int]
_restart_counter()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_counter)


def _uuid7(stamp: _Stamp) -> str:
    """A UUID of version 7: milliseconds, then the counter. Source: RFC 9562, section 5.7."""
    time_ns, count = stamp
    return str(UUID(int=((time_ns // 1_000_000) << 80) | (7 << 76) | (2 << 62) | count))
