# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""As much of JSON Schema as tools use: what a schema means, and whether a value fits it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

from .language import ARTICLES, Clause, Found, name_words, stem, word_set

# Prepositions that point at a parameter, by the words of its name.
_DIRECTIONS = {
    "to target dest destination into recipient receiver end until till due deadline output": (
        "to into in until till by before"
    ),
    "from source origin sender start begin since input": "from since after on at",
}
_PLACES = {
    "city location place room country region area timezone zone tz language lang where address "
    "folder directory path currency unit site building restaurant": "in into at for near of to",
    "subject topic about query keyword term": "about on regarding for concerning",
    "title name label": "called named titled",
    "person assignee user owner contact who guest attendee customer": "for to with by",
    "artist author writer singer": "by from",
    "date day time when": "on at for",
    "ingredient with tag tags": "with",
}


def _cues(groups: dict[str, str]) -> dict[str, frozenset[str]]:
    return {name: word_set(cues) for names, cues in groups.items() for name in names.split()}


_DIRECTION_CUES, _PLACE_CUES = _cues(_DIRECTIONS), _cues(_PLACES)
QUERY = word_set("query queries q search keyword keywords term terms topic phrase")
LONG = QUERY | word_set(
    "text body content contents message note comment description prompt question "
    "sentence paragraph title subject summary task todo reason instruction "
    "instructions quote details memo reply words"
)
IDENTIFIER = word_set("id ids number no nr code key sku ref reference isbn uuid")
COUNT = word_set("limit count max maximum top size n first last")
_UNNAMED = word_set("id number no nr code key value of to from is in at by for with the")
_BEFORE_VALUE = ARTICLES | word_set("is of as number no nr be equals named called for at")


@dataclass(frozen=True)
class Slot:
    """One parameter. Its `schema` is what a value must fit."""

    name: str
    schema: object
    required: bool
    nullable: bool
    kinds: tuple[Schema, ...]
    description: str

    @cached_property
    def words(self) -> frozenset[str]:
        return frozenset(name_words(self.name))

    @cached_property
    def label(self) -> frozenset[str]:
        """The stems that name the parameter in a sentence: `user 42`, `5 days`."""
        return frozenset(stem(word) for word in self.words - _UNNAMED)

    @cached_property
    def cues(self) -> frozenset[str]:
        """The prepositions that point at it; `to_currency` is told from `from_currency`."""
        empty: frozenset[str] = frozenset()
        directed = empty.union(*(_DIRECTION_CUES.get(word, empty) for word in self.words))
        return directed or empty.union(*(_PLACE_CUES.get(word, empty) for word in self.words))

    @property
    def is_zone(self) -> bool:
        """Whether it names a time zone."""
        name = self.name.lower().replace("_", "").replace("-", "")
        return "timezone" in name or bool(self.words & {"tz"}) or "IANA" in self.description

    @cached_property
    def is_long(self) -> bool:
        return bool(self.words & LONG)

    @cached_property
    def is_query(self) -> bool:
        return bool(self.words & QUERY)

    def kind(self, *types: str) -> Schema | None:
        """The first alternative of one of these types."""
        return next((kind for kind in self.kinds if type_of(kind) in types), None)

    @property
    def text(self) -> Schema | None:
        """The alternative that takes free text: a string that is no date, choice or zone."""
        kind = self.kind("string")
        if kind is None or self.is_zone or {"enum", "const"} & kind.keys():
            return None
        return None if kind.get("format") in _CLOSED_FORMATS else kind


_CLOSED_FORMATS = word_set(
    "date date-time time duration email idn-email uri url iri uri-reference uuid ipv4 ipv6"
)


def slots_of(schema: object, root: Schema) -> list[Slot]:
    """The parameters of an object schema, in its order."""
    whole = resolve(schema, root)
    properties, required = whole.get("properties"), whole.get("required")
    if not isinstance(properties, dict):
        properties = {}
    names = required if isinstance(required, list) else []
    return [_slot(name, part, name in names, root) for name, part in properties.items()] + [
        # Required and not described: nothing says what it should be.
        Slot(name, schema=False, required=True, nullable=False, kinds=(), description="")
        for name in names
        if name not in properties
    ]


