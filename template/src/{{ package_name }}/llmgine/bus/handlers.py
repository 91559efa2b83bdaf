# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Which handler answers which message: checked and compiled before anything runs."""

from __future__ import annotations

import asyncio
import difflib
import inspect
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic.errors import PydanticUserError

from ..errors import BusError, HandlerMissingError
from ..messages import (
    Binding,
    Command,
    Envelope,
    Event,
    Handler,
    Message,
    _current,
    is_stream,
    result_type,
)
from ..threads import DaemonThreads

if TYPE_CHECKING:
    from .bus import MessageBus

Next = Callable[[], Awaitable[Any]]
Middleware = Callable[[Message, Envelope, Next], Awaitable[Any]]
Run = Callable[[Any], Awaitable[Any]]
C = TypeVar("C")
Q = TypeVar("Q")


class Policy(Protocol):
    """A middleware's configuration. Each handler gets a middleware, and so a state, of its own."""

    def bind(self, bus: MessageBus) -> Middleware: ...


class CommandClass(Protocol[C, Q]):
    """A class of commands `C` whose handlers return `Q`, as the type checkers see it."""

    def _types(self, command: C, result: Q, /) -> tuple[C, Q]: ...


class CommandHandler:
    """The one handler of a command: compiled, and counting how it went."""

    __slots__ = ("binding", "failed", "handled", "run", "streamed")

    def __init__(self, binding: Binding, run: Run) -> None:
        self.binding = binding
        self.run = run
        self.streamed = is_stream(binding.message_type)
        self.handled = self.failed = 0


# Where the stream that is being run puts its items; the command tells it from others.
outlet: ContextVar[tuple[Message, Callable[[Any], Awaitable[None]]] | None] = ContextVar(
    "llmgine_outlet", default=None
)


def handler_name(handler: Handler) -> str:
    """The handler as its owner would look for it: `app.handlers.chat.ask`."""
    handler = _unwrapped(handler)
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    return f"{getattr(handler, '__module__', type(handler).__module__)}.{name}"


def binding_name(binding: Binding) -> str:
    """The handler's name, or those of an ordered group: `app.a, app.b`."""
    return ", ".join(handler_name(handler) for handler in binding.handlers)


def compile_binding(
    binding: Binding, bus: MessageBus, middleware: Iterable[Any], threads: DaemonThreads
) -> Run:
    """One callable that runs the handler inside the middleware, the first one outermost.

    Raises:
        BusError: the handler does not fit the message, or a policy refuses its place.
    """
    layers = [*middleware, *binding.middleware]
    runs = []
    for handler in binding.handlers:
        _check_fits(binding, handler)
        run = _run_of(handler, binding, threads)
        for layer in reversed(layers):
            run = _around(_bound(layer, bus, handler), run, in_batches=binding.batch is not None)
        runs.append(run)
    if not runs:
        raise BusError(f"{binding.message_type.__name__}: an ordered group needs a handler.")
    return runs[0] if len(runs) == 1 else _in_order(runs)


def _bound(layer: Any, bus: MessageBus, handler: Handler) -> Middleware:
    bound = layer
    if hasattr(layer, "bind") and not isinstance(layer, type):
        bound = layer.bind(bus)
    if isinstance(bound, type) or not callable(bound):
        name = handler_name(handler)
        raise BusError(f"{layer!r} around {name} is no middleware, nor a policy's instance.")
    return cast("Middleware", bound)


def _run_of(handler: Handler, binding: Binding, threads: DaemonThreads) -> Run:
    if is_stream(binding.message_type):
        return _streamed(handler)
    return handler if _is_async(handler) else _in_thread(handler, threads)


def _check_fits(binding: Binding, handler: Handler) -> None:
    """Raises: BusError: the handler cannot take the message, or returns something else."""
    wanted, name = binding.message_type, handler_name(handler)
    if not (isinstance(wanted, type) and issubclass(wanted, Command | Event)):
        raise BusError(f"{name} is registered for {wanted!r}, which is no Command or Event class.")
    try:
        wanted.model_rebuild()  # Not built when it was imported, so that importing stays cheap.
    except PydanticUserError as error:
        raise BusError(f"{wanted.__name__}, which {name} handles, is wrong: {error}") from error
    if not callable(handler):
        raise BusError(f"{handler!r} is registered for {wanted.__name__}, but cannot be called.")
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # A builtin that does not say what it takes.
    try:
        signature.bind(object())
    except TypeError as mismatch:
        raise BusError(
            f"{name}{signature} cannot take one message: {mismatch}. "
            "Bind its other parameters with functools.partial."
        ) from None
    try:
        hints = get_type_hints(_function(handler))
    except Exception:
        return  # Annotations that exist for type checkers only; these have checked them.
    takes = hints.get(next(iter(signature.parameters)))
    if binding.batch is not None:
        if not _accepts(takes, list):
            raise BusError(f"{name} takes {_shown(takes)}, but is given a list of events.")
        takes = get_args(takes)[0] if get_origin(takes) is list and get_args(takes) else None
    if not _accepts(takes, wanted):
        raise BusError(f"{name} takes {_shown(takes)}, but is registered for {wanted.__name__}.")
    _check_result(wanted, handler, name, hints)


