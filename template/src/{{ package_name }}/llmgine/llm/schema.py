# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""JSON Schemas of what a model is to answer, and the part of JSON Schema that vendors enforce."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, JsonValue, TypeAdapter
from typing_extensions import TypedDict

T = TypeVar("T")
Schema = dict[str, Any]

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]+")
_VALUE = "value"


@dataclass(frozen=True, slots=True)
class OutputType(Generic[T]):
    """A type as an answer. What is no object in JSON stands in `{"value": …}`."""

    name: str
    schema: Schema
    wrapped: bool
    _adapter: TypeAdapter[Any]

    @classmethod
    def of(cls, type_: Any) -> OutputType[Any]:
        """Describe the type.

        Raises:
            pydantic.PydanticUserError: it has no JSON Schema.
        """
        adapter: TypeAdapter[Any] = TypeAdapter(type_)
        schema = _with_root(adapter.json_schema())
        wrapped = schema.get("type") != "object"
        if wrapped:
            make_typed_dict: Any = TypedDict
            around = make_typed_dict("Output", {_VALUE: type_})
            around.__pydantic_config__ = ConfigDict(extra="forbid")
            adapter = TypeAdapter(around)
            schema = adapter.json_schema()
        name = _NOT_IN_NAMES.sub("_", getattr(type_, "__name__", "output")).strip("_")[:64]
        return OutputType(name or "output", _without_titles(schema), wrapped, adapter)

    def validate(self, text: str) -> T:
        """The value that the JSON text spells.

        Raises:
            pydantic.ValidationError: it is no JSON, or of another type.
        """
        value = self._adapter.validate_json(text)
        return value[_VALUE] if self.wrapped else value  # type: ignore[no-any-return] # type_'s

    def unwrap(self, value: JsonValue) -> JsonValue:
        """The JSON value without what was put around it."""
        return value.get(_VALUE) if self.wrapped and isinstance(value, dict) else value


def _with_root(schema: Schema) -> Schema:
    """A recursive type's schema is a reference at its root, which no vendor takes."""
    reference = schema.get("$ref")
    return schema if reference is None else {**_referred(reference, schema), **_but_ref(schema)}


def _referred(reference: str, root: Mapping[str, Any]) -> Schema:
    found = root.get("$defs", {}).get(reference.removeprefix("#/$defs/"))
    return found if isinstance(found, dict) else {}


def _but_ref(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key != "$ref"}


# The values of these are data, not schemas; the keys of those are names, not keywords.
_DATA = frozenset({"default", "enum", "const", "examples", "required"})
_NAMED = frozenset({"properties", "$defs", "patternProperties"})


def _without_titles(node: Any) -> Any:
    """`title` repeats the name; `discriminator` is OpenAPI's, not JSON Schema's."""
    if isinstance(node, list):
        return [_without_titles(item) for item in node]
    if not isinstance(node, dict):
        return node
    plain: Schema = {}
    for key, value in node.items():
        if key in _DATA:
            plain[key] = value
        elif key in _NAMED:
            plain[key] = {name: _without_titles(item) for name, item in value.items()}
        elif key not in ("title", "discriminator"):
            plain[key] = _without_titles(value)
    return plain


