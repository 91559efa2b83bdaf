# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What is registered on a bus: checked and compiled at the start, looked up for each message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ..errors import BusError, BusStartError, HandlerExistsError
from ..messages import Binding, Command, Envelope, Event, is_stream
from ..threads import DaemonThreads
from .batching import BatchLane
from .handlers import CommandHandler, Run, binding_name, compile_binding, missing_handler, outlet
from .lane import Lane, Tally
from .registration import Registrar
from .sender import Sender

if TYPE_CHECKING:
    from .bus import MessageBus
    from .remote import Remote
    from .session import Session


class Registry(Registrar, Sender):
    """The handlers of a bus, by the messages they take."""

    state: str
    middleware: tuple[Any, ...]
    tally: Tally
    remote: Remote | None
    _threads: DaemonThreads
    _sessions: dict[str, Session]

    def __init__(self) -> None:
        self.bindings: list[Binding] = []
        self._commands: dict[type[Command[Any]], CommandHandler] = {}
        # Apart, so that `execute` does not find them among those that it can run at once.
        self._streams: dict[type[Command[Any]], CommandHandler] = {}
        self._durable: dict[type[Command[Any]], CommandHandler] = {}
        self._subscriptions: list[tuple[type[Event], Lane]] = []
        self._routes: dict[type[Event], tuple[Lane, ...]] = {}
        # Apart for the same reason: these go through the journal.
        self._kept_routes: dict[type[Event], tuple[Lane, ...]] = {}

    def bind(self, binding: Binding) -> None:
        """Register it; whether it fits is checked at the start.

        Raises:
            BusError: the bus has started.
        """
        if self.state != "new":
            raise BusError(
                f"{binding_name(binding)} comes too late: the bus has started. Register it in "
                "bootstrap.py, or in a session: async with bus.session() as session: ..."
            )
        self.bindings.append(binding)

    def compile(self, binding: Binding) -> Run:
        """The binding's handlers inside the bus's middleware."""
        bus = cast("MessageBus", self)
        return compile_binding(binding, bus, self.middleware, self._threads)

    def make_lane(self, binding: Binding, tally: Tally) -> Lane:
        """The lane in which the binding's events wait."""
        bus, kind = cast("MessageBus", self), BatchLane if binding.batch else Lane
        return kind(bus, tally, binding, self.compile(binding))

    def compile_all(self) -> None:
        """Raises: BusStartError: with everything that is wrong."""
        problems: list[BusError] = []
        for binding in self.bindings:
            try:
                self._compile(binding)
            except BusError as problem:
                problems.append(problem)
        if problems:
            for compiled in (self._commands, self._streams, self._durable, self._subscriptions):
                compiled.clear()
            raise BusStartError(problems)

    def _compile(self, binding: Binding) -> None:
        message_type: Any = binding.message_type
        if binding.is_command:
            handlers = self._streams if is_stream(message_type) else self._commands
            if message_type.durable:
                if is_stream(message_type):
                    raise BusError(
                        f"{message_type.__name__!r} is streamed and cannot be durable: nobody may "
                        "be there to read it. Take durable = True out, or return a whole result."
                    )
                handlers = self._durable
            if other := handlers.get(message_type):
                raise HandlerExistsError(
                    f"{message_type.__name__!r} is already handled by "
                    f"{binding_name(other.binding)}; {binding_name(binding)} cannot handle it too. "
                    "A command has exactly one handler; an event has any number."
                )
            handlers[message_type] = handler = CommandHandler(binding, self.compile(binding))
            if message_type.durable:
                self.keeper(message_type).add_command(handler)
        else:
            lane = self.make_lane(binding, self.tally)
            self._subscriptions.append((message_type, lane))
            if message_type.durable:
                self.keeper(message_type).add_lane(message_type, lane)

    def _command_handler(self, command: Command[Any], envelope: Envelope) -> CommandHandler | None:
        """Its handler; `None` if it is for another process."""
        wanted = type(command)
        if not isinstance(command, Command):
            raise BusError(f"{command!r} is no command; an event is published: bus.publish(...)")
        session = self._sessions.get(envelope.session_id or "")
        handler = session.commands.get(wanted) if session is not None else None
        for handlers in (self._commands, self._streams, self._durable):
            handler = handler or handlers.get(wanted)
        if handler is None and self.remote is not None and not is_stream(wanted):
            return None
        if handler is None:
            raise missing_handler(wanted, [*self._commands, *self._streams, *self._durable])
        streamed, _ = outlet.get() or (None, None)
        if handler.streamed and streamed is not command:
            raise BusError(f"{wanted.__name__!r} is streamed: async for ... in bus.stream(...)")
        return handler

    def handlers(self) -> list[Lane | CommandHandler]:
        """What is registered on the bus, its sessions apart."""
        lanes = [lane for _, lane in self._subscriptions]
        commands = (*self._commands.values(), *self._streams.values(), *self._durable.values())
        return [*commands, *lanes]

    def layers_of(self, command_type: type[Command[Any]]) -> tuple[Any, ...]:
        """The middleware and policies around the handler of a durable command."""
        handler = self._durable.get(command_type)
        return (*self.middleware, *handler.binding.middleware) if handler is not None else ()

    def command_handlers(self) -> list[CommandHandler]:
        """Those of commands that are not streamed, the sessions' apart."""
        return [*self._commands.values(), *self._durable.values()]

    def lanes(self) -> list[Lane]:
        """The lanes of the bus, then those of its sessions."""
        return [lane for _, lane in self._subscriptions] + [
            lane for session in self._sessions.values() for _, lane in session.lanes
        ]

    def lanes_of(self, event_type: type[Event], session_id: str | None) -> tuple[Lane, ...]:
        """Where the events of that class go, the session's own lanes first."""
        lanes = self._routes.get(event_type)
        if lanes is None and (lanes := self._kept_routes.get(event_type)) is None:
            if not issubclass(event_type, Event):
                name = event_type.__name__
                raise BusError(f"{name!r} is no event; a command is executed: bus.execute(...)")
            kept = event_type.durable or (event_type.logged and self.delivery is not None)
            if event_type.durable:
                self.keeper(event_type)
            lanes = self.matching(event_type)
            (self._kept_routes if kept else self._routes)[event_type] = lanes
        if self._sessions and (session := self._sessions.get(session_id or "")):
            own = session.routes.get(event_type)
            if own is None:
                own = _matching(event_type, session.lanes) + lanes
                session.routes[event_type] = own
            return own
        return lanes

    def matching(self, event_type: type[Event]) -> tuple[Lane, ...]:
        """The lanes of the bus itself, its sessions apart."""
        return _matching(event_type, self._subscriptions)


def _matching(
    event_type: type[Event], subscriptions: list[tuple[type[Event], Lane]]
) -> tuple[Lane, ...]:
    return tuple(lane for wanted, lane in subscriptions if issubclass(event_type, wanted))
