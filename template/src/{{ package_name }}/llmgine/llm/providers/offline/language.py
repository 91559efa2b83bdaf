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

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_NAME_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\dA-Z_]+|[0-9]+")
_CONTRACTION = re.compile(r"['\u2019](?:s|re|m|ll|d|ve)$")


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


POLITE = word_set(
    "please kindly hey hi hello ok okay now then and also can could would will "
    "you i we want need like to let's lets let me us just so thanks thank"
)
QUESTIONS = word_set("what which who whom whose when where why how is are am was were do does did")
PREPOSITIONS = word_set(
    "in on at to into for from with without by about of as until till since near over "
    "under regarding concerning between after before during via per"
)
STOP = (
    POLITE
    | QUESTIONS
    | PREPOSITIONS
    | word_set(
        "a an the this that these those my your our his her its their he she it they him "
        "them be been had has have should shall may might must or but if than there here not no "
        "yes some any all more most much many very too up down out i'd it's don't going "
        "again ever something anything everything someone anyone"
    )
)
ARTICLES = word_set("a an the my our your this these some any all")

# Words that order the same thing. They count where a tool's name begins with one of them.
_VERBS = {
    "find": "find search look lookup locate query seek",
    "save": "save store remember memorise memorize jot record keep write log note",
    "show": "get show list tell give display fetch read view see print retrieve",
    "create": "create make new add start open insert schedule book plan",
    "delete": "delete remove erase clear discard drop",
    "change": "update change edit modify set adjust turn switch put rename",
    "send": "send mail email message post deliver",
    "run": "run execute launch call perform",
    "compute": "calculate compute evaluate",
    "convert": "convert exchange change",
    "sum": "add plus sum total",
    "subtract": "subtract minus",
    "multiply": "multiply times",
    "divide": "divide divided",
}
_NOUNS = {
    "time": "time clock hour",
    "date": "date day",
    "now": "current now today",
    "mail": "email mail",
    "remind": "remind reminder",
    "document": "doc docs document documentation manual",
}


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a text: `lower` has no ending such as 's, `stem` no inflection."""

    text: str
    lower: str
    stem: str
    start: int
    end: int


def split_words(text: str) -> list[Word]:
    words: list[Word] = []
    for match in _WORD.finditer(text):
        lower = _CONTRACTION.sub("", match[0].lower())
        words.append(Word(match[0], lower, stem(lower), match.start(), match.end()))
    return words


def name_words(name: str) -> list[str]:
    """The words of an identifier in lower case: `find_userById` is find, user, by, id."""
    return [word.lower() for word in _NAME_WORD.findall(name)]


def stem(word: str) -> str:
    """The word without its English inflection: save, saved, saves and saving are one."""
    if len(word) < 4 or word == "times":
        return word
    if word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending, least in (("ing", 6), ("ed", 5)):
        if word.endswith(ending) and len(word) >= least:
            word = word[: -len(ending)]
            break
    word = word.removesuffix("e")
    if len(word) > 2 and word[-1] == word[-2]:
        word = word[:-1]
    return word


def _by_stem(groups: dict[str, str]) -> dict[str, frozenset[str]]:
    concepts: dict[str, frozenset[str]] = {}
    for concept, members in groups.items():
        for member in members.split():
            key = stem(member)
            concepts[key] = concepts.get(key, frozenset()) | {concept}
    return concepts


VERBS = _by_stem(_VERBS)
NOUNS = _by_stem(_NOUNS)
# Nobody says these by chance: alone, they order a tool that saves.
SAVE_ALONE = frozenset(stem(word) for word in ("remember", "memorise", "memorize", "jot"))


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
