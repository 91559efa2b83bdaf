# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""How handlers are registered, on a bus and in a session alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, TypeVar, Unpack

from ..errors import BusError
from ..messages import Binding, Command, Event, EventHandler, LaneOptions, Layers
from .handlers import CommandClass, handler_name

C = TypeVar("C", bound="Command[Any]")
E = TypeVar("E", bound=Event)
Q = TypeVar("Q")


class Registrar:
    """Takes handlers. A handler with a wrong parameter or result is a type error where it does."""

    def register_command_handler(
        self,
        command_type: CommandClass[C, Q],
        handler: Callable[[C], Awaitable[Q] | Q],
        *,
        middleware: Layers = (),
    ) -> None:
        """Let `handler(command)` answer every command of exactly this class.

        Args:
            command_type: a `Command[AsyncIterator[T]]` is answered by an async generator of `T`.
            handler: async, or a plain function, which then runs in a thread.
            middleware: middleware and policies around this handler, inside the bus's own.
        """
        binding = Binding(command_type, (handler,), tuple(middleware))  # type: ignore[arg-type]
        if not binding.is_command:
            raise BusError(
                f"{command_type!r} is no command class; {handler_name(handler)} cannot answer it. "
                "For an event: bus.register_event_handler(...)"
            )
        self.include(binding)

    def register_event_handler(
        self,
        event_type: type[E],
        handler: EventHandler[E] | Sequence[EventHandler[E]],
        *,
        where: Callable[[E], bool] | None = None,
        middleware: Layers = (),
        **lane: Unpack[LaneOptions],
    ) -> None:
        """Let `handler(event)` see every event of this class and of the classes below it.

        Args:
            event_type: `Event` itself stands for all events.
            handler: several of them are one ordered group: each runs after the one before, and
                none after a failure.
            where: only the events of which it says so are queued.
            middleware: as for commands.
            lane: how events wait; see `LaneOptions`.
        """
        _check_event(event_type)
        self.include(event_type.handled_by(handler, where=where, middleware=middleware, **lane))

    def register_batch_handler(
        self,
        event_type: type[E],
        handler: EventHandler[list[E]],
        *,
        size: int,
        within_s: float,
        where: Callable[[E], bool] | None = None,
        middleware: Layers = (),
        **lane: Unpack[LaneOptions],
    ) -> None:
        """Let `handler(events)` see the events of this class and below in lists, in order.

        A list is handed over when it has `size` events, or `within_s` seconds after its first.
        Middleware is given the first event of the list.
        """
        _check_event(event_type)
        self.include(
            event_type.handled_in_batches_by(
                handler,
                size=size,
                within_s=within_s,
                where=where,
                middleware=middleware,
                **lane,
            )
        )

    def include(self, *declared: Binding | ModuleType) -> None:
        """Register bindings, and every binding that a module has at its top level.

        Raises:
            BusError: it comes too late, or the module declares nothing.
        """
        for one in declared:
            for binding in [one] if isinstance(one, Binding) else _bindings_of(one):
                self.bind(binding)

    def bind(self, binding: Binding) -> None:
        """Take one binding."""
        raise NotImplementedError


def _bindings_of(module: ModuleType) -> Iterator[Binding]:
    found = [value for value in vars(module).values() if isinstance(value, Binding)]
    if not found:
        raise BusError(
            f"{module.__name__!r} declares no handler. Write in it, at its top level: "
            "binding = MyCommand.handled_by(my_handler)"
        )
    return iter(found)


def _check_event(event_type: object) -> None:
    if not (isinstance(event_type, type) and issubclass(event_type, Event)):
        raise BusError(
            f"{event_type!r} is no event class. For a command: bus.register_command_handler(...)"
        )
