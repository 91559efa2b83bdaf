# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""A durable message being handled: what its handler sends is kept until it is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from ..messages import Envelope, Message

if TYPE_CHECKING:
    from ..delivery.journal import Entry, LoggedEvent
    from .lane import Lane


class Postponed(BaseException):
    """Leaves the handler of a durable message that is to be handled later, or after a word.

    No `Exception`, for it is no failure: policies and handlers let it pass.
    """

    is_failure = False

    def __init__(
        self,
        state: Literal["ready", "waiting"],
        *,
        wait_s: float | None = None,
        error: Exception | None = None,
    ) -> None:
        super().__init__(state)
        self.state: Literal["ready", "waiting"] = state
        self.wait_s = wait_s
        self.error = error


class Doing:
    """One attempt at a durable message, and everything that is committed when it is done."""

    __slots__ = (
        "after",
        "asked",
        "closed",
        "entry",
        "events",
        "message",
        "note",
        "outbox",
        "sent",
        "told",
        "writes",
    )

    def __init__(self, entry: Entry, message: Message) -> None:
        self.entry = entry
        self.message = message
        # The first attempt of one that is tried anew knows nothing of those before.
        note = entry.note if entry.attempt > 1 else None
        self.note: dict[str, Any] = json.loads(note) if note else {}
        self.outbox: list[Entry] = []
        self.events: list[LoggedEvent] = []
        self.writes: list[Callable[[Any], Any]] = []
        # Events for those who hear them in memory, once they are facts.
        self.after: list[tuple[Envelope, Sequence[Lane]]] = []
        # What to say once it is kept that the message waits.
        self.told: list[Callable[[], None]] = []
        # How many approvals were asked for in this attempt.
        self.asked = 0
        self.sent: dict[tuple[str, str], int] = {}
        self.closed = False

    def count(self, name: str, payload: str) -> int:
        """How many such messages it sent by now, this one included."""
        self.sent[name, payload] = self.sent.get((name, payload), 0) + 1
        return self.sent[name, payload]


doing: ContextVar[Doing | None] = ContextVar("llmgine_doing", default=None)


def current_doing() -> Doing | None:
    """The durable message whose handler this runs in, until that has ended."""
    found = doing.get()
    return None if found is None or found.closed else found


def doing_of(message: Message) -> Doing | None:
    """As `current_doing`, if it is this message, and not one that its handler executes."""
    found = current_doing()
    return found if found is not None and found.message is message else None
