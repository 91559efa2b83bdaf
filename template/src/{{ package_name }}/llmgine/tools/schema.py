# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""A plain typed function as a model sees it: name, description, JSON Schema of the arguments."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import AsyncIterable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import CodeType, SimpleNamespace
from typing import Annotated, Any, NotRequired, cast, get_origin, get_type_hints

from pydantic import (
    ConfigDict,
    JsonValue,
    PydanticInvalidForJsonSchema,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, SchemaError, to_jsonable_python
from typing_extensions import TypedDict

from ..contracts import ToolSpec
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


Schema = dict[str, Any]

# The values of these are data, not schemas; the keys below those are names, not keywords.
_DATA = frozenset({"default", "enum", "const", "examples", "required"})
_NAMED = frozenset({"properties", "patternProperties"})
# `title` repeats the name; `discriminator` is OpenAPI's and points into `$defs`.
_NOISE = frozenset({"title", "discriminator"})


def plain_schema(schema: Schema) -> dict[str, JsonValue]:
    """The schema of an object, as a model should see it."""
    definitions = schema.get("$defs", {})
    plainer = _Plainer(definitions, close=not allows_unknown_fields(schema))
    plain: Schema = {
        "type": "object",
        "properties": plainer.named(schema["properties"]),
        "additionalProperties": False,
    }
    if "required" in schema:
        plain["required"] = schema["required"]
    if plainer.recursive:
        plain["$defs"] = plainer.named({name: definitions[name] for name in plainer.recursive})
    return plain


def allows_unknown_fields(schema: Schema) -> bool:
    """Whether a type somewhere in it says of itself that it takes fields it does not know."""
    return any(
        "properties" in node and node.get("additionalProperties", False) is not False
        for node in _nodes(schema)
    )


class _Plainer:
    def __init__(self, definitions: Schema, *, close: bool) -> None:
        self.recursive = _recursive(definitions)
        self._definitions = definitions
        self._close = close

    def named(self, schemas: Schema) -> Schema:
        return {name: self._plain(schema) for name, schema in schemas.items()}

    def _plain(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self._plain(item) for item in node]
        if not isinstance(node, dict):
            return node
        plain = {key: self._value(key, value) for key, value in node.items() if key not in _NOISE}
        name = _referred(node)
        if name is not None and name not in self.recursive:
            del plain["$ref"]
            return {**self._plain(self._definitions[name]), **plain}
        if "properties" in node and self._close:
            plain.setdefault("additionalProperties", False)
        return plain

    def _value(self, key: str, value: Any) -> Any:
        if key in _DATA:
            return value
        return self.named(value) if key in _NAMED else self._plain(value)


def _recursive(definitions: Schema) -> tuple[str, ...]:
    """The definitions that refer to themselves, directly or through others."""
    reached = {
        name: {found for node in _nodes(schema) if (found := _referred(node)) in definitions}
        for name, schema in definitions.items()
    }
    for _ in definitions:
        for names in reached.values():
            names.update(*(reached[name] for name in names if name is not None))
    return tuple(name for name, names in reached.items() if name in names)


def _referred(node: Schema) -> str | None:
    reference = node.get("$ref")
    return reference.removeprefix("#/$defs/") if isinstance(reference, str) else None


def _nodes(schema: Any) -> Iterator[Schema]:
    if isinstance(schema, dict):
        yield schema
        schema = list(schema.values())
    if isinstance(schema, list):
        for value in schema:
            yield from _nodes(value)


_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NO_SCHEMA = (PydanticUserError, PydanticSerializationError, SchemaError, NameError, TypeError)


@dataclass(frozen=True, slots=True)
class Definition:
    """A function as a tool. `arguments` validates JSON text to the function's keyword arguments.

    Unknown fields are refused at every depth, unless `open` says that a nested type allows them.
    """

    spec: ToolSpec
    arguments: TypeAdapter[dict[str, Any]]
    open: bool


def describe(
    function: Callable[..., Any], *, name: str | None = None, description: str | None = None
) -> ToolSpec:
    """The function as a model sees it.

    Raises:
        ToolDefinitionError: the function cannot be a tool; the message says what to change.
    """
    return define(function, name=name, description=description).spec


def define(
    function: Callable[..., Any], *, name: str | None = None, description: str | None = None
) -> Definition:
    """The function as a model sees it, with the validator of its arguments.

    Raises:
        ToolDefinitionError: the function cannot be a tool; the message says what to change.
    """
    parameters = parameters_of(function)
    name = _checked_name(function, name)
    documentation = read_docstring(_docstring_of(function))
    arguments, schema = _validator(function, name, parameters)
    for parameter in parameters:
        _complete(schema["properties"].get(parameter.name), parameter, documentation.parameters)
    spec = ToolSpec(
        name=name,
        description=documentation.description if description is None else description,
        parameters=plain_schema(schema),
    )
    return Definition(spec, arguments, open=allows_unknown_fields(schema))


def _checked_name(function: Any, name: str | None) -> str:
    if name is None:
        name = cast("str", getattr(plain_function(function), "__name__", ""))
        if name == "__call__":
            name = type(_without_partial(function)).__name__
    if not _NAME.fullmatch(name):
        raise ToolDefinitionError(
            f"{name!r} cannot be the name of a tool ({label_of(function)}): models accept 1 to 64 "
            "of the letters a-z, A-Z, digits, '_' and '-'. Pass another as `name=`."
        )
    return name


def _docstring_of(function: Any) -> str | None:
    plain = plain_function(function)
    text = plain.__doc__
    if text is None and getattr(plain, "__name__", "") == "__call__":
        text = type(_without_partial(function)).__doc__
    return cast("str | None", text)


def _without_partial(function: Any) -> Any:
    return function.func if isinstance(function, partial) else function


def _validator(
    function: Any, name: str, parameters: tuple[Parameter, ...]
) -> tuple[TypeAdapter[dict[str, Any]], Schema]:
    fields = {p.name: p.annotation if p.required else NotRequired[p.annotation] for p in parameters}
    try:
        adapter = _adapter(name, fields)
        return adapter, adapter.json_schema()
    except _NO_SCHEMA as cause:
        raise _refusal(function, fields) from cause


def _adapter(name: str, fields: dict[str, Any]) -> TypeAdapter[dict[str, Any]]:
    # A TypedDict and not a model: any parameter name will do, and what comes out are the keyword
    # arguments themselves, without the defaults, which are the function's own business.
    make_typed_dict: Any = TypedDict
    arguments = make_typed_dict(name, fields)
    arguments.__pydantic_config__ = ConfigDict(extra="forbid")
    return TypeAdapter(arguments)


def _refusal(function: Any, fields: dict[str, Any]) -> ToolDefinitionError:
    for name, annotation in fields.items():
        try:
            _adapter("one", {name: annotation}).json_schema()
        except _NO_SCHEMA as cause:
            # These two only say that there is none, and advise what does not help here.
            vague = isinstance(cause, PydanticSchemaGenerationError | PydanticInvalidForJsonSchema)
            reason = "" if vague else " (" + str(cause).split("\n", 1)[0] + ")"
            return ToolDefinitionError(
                f"Parameter {name!r} of {label_of(function)} is annotated "
                f"{inspect.formatannotation(annotation)!r}, which has no JSON Schema{reason}. Use "
                "plain types, dataclasses or pydantic models. What the model is not to choose is "
                "bound with functools.partial."
            )
    return ToolDefinitionError(f"The parameters of {label_of(function)} have no JSON Schema.")


def _complete(node: Schema | None, parameter: Parameter, described: dict[str, str]) -> None:
    """Add what pydantic cannot know: the docstring's words and the signature's default."""
    if node is None:
        return
    if parameter.name in described:
        node.setdefault("description", described[parameter.name])
    if parameter.default is not NO_DEFAULT:
        try:
            node["default"] = to_jsonable_python(parameter.default)
        except PydanticSerializationError:
            return
