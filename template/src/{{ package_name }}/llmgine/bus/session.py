# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""A scope of the bus: handlers that see one session's messages only, and end with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ..errors import BusError, HandlerExistsError
from ..messages import Binding, Command, CommandResult, Envelope, Event, R
from .failures import SessionEndedEvent, SessionStartedEvent
from .handlers import CommandHandler
from .lane import CANCEL_TIMEOUT_S, Lane, Tally
from .registration import Registrar

if TYPE_CHECKING:
    from .bus import MessageBus

T = TypeVar("T")

ENDED = "has ended; open another one: async with bus.session() as session: ..."


class Session(Registrar):
    """Made by `bus.session()` and used as `async with`.

    Its handlers see its messages only, and go before those of the bus. Leaving it waits until they
    have seen every event published so far; leaving it by an error drops what they have not.
    """

    def __init__(
        self, bus: MessageBus, session_id: str, key: str | None, metadata: Mapping[str, str]
    ) -> None:
        self.id = session_id
        self.key = key
        self.metadata = MappingProxyType(dict(metadata))
        self.commands: dict[type[Command[Any]], CommandHandler] = {}
        self.lanes: list[tuple[type[Event], Lane]] = []
        # The lanes of each class of events, the session's first; filled as they are needed.
        self.routes: dict[type[Event], tuple[Lane, ...]] = {}
        self.tally = Tally(bus.tally)
        self._bus = bus
        self._state = "has not begun: async with session: ..."

    def bind(self, binding: Binding) -> None:
        """Register it for this session; its events come in order, one at a time.

        Raises:
            HandlerExistsError: the session already answers this command.
            BusError: the handler does not fit the message, or the command is durable.
        """
        if self._state == ENDED:
            self._check_open()
        message_type: Any = binding.message_type
        if not binding.is_command:
            in_order = replace(binding, lane={"concurrency": 1, **binding.lane})
            self.lanes.append((message_type, self._bus.make_lane(in_order, self.tally)))
            self.routes.clear()
        elif message_type.durable:
            raise BusError(
                f"{message_type.__name__!r} is durable and outlives every session. Register its "
                "handler on the bus, in bootstrap.py."
            )
        elif message_type in self.commands:
            raise HandlerExistsError(
                f"Session {self.id!r} already has a handler for {message_type.__name__!r}."
            )
        else:
            run = self._bus.compile(binding)
            self.commands[message_type] = CommandHandler(binding, run)

    def mark(self, envelope: Envelope) -> None:
        """Give the envelope of a message in this session what the session says of itself."""
        envelope.key = envelope.key or self.key
        if self.metadata or envelope.metadata:
            envelope.mark(metadata=self.metadata)

    def handlers(self) -> list[Lane | CommandHandler]:
        """What is registered in this session."""
        return [*self.commands.values(), *(lane for _, lane in self.lanes)]

    async def execute(self, command: Command[R]) -> R:
        """As `bus.execute`, in this session."""
        self._check_open()
        return await self._bus.execute(command, session_id=self.id)

    async def try_execute(self, command: Command[R]) -> CommandResult[R]:
        """As `bus.try_execute`, in this session."""
        self._check_open()
        return await self._bus.try_execute(command, session_id=self.id)

    def stream(self, command: Command[AsyncIterator[T]]) -> AsyncIterator[T]:
        """As `bus.stream`, in this session."""
        self._check_open()
        return self._bus.stream(command, session_id=self.id)

    async def publish(self, event: Event, *, key: str | None = None) -> None:
        """As `bus.publish`, in this session."""
        self._check_open()
        await self._bus.publish(event, session_id=self.id, key=key)

    async def idle(self) -> None:
        """Wait until this session's handlers have seen every event published so far."""
        while self.tally.busy:
            for _, lane in self.lanes:
                lane.flush()
            await self.tally.change()

    def _check_open(self) -> None:
        if self._state != "open":
            raise BusError(f"Session {self.id!r} {self._state}")

    async def __aenter__(self) -> Self:
        if self._state == ENDED:
            self._check_open()
        self._bus.open_session(self)
        self._state = "open"
        self._bus.tell(
            SessionStartedEvent, None, lambda: SessionStartedEvent(session_id=self.id), self
        )
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                await self.idle()
        except BaseException as cancelled:
            error_type = type(cancelled)
            raise
        finally:
            await self._close(error_type.__name__ if error_type else None)

    async def _close(self, error_type: str | None) -> None:
        self._bus.close_session(self)
        self._state = ENDED
        for _, lane in self.lanes:
            lane.close()
        self._bus.tell(
            SessionEndedEvent,
            None,
            lambda: SessionEndedEvent(session_id=self.id, error_type=error_type),
            self,
        )
        workers = {worker for _, lane in self.lanes for worker in lane.workers}
        if others := workers - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=CANCEL_TIMEOUT_S)