# What both OpenAI and Anthropic take in every place; the rest goes into the description.
# Source: https://platform.openai.com/docs/guides/structured-outputs#supported-schemas,
# https://docs.anthropic.com/en/docs/build-with-claude/structured-outputs#json-schema-limitations
_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)
_KEPT = frozenset({"type", "enum", "const", "format", "description", "$ref"})
_STRUCTURE = frozenset({"properties", "required", "additionalProperties", "items", "anyOf"})
_UNSAID = frozenset({"title", "discriminator", "$schema", "$id", "$comment", "$defs"})
# Constraints that a description can say and a validator can check afterwards.
_SAYABLE = frozenset(
    {
        *("default", "examples", "pattern", "minLength", "maxLength", "deprecated"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minItems", "maxItems", "uniqueItems", "readOnly", "writeOnly"),
        *("contentEncoding", "contentMediaType", "contentSchema"),
    }
)


class _NotStrictError(Exception):
    """The schema allows what vendors cannot enforce."""


def strict(schema: Schema) -> Schema | None:
    """The schema as OpenAI's strict mode and Anthropic's structured outputs take it.

    Everything that fits it has the shape that the given schema asks for: objects are closed and
    have all their properties, `oneOf` becomes `anyOf`, and what no vendor enforces (bounds,
    patterns, defaults) moves into the descriptions. `None` where that would change what can be
    said: open objects, tuples, anything at all, optional properties that have no default, a root
    that is no object. Recursive schemas are OpenAI's alone; Anthropic refuses them.
    """
    try:
        strict_ = _strict(_with_root(schema), schema, frozenset())
        if strict_.get("type") != "object":
            return None
        if definitions := schema.get("$defs"):
            strict_["$defs"] = {
                name: _strict(one, schema, frozenset()) for name, one in definitions.items()
            }
        return strict_
    except (_NotStrictError, TypeError, AttributeError, RecursionError):
        # A tool server may send what is no schema at all.
        return None


def _strict(node: Any, root: Schema, inlined: frozenset[str]) -> Schema:
    if not isinstance(node, dict):
        raise _NotStrictError
    every = node.get("allOf")
    if isinstance(every, list) and len(every) == 1 and isinstance(every[0], dict):
        node = {**every[0], **{key: value for key, value in node.items() if key != "allOf"}}
    reference = node.get("$ref")
    if reference is not None and (len(node) == 1 or reference in inlined):
        if not _referred(reference, root):
            raise _NotStrictError
        return {"$ref": reference}
    if reference is not None:
        # A reference may have nothing beside it, and a description beside it is worth keeping.
        node = {**_referred(reference, root), **_but_ref(node)}
        return _strict(node, root, inlined | {reference})
    return _described(node, _shape(node, root, inlined))


def _shape(node: Schema, root: Schema, inlined: frozenset[str]) -> Schema:
    kept: Schema = {key: node[key] for key in ("type", "enum", "const") if key in node}
    types = kept.get("type")
    known = all(one in _TYPES for one in (types if isinstance(types, list) else [types or "null"]))
    values = [*node.get("enum", ()), node.get("const")]
    choices = node.get("anyOf", node.get("oneOf"))
    if not known or not all(_is_plain(value) for value in values) or not (kept or choices):
        raise _NotStrictError
    if node.get("format") in _FORMATS:
        kept["format"] = node["format"]
    if choices:
        kept["anyOf"] = [_strict(choice, root, inlined) for choice in choices]
    if "array" in (types or ()):
        kept["items"] = _strict(node.get("items"), root, inlined)
    if "object" in (types or ()):
        kept |= _object(node, root, inlined)
    return kept


def _object(node: Schema, root: Schema, inlined: frozenset[str]) -> Schema:
    properties = node.get("properties")
    closed = node.get("additionalProperties", properties is None) is False
    if not closed and (properties is None or "additionalProperties" in node):
        raise _NotStrictError
    properties, required = properties or {}, node.get("required", [])
    if not set(required) <= properties.keys():
        raise _NotStrictError
    if not all(name in required or _can_be_left(one) for name, one in properties.items()):
        raise _NotStrictError
    return {
        "properties": {name: _strict(one, root, inlined) for name, one in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }


def _can_be_left(schema: Any) -> bool:
    """Whether an optional property has a value to write that says as much as leaving it out."""
    return isinstance(schema, dict) and ("default" in schema or schema.get("type") == "array")


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _described(node: Schema, shape: Schema) -> Schema:
    left = node.keys() - shape.keys() - _KEPT - _STRUCTURE - _UNSAID - {"oneOf", "allOf"}
    if not left <= _SAYABLE or len(node.get("allOf", ())) > 1:
        raise _NotStrictError
    said = {key: value for key, value in node.items() if key in left}
    if "format" in node and "format" not in shape:
        said["format"] = node["format"]
    words = [str(node["description"])] if "description" in node else []
    if said:
        words.append(", ".join(f"{key}: {json.dumps(value)}" for key, value in said.items()))
    return {**shape, "description": " | ".join(words)} if words else shape
