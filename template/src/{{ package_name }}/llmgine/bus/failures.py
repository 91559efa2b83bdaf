# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What the bus itself says of how things went, and what it keeps of the messages that failed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import BusClosedError, BusError, LaneFullError
from ..messages import Command, Envelope, Event, Message, new_id

if TYPE_CHECKING:
    from .bus import MessageBus
    from .lane import Lane


logger = logging.getLogger(__name__)


class CommandResultEvent(Event):
    """A command's handler returned. The `result` of a streamed command is `None`."""

    command: str
    command_id: str
    result: Any


class CommandErrorEvent(Event):
    """A command's handler raised, or was cancelled (`error_type` is then `CancelledError`)."""

    logged = True

    command: str
    command_id: str
    error_type: str
    error: str


class EventHandlerFailedEvent(Event):
    """A handler of an event raised; the event's other handlers ran all the same."""

    logged = True

    event: str
    event_id: str
    handler: str
    error_type: str
    error: str


class DeadLetterEvent(Event):
    """A message failed for good and is kept in `bus.dead_letters`."""

    logged = True

    letter_id: str
    message: str
    message_id: str
    handler: str
    error_type: str
    error: str


# What fails because of these is not told again.
FAILURES = (CommandErrorEvent, EventHandlerFailedEvent, DeadLetterEvent)


class LaneHighWaterEvent(Event):
    """A handler falls behind. Told once until it has caught up."""

    logged = True

    handler: str
    queued: int
    capacity: int


class SessionStartedEvent(Event):
    logged = True
    session_id: str


class SessionEndedEvent(Event):
    """`error_type` names the error that ended the session, if one did."""

    logged = True

    session_id: str
    error_type: str | None


@dataclass(frozen=True, slots=True, eq=False)
class DeadLetter:
    """A message that failed for good, with its envelope, and its error with the traceback."""

    id: str
    envelope: Envelope
    handler: str
    error: BaseException
    at: datetime
    _lane: Lane | None

    @property
    def message(self) -> Message:
        return self.envelope.message


class DeadLetters:
    """Events whose handler failed, and commands that failed with no caller to tell.

    Those of durable messages are in the journal, and are resent by their id all the same. Here are
    the others, at most `capacity` of them: the oldest makes room for the newest and is counted in
    `dropped`, so that keeping one never waits and never fails.
    """

    def __init__(self, bus: MessageBus, capacity: int = 1_000) -> None:
        self.capacity = capacity
        self.dropped = 0
        self._bus = bus
        self._letters: dict[str, DeadLetter] = {}

    def __len__(self) -> int:
        return len(self._letters)

    def __iter__(self) -> Iterator[DeadLetter]:
        """The oldest first."""
        return iter(list(self._letters.values()))

    def __getitem__(self, letter_id: str) -> DeadLetter:
        """Raises: BusError: there is no such letter, or no longer."""
        try:
            return self._letters[letter_id]
        except KeyError:
            raise BusError(
                f"No dead letter {letter_id!r}: it was resent or dropped, or made room for others."
            ) from None

    def add(
        self, envelope: Envelope, handler: str, error: BaseException, lane: Lane | None = None
    ) -> DeadLetter:
        """Keep the message, and tell it as `DeadLetterEvent`."""
        now = self._bus.clock.now()
        letter = DeadLetter(new_id(), envelope, handler, error, now, lane)
        self._letters[letter.id] = letter
        if len(self._letters) > self.capacity:
            del self._letters[next(iter(self._letters))]
            self.dropped += 1
        tell_dead(self._bus, envelope, letter.id, handler, error)
        return letter

    async def resend(self, letter_id: str) -> None:
        """Give an event to the handler that failed, and to no other; execute a command again.

        A group of handlers is one handler: all of it runs again.

        The letter is gone once it is accepted. If it fails again there is a new one, whose
        envelope counts one attempt more.

        Raises:
            BusError: there is no such letter, or its handler went with its session.
        """
        if letter_id not in self._letters and await self._resend_kept(letter_id):
            return
        letter = self[letter_id]
        message, envelope = letter.message, letter.envelope.again()
        if letter._lane is not None:
            self._bus.redeliver(letter._lane, envelope)
        self.drop(letter_id)
        if letter._lane is None:
            try:
                if isinstance(message, Command):
                    await self._bus.execute(message, envelope=envelope)
                elif isinstance(message, Event):
                    await self._bus.publish(
                        message, key=envelope.key, session_id=envelope.session_id
                    )
            except BaseException as error:  # Also when who resends is cancelled.
                self.add(envelope, letter.handler, error)
                raise

    async def _resend_kept(self, letter_id: str) -> bool:
        """Let a worker handle a durable message again, if it is one."""
        from .queue import retry_entry  # Only who has a journal pays for it.

        delivery = self._bus.delivery
        if delivery is None or not await retry_entry(
            delivery.journal, letter_id, ["dead"], delivery.now_ns()
        ):
            return False
        delivery.wake_at(0)
        return True

    def drop(self, letter_id: str) -> None:
        """Forget the message. Raises: BusError: there is no such letter."""
        self[letter_id]
        del self._letters[letter_id]


async def tell_result(bus: MessageBus, envelope: Envelope, result: object) -> None:
    """Publish what the command returned, if anybody listens."""
    if bus.lanes_of(CommandResultEvent, envelope.session_id):
        name = type(envelope.message).__name__
        event = CommandResultEvent(command=name, command_id=envelope.id, result=result)
        try:
            await bus.publish(event)
        except (BusClosedError, LaneFullError) as refused:
            logger.warning("The result of %s was not told: %s", name, refused)


def tell_error(bus: MessageBus, envelope: Envelope, error: BaseException) -> None:
    """Tell that the command failed. It waits for nothing, for its caller may be cancelled."""
    bus.tell(
        CommandErrorEvent,
        envelope,
        lambda: CommandErrorEvent(
            command=type(envelope.message).__name__,
            command_id=envelope.id,
            error_type=type(error).__name__,
            error=error_text(error),
        ),
    )


def tell_dead(
    bus: MessageBus, envelope: Envelope, letter_id: str, handler: str, error: BaseException
) -> None:
    """Tell that the message failed for good, and under which id it is kept."""
    bus.tell(
        DeadLetterEvent,
        envelope,
        lambda: DeadLetterEvent(
            letter_id=letter_id,
            message=type(envelope.message).__name__,
            message_id=envelope.id,
            handler=handler,
            error_type=type(error).__name__,
            error=error_text(error),
        ),
    )


def tell_failure(
    bus: MessageBus, lane: Lane, envelopes: list[Envelope], error: BaseException
) -> None:
    """Log once that a handler failed, tell it, and keep what it failed on."""
    names = ", ".join(f"{type(one.message).__name__} {one.id}" for one in envelopes)
    logger.error("Handler %s failed on %s", lane.name, names, exc_info=error)
    for envelope in envelopes:
        bus.tell(
            EventHandlerFailedEvent,
            envelope,
            partial(
                EventHandlerFailedEvent,
                event=type(envelope.message).__name__,
                event_id=envelope.id,
                handler=lane.name,
                error_type=type(error).__name__,
                error=error_text(error),
            ),
        )
        bus.dead_letters.add(envelope, lane.name, error, lane)


def tell_high_water(bus: MessageBus, lane: Lane) -> None:
    """Tell that the lane is filling up."""
    bus.tell(
        LaneHighWaterEvent,
        None,
        lambda: LaneHighWaterEvent(handler=lane.name, queued=lane.queued, capacity=lane.capacity),
    )


def error_text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"(its message cannot be read: {type(broken).__name__})"
