# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Free text: what is left of a sentence once the words that order and the values are gone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .language import ARTICLES, POLITE, PREPOSITIONS, STOP, Clause, Found, word_set
from .schema import Slot

_SEPARATOR = re.compile(r"\s{0,4}(?:[:=]\s*|(?:is|as|of|to be)\s+(?=[\"'“]))?")
_STRICT = re.compile(r"\s{0,4}[:=\"'“]")
_LIST = re.compile(r"\s*(?:[,;\n&]|\band\b)\s*", re.IGNORECASE)
_BEFORE_TEXT = word_set(": - = \u2013")
_EDGES = word_set("and with please thanks")
# A short text has no more words.
_LONGEST_RUN = 12
_AFTER_ORDER = word_set("me us please down up if")
_AFTER_QUESTION = _AFTER_ORDER | word_set(
    "do does did i we you they have has had got is are was were there it say said"
)
_CONNECTORS = word_set(
    "that to about on for of saying says with regarding concerning named called "
    "titled which mention mentions mentioning contain contains containing matching in "
    "from reading"
)
_TEXT_CUES = {
    "about": word_set("subject topic about title"),
    "regarding": word_set("subject topic"),
    "saying": word_set("body text message content"),
    "that": word_set("body text message content"),
    "called": word_set("title name"),
    "named": word_set("title name"),
    "titled": word_set("title name"),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """A clause, the words in it that chose the tool, and the letters already given to a slot."""

    clause: Clause
    choosers: frozenset[int]
    vocabulary: frozenset[str]
    labels: frozenset[str]
    taken: bytearray

    def is_taken(self, index: int) -> bool:
        return bool(self.taken[self.clause.words[index].start])

    def is_used(self, index: int) -> bool:
        """Whether the word belongs to a value of another slot, or labels it: `priority high`."""
        if self.is_taken(index):
            return True
        if self.clause.words[index].stem not in self.labels:
            return False
        first, after = max(0, index - 2), min(index + 3, len(self.clause.words))
        return any(self.is_taken(near) for near in range(first, after))

    def is_free(self, found: Found) -> bool:
        return not any(self.taken[found.start : found.end])

    def take(self, found: Found) -> None:
        self.taken[found.start : found.end] = b"\1" * (found.end - found.start)


def marked(
    reading: Reading, slots: list[Slot], everyone: list[Slot]
) -> Iterator[tuple[Slot, Found]]:
    """Texts that the prompt labels: `subject: Hello`, `about the party saying bring cake`."""
    marks = sorted(_labels(reading, everyone) + _cues(reading, slots), key=lambda mark: mark[0])
    ends = [mark[0] for mark in marks[1:]] + [len(reading.clause.text)]
    open_slots = {slot.name for slot in slots}
    for (_, start, slot), end in zip(marks, ends, strict=False):
        if slot.name not in open_slots or end <= start:
            continue
        if found := _trim(reading, start, _until_taken(reading, start, end), keep=slot.is_long):
            open_slots.discard(slot.name)
            yield slot, found


def _labels(reading: Reading, slots: list[Slot]) -> list[tuple[int, int, Slot]]:
    clause = reading.clause
    marks: list[tuple[int, int, Slot]] = []
    for slot in slots:
        for index in sorted(i for label in slot.label for i in clause.everywhere.get(label, ())):
            if index + 1 < len(clause.words) and clause.words[index + 1].stem in slot.label:
                continue
            first = index
            while first and clause.words[first - 1].stem in slot.label:
                first -= 1
            if _is_label(reading, slot, first, index):
                separator = _SEPARATOR.match(clause.text, clause.words[index].end)
                start = separator.end() if separator else clause.words[index].end
                marks.append((clause.words[first].start, start, slot))
    return marks


def _is_label(reading: Reading, slot: Slot, first: int, last: int) -> bool:
    """Whether these words name the slot; as part of a sentence they would mean themselves."""
    clause = reading.clause
    if any(reading.is_taken(index) for index in range(first, last + 1)):
        return False
    if _STRICT.match(clause.text, clause.words[last].end):
        return True
    if first == 0 or last in reading.choosers or not (slot.is_long or slot.kind("array")):
        return False
    before = first - 1
    if clause.words[before].lower in ARTICLES and before > 0:
        before -= 1
    gap = clause.text[clause.words[before].end : clause.words[before + 1].start]
    return clause.words[before].lower in {"with", "and"} or "," in gap or before in reading.choosers


def _cues(reading: Reading, slots: list[Slot]) -> list[tuple[int, int, Slot]]:
    marks: list[tuple[int, int, Slot]] = []
    waiting = [slot for slot in slots if slot.required and slot.text is not None]
    for index, word in enumerate(reading.clause.words):
        if len(slots) < 2 or word.lower not in _TEXT_CUES or reading.is_taken(index):
            continue
        for slot in waiting:
            if slot.words & _TEXT_CUES[word.lower]:
                marks.append((word.start, word.end, slot))
                waiting.remove(slot)
                break
    return marks


def _until_taken(reading: Reading, start: int, end: int) -> int:
    at = reading.taken.find(1, start, end)
    return end if at < 0 else at


def _trim(reading: Reading, start: int, end: int, *, keep: bool) -> Found | None:
    """The text without the connecting words and marks at its edges; `None` if nothing is left."""
    text = reading.clause.text
    words = reading.clause.words
    first, last = reading.clause.word_at(start), reading.clause.word_at(end) - 1
    edges = _EDGES if keep else _EDGES | PREPOSITIONS
    while last >= first and words[last].lower in edges:
        end = words[last].start
        last -= 1
    if last < first:
        return None
    value = text[start:end]
    stripped = value.strip(' \t\r\n,;:=\u2013-"“”')
    if not any(letter.isalnum() for letter in stripped):
        return None
    if stripped.endswith(".") and stripped.count(".") == 1:
        stripped = stripped[:-1]
    start += value.index(stripped)
    return Found(stripped, start, start + len(stripped))


def rest(reading: Reading, slot: Slot) -> Found | None:
    """What the clause says after the words that chose the tool, or else before them."""
    words = reading.clause.words
    first = _after_choosers(reading)
    found = None
    if first is not None:
        first = _skip_connectors(reading, first)
        found = _span(reading, first, len(words) - 1, keep=not slot.is_query)
    if reading.choosers and (found is None or _says_nothing(reading, found)):
        found = _before_choosers(reading)
    if found is None or (slot.is_long and not slot.is_query):
        return found
    if slot.is_query:
        return _essence(reading, found)
    return run_from(reading, reading.clause.word_at(found.start), slot)


def _after_choosers(reading: Reading) -> int | None:
    """The index after the last of the ordering words that the clause begins with."""
    words, text = reading.clause.words, reading.clause.text
    last = after = -1
    for index, word in enumerate(words):
        if last >= 0 and ":" in text[words[index - 1].end : word.start]:
            return index
        if index in reading.choosers:
            last, after = index, index + 1
        elif word.lower not in STOP and not reading.is_used(index):
            break
    if last < 0:
        return None if reading.choosers else reading.clause.first
    return after


def _says_nothing(reading: Reading, found: Found) -> bool:
    words = reading.clause.words
    inside = range(reading.clause.word_at(found.start), reading.clause.word_at(found.end))
    return all(words[index].lower in STOP for index in inside)


def _before_choosers(reading: Reading) -> Found | None:
    clause = reading.clause
    last = min(reading.choosers) - 1
    while last >= 0 and clause.words[last].lower in ARTICLES | POLITE | PREPOSITIONS:
        last -= 1
    return _span(reading, clause.first, last, keep=True)


def _skip_connectors(reading: Reading, first: int) -> int:
    """The index where the text begins: `note [that] the milk ...`, `notes [do I have on] milk`."""
    words, text = reading.clause.words, reading.clause.text
    skipped = _AFTER_QUESTION if reading.clause.question else _AFTER_ORDER
    index = first
    while index < len(words):
        word = words[index]
        if index and text[words[index - 1].end : word.start].strip(" ") in _BEFORE_TEXT:
            break
        if word.lower in _CONNECTORS:
            followed = words[index + 1].lower if index + 1 < len(words) else ""
            if followed not in {"me", "us", "myself"} and not _taken_next(reading, index):
                return index + 1
        elif word.lower not in skipped and not reading.is_used(index):
            break
        index += 1
    return index


def _taken_next(reading: Reading, index: int) -> bool:
    return index + 1 < len(reading.clause.words) and reading.is_taken(index + 1)


def _span(reading: Reading, first: int, last: int, *, keep: bool) -> Found | None:
    """The text from one word to another, without values of other slots at its end."""
    clause = reading.clause
    cut = False
    while last >= first and (
        reading.is_used(last) or (cut and clause.words[last].lower in PREPOSITIONS | ARTICLES)
    ):
        cut = True
        last -= 1
    if last < first:
        return None
    end = len(clause.text)
    if last + 1 < len(clause.words):
        end = clause.words[last].end
    found = _trim(reading, clause.words[first].start, end, keep=keep)
    # A question mark at the end belongs to the request: `Can you save a note that ...?`
    asked = clause.question or "you" in {word.lower for word in clause.words[: clause.first]}
    if found is None or (keep and not asked):
        return found
    value = str(found.value).rstrip("?!. ")
    return Found(value, found.start, found.start + len(value)) if value else None


def _essence(reading: Reading, found: Found) -> Found | None:
    """A text to search for: without articles, and without the tool's own words at its end."""
    clause = reading.clause
    first, last = clause.word_at(found.start), clause.word_at(found.end) - 1
    while first <= last and clause.words[first].lower in STOP | _CONNECTORS:
        first += 1
    while last >= first and (last in reading.choosers or clause.words[last].lower in STOP):
        last -= 1
    if last < first:
        return None
    start = clause.words[first].start
    end = found.end if clause.words[last].end >= found.end else clause.words[last].end
    return Found(clause.text[start:end], start, end)


def runs(reading: Reading, slot: Slot) -> list[Found]:
    """Short texts that a preposition or the slot's own name points at: `in [new york]`."""
    if slot.text is None or slot.is_long:
        return []
    found: list[Found] = []
    for index, word in enumerate(reading.clause.words):
        if word.lower in slot.cues or (word.stem in slot.label and not reading.is_taken(index)):
            one = run_from(reading, index + 1, slot)
            if one is not None:
                found.append(one)
    return found


def run_from(reading: Reading, index: int, slot: Slot) -> Found | None:
    """The words from there to the next preposition, mark, order or value."""
    clause, words = reading.clause, reading.clause.words
    while index < len(words) and words[index].lower in STOP:
        if words[index].lower in PREPOSITIONS:
            break
        index += 1
    first = index
    end = min(len(words), first + _LONGEST_RUN)
    while index < end and _continues(reading, first, index):
        index += 1
    last = index - 1
    while last >= first and words[last].lower in STOP:
        last -= 1
    own = slot.label | reading.vocabulary
    if last < first or all(word.stem in own for word in words[first : last + 1]):
        return None
    start, end = words[first].start, words[last].end
    return Found(clause.text[start:end], start, end)


def _continues(reading: Reading, first: int, index: int) -> bool:
    clause, word = reading.clause, reading.clause.words[index]
    if index > first and clause.text[clause.words[index - 1].end : word.start].strip(" -'\u2019"):
        return False
    if reading.is_taken(index) or index in reading.choosers or clause.in_value(word.start):
        return False
    if word.lower in STOP:
        return index > first and word.lower in {"of", "the"}
    return True


def split_list(text: str) -> list[str]:
    """The items of `milk, eggs and bread`."""
    return [item for part in _LIST.split(text) if (item := part.strip(" .\"'“”"))]
