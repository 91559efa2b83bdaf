# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Which handler answers which message: checked when it is registered, looked up by class."""

from __future__ import annotations

import asyncio
import contextvars
import difflib
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, cast

from ..errors import BusError, HandlerMissingError
from ..messages import Command, Envelope, Message, current_envelope

Handler = Callable[[Any], Any]
Next = Callable[[], Awaitable[Any]]
Middleware = Callable[[Message, Envelope, Next], Awaitable[Any]]
Run = Callable[[Any], Awaitable[Any]]


def handler_name(handler: Handler) -> str:
    """The handler as its owner would look for it: `app.handlers.chat.ask`."""
    while isinstance(handler, partial):
        handler = handler.func
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    return f"{getattr(handler, '__module__', type(handler).__module__)}.{name}"


def compile_handler(
    handler: Handler, middleware: tuple[Middleware, ...], executor: Executor
) -> Run:
    """One callable that runs the handler inside the middleware, the first one outermost.

    Raises:
        BusError: the handler cannot be called with one message.
    """
    _check_takes_one_message(handler)
    run: Run = handler if _is_async(handler) else _in_thread(handler, executor)
    for layer in reversed(middleware):
        run = _around(layer, run)
    return run


def _check_takes_one_message(handler: Handler) -> None:
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # A builtin that does not say what it takes.
    try:
        signature.bind(object())
    except TypeError as mismatch:
        raise BusError(
            f"{handler_name(handler)}{signature} cannot take one message: {mismatch}. "
            "Bind its other parameters with functools.partial."
        ) from None


def _is_async(handler: Handler) -> bool:
    while isinstance(handler, partial):
        handler = handler.func
    call = getattr(handler, "__call__", None)  # noqa: B004  the bound method of a callable object
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


def _in_thread(handler: Handler, executor: Executor) -> Run:
    async def run(message: Any) -> Any:
        context = contextvars.copy_context()
        result = await asyncio.get_running_loop().run_in_executor(
            executor, lambda: context.run(_called, handler, message)
        )
        return await result if inspect.isawaitable(result) else result

    return run


def _called(handler: Handler, message: Any) -> Any:
    try:
        return handler(message)
    except StopIteration as error:
        # A future cannot hold one: whoever awaits it would wait for ever.
        raise RuntimeError(f"{handler_name(handler)} raised StopIteration") from error


def _around(layer: Middleware, inner: Run) -> Run:
    def run(message: Any) -> Awaitable[Any]:
        envelope = cast("Envelope", current_envelope())
        return layer(message, envelope, partial(inner, message))

    return run


def missing_handler(
    command_type: type[Command[Any]], known: list[type[Command[Any]]]
) -> HandlerMissingError:
    """The error for a command nobody handles: the closest known ones, and the line to add."""
    name = command_type.__name__
    close = difflib.get_close_matches(name, [known_type.__name__ for known_type in known])
    hint = f" Registered and close to it: {', '.join(close)}." if close else ""
    return HandlerMissingError(
        f"No handler for {name!r}.{hint} Add this to bootstrap.py: "
        f"bus.register_command_handler({name}, ...)"
    )
