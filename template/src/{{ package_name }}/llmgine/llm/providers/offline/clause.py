# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""One request of a prompt: its words, and everything in it that looks like a value."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from pydantic import JsonValue

from .moments import Moment, find_moments
from .words import NOUNS, POLITE, QUESTIONS, STOP, VERBS, Word, split_words

_QUOTED = re.compile(
    r"\"([^\"]+)\"|“([^“”]+)”|„([^„“”]+)[“”]|«([^«»]+)»|`([^`]+)`|(?<!\w)['\u2018]([^'\u2018\u2019\n]+)['\u2019](?!\w)"
)
_NUMBER = re.compile(
    r"(?<![\w.,])[-\u2212+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,15})(?:\.[0-9]{1,15})?"
    r"(?![.,]?[0-9])(?![^\W\d]{4})(?!(?:st|nd|rd|th|k|m|bn|x)(?!\w))",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"\S+")
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBER_WORDS = {word: number for number, word in enumerate(_UNITS.split())} | {
    word: 20 + 10 * number for number, word in enumerate(_TENS.split())
}


@dataclass(frozen=True, slots=True)
class Found:
    """A value that the text holds, and where."""

    value: JsonValue
    start: int
    end: int


class Clause:
    """One request, read once; whatever is derived from it is computed on first use."""

    def __init__(self, text: str, now: datetime) -> None:
        self.text = text
        self.now = now
        self.words: list[Word] = split_words(text)

    @cached_property
    def positions(self) -> dict[str, list[int]]:
        """Where each stem stands, as indexes of words; words that say nothing are left out."""
        positions: dict[str, list[int]] = {}
        for index, word in enumerate(self.words):
            if word.lower not in STOP:
                positions.setdefault(word.stem, []).append(index)
        return positions

    @cached_property
    def everywhere(self) -> dict[str, list[int]]:
        """Where each stem stands, of all words."""
        everywhere: dict[str, list[int]] = {}
        for index, word in enumerate(self.words):
            everywhere.setdefault(word.stem, []).append(index)
        return everywhere

    @cached_property
    def by_concept(self) -> dict[str, list[int]]:
        """Where the words stand that mean the same as others: `day` and `date`."""
        by_concept: dict[str, list[int]] = {}
        for said, indexes in self.positions.items():
            for concept in NOUNS.get(said, ()):
                by_concept.setdefault(concept, []).extend(indexes)
        return by_concept

    @cached_property
    def content_count(self) -> int:
        return sum(len(indexes) for indexes in self.positions.values())

    @cached_property
    def first(self) -> int:
        """The index of the first word that is not mere politeness."""
        for index, word in enumerate(self.words):
            if word.lower not in POLITE:
                return index
        return len(self.words)

    @cached_property
    def order(self) -> int | None:
        """The index of the verb, where the clause may be an order: `Please [save] a note`."""
        before = self.words[self.first - 1].lower if 0 < self.first <= len(self.words) else ""
        return None if before in {"i", "we"} or self.first == len(self.words) else self.first

    @cached_property
    def question(self) -> bool:
        """Whether it asks for information. `Could you ...?` asks for a deed: it is an order."""
        opening = [word.lower for word in self.words[: self.first + 1]]
        if self.first < len(self.words) and opening[-1] in QUESTIONS:
            return True
        return "you" not in opening and self.text.rstrip().endswith("?")

    @cached_property
    def moments(self) -> list[Moment]:
        return find_moments(self.text, self.now)

    @cached_property
    def quoted(self) -> list[Found]:
        return [
            Found(next(group for group in match.groups() if group), match.start(), match.end())
            for match in _QUOTED.finditer(self.text)
        ]

    @cached_property
    def quoted_spans(self) -> Spans:
        return Spans([(one.start, one.end) for one in self.quoted])

    @cached_property
    def numbers(self) -> list[Found]:
        """The numbers, as `int` where they are whole; those of a date or a time are not numbers."""
        found = [*self._digits(), *self._number_words()]
        outside = Spans([(moment.start, moment.end) for moment in self.moments])
        return sorted(
            (one for one in found if not outside.touch(one.start, one.end)),
            key=lambda one: one.start,
        )

    def _digits(self) -> Iterator[Found]:
        for match in _NUMBER.finditer(self.text):
            written = match[0].replace(",", "").replace("\u2212", "-").lstrip("+")
            number = float(written) if "." in written else int(written)
            yield Found(number, match.start(), match.end())

    def _number_words(self) -> Iterator[Found]:
        skip = -1
        for index, word in enumerate(self.words):
            number = _NUMBER_WORDS.get(word.lower)
            if number is None or index == skip:
                continue
            end = word.end
            if number >= 20 and index + 1 < len(self.words):
                unit = _NUMBER_WORDS.get(self.words[index + 1].lower, 0)
                if 0 < unit < 10:
                    number, end, skip = number + unit, self.words[index + 1].end, index + 1
            negative = index > 0 and self.words[index - 1].lower in {"minus", "negative"}
            start = self.words[index - 1].start if negative else word.start
            yield Found(-number if negative else number, start, end)

    @cached_property
    def tokens(self) -> list[Found]:
        """What stands between white space, without the punctuation around it."""
        return [
            Found(token, match.start() + lead, match.start() + lead + len(token))
            for match in _TOKEN.finditer(self.text)
            if (token := match[0].strip("\"'“”\u2018\u2019«»`()[]{}<>,;:!?.…*"))
            for lead in (match[0].index(token),)
        ]

    @cached_property
    def codes(self) -> list[Found]:
        """Tokens that are no plain words: file names, identifiers, numbers of orders, addresses."""
        return [token for token in self.tokens if _is_code(str(token.value))]

    @cached_property
    def names(self) -> list[Found]:
        """Runs of words with a capital letter, but for the word that only begins a sentence."""
        names: list[Found] = []
        run: list[Word] = []
        for index, word in enumerate(self.words):
            if run and self.text[run[-1].end : word.start].strip(" -"):
                names += _name(self.text, run)
                run = []
            if self._is_name(index, word):
                run.append(word)
            else:
                names += _name(self.text, run)
                run = []
        return names + _name(self.text, run)

    def _is_name(self, index: int, word: Word) -> bool:
        if not word.text[0].isupper() or word.lower in STOP:
            return False
        return index > 0 or (word.stem not in VERBS and word.lower not in POLITE)

    @cached_property
    def _values(self) -> Spans:
        return Spans(
            [(moment.start, moment.end) for moment in self.moments]
            + [(number.start, number.end) for number in self.numbers]
        )

    def in_value(self, offset: int) -> bool:
        """Whether a date, a time or a number stands there."""
        return self._values.touch(offset, offset + 1)

    @cached_property
    def _starts(self) -> list[int]:
        return [word.start for word in self.words]

    def word_at(self, offset: int) -> int:
        """The index of the first word that begins at or after the offset."""
        return bisect_left(self._starts, offset)

    def before(self, offset: int) -> str:
        """The last word before the offset, articles skipped; a comma or a full stop ends it."""
        index = self.word_at(offset) - 1
        while index >= 0 and self.words[index].lower in {"a", "an", "the", "my", "our", "your"}:
            index -= 1
        return self.words[index].lower if index >= 0 else ""


class Spans:
    """Stretches of a text, sorted and apart, that can be asked quickly."""

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        self._spans = sorted(spans)

    def touch(self, start: int, end: int) -> bool:
        index = bisect_left(self._spans, (end, 0)) - 1
        return index >= 0 and self._spans[index][1] > start


def _is_code(token: str) -> bool:
    if not any(letter.isalnum() for letter in token):
        return False
    return any(letter.isdigit() for letter in token) or any(mark in token for mark in "./\\_@:#")


def _name(text: str, run: list[Word]) -> list[Found]:
    if not run:
        return []
    start, end = run[0].start, run[-1].end
    return [Found(text[start:end], start, end)]
