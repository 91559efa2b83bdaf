# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Words: where they stand in a text, which of them say the same, which of them say nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
