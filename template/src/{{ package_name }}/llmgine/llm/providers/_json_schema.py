# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""As much of JSON Schema as tools use: what a schema means, and whether a value fits it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date, datetime
from ipaddress import IPv4Address, IPv6Address
from math import inf
from typing import Any
from urllib.parse import unquote
from uuid import UUID

Schema = dict[str, Any]

# Keywords that demand something this module cannot check: nothing ever fits them.
UNCHECKED = frozenset(
    {
        *("not", "if", "contains", "dependentRequired", "dependentSchemas", "dependencies"),
        *("unevaluatedItems", "unevaluatedProperties", "additionalItems"),
        *("$dynamicRef", "$recursiveRef"),
    }
)


def resolve(schema: object, root: Schema) -> Schema:
    """The schema with its reference followed and its `allOf` merged, for reading, not checking."""
    merged: Schema = {}
    waiting = [schema]
    for _ in range(32):
        if not waiting:
            break
        part = waiting.pop()
        if not isinstance(part, dict):
            continue
        merged = _merge(part, merged)
        if isinstance(reference := part.get("$ref"), str):
            waiting.append(_target(reference, root))
        if isinstance(every := part.get("allOf"), list):
            waiting += every
    return merged


def _merge(part: Schema, over: Schema) -> Schema:
    both = {**part, **over}
    for key in ("properties", "$defs"):
        if isinstance(part.get(key), dict) and isinstance(over.get(key), dict):
            both[key] = {**part[key], **over[key]}
    if isinstance(part.get("required"), list) and isinstance(over.get("required"), list):
        both["required"] = [*part["required"], *over["required"]]
    formats = {str(one["format"]) for one in (part, over) if "format" in one}
    if len(formats) > 1:
        both["format"] = " and ".join(sorted(formats))  # Which no value is known to have.
    return both


def _target(reference: str, root: Schema) -> object:
    """What a reference into the same schema points at; one that leads elsewhere allows nothing."""
    if reference != "#" and not reference.startswith("#/"):
        return {"not": {}}
    target: object = root
    for step in unquote(reference[1:]).split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, dict) or key not in target:
            return {"not": {}}
        target = target[key]
    return target


def variants(schema: object, root: Schema) -> list[Schema]:
    """The plain alternatives of a schema, each of at most one type; `null` is one of them."""
    plain: list[Schema] = []
    waiting = [resolve(schema, root)]
    for _ in range(64):
        if not waiting:
            break
        one = waiting.pop(0)
        choices = [*_listed(one, "anyOf"), *_listed(one, "oneOf")]
        outer = {key: value for key, value in one.items() if key not in {"anyOf", "oneOf"}}
        if choices:
            waiting += [_merge(resolve(choice, root), outer) for choice in choices]
        elif isinstance(types := one.get("type"), list):
            plain += [{**one, "type": name} for name in types]
        else:
            plain.append(one)
    return plain


def _listed(schema: Schema, key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def type_of(schema: Schema) -> str:
    """The type of a plain alternative; said, or to be seen from its other keywords."""
    if isinstance(schema.get("type"), str):
        return str(schema["type"])
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema else "string"


def fits(value: object, schema: object, root: Schema) -> bool:
    """Whether the value fits; `False` where the schema asks for what cannot be checked here."""
    return _fits(value, schema, root, frozenset())


def _fits(value: object, schema: object, root: Schema, open_: frozenset[int]) -> bool:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict) or id(schema) in open_ or UNCHECKED & schema.keys():
        return False
    # A schema that leads back to itself on the same value would never end.
    inside = open_ | {id(schema)}
    if isinstance(reference := schema.get("$ref"), str):
        target = _target(reference, root)
        if not _fits(value, target, root, inside):
            return False
    return _fits_choices(value, schema, root, inside) and _fits_here(value, schema, root)


def _fits_choices(value: object, schema: Schema, root: Schema, open_: frozenset[int]) -> bool:
    if not all(_fits(value, one, root, open_) for one in _listed(schema, "allOf")):
        return False
    if (some := schema.get("anyOf")) and not any(_fits(value, one, root, open_) for one in some):
        return False
    if one_of := schema.get("oneOf"):
        return sum(_fits(value, one, root, open_) for one in one_of) == 1
    return True


