# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Arguments for one tool from one clause: the surest values first, the rest of the text last."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import JsonValue

from .._json_schema import Schema, fits, identity, type_of
from . import texts, values
from .language import Clause, Found, stem
from .schema import Slot, rank, slots_of
from .texts import Reading

_LISTED = re.compile(r"\s{0,3}(?:,|&|(?:, ?)?(?:and|or)\b)\s{0,3}(?:(?:in|to|for|the|for the) )?")
_DEEPEST = 4
# So many values of a kind are weighed for one slot; a text with more of them is no request.
_MOST_VALUES = 500


@dataclass(slots=True)
class Filled:
    """What was found. `evidence` grows with every value that can hardly be meant otherwise."""

    arguments: dict[str, JsonValue] = field(default_factory=dict)
    missing: list[Slot] = field(default_factory=list)
    evidence: float = 0
    explained: int = 0
    several: tuple[str, list[JsonValue]] | None = None

    def calls(self) -> list[dict[str, JsonValue]]:
        """The arguments of each call: `in Paris and Rome` is two."""
        if self.several is None:
            return [self.arguments]
        name, others = self.several
        return [self.arguments, *({**self.arguments, name: value} for value in others)]


def fill(
    clause: Clause, root: Schema, choosers: frozenset[int], vocabulary: frozenset[str]
) -> Filled:
    """Arguments that fit the tool's parameters, or what is missing for it."""
    labels = frozenset[str]().union(*(slot.label for slot in slots_of(root, root)))
    reading = Reading(clause, choosers, vocabulary, labels, bytearray(len(clause.text)))
    filled = _Object(reading, root, root, 0).fill()
    filled.explained = sum(
        reading.is_taken(index)
        for indexes in clause.positions.values()
        for index in indexes
        if index not in choosers
    )
    if not filled.missing and filled.several is not None:
        name, others = filled.several
        others = [one for one in others if fits({**filled.arguments, name: one}, root, root)]
        filled.several = (name, others)
    if not filled.missing and not fits(filled.arguments, root, root):
        filled.missing = [slot for slot in slots_of(root, root) if slot.required]
        filled.missing = filled.missing or slots_of(root, root)
    return filled


