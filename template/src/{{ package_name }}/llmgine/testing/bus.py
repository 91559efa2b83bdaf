# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The real bus, with a memory of what was sent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from ..bus import MessageBus
from ..messages import Envelope, Message

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Sent:
    """A command or an event, and the envelope in which it travelled."""

    message: Message
    envelope: Envelope


class RecordingBus(MessageBus):
    """A `MessageBus` that also remembers every command executed and every event published.

    `sent` is in the order of sending, whether or not anybody handled it. What the bus says of its
    own accord (`CommandErrorEvent`, `EventHandlerFailedEvent`) is not sent; register for it.
    """

    @cached_property
    def sent(self) -> list[Sent]:
        """All messages, with their envelopes."""
        return []

    def sent_of(self, message_type: type[M]) -> list[M]:
        """The messages of that class and of the classes below it."""
        return [one.message for one in self.sent if isinstance(one.message, message_type)]

    def sent_by(self, cause: Message) -> list[Message]:
        """What the handlers of that message sent, those of its effects not included."""
        causes = {one.envelope.id for one in self.sent if one.message is cause}
        return [one.message for one in self.sent if one.envelope.causation_id in causes]

    def _enclose(self, message: Message, *origin: Any) -> Envelope:
        envelope = Envelope(message, *origin)
        self.sent.append(Sent(message, envelope))
        return envelope
