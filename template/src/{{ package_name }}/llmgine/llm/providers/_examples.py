# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Values that fit a JSON Schema, made of nothing but the schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import ceil, floor, inf, isinf
from random import Random
from typing import Any
from uuid import UUID

from pydantic import JsonValue

from ._json_schema import UNCHECKED, Schema, fits, identity, limit, schemas_of, type_of, variants
from ._patterns import example

_SHALLOW = 3
_DEEPEST = 24
_MOST_STEPS = 5_000
_LONGEST_TEXT = 100_000
_WORDS = (
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "frost",
    "grove",
    "harbor",
    "iris",
    "juniper",
)
# Of alternatives, the lowest is made first.
_ORDER = {"string": 1, "null": 2}
_DEEP_ORDER = {"null": -1, "string": 1, "array": 2, "object": 3}


def make_value(schema: Schema, random: Random) -> JsonValue:
    """A value that fits.

    Raises:
        CannotMakeError: none was found, or the schema is not understood.
    """
    try:
        return _Maker(schema, random).make(schema, "", 0)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as cause:
        # A tool server may send what is no schema at all.
        raise CannotMakeError("", f"is not understood: {cause}") from cause


class CannotMakeError(Exception):
    """No value of a schema could be made; the text says where and why."""

    def __init__(self, at: str, why: str) -> None:
        super().__init__(f"{at.strip('.') or 'the whole'} {why}")


