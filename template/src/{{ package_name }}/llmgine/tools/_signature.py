# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What a function takes: its parameters with their types resolved, or why it cannot be a tool."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import CodeType, SimpleNamespace
from typing import Annotated, Any, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from ..errors import ToolDefinitionError


@dataclass(frozen=True, slots=True)
class Documentation:
    """`description` is the text before the sections; `parameters` maps names to descriptions."""

    description: str
    parameters: dict[str, str] = field(default_factory=dict)


def read_docstring(text: str | None) -> Documentation:
    """The parts of a docstring in Google, NumPy or Sphinx form; any other is all description."""
    text = inspect.cleandoc(text or "")
    if "\n" not in text:
        return Documentation(text)
    # Imported here: most tools have one line, and then nobody waits for the parser.
    from docstring_parser import DocstringStyle, ParseError, parse

    best = None
    for style in (DocstringStyle.GOOGLE, DocstringStyle.NUMPYDOC, DocstringStyle.REST):
        try:
            parsed = parse(text, style)
        except ParseError:
            continue
        if parsed.meta and (best is None or len(parsed.meta) > len(best.meta)):
            best = parsed
    if best is None:
        return Documentation(text)
    # NumPy lets several parameters share one entry: `width, height : int`.
    parameters = {
        name.strip().lstrip("*"): parameter.description
        for parameter in best.params
        for name in parameter.arg_name.split(",")
        if parameter.description
    }
    return Documentation((best.description or "").strip(), parameters)


NO_DEFAULT = inspect.Parameter.empty

_UNRESOLVED = (NameError, AttributeError, SyntaxError, TypeError)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One thing the model may say. `default` may be `NO_DEFAULT` though nothing is required: then
    pydantic fills it in."""

    name: str
    annotation: Any
    required: bool
    default: Any


def parameters_of(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The parameters that a model fills, in order; those bound by `functools.partial` are not.

    Raises:
        ToolDefinitionError: the function cannot be a tool; the message says the parameter and why.
    """
    label = label_of(function)
    _refuse_what_is_no_tool(function, label)
    try:
        declared = inspect.signature(function).parameters.values()
    except (ValueError, TypeError, NameError) as cause:
        raise ToolDefinitionError(
            f"{label} has no signature to read ({cause}). Wrap it in a function with annotations."
        ) from cause
    bound = _bound_by_partial(function)
    hints = _Hints(function)
    return tuple(
        _parameter(parameter, hints, label) for parameter in declared if parameter.name not in bound
    )


def label_of(function: Callable[..., Any]) -> str:
    """The function's name as messages say it: `'shop.orders.cancel'`."""
    plain = plain_function(function)
    name = getattr(plain, "__qualname__", type(plain).__name__)
    return repr(f"{getattr(plain, '__module__', None) or '?'}.{name}")


def plain_function(function: Any) -> Any:
    """The function at the bottom of partials, methods, wrappers and callable objects."""
    while True:
        if isinstance(function, partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.isroutine(function) or inspect.isclass(function):
            return function
        elif inspect.ismethod(call := getattr(function, "__call__", None)):  # noqa: B004
            function = call
        else:
            return function


def _refuse_what_is_no_tool(function: Any, label: str) -> None:
    if not callable(function):
        raise ToolDefinitionError(f"{function!r} is not a function and cannot be a tool.")
    plain = plain_function(function)
    if inspect.isclass(plain):
        raise ToolDefinitionError(f"{label} is a class. Register a function that makes one.")
    for code in (function, getattr(function, "__call__", None)):  # noqa: B004
        if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
            raise ToolDefinitionError(f"{label} is a generator. Return a list of what it yields.")
    # A decorator may have made a list of it, and still carries the annotation of what it wraps.
    returned = None if hasattr(function, "__wrapped__") else _Hints(function).returned()
    origin = get_origin(returned) or returned
    if inspect.isclass(origin) and issubclass(origin, Iterator | AsyncIterable):
        raise ToolDefinitionError(f"{label} returns an iterator. Return a list of its items.")


def _bound_by_partial(function: Any) -> frozenset[str]:
    return frozenset(function.keywords) if isinstance(function, partial) else frozenset()


def _parameter(declared: inspect.Parameter, hints: _Hints, label: str) -> Parameter:
    where = f"Parameter {declared.name!r} of {label}"
    if declared.kind in (declared.VAR_POSITIONAL, declared.VAR_KEYWORD):
        raise ToolDefinitionError(
            f"{where} takes any number of arguments. Name each one, or take a list or dict."
        )
    if declared.kind is declared.POSITIONAL_ONLY:
        raise ToolDefinitionError(f"{where} is positional-only. Remove the '/' after it.")
    if declared.annotation is declared.empty:
        fix = (
            "Register the method of an object, not of its class."
            if declared.name in ("self", "cls")
            else f"Annotate it, for example `{declared.name}: str`."
        )
        raise ToolDefinitionError(f"{where} has no type annotation. {fix}")
    try:
        annotation = hints.of(declared)
    except _UNRESOLVED as cause:
        raise ToolDefinitionError(
            f"{where} is annotated {declared.annotation!r}, which cannot be resolved ({cause}). "
            "Import the type at run time (not only under TYPE_CHECKING), at the top of the module."
        ) from cause
    default = declared.default
    if isinstance(default, FieldInfo):
        annotation = Annotated[annotation, default]
        return Parameter(declared.name, annotation, default.is_required(), NO_DEFAULT)
    return Parameter(declared.name, annotation, default is NO_DEFAULT, default)


class _Hints:
    """Resolves the annotations of one function, also those written as text."""

    def __init__(self, function: Any) -> None:
        self._function = plain_function(function)
        self._globals = getattr(self._function, "__globals__", {})
        code = getattr(self._function, "__code__", None)
        self._locals = {} if code is None else _names_around(code)

    def of(self, declared: inspect.Parameter) -> Any:
        return self._resolve(declared.annotation)

    def returned(self) -> Any:
        """What the function says it returns; `None` where it does not say it in a known name."""
        try:
            return self._resolve(self._function.__annotations__["return"])
        except (*_UNRESOLVED, KeyError):
            return None

    def _resolve(self, annotation: Any) -> Any:
        holder = SimpleNamespace(__annotations__={"it": annotation})
        return get_type_hints(holder, self._globals, self._locals, include_extras=True)["it"]


def _names_around(code: CodeType) -> dict[str, Any]:
    """The local names of the functions around a nested one, as far as they are still running.

    An annotation kept as text forgets where it was written, so a type that is local to the
    function around it can only be found there.
    """
    names: dict[str, Any] = {}
    frame = sys._getframe() if "<locals>" in code.co_qualname else None
    while frame is not None:
        outer = frame.f_code
        if outer.co_filename == code.co_filename and code.co_qualname.startswith(
            f"{outer.co_qualname}.<locals>."
        ):
            names = {**frame.f_locals, **names}
        frame = frame.f_back
    return names