class _Object:
    """Fills the slots of one object; the objects inside it are filled the same way."""

    def __init__(self, reading: Reading, schema: object, root: Schema, depth: int) -> None:
        self.reading = reading
        self.root = root
        self.depth = depth
        self.slots = slots_of(schema, root)
        self.filled = Filled()

    @property
    def open(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.name not in self.filled.arguments]

    def fill(self, *, rest: bool = True) -> Filled:
        self._constants()
        self._assign(values.specific, least=1, evidence=1)
        self._assign(values.numbers, least=2, evidence=0.5)
        self._assign(values.truths, least=0, evidence=0.5)
        self._inner(required=True)
        self._assign(values.quoted, least=1, evidence=0.5)
        self._marked()
        self._assign(values.names, least=2, evidence=0.5)
        self._assign(lambda slot, _: texts.runs(self.reading, slot), least=2, evidence=0)
        if rest:
            self._rest()
        self._inner(required=False)
        self._close()
        arguments = self.filled.arguments
        self.filled.arguments = {
            slot.name: arguments[slot.name] for slot in self.slots if slot.name in arguments
        }
        return self.filled

    def _set(self, slot: Slot, value: JsonValue, evidence: float) -> bool:
        if not fits(value, slot.schema, self.root):
            return False
        self.filled.arguments[slot.name] = value
        self.filled.evidence += evidence
        return True

    def _constants(self) -> None:
        for slot in self.slots:
            if len(slot.kinds) == 1 and "const" in slot.kinds[0]:
                self._set(slot, slot.kinds[0]["const"], 0)

    def _assign(
        self, find: Callable[[Slot, Clause], list[Found]], *, least: float, evidence: float
    ) -> None:
        """Give the values to the slots they belong to most; `least` is for optional slots."""
        clause = self.reading.clause
        found = {
            slot.name: self._fitting(slot, find(slot, clause)[:_MOST_VALUES]) for slot in self.open
        }
        pairs: list[tuple[float, int, int, Slot, Found]] = []
        for place, slot in enumerate(self.open):
            others = frozenset[str]().union(*(one.cues for one in self.open if one is not slot))
            for one in found[slot.name]:
                strength = rank(
                    slot, one, clause, others=others, vocabulary=self.reading.vocabulary
                )
                if slot.required or strength >= least:
                    pairs.append((-strength, place, one.start, slot, one))
        for _, _, _, slot, one in sorted(pairs, key=lambda pair: pair[:3]):
            if slot.name not in self.filled.arguments and self.reading.is_free(one):
                self.reading.take(one)
                self._set(slot, one.value, evidence)
                if sum(1 for other in found.values() if other) == 1:
                    self._several(slot, one, found[slot.name])

    def _fitting(self, slot: Slot, found: list[Found]) -> list[Found]:
        return [
            one
            for one in found
            if self.reading.is_free(one)
            and not self._chose(one)
            and fits(one.value, slot.schema, self.root)
        ]

    def _chose(self, found: Found) -> bool:
        """Whether the text is made of the words that chose the tool."""
        first = self.reading.clause.word_at(found.start)
        after = self.reading.clause.word_at(found.end)
        return first < after and all(
            index in self.reading.choosers for index in range(first, after)
        )

    def _several(self, slot: Slot, first: Found, found: list[Found]) -> None:
        """Note the values that stand in one list with the first: each is a call of its own."""
        if self.depth or self.filled.several is not None:
            return
        more: list[JsonValue] = []
        end = first.end
        for one in sorted(found, key=lambda one: one.start):
            if one.start >= end and _LISTED.fullmatch(self.reading.clause.text, end, one.start):
                self.reading.take(one)
                more.append(one.value)
                end = one.end
        if more:
            self.filled.several = (slot.name, more)

    def _inner(self, *, required: bool) -> None:
        for slot in (slot for slot in self.open if slot.required is required):
            for kind in sorted(slot.kinds, key=self._is_unnamed):
                if slot.name in self.filled.arguments:
                    break
                if type_of(kind) == "array":
                    self._array(slot, kind)
                elif type_of(kind) == "object" and self.depth < _DEEPEST:
                    self._object(slot, kind)

    def _is_unnamed(self, kind: Schema) -> bool:
        """Whether no constant of the object is in the text: `square` tells it from a circle."""
        constants = [
            kind["const"]
            for slot in slots_of(kind, self.root)
            for kind in slot.kinds
            if "const" in kind
        ]
        said = self.reading.clause.everywhere
        return not any(stem(str(constant).lower()) in said for constant in constants)

    def _object(self, slot: Slot, kind: Schema) -> None:
        before = bytes(self.reading.taken)
        inner = _Object(self.reading, kind, self.root, self.depth + 1)
        filled = inner.fill(rest=slot.required)
        useful = filled.arguments if slot.required else filled.evidence
        if filled.missing or not useful or not self._set(slot, filled.arguments, filled.evidence):
            self.reading.taken[:] = before

    def _array(self, slot: Slot, kind: Schema) -> None:
        item = self._item(slot, kind)
        for find in (values.specific, values.numbers, values.quoted):
            found = self._fitting(item, find(item, self.reading.clause))
            if find is values.numbers and not slot.required:
                found = found if any(self._points(slot, one) for one in found) else []
            items = {identity(one.value): one.value for one in found}
            listed = list(items.values()) if kind.get("uniqueItems") else [f.value for f in found]
            if listed and self._set(slot, listed, 0.5):
                for one in found:
                    self.reading.take(one)
                return
        if self.depth < _DEEPEST and item.kind("object") and slot.required:
            self._object_item(slot, item)

    def _points(self, slot: Slot, found: Found) -> bool:
        return rank(slot, found, self.reading.clause) >= 2

    def _object_item(self, slot: Slot, item: Slot) -> None:
        before = bytes(self.reading.taken)
        filled = _Object(self.reading, item.kind("object"), self.root, self.depth + 1).fill()
        if filled.missing or not self._set(slot, [filled.arguments], filled.evidence):
            self.reading.taken[:] = before

    def _item(self, slot: Slot, kind: Schema) -> Slot:
        """The array's items as a slot of the same name."""
        items = {"properties": {slot.name: kind.get("items", {})}}
        return slots_of({**items, "required": [slot.name]}, self.root)[0]

    def _texts(self) -> list[Slot]:
        return [slot for slot in self.open if slot.text is not None or self._takes_list(slot)]

    def _takes_list(self, slot: Slot) -> bool:
        kind = slot.kind("array")
        return kind is not None and self._item(slot, kind).text is not None

    def _marked(self) -> None:
        for slot, found in texts.marked(self.reading, self._texts(), self.slots):
            if self._set_text(slot, found, evidence=0.5):
                self.reading.take(found)

    def _rest(self) -> None:
        """One slot gets what is left: a required one, and rather one made for longer texts."""
        required = [slot for slot in self._texts() if slot.required]
        required.sort(key=lambda slot: not slot.is_long)
        optional = [] if any(slot.required for slot in self.slots) else self._texts()[:1]
        for slot in (required or optional)[:1]:
            found = texts.rest(self.reading, slot)
            if found is not None and self._set_text(slot, found, evidence=0):
                self.reading.take(found)

    def _set_text(self, slot: Slot, found: Found, evidence: float) -> bool:
        if slot.text is None:
            listed: list[JsonValue] = list(texts.split_list(str(found.value)))
            return bool(listed) and self._set(slot, listed, evidence)
        return self._set(slot, found.value, evidence)

    def _close(self) -> None:
        for slot in self.open:
            if slot.required and slot.nullable and self._set(slot, None, 0):
                continue
            if slot.required:
                self.filled.missing.append(slot)
