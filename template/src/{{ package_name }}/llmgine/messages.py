# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What travels on the bus: payloads that say what, envelopes that say who, when and why.

A payload is a frozen pydantic model that holds only its own fields. Identity travels beside it in
an `Envelope`; whatever a handler sends is linked to its cause by itself.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import time_ns
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    Self,
    TypedDict,
    Unpack,
    cast,
    get_origin,
)

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypeVar

R = TypeVar("R", default=None)

Overflow = Literal["wait", "drop_oldest", "drop_new", "reject"]
Handler = Callable[[Any], Any]
# A middleware or a policy; what they are, the bus says.
Layers = Sequence[Any]


class LaneOptions(TypedDict, total=False):
    """How the events of one subscription wait for its handler."""

    capacity: int
    """Events that may wait; 10,000 if not given."""
    concurrency: int
    """Events handled at once; those of one key or session stay in order. 16 if not given."""
    overflow: Overflow
    """What happens to an event that finds the lane full; "wait" if not given."""
    name: str
    """What the journal knows the subscription by; the handler's own name if not given."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch is handed over when `size` events are there, or the first has waited `within_s`."""

    size: int
    within_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """A message class and its handler, declared apart from any bus: `bus.include` takes it.

    Several handlers are one ordered group.
    """

    message_type: type[Message]
    handlers: tuple[Handler, ...]
    middleware: tuple[Any, ...] = ()
    where: Callable[[Any], bool] | None = None
    batch: Batch | None = None
    lane: LaneOptions = field(default_factory=LaneOptions)

    @property
    def is_command(self) -> bool:
        return isinstance(self.message_type, type) and issubclass(self.message_type, Command)


class Message(BaseModel):
    """Base of commands and events: immutable, and strict about what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    durable: ClassVar[bool] = False
    """Whether it is in the journal before anything runs, and so outlives the process."""
    schema_name: ClassVar[str] = ""
    """What it is called where it is stored; the class's name if not given. Never change it."""
    schema_version: ClassVar[int] = 1
    """Count it up when the fields change, and let `upcast` read the older versions."""

    @classmethod
    def upcast(cls, payload: dict[str, Any], version: int) -> dict[str, Any]:
        """The fields that a message stored in an older version has in this one."""
        return payload


def schema_name(message_type: type[Message]) -> str:
    """What messages of that class are called where they are stored."""
    return message_type.__dict__.get("schema_name") or message_type.__name__


class Command(Message, Generic[R]):
    """An order: exactly one handler, which returns an `R`. Name it as one: `ProcessInvoice`.

    A `Command[AsyncIterator[T]]` is streamed: its handler is an async generator of `T`.
    """

    if TYPE_CHECKING:

        @classmethod
        def _types(cls, command: Self, result: R, /) -> tuple[Self, R]:
            """What a handler takes and returns; how the type checkers come to know it."""
            return command, result

    @classmethod
    def handled_by(
        cls, handler: Callable[[Self], Awaitable[R] | R], *, middleware: Layers = ()
    ) -> Binding:
        """Declare the command's handler. A wrong parameter or result is a type error here."""
        return Binding(cls, (handler,), tuple(middleware))


class Event(Message):
    """A past fact: any number of handlers. Name it as one: `InvoiceProcessed`."""

    logged: ClassVar[bool] = False
    """Whether interfaces may show it: it goes to the event log, as every durable event does."""

    @classmethod
    def handled_by(
        cls,
        handler: EventHandler[Self] | Sequence[EventHandler[Self]],
        *,
        where: Callable[[Self], bool] | None = None,
        middleware: Layers = (),
        **lane: Unpack[LaneOptions],
    ) -> Binding:
        """Declare one handler, or a group that runs in order, each after the one before."""
        return Binding(cls, handler_tuple(handler), tuple(middleware), where, None, lane)

    @classmethod
    def handled_in_batches_by(
        cls,
        handler: EventHandler[list[Self]],
        *,
        size: int,
        within_s: float,
        where: Callable[[Self], bool] | None = None,
        middleware: Layers = (),
        **lane: Unpack[LaneOptions],
    ) -> Binding:
        """Declare a handler of lists, in the order of publishing, one list at a time."""
        return Binding(cls, (handler,), tuple(middleware), where, Batch(size, within_s), lane)


M = TypeVar("M", contravariant=True)
EventHandler = Callable[[M], Awaitable[None] | None]


