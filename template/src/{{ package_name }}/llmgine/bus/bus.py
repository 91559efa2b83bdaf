# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The bus itself: who handles what, how a message gets there, and how it all ends."""

from __future__ import annotations

import asyncio
import logging
from asyncio import current_task
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

from ..errors import BusClosedError, BusError, HandlerExistsError, LaneFullError
from ..messages import (
    Command,
    CommandErrorEvent,
    CommandResult,
    CommandResultEvent,
    Envelope,
    Event,
    EventHandlerFailedEvent,
    Message,
    R,
    _current,
)
from .lane import CANCEL_TIMEOUT_S, Lane, Overflow
from .registry import Handler, Middleware, Next, Run, compile_handler, handler_name, missing_handler
from .session import Session

E = TypeVar("E", bound=Event)

logger = logging.getLogger(__name__)

__all__ = ["MessageBus", "Middleware", "Next", "StopReport"]


@dataclass(frozen=True, slots=True)
class StopReport:
    """What `stop` could not finish: commands that were cancelled, events nobody saw."""

    commands: tuple[str, ...] = ()
    events: tuple[str, ...] = ()

    @property
    def drained(self) -> bool:
        return not self.commands and not self.events


class MessageBus:
    """Carries commands to their one handler and events to all of theirs.

    A command runs in its caller's task, so cancelling the caller cancels the handler. An event is
    queued in a bounded lane for each handler and `publish` returns.
    """

    def __init__(
        self,
        *,
        middleware: Iterable[Middleware] = (),
        traceparent: Callable[[], str | None] | None = None,
        max_threads: int = 8,
    ) -> None:
        self._middleware = tuple(middleware)
        self._traceparent = traceparent
        self._executor = ThreadPoolExecutor(max_threads, thread_name_prefix="bus")
        self._handlers: dict[type[Command[Any]], Handler] = {}
        self._commands: dict[type[Command[Any]], Run] = {}
        self._subscriptions: list[tuple[type[Event], Lane]] = []
        self._routes: dict[type[Event], tuple[Lane, ...]] = {}
        self._sessions: dict[str, Session] = {}
        self._tells_results = False
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle_waiters: list[asyncio.Future[None]] = []
        self._running: dict[Envelope, tuple[Command[Any], asyncio.Task[Any] | None]] = {}
        self._state = "new"

    # Registration: before `start`, and for one session at any time.

    def register_command_handler(self, command_type: type[Command[R]], handler: Handler) -> None:
        """Let `handler(command)` answer every command of exactly this class.

        Raises:
            HandlerExistsError: the class has a handler already.
            BusError: the handler cannot take one message, or the bus has started.
        """
        self._check_new(handler)
        if command_type in self._handlers:
            raise HandlerExistsError(
                f"{command_type.__name__!r} is already handled by "
                f"{handler_name(self._handlers[command_type])}; {handler_name(handler)} cannot "
                "handle it too. A command has exactly one handler; an event has any number."
            )
        self._commands[command_type] = self.compile(handler)
        self._handlers[command_type] = handler

    def register_event_handler(
        self,
        event_type: type[E],
        handler: Callable[[E], Any],
        *,
        capacity: int = 10_000,
        concurrency: int = 16,
        overflow: Overflow = "wait",
    ) -> None:
        """Let `handler(event)` see every event of this class and of the classes below it.

        Args:
            event_type: `Event` itself stands for all events.
            handler: async, or a plain function, which then runs in a thread.
            capacity: events that may wait for this handler.
            concurrency: events handled at once; those of one key or session stay in order.
            overflow: what happens to an event that finds the lane full.

        Raises:
            BusError: the handler cannot take one message, or the bus has started.
        """
        self._check_new(handler)
        lane = self.make_lane(
            handler, capacity=capacity, concurrency=concurrency, overflow=overflow
        )
        self._subscriptions.append((event_type, lane))

    def _check_new(self, handler: Handler) -> None:
        if self._state != "new":
            raise BusError(
                f"{handler_name(handler)} comes too late: the bus has started. Register it in "
                "bootstrap.py, or in a session: async with bus.session() as session: ..."
            )

    def compile(self, handler: Handler) -> Run:
        """The handler inside the bus's middleware."""
        return compile_handler(handler, self._middleware, self._executor)

    def make_lane(
        self,
        handler: Handler,
        *,
        capacity: int,
        concurrency: int,
        overflow: Overflow,
    ) -> Lane:
        """A lane for the handler, inside the bus's middleware."""
        return Lane(
            handler_name(handler),
            self.compile(handler),
            capacity=capacity,
            concurrency=concurrency,
            overflow=overflow,
            on_failure=self._event_handler_failed,
            on_idle=self._wake_idle_waiters,
        )

    # Sessions.

    def session(self, session_id: str | None = None) -> Session:
        """A scope with handlers of its own: `async with bus.session() as session: ...`."""
        return Session(self, session_id or uuid4().hex)

    def open_session(self, session: Session) -> None:
        if session.id in self._sessions:
            raise BusError(f"Session {session.id!r} is already open; give the new one another id.")
        self._sessions[session.id] = session

    def close_session(self, session: Session) -> None:
        del self._sessions[session.id]

    # Commands.

    async def execute(self, command: Command[R], *, session_id: str | None = None) -> R:
        """Run the command's handler here and return its result, or raise its error.

        Raises:
            HandlerMissingError: nobody handles this command.
            BusClosedError: the bus is not running.
        """
        envelope = self._envelope(command, session_id, None)
        command_type = type(command)
        if self._sessions or command_type not in self._commands:
            run = self._command_handler(command_type, envelope)
        else:
            run = self._commands[command_type]
        self._running[envelope] = command, current_task(self._loop)
        token = _current.set(envelope)
        try:
            result: R = await run(command)
        except BaseException as error:
            self._tell_error(command, envelope, error)
            raise
        else:
            if self._tells_results or self._sessions:
                await self._tell_result(command, envelope, result)
            return result
        finally:
            _current.reset(token)
            del self._running[envelope]
            if self._idle_waiters:
                self._wake_idle_waiters()

    async def try_execute(
        self, command: Command[R], *, session_id: str | None = None
    ) -> CommandResult[R]:
        """As `execute`, with the handler's error returned instead of raised."""
        try:
            value = await self.execute(command, session_id=session_id)
        except Exception as error:
            return CommandResult(error=error)
        return CommandResult(value=value)

    def _command_handler(self, command_type: type[Command[Any]], envelope: Envelope) -> Run:
        session = self._sessions.get(envelope.session_id) if envelope.session_id else None
        if session is not None and (run := session.commands.get(command_type)):
            return run
        try:
            return self._commands[command_type]
        except KeyError:
            raise missing_handler(command_type, list(self._commands)) from None

    async def _tell_result(self, command: Command[Any], envelope: Envelope, result: object) -> None:
        if self._lanes(CommandResultEvent, envelope):
            name, command_id = type(command).__name__, envelope.id
            event = CommandResultEvent(command=name, command_id=command_id, result=result)
            try:
                await self.publish(event)
            except LaneFullError as full:
                logger.warning("The result of %s was not told: %s", name, full)

    def _tell_error(self, command: Command[Any], envelope: Envelope, error: BaseException) -> None:
        if self._lanes(CommandErrorEvent, envelope):
            # Put, not published: it must not wait for room, for the caller may be cancelled.
            self._put(
                CommandErrorEvent(
                    command=type(command).__name__,
                    command_id=envelope.id,
                    error_type=type(error).__name__,
                    error=_message(error),
                )
            )

    # Events.

    async def publish(
        self, event: Event, *, key: str | None = None, session_id: str | None = None
    ) -> None:
        """Offer the event to every handler of its class and of the classes above it.

        Events of one `key` (by default, of one session) reach each handler in order. Waits only
        for room in a full lane, and never when called from an event's handler.

        Raises:
            LaneFullError: a lane that rejects is full; the other handlers got the event.
            BusClosedError: the bus is not running.
        """
        envelope = self._envelope(event, session_id, key)
        item = (event, envelope, key or envelope.session_id)
        rejected: LaneFullError | None = None
        for lane in self._lanes(type(event), envelope):
            if lane.queued >= lane.capacity:
                try:
                    if not await lane.make_room():
                        continue
                except LaneFullError as full:
                    rejected = full
                    continue
            lane.put(item)
        if rejected is not None:
            raise rejected

    def _put(self, event: Event) -> None:
        envelope = Envelope(_current.get())
        for lane in self._lanes(type(event), envelope):
            if lane.admit():
                lane.put((event, envelope, envelope.session_id))

    def _lanes(self, event_type: type[Event], envelope: Envelope) -> tuple[Lane, ...]:
        lanes = self._routes.get(event_type)
        if lanes is None:
            lanes = self._routes[event_type] = _matching(event_type, self._subscriptions)
        if self._sessions and (session := self._sessions.get(envelope.session_id or "")):
            return _matching(event_type, session.lanes) + lanes
        return lanes

    def _event_handler_failed(
        self, lane: Lane, event: Event, envelope: Envelope, error: BaseException
    ) -> None:
        logger.error(
            "Handler %s failed on %s %s",
            lane.name,
            type(event).__name__,
            envelope.id,
            exc_info=error,
        )
        if not isinstance(event, EventHandlerFailedEvent):
            self._put(
                EventHandlerFailedEvent(
                    event=type(event).__name__,
                    event_id=envelope.id,
                    handler=lane.name,
                    error_type=type(error).__name__,
                    error=_message(error),
                )
            )

    # Life.

    def _envelope(self, message: Message, session_id: str | None, key: str | None) -> Envelope:
        cause = _current.get()
        if self._state != "running":
            self._check_open(message, cause)
        traceparent = self._traceparent
        return Envelope(cause, session_id, key, traceparent and traceparent())

    def _check_open(self, message: Message, cause: Envelope | None) -> None:
        # While it drains, the bus still serves the handlers that it waits for.
        if self._state == "stopping" and cause is not None:
            return
        fix = "await bus.start() first" if self._state == "new" else "it takes no more work"
        raise BusClosedError(
            f"{type(message).__name__!r} refused: the bus is {self._state}; {fix}."
        )

    async def start(self) -> None:
        """Take work from now on; nothing can be registered any more, but in sessions."""
        if self._state != "new":
            raise BusError(f"The bus cannot start: it is {self._state}.")
        self._tells_results = bool(_matching(CommandResultEvent, self._subscriptions))
        self._loop = asyncio.get_running_loop()
        self._state = "running"

    async def idle(self) -> None:
        """Wait until no command runs and no event waits or runs: an exact count, not a timer."""
        await self.wait_until(
            lambda: not self._running and all(lane.idle for lane in self._all_lanes())
        )

    async def wait_until(self, quiet: Callable[[], bool]) -> None:
        """Wait for a condition that can become true only when a command or a lane ends its work."""
        while not quiet():
            waiter = asyncio.get_running_loop().create_future()
            self._idle_waiters.append(waiter)
            await waiter

    def _wake_idle_waiters(self) -> None:
        waiters, self._idle_waiters = self._idle_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _all_lanes(self) -> list[Lane]:
        sessions = self._sessions.values()
        return [lane for _, lane in self._subscriptions] + [
            lane for session in sessions for _, lane in session.lanes
        ]

    async def stop(self, grace_s: float = 15.0) -> StopReport:
        """Refuse new work, finish what there is, and cancel what is not done after `grace_s`.

        Returns what was left undone, which is also logged. Stopping again waits for the first.
        """
        if self._state == "stopping":
            await self._stopped.wait()
        if self._state != "running":
            self._state = "stopped"
            return StopReport()
        self._state = "stopping"
        report = StopReport()
        try:
            async with asyncio.timeout(grace_s):
                await self.idle()
        except (TimeoutError, asyncio.CancelledError) as ended:
            report = await self._abandon()
            logger.warning(
                "Stopped with work left: commands %s, events %s", report.commands, report.events
            )
            if isinstance(ended, asyncio.CancelledError):
                raise
        finally:
            self._state = "stopped"
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._stopped.set()
        return report

    async def _abandon(self) -> StopReport:
        commands = [type(command).__name__ for command, _ in self._running.values()]
        tasks = {task for _, task in self._running.values() if task is not None}
        for task in tasks - {current_task()}:
            task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                await self.wait_until(lambda: not self._running)
        # After the commands, for what these say of their end is left undone as well.
        events: list[str] = []
        for lane in self._all_lanes():
            left = await lane.abandon()
            events += [f"{type(event).__name__} for {lane.name}" for event, _, _ in left]
        return StopReport(commands=tuple(commands), events=tuple(events))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()


def _matching(
    event_type: type[Event], subscriptions: list[tuple[type[Event], Lane]]
) -> tuple[Lane, ...]:
    return tuple(lane for wanted, lane in subscriptions if issubclass(event_type, wanted))


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"(its message cannot be read: {type(broken).__name__})"