def _check_result(wanted: type[Message], handler: Handler, name: str, hints: Any) -> None:
    streams = inspect.isasyncgenfunction(_function(handler))
    if is_stream(wanted):
        if inspect.iscoroutinefunction(_function(handler)):
            raise BusError(f"{name} must yield, not return: {wanted.__name__} is streamed.")
        if not streams and get_origin(hints.get("return")) is None and "return" in hints:
            raise BusError(f"{name} must be an async generator: {wanted.__name__} is streamed.")
        return
    if streams or inspect.isgeneratorfunction(_function(handler)):
        raise BusError(
            f"{name} is a generator, but {wanted.__name__} is not streamed. "
            "Declare it as Command[AsyncIterator[...]], or return a value."
        )
    if issubclass(wanted, Command) and "return" in hints:
        expected, returns = result_type(wanted), hints["return"]
        if isinstance(returns, type) and not _accepts(expected or type(None), returns):
            raise BusError(
                f"{name} returns {_shown(returns)}, but {wanted.__name__} promises "
                f"{_shown(expected)}."
            )


def _accepts(annotation: Any, given: type[Any]) -> bool:
    """Whether a parameter so annotated takes that class; in doubt it does."""
    options = get_args(annotation) if get_origin(annotation) not in {None, list, type} else ()
    if options and not isinstance(get_origin(annotation), type):
        return any(_accepts(option, given) for option in options)
    if Any in {annotation, given} or (annotation is float and given is int):
        return True
    try:
        return not isinstance(annotation, type) or issubclass(given, annotation)
    except TypeError:
        return True


def _shown(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or repr(annotation)


def layer_name(layer: Any) -> str:
    """A middleware by its name; a policy with the arguments that are not its defaults."""
    if not hasattr(layer, "bind") or not is_dataclass(layer):
        return handler_name(layer)
    given = {field.name: (getattr(layer, field.name), field.default) for field in fields(layer)}
    shown = [
        f"{name}={handler_name(value) if inspect.isfunction(value) else repr(value)}"
        for name, (value, default) in given.items()
        if value != default
    ]
    return f"{type(layer).__name__}({', '.join(shown)})"


def is_plain(function: Any) -> bool:
    """Whether it can be called, and is not async."""
    return callable(function) and not _is_async(function)


def _unwrapped(handler: Handler) -> Handler:
    while isinstance(handler, partial):
        handler = handler.func
    return handler


def _function(handler: Handler) -> Handler:
    """The function behind a partial, or behind a callable object."""
    handler = _unwrapped(handler)
    if inspect.isroutine(handler):
        return handler
    return getattr(handler, "__call__", handler)  # noqa: B004  its bound method


def _is_async(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(_function(handler))


def _in_thread(handler: Handler, threads: DaemonThreads) -> Run:
    async def run(message: Any) -> Any:
        result = await asyncio.wrap_future(threads.submit(partial(handler, message)))
        return await result if inspect.isawaitable(result) else result

    return run


def _streamed(handler: Handler) -> Run:
    async def run(message: Any) -> None:
        _, put = outlet.get() or (None, None)
        assert put is not None
        async with aclosing(handler(message)) as items:
            async for item in items:
                await put(item)

    return run


def _in_order(runs: list[Run]) -> Run:
    async def run(message: Any) -> None:
        for step in runs:
            await step(message)

    return run


def _around(layer: Middleware, inner: Run, *, in_batches: bool) -> Run:
    current = _current.get

    def run(message: Any) -> Awaitable[Any]:
        return layer(message, current(), partial(inner, message))  # type: ignore[arg-type]

    def run_batch(messages: Any) -> Awaitable[Any]:
        return layer(messages[0], current(), partial(inner, messages))  # type: ignore[arg-type]

    return run_batch if in_batches else run


def missing_handler(
    command_type: type[Command[Any]], known: Iterable[type[Command[Any]]]
) -> HandlerMissingError:
    """The error for a command nobody handles: the closest known ones, and the line to add."""
    name = command_type.__name__
    close = difflib.get_close_matches(name, [known_type.__name__ for known_type in known])
    hint = f" Registered and close to it: {', '.join(close)}." if close else ""
    return HandlerMissingError(
        f"No handler for {name!r}.{hint} Add this to bootstrap.py: "
        f"bus.register_command_handler({name}, ...)"
    )