def handler_tuple(handler: EventHandler[M] | Sequence[EventHandler[M]]) -> tuple[Handler, ...]:
    """One handler, or a group of them, as a group."""
    return tuple(handler) if isinstance(handler, Sequence) else (handler,)


def result_type(command_type: type[Command[Any]]) -> Any:
    """The `R` of a command class, as far as it is known; `None` where none is named."""
    for base in command_type.__mro__:
        metadata = base.__dict__.get("__pydantic_generic_metadata__", {})
        if metadata.get("origin") is Command:
            return metadata["args"][0]
    return None


def is_stream(message_type: type[Message]) -> bool:
    """Whether it is a `Command[AsyncIterator[T]]`, for `bus.stream`."""
    return (
        issubclass(message_type, Command) and get_origin(result_type(message_type)) is AsyncIterator
    )


NO_METADATA: Mapping[str, str] = MappingProxyType({})


class _Rare:
    """What few envelopes have, kept apart so that the others do not pay for it."""

    __slots__ = ("attempt", "idempotency_key", "metadata", "of_failure")

    def __init__(self) -> None:
        self.attempt = 1
        self.idempotency_key: str | None = None
        self.metadata = NO_METADATA
        self.of_failure = False


class Envelope:
    """Identity of one message: who caused it, when, in which session.

    Identifiers are UUIDs of version 7 and sort by the time they were made. `deadline` is in
    seconds of the bus's monotonic clock; what a handler executes has its deadline too.
    """

    # An identifier is a time and a number until somebody reads it. As plain slots, for a message
    # that waits in a lane should be as few objects as possible to the garbage collector.
    __slots__ = (
        "_cause_no",
        "_cause_ns",
        "_no",
        "_origin_no",
        "_origin_ns",
        "_rare",
        "deadline",
        "key",
        "message",
        "session_id",
        "time_ns",
        "traceparent",
    )

    message: Message
    time_ns: int
    key: str | None
    session_id: str | None
    traceparent: str | None
    deadline: float | None
    _no: int
    _cause_ns: int
    _cause_no: int | None
    _origin_ns: int
    _origin_no: int
    _rare: _Rare | None

    def __init__(
        self,
        message: Message,
        cause: Envelope | None = None,
        session_id: str | None = None,
        key: str | None = None,
        traceparent: str | None = None,
    ) -> None:
        self.message = message
        self.time_ns = now = time_ns()
        self._no = number = _next_number()
        self.key = key
        self._rare = None
        if cause is None:
            self._cause_no = self.deadline = None
            self._cause_ns = self._origin_ns = now
            self._origin_no = number
            self.session_id = session_id
            self.traceparent = traceparent
        else:
            self._cause_ns = cause.time_ns
            self._cause_no = cause._no
            self._origin_ns = cause._origin_ns
            self._origin_no = cause._origin_no
            self.session_id = session_id or cause.session_id
            self.traceparent = traceparent or cause.traceparent
            self.deadline = cause.deadline
            if cause._rare is not None:
                self.mark(metadata=cause.metadata, of_failure=cause.of_failure)

    @property
    def id(self) -> str:
        return _uuid7(self.time_ns, self._no)

    @property
    def correlation_id(self) -> str:
        """The `id` of the message that began it all."""
        return _uuid7(self._origin_ns, self._origin_no)

    @property
    def causation_id(self) -> str | None:
        """The `id` of the message whose handler sent this one."""
        return None if self._cause_no is None else _uuid7(self._cause_ns, self._cause_no)

    @property
    def time(self) -> datetime:
        return datetime.fromtimestamp(self.time_ns / 1e9, UTC)

    @property
    def attempt(self) -> int:
        """1 for the first time that a handler gets the message."""
        return 1 if self._rare is None else self._rare.attempt

    @property
    def idempotency_key(self) -> str | None:
        return None if self._rare is None else self._rare.idempotency_key

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the session says of itself, for every message in it and what these cause."""
        return NO_METADATA if self._rare is None else self._rare.metadata

    @property
    def of_failure(self) -> bool:
        """Whether the bus's own word of a failure caused it; its failing is not told again."""
        return self._rare is not None and self._rare.of_failure

    def mark(self, **rare: Any) -> None:
        """Set some of `attempt`, `idempotency_key`, `metadata`, `of_failure`."""
        if self._rare is None:
            self._rare = _Rare()
        for name, value in rare.items():
            setattr(self._rare, name, value)

    def copy(self) -> Envelope:
        """The same message, to be marked apart: an event's envelope is shared by its handlers."""
        twin = _new(Envelope)
        twin.message = self.message
        twin.time_ns = self.time_ns
        twin.key = self.key
        twin.session_id = self.session_id
        twin.traceparent = self.traceparent
        twin.deadline = self.deadline
        twin._no = self._no
        twin._cause_ns = self._cause_ns
        twin._cause_no = self._cause_no
        twin._origin_ns = self._origin_ns
        twin._origin_no = self._origin_no
        twin._rare = self._rare and copy(self._rare)
        return twin

    def again(self) -> Envelope:
        """The same message's next attempt."""
        twin = self.copy()
        twin.mark(attempt=self.attempt + 1)
        return twin

    def as_data(self) -> dict[str, Any]:
        """What another process needs to know of it, as JSON can hold it."""
        data: dict[str, Any] = {"time": [self.time_ns, self._no]}
        if self._cause_no is not None:
            data["cause"] = [self._cause_ns, self._cause_no]
            data["origin"] = [self._origin_ns, self._origin_no]
        if self.session_id is not None:
            data["session"] = self.session_id
        if self.key is not None:
            data["key"] = self.key
        if self.traceparent is not None:
            data["traceparent"] = self.traceparent
        if self._rare is not None:
            if self._rare.idempotency_key is not None:
                data["idempotency_key"] = self._rare.idempotency_key
            if self._rare.metadata:
                data["metadata"] = dict(self._rare.metadata)
            if self._rare.of_failure:
                data["of_failure"] = True
        return data

    @classmethod
    def from_data(cls, message: Message, data: Mapping[str, Any]) -> Envelope:
        """The envelope that `as_data` told of.

        Raises:
            KeyError, TypeError, ValueError: the data is not what `as_data` returns.
        """
        envelope = cls(message, None, data.get("session"), data.get("key"), data.get("traceparent"))
        envelope.time_ns, envelope._no = map(int, data["time"])
        envelope._cause_ns = envelope._origin_ns = envelope.time_ns
        envelope._origin_no = envelope._no
        if "cause" in data:
            envelope._cause_ns, envelope._cause_no = map(int, data["cause"])
            envelope._origin_ns, envelope._origin_no = map(int, data["origin"])
        rare = {name: data[name] for name in ("idempotency_key", "of_failure") if name in data}
        if "metadata" in data:
            rare["metadata"] = MappingProxyType(dict(data["metadata"]))
        if rare:
            envelope.mark(**rare)
        return envelope

    def __repr__(self) -> str:
        return f"Envelope(id={self.id!r}, session_id={self.session_id!r}, key={self.key!r})"