def _slot(name: str, schema: object, required: bool, root: Schema) -> Slot:
    kinds = variants(schema, root)
    described = resolve(schema, root).get("description")
    return Slot(
        name,
        schema,
        required,
        any(kind.get("type") == "null" for kind in kinds),
        tuple(kind for kind in kinds if kind.get("type") != "null"),
        described if isinstance(described, str) else "",
    )


def rank(
    slot: Slot,
    found: Found,
    clause: Clause,
    *,
    others: frozenset[str] = frozenset(),
    vocabulary: frozenset[str] = frozenset(),
) -> float:
    """How strongly the words around a value point at the slot.

    3 is a label (`user 42`, `5 days`, `top 5`), 2 a preposition of the slot's, 1 nothing at all,
    and less a preposition of the `others`.
    """
    words = clause.words
    index = clause.word_at(found.start) - 1
    near = index
    while near >= max(0, index - 2) and words[near].lower in _BEFORE_VALUE:
        near -= 1
    if near >= 0 and words[near].stem in slot.label:
        return 3
    after = clause.word_at(found.end)
    follows = after < len(words) and not clause.text[found.end : words[after].start].strip(" -")
    if follows and words[after].stem in slot.label:
        return 3
    if slot.words & COUNT and (
        (near >= 0 and words[near].lower in COUNT | {"latest", "most"})
        or (follows and words[after].stem in vocabulary)
    ):
        return 3
    before = clause.before(found.start)
    if before in slot.cues:
        return 2
    return 0.5 if before in others else 1


Schema = dict[str, Any]

# Keywords that demand something this module cannot check: nothing ever fits them.
_UNCHECKED = word_set(
    "not if contains prefixItems patternProperties propertyNames dependentRequired "
    "dependentSchemas dependencies unevaluatedItems unevaluatedProperties "
    "additionalItems $dynamicRef $recursiveRef minProperties maxProperties"
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
    return both


def _target(reference: str, root: Schema) -> object:
    """What a reference into the same schema points at; one that leads elsewhere allows nothing."""
    if not reference.startswith("#"):
        return {"not": {}}
    target: object = root
    for step in reference[1:].split("/")[1:]:
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
    if not isinstance(schema, dict) or id(schema) in open_ or _UNCHECKED & schema.keys():
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


def _limit(schema: Schema, key: str, default: float) -> float:
    """A numeric keyword; one that is no number limits nothing."""
    value = schema.get(key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else default


def _fits_number(value: float, schema: Schema) -> bool:
    above, below = _limit(schema, "exclusiveMinimum", -inf), _limit(schema, "exclusiveMaximum", inf)
    if not _limit(schema, "minimum", -inf) <= value <= _limit(schema, "maximum", inf):
        return False
    if not above < value < below:
        return False
    step = _limit(schema, "multipleOf", 0)
    return not step or float(value / step).is_integer()


def _fits_text(value: str, schema: Schema) -> bool:
    if not _fits_size(len(value), schema, "minLength", "maxLength"):
        return False
    if not isinstance(pattern := schema.get("pattern"), str):
        return True
    try:
        return len(value) <= 1_000 and re.search(pattern, value) is not None
    except (re.error, OverflowError):
        return False


def _fits_size(size: int, schema: Schema, least: str, most: str) -> bool:
    return _limit(schema, least, 0) <= size <= _limit(schema, most, inf)


def _fits_array(value: list[Any], schema: Schema, root: Schema) -> bool:
    if not _fits_size(len(value), schema, "minItems", "maxItems"):
        return False
    if schema.get("uniqueItems") and len({identity(item) for item in value}) < len(value):
        return False
    items = schema.get("items", True)
    return all(fits(item, items, root) for item in value)


def identity(value: object) -> object:
    """Something hashable that is equal for equal JSON values."""
    if isinstance(value, (list, dict)):
        return json.dumps(value, sort_keys=True)
    return type(value) is bool, value


def _fits_object(value: dict[str, Any], schema: Schema, root: Schema) -> bool:
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    return all(name in value for name in schema.get("required", [])) and all(
        fits(item, properties.get(name, others), root) for name, item in value.items()
    )
