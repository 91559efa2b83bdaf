# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""A plain typed function as a model sees it: name, description, JSON Schema of the arguments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NotRequired, cast

from pydantic import (
    ConfigDict,
    JsonValue,
    PydanticInvalidForJsonSchema,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
)
from pydantic_core import PydanticSerializationError, SchemaError, to_jsonable_python
from typing_extensions import TypedDict

from ..contracts import ToolSpec
from ..errors import ToolDefinitionError
from ._signature import (
    NO_DEFAULT,
    Parameter,
    label_of,
    parameters_of,
    plain_function,
    read_docstring,
)

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