@dataclass(frozen=True, slots=True)
class CommandResult(Generic[R]):
    """How a command ended: with a value, or with the error its handler raised."""

    value: R | None = None
    error: Exception | None = None
    envelope: Envelope | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    def unwrap(self) -> R:
        """The value, or the handler's error raised."""
        if self.error is not None:
            raise self.error
        return cast("R", self.value)


@dataclass(frozen=True)
class Receipt(Generic[R]):
    """Says that a message is kept. With its `id` and `name` the result can be asked for later.

    `duplicate`: one of that id was kept before, and this one was not.
    """

    id: str
    name: str
    duplicate: bool = field(default=False, compare=False)


_new = Envelope.__new__
_current: ContextVar[Envelope | None] = ContextVar("llmgine_envelope", default=None)


def current_envelope() -> Envelope | None:
    """The envelope of the message being handled here, or `None` outside of any handler."""
    return _current.get()


# Drawing random bits for each identifier would cost more than handling the message, so the random
# part is a counter with a random start, drawn anew in each process.
def _restart_counter() -> None:
    global _next_number
    _next_number = itertools.count(random.SystemRandom().getrandbits(61)).__next__


_next_number: Callable[[], int]
_restart_counter()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_counter)


def _uuid7(time_ns: int, number: int) -> str:
    """A UUID of version 7: milliseconds, then the number. Source: RFC 9562, section 5.7."""
    digits = f"{((time_ns // 1_000_000) << 80) | (7 << 76) | (2 << 62) | number:032x}"
    # By hand, for a `UUID` that is only printed takes four times as long.
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def new_id() -> str:
    """A UUID of version 7 that sorts by time."""
    return _uuid7(time_ns(), _next_number())
