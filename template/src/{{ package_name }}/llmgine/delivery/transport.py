# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What carries messages to other machines, and what every such transport can do."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from ..errors import MessageUnreadableError
from .journal import Entry

Kind = Literal["command", "event", "result", "request"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a message goes, or where it is taken from.

    `command`: to one of those who handle commands of that `name`, each message once. `event`: to
    every subscription of events of that `name`. `result`: to the node of that `name`. `request`:
    to one of those who handle commands of that `name`, now and with an answer.
    """

    kind: Kind
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a process takes. Those with the same `group` share the messages between them."""

    addresses: tuple[Address, ...]
    """Of one kind."""
    group: str
    concurrency: int = 16
    """How many of its messages one process handles at once; those of one key come in order."""


@dataclass(frozen=True, slots=True)
class Done:
    """The message was handled. `reply` is the answer to a request, as JSON."""

    reply: str = ""


@dataclass(frozen=True, slots=True)
class Again:
    """Hand the message out again after that time."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Dead:
    """The message failed for good: to the dead letters with it, and its error as JSON."""

    error: str


Verdict = Done | Again | Dead
Deliver = Callable[[Entry, int], Awaitable[Verdict]]
"""Handles the entry, which is handed out for that time (1 is the first). Never raises, unless it
is cancelled: then the message is handed out again, here or elsewhere, without delay."""


class RequestFailedError(Exception):
    """The handler of a request said `Dead`, and `error` is what that held: for the bus to raise."""

    def __init__(self, error: str) -> None:
        self.error = error
        super().__init__(error)


PACKET = 1
"""How an entry is written. One of a later form is for a process that knows it."""


def pack(entry: Entry) -> bytes:
    """What travels of an entry: a line of JSON, and the payload as it is."""
    facts = (entry.id, entry.name, entry.version, entry.key, entry.created_ns, entry.headers)
    return f"{json.dumps((PACKET, *facts))}\n{entry.payload}".encode()


def unpack(data: bytes, route: str) -> Entry:
    """The entry that was packed, for that route.

    Raises:
        MessageUnreadableError: it is not one, or one of a later form.
    """
    head, _, payload = data.partition(b"\n")
    try:
        form, entry_id, name, version, key, created_ns, headers = json.loads(head)
        if form != PACKET:
            raise ValueError(f"its form is {form!r}, and this process knows {PACKET}")
        return Entry(
            id=entry_id,
            route=route,
            name=name,
            version=version,
            payload=payload.decode(),
            headers=headers,
            key=key,
            created_ns=created_ns,
        )
    except (ValueError, TypeError) as error:
        raise MessageUnreadableError(
            f"A message came for {route!r} that cannot be read ({error}). See who sends it, or "
            "update this process."
        ) from error


class Transport(Protocol):
    """Carries messages between machines, each at least once.

    An `Entry` travels as its `id`, `name`, `version`, `payload`, `headers`, `key`, `created_ns`;
    it arrives with the route `<kind> <name>`, or `event <group>`.

    Raises:
        TransportError: from any method; says which server, what is wrong and what to do.
    """

    requests: bool
    """Whether it carries requests and their answers too."""

    async def open(self) -> None:
        """Connect, and make on the server what is needed. Calling it again does nothing."""
        ...

    async def aclose(self) -> None:
        """Take no more, wait for nothing, and disconnect. Calling it again does nothing."""
        ...

    async def send(self, entry: Entry, address: Address) -> None:
        """Return once the server has stored it; the same `id` twice within its window is once."""
        ...

    async def consume(self, source: Source, deliver: Deliver) -> Callable[[], Awaitable[None]]:
        """Take messages from now on. What it returns stops that, and waits for those in hand."""
        ...

    async def request(self, entry: Entry, address: Address, timeout_s: float) -> str:
        """The `reply` of whoever handles it. Cancelling the call cancels the handler there, and so
        does the end of that time. `Again` is waited for there.

        Raises:
            HandlerMissingError: nobody takes such requests now.
            RequestFailedError: the handler said `Dead`.
            TimeoutError: no answer in that time.
        """
        ...

    async def check(self) -> str:
        """What a healthy transport says of itself, in one line; an unhealthy one raises."""
        ...
