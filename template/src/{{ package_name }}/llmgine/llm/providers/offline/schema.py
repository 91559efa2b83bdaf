# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The parameters of a tool, and how strongly the words around a value point at one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .._json_schema import Schema, resolve, type_of, variants
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