class _Maker:
    """Makes values of one schema and the schemas in it; each is checked before it is used."""

    def __init__(self, root: Schema, random: Random) -> None:
        self._root = root
        self._random = random
        self._steps = 0

    def make(self, schema: object, at: str, depth: int) -> JsonValue:
        """A value that fits.

        Raises:
            CannotMakeError: none was found.
        """
        self._steps += 1
        if self._steps > _MOST_STEPS or depth > _DEEPEST:
            raise CannotMakeError(at, "is too large or too deep")
        error = CannotMakeError(at, "allows no value that could be found")
        for kind in self._kinds(schema, depth):
            if unknown := UNCHECKED & kind.keys():
                error = CannotMakeError(at, f"has {min(unknown)!r}, which is not understood")
                continue
            try:
                for value in self._candidates(kind, at, depth):
                    if fits(value, schema, self._root):
                        return value
            except CannotMakeError as cause:
                error = cause
        raise error

    def _kinds(self, schema: object, depth: int) -> list[Schema]:
        """The alternatives, in any order; deep inside, those that end soonest.

        A number is rather one than a text: what takes both is often a decimal.
        """
        kinds = variants(schema, self._root)
        self._random.shuffle(kinds)
        order = _ORDER if depth <= _SHALLOW else _DEEP_ORDER
        if not any(type_of(kind) == "number" for kind in kinds):
            order = {**order, "string": 0}
        return sorted(kinds, key=lambda kind: order.get(type_of(kind), 0))

    def _candidates(self, kind: Schema, at: str, depth: int) -> Iterator[JsonValue]:
        if "const" in kind:
            yield kind["const"]
            return
        if isinstance(values := kind.get("enum"), list):
            yield from self._random.sample(values, len(values))
            return
        match type_of(kind):
            case "null":
                yield None
            case "boolean":
                yield from self._random.sample([True, False], 2)
            case "integer" | "number":
                yield from self._numbers(kind, at)
            case "string":
                yield from self._texts(kind, at, depth)
            case "array":
                yield self._array(kind, at, depth)
            case "object":
                yield self._object(kind, at, depth)
            case unknown:
                raise CannotMakeError(at, f"is of the type {unknown!r}, which is not understood")

    def _numbers(self, kind: Schema, at: str) -> Iterator[JsonValue]:
        if any(isinstance(kind.get(f"exclusive{name}"), bool) for name in ("Minimum", "Maximum")):
            raise CannotMakeError(at, "has an 'exclusiveMinimum' of an old draft of JSON Schema")
        low = max(limit(kind, "minimum", -inf), limit(kind, "exclusiveMinimum", -inf))
        high = min(limit(kind, "maximum", inf), limit(kind, "exclusiveMaximum", inf))
        if low == inf or high == -inf:
            return
        step = Fraction(str(limit(kind, "multipleOf", 0)))
        unit = step or Fraction(1, 2)
        if type_of(kind) == "integer":
            unit = Fraction(step.numerator or 1)
        first, last = _multiples(low, high, unit)
        inside = [self._random.randint(first, last) for _ in range(4)] if first <= last else []
        for count in (*inside, first, first + 1, last, last - 1):
            yield _number(count * unit)
        if not isinf(low) and not isinf(high):
            yield from (low, high, _number((Fraction(low) + Fraction(high)) / 2))

    def _texts(self, kind: Schema, at: str, depth: int) -> Iterator[JsonValue]:
        least, most = limit(kind, "minLength", 0), limit(kind, "maxLength", inf)
        if kind.get("contentMediaType") == "application/json":
            yield json.dumps(self.make(kind.get("contentSchema", True), at, depth + 1))
        elif (format_ := kind.get("format")) is not None:
            if format_ not in _FORMATS:
                raise CannotMakeError(at, f"has the format {format_!r}, which is not understood")
            for _ in range(8):
                yield _FORMATS[format_](self._random)
        elif isinstance(pattern := kind.get("pattern"), str):
            yield from self._matching(pattern, at)
        elif least <= _LONGEST_TEXT:
            text = self._random.choice(_WORDS)
            while len(text) < least:
                text += f" {self._random.choice(_WORDS)}"
            yield text if len(text) <= most else text[: max(0, int(most))]

    def _matching(self, pattern: str, at: str) -> Iterator[str]:
        try:
            for more in (2, 2, 0, 8, 32, 128, 512):
                yield example(pattern, self._random, more=more)
        except (ValueError, RecursionError) as cause:
            raise CannotMakeError(at, f"has the pattern {pattern!r}: {cause}") from cause

    def _array(self, kind: Schema, at: str, depth: int) -> JsonValue:
        least, most = limit(kind, "minItems", 0), limit(kind, "maxItems", inf)
        wanted = min(most, max(least, self._random.randint(1, 2) if depth < _SHALLOW else 0))
        first, rest = kind.get("prefixItems", []), kind.get("items", True)
        items: list[JsonValue] = []
        seen: set[object] = set()
        while len(items) < wanted:
            part = first[len(items)] if len(items) < len(first) else rest
            try:
                item = self.make(part, f"{at}.{len(items)}", depth + 1)
                for _ in range(50 if kind.get("uniqueItems") else 0):
                    if identity(item) not in seen:
                        break
                    item = self.make(part, f"{at}.{len(items)}", depth + 1)
            except CannotMakeError:
                if len(items) < least:
                    raise
                break
            if kind.get("uniqueItems") and identity(item) in seen:
                break
            seen.add(identity(item))
            items.append(item)
        return items

    def _object(self, kind: Schema, at: str, depth: int) -> JsonValue:
        made: dict[str, JsonValue] = {}
        required = kind.get("required", [])
        for name in required:
            made[name] = self._property(name, kind, at, depth)
        most = limit(kind, "maxProperties", inf)
        for name in kind.get("properties", {}):
            if name in made or depth >= _SHALLOW or len(made) >= most:
                continue
            if self._random.random() < 0.5:
                self._optional(name, kind, at, depth, made)
        self._others(kind, at, depth, made)
        order = [*(name for name in kind.get("properties", {}) if name in made), *made]
        return {name: made[name] for name in order}

    def _property(self, name: str, kind: Schema, at: str, depth: int) -> JsonValue:
        asked = schemas_of(name, kind)
        schema = asked[0] if len(asked) == 1 else {"allOf": asked}
        return self.make(schema, f"{at}.{name}", depth + 1)

    def _optional(
        self, name: str, kind: Schema, at: str, depth: int, made: dict[str, JsonValue]
    ) -> None:
        try:
            made[name] = self._property(name, kind, at, depth)
        except CannotMakeError:
            return

    def _others(self, kind: Schema, at: str, depth: int, made: dict[str, JsonValue]) -> None:
        """Properties that the schema does not name, as far as it needs or describes them."""
        least = limit(kind, "minProperties", 0)
        described = kind.get("patternProperties") or isinstance(
            kind.get("additionalProperties"), dict
        )
        if described and not kind.get("properties") and depth < _SHALLOW:
            least = max(least, 1)
        for name in (*kind.get("properties", {}), *self._names(kind, at, depth)):
            if len(made) >= least:
                break
            if name not in made:
                self._optional(name, kind, at, depth, made)

    def _names(self, kind: Schema, at: str, depth: int) -> Iterator[str]:
        patterns = [*kind.get("patternProperties", {})]
        for number in range(100):
            if "propertyNames" in kind:
                named = {"type": "string", "allOf": [kind["propertyNames"]]}
                yield str(self.make(named, f"{at} (a name)", depth + 1))
            elif patterns:
                yield example(self._random.choice(patterns), self._random)
            else:
                yield f"key{number + 1}"