def _fits_here(value: object, schema: Schema, root: Schema) -> bool:
    types = schema.get("type")
    if types and not any(
        _is_type(value, name) for name in (types if isinstance(types, list) else [types])
    ):
        return False
    if "const" in schema and not _equal(value, schema["const"]):
        return False
    if "enum" in schema and not any(_equal(value, one) for one in schema["enum"]):
        return False
    if isinstance(value, bool):
        return True
    if isinstance(value, (int, float)):
        return _fits_number(value, schema)
    if isinstance(value, str):
        return _fits_text(value, schema)
    if isinstance(value, list):
        return _fits_array(value, schema, root)
    return _fits_object(value, schema, root) if isinstance(value, dict) else True


def _is_type(value: object, name: object) -> bool:
    match name:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            # To JSON Schema, 2.0 is an integer too.
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            return whole and not isinstance(value, bool)
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list)
        case _:
            return name == "object" and isinstance(value, dict)


def _equal(value: object, other: object) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def limit(schema: Schema, key: str, default: float) -> float:
    """A numeric keyword; one that is no number limits nothing."""
    value = schema.get(key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else default


def _fits_number(value: float, schema: Schema) -> bool:
    above, below = limit(schema, "exclusiveMinimum", -inf), limit(schema, "exclusiveMaximum", inf)
    if not limit(schema, "minimum", -inf) <= value <= limit(schema, "maximum", inf):
        return False
    if not above < value < below:
        return False
    step = limit(schema, "multipleOf", 0)
    try:
        return not step or float(value / step).is_integer()
    except OverflowError:
        return False


def _has_format(value: str, name: object) -> bool:
    """Whether a text has the format, as far as that can be told."""
    parse = _FORMATS.get(name) if isinstance(name, str) else None
    if parse is None:
        return True
    try:
        parse(value)
    except (ValueError, re.error):
        return False
    return True


_FORMATS: dict[str, Callable[[str], object]] = {
    "date": date.fromisoformat,
    "date-time": datetime.fromisoformat,
    "email": lambda text: text.index("@"),
    "ipv4": IPv4Address,
    "ipv6": IPv6Address,
    "regex": re.compile,
    "uuid": UUID,
}


def _fits_text(value: str, schema: Schema) -> bool:
    if not _has_format(value, schema.get("format")):
        return False
    if not _fits_size(len(value), schema, "minLength", "maxLength"):
        return False
    if not isinstance(pattern := schema.get("pattern"), str):
        return True
    try:
        return len(value) <= 1_000 and re.search(pattern, value) is not None
    except (re.error, OverflowError):
        return False


def _fits_size(size: int, schema: Schema, least: str, most: str) -> bool:
    return limit(schema, least, 0) <= size <= limit(schema, most, inf)


def _fits_array(value: list[Any], schema: Schema, root: Schema) -> bool:
    if not _fits_size(len(value), schema, "minItems", "maxItems"):
        return False
    if schema.get("uniqueItems") and len({identity(item) for item in value}) < len(value):
        return False
    first, rest = schema.get("prefixItems", []), schema.get("items", True)
    return all(fits(item, one, root) for item, one in zip(value, first, strict=False)) and all(
        fits(item, rest, root) for item in value[len(first) :]
    )


def identity(value: object) -> object:
    """Something hashable that is equal for equal JSON values."""
    if isinstance(value, (list, dict)):
        return json.dumps(value, sort_keys=True)
    return type(value) is bool, value


def _fits_object(value: dict[str, Any], schema: Schema, root: Schema) -> bool:
    names = schema.get("propertyNames", True)
    return (
        _fits_size(len(value), schema, "minProperties", "maxProperties")
        and all(name in value for name in schema.get("required", []))
        and all(fits(name, names, root) for name in value)
        and all(
            fits(item, one, root)
            for name, item in value.items()
            for one in schemas_of(name, schema)
        )
    )


def schemas_of(name: str, schema: Schema) -> list[object]:
    """What the schema asks of the value of one property."""
    properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    asked = [properties[name]] if name in properties else []
    try:
        asked += [one for pattern, one in patterns.items() if re.search(pattern, name)]
    except (re.error, OverflowError):
        return [False]
    return asked or [schema.get("additionalProperties", True)]
