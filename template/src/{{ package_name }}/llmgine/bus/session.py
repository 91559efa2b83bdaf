# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""A scope of the bus: handlers that see one session's messages only, and end with it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ..errors import HandlerExistsError
from ..messages import Command, CommandResult, Event, R
from .lane import Lane, Overflow
from .registry import Handler, Run

if TYPE_CHECKING:
    from .bus import MessageBus

E = TypeVar("E", bound=Event)


class Session:
    """Made by `bus.session()` and used as `async with`.

    Leaving it waits until its handlers have seen every event published so far; leaving it by an
    error drops what they have not seen yet.
    """

    def __init__(self, bus: MessageBus, session_id: str) -> None:
        self.id = session_id
        self.commands: dict[type[Command[Any]], Run] = {}
        self.lanes: list[tuple[type[Event], Lane]] = []
        self._bus = bus

    def register_command_handler(self, command_type: type[Command[R]], handler: Handler) -> None:
        """Answer this command in this session, before any handler of the bus.

        Raises:
            HandlerExistsError: the session already answers it.
        """
        if command_type in self.commands:
            raise HandlerExistsError(
                f"Session {self.id!r} already has a handler for {command_type.__name__!r}."
            )
        self.commands[command_type] = self._bus.compile(handler)

    def register_event_handler(
        self,
        event_type: type[E],
        handler: Callable[[E], Any],
        *,
        capacity: int = 10_000,
        overflow: Overflow = "wait",
    ) -> None:
        """See this session's events of that class and below, in order, one at a time."""
        lane = self._bus.make_lane(handler, capacity=capacity, concurrency=1, overflow=overflow)
        self.lanes.append((event_type, lane))

    async def execute(self, command: Command[R]) -> R:
        """As `bus.execute`, in this session."""
        return await self._bus.execute(command, session_id=self.id)

    async def try_execute(self, command: Command[R]) -> CommandResult[R]:
        """As `bus.try_execute`, in this session."""
        return await self._bus.try_execute(command, session_id=self.id)

    async def publish(self, event: Event, *, key: str | None = None) -> None:
        """As `bus.publish`, in this session."""
        await self._bus.publish(event, session_id=self.id, key=key)

    async def idle(self) -> None:
        """Wait until this session's handlers have seen every event published so far."""
        await self._bus.wait_until(lambda: all(lane.idle for _, lane in self.lanes))

    async def __aenter__(self) -> Self:
        self._bus.open_session(self)
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
        finally:
            self._bus.close_session(self)
            for _, lane in self.lanes:
                await lane.abandon()