def _multiples(low: float, high: float, unit: Fraction) -> tuple[int, int]:
    """How many units the smallest and the largest number are that come into question."""
    if isinf(low):
        low = 0 if high >= 0 else high - 100 * float(unit)
    if isinf(high):
        high = max(low, 0) + 100 * float(unit)
    return ceil(Fraction(low) / unit), floor(Fraction(high) / unit)


def _number(value: Fraction) -> JsonValue:
    return int(value) if value.denominator == 1 else float(value)


def _uuid(version: int) -> Callable[[Random], str]:
    return lambda random: str(UUID(int=random.getrandbits(128), version=version))


def _numbered(text: str, most: int = 254) -> Callable[[Random], str]:
    return lambda random: text.format(random.randint(1, most))


_FORMATS: dict[Any, Callable[[Random], str]] = {
    "date": _numbered("2030-01-{:02}", 28),
    "date-time": _numbered("2030-01-{:02}T12:30:00Z", 28),
    "time": _numbered("12:{:02}:00Z", 59),
    "duration": _numbered("PT{}M"),
    "email": _numbered("ada{}@example.com"),
    "idn-email": _numbered("ada{}@example.com"),
    "name-email": _numbered("Ada <ada{}@example.com>"),
    "hostname": _numbered("host{}.example.com"),
    "idn-hostname": _numbered("host{}.example.com"),
    "ipv4": _numbered("192.0.2.{}"),
    "ipv6": _numbered("2001:db8::{}"),
    "ipvanyaddress": _numbered("192.0.2.{}"),
    "ipv4interface": _numbered("192.0.2.{}/24"),
    "ipv6interface": _numbered("2001:db8::{}/64"),
    "ipvanyinterface": _numbered("192.0.2.{}/24"),
    "ipv4network": _numbered("10.{}.0.0/16"),
    "ipv6network": _numbered("2001:db8:{}::/48"),
    "ipvanynetwork": _numbered("10.{}.0.0/16"),
    "uri": _numbered("https://example.com/{}"),
    "url": _numbered("https://example.com/{}"),
    "iri": _numbered("https://example.com/{}"),
    "multi-host-uri": _numbered("postgresql://host{}.example.com/data"),
    "uri-reference": _numbered("/pages/{}"),
    "iri-reference": _numbered("/pages/{}"),
    "json-pointer": _numbered("/items/{}"),
    "relative-json-pointer": _numbered("{}/items"),
    "regex": _numbered("^item{}$"),
    "path": _numbered("item{}.txt"),
    "file-path": _numbered("item{}.txt"),
    "directory-path": _numbered("items{}"),
    "password": _numbered("open sesame {}"),
    "binary": _numbered("bytes {}"),
    "byte": _numbered("aXRlbQ=="),
    "base64": _numbered("aXRlbQ=="),
    "base64url": _numbered("aXRlbQ=="),
    "json-string": _numbered("{}"),
    "color": _numbered("#20{:02d}20", 99),
    "uuid": _uuid(4),
    **{f"uuid{version}": _uuid(version) for version in (1, 3, 4, 5)},
}
