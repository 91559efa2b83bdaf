# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Which tools a prompt asks for, and with what arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import JsonValue

from ....contracts import ToolSpec
from .._json_schema import fits
from .fill import Filled, fill
from .language import (
    NOUNS,
    QUESTIONS,
    SAVE_ALONE,
    STOP,
    VERBS,
    Clause,
    name_words,
    split_words,
    stem,
    word_set,
)
from .schema import slots_of

_MAX_REQUESTS = 8
_CANDIDATES = 5
_NEAR = 6
_THRESHOLD = 3.0
# Verbs that only find something out; a question orders no others.
_COMPUTES = word_set("find compute convert sum subtract multiply divide")
_READS = _COMPUTES | {"show"}
_JOINTS = word_set("and then also plus")
_BREAK = re.compile(r"[.?!;,:\n]")
_SENTENCE_END = re.compile(r"[.?!;]\s|\n")


@dataclass(frozen=True, slots=True)
class Choice:
    """The tool a clause asks for; `filled.missing` says what keeps it from being called."""

    tool: ToolSpec
    filled: Filled


class Tool:
    """A tool, and the words by which a prompt may speak of it."""

    def __init__(self, spec: ToolSpec) -> None:
        self.spec = spec
        self.root: dict[str, Any] = spec.parameters
        words = name_words(spec.name)
        said = [stem(word) for word in words if word not in STOP] or [stem(word) for word in words]
        self.verb = said[0] if said and said[0] in VERBS else None
        self.concepts = VERBS.get(self.verb or "", frozenset[str]())
        self.single = len(said) == 1
        self.nouns = frozenset(said if self.verb is None else said[1:])
        self.reads = self.verb is None or not self.concepts.isdisjoint(_READS)
        labels = (slot.label for slot in slots_of(self.root, self.root))
        self.described = _stems(spec.description).union(*labels) - {*said}
        self.vocabulary = self.described.union(said)
        name = re.escape(spec.name)
        self.spelled = re.compile(rf"(?<!\w){name}(?!\w)") if len(words) > 1 else None


def _stems(description: str) -> frozenset[str]:
    """Those of its beginning: what follows is for people who read manuals."""
    text = " ".join(description.split()[:60])
    return frozenset(word.stem for word in split_words(text) if word.lower not in STOP)


@dataclass(slots=True)
class _Match:
    """How the words of a clause speak of a tool.

    `choosers` are those that name what it does, `matched` all that it uses of itself. `named`
    says that one of them is in its name, `asked` that the clause orders or asks.
    """

    score: float
    choosers: frozenset[int]
    matched: frozenset[int]
    named: bool
    asked: bool


def plan(prompt: str, tools: Sequence[Tool], now: datetime, *, must: bool = False) -> list[Choice]:
    """The tools the prompt asks for, in its order, whether or not they can be called.

    With `must`, the likeliest of those that can, where the prompt asks for none of them.
    """
    dictated = _dictated(prompt, tools, now)
    if dictated is not None:
        return [dictated]
    done: list[tuple[str, Choice | None]] = []
    for piece in _pieces(prompt, tools, now):
        choice = _choose(Clause(piece, now), tools)
        if done and _may_continue(*done[-1], choice):
            # It only looked like another request: it may well belong to the one before.
            joined = _choose(Clause(done[-1][0] + piece, now), tools)
            if not _lacks(joined):
                done[-1] = (done[-1][0] + piece, joined)
                continue
        done.append((piece, choice))
    choices = [choice for _, choice in done if choice is not None]
    if must and all(_lacks(choice) for choice in choices):
        return _likeliest(Clause(prompt, now), tools) or choices
    return choices


def _dictated(prompt: str, tools: Sequence[Tool], now: datetime) -> Choice | None:
    """`save a note: ...`: one sentence after the colon is the text, if the tool takes no more."""
    head, _, rest = prompt.partition(":")
    text = rest.strip()
    if not rest[:1].isspace() or not text or "\n" in head or _SENTENCE_END.search(text):
        return None
    choice = _choose(Clause(head, now), tools)
    if choice is None or len(choice.filled.missing) != 1:
        return None
    tool = next(tool for tool in tools if tool.spec is choice.tool)
    arguments: dict[str, JsonValue] = {choice.filled.missing[0].name: _unquoted(text)}
    alone = len(slots_of(tool.root, tool.root)) == 1
    if tool.reads or not alone or not fits(arguments, tool.root, tool.root):
        return None
    return Choice(choice.tool, Filled(arguments=arguments))


def _unquoted(text: str) -> str:
    pairs = {'"': '"', "'": "'", "“": "”", "«": "»"}
    quoted = len(text) > 2 and pairs.get(text[0]) == text[-1] and text.count(text[-1]) <= 2
    return text[1:-1] if quoted else text


def _may_continue(before: str, previous: Choice | None, choice: Choice | None) -> bool:
    if choice is None or not choice.filled.missing:
        return choice is None
    return _lacks(previous) or before.rstrip(" ")[-1:] not in {".", "?", "!", "\n"}


def _lacks(choice: Choice | None) -> bool:
    return choice is None or bool(choice.filled.missing)


def _pieces(prompt: str, tools: Sequence[Tool], now: datetime) -> list[str]:
    """The prompt cut where another request begins: `... and [save a note ...]`."""
    clause = Clause(prompt, now)
    quoted = clause.quoted_spans
    cuts = [0]
    for index in range(1, len(clause.words)):
        word, before = clause.words[index], clause.words[index - 1]
        if len(cuts) == _MAX_REQUESTS:
            break
        joint = before.lower in _JOINTS
        if not joint and not _BREAK.search(prompt, before.end, word.start):
            continue
        start = before.start if joint else word.start
        if start <= cuts[-1] or quoted.touch(word.start, word.end):
            continue
        if _begins_request(clause, index, tools):
            cuts.append(start)
    return [prompt[start:end] for start, end in zip(cuts, [*cuts[1:], len(prompt)], strict=True)]


def _begins_request(clause: Clause, index: int, tools: Sequence[Tool]) -> bool:
    """Whether a tool's verb and one of its nouns, or a question for one, stand here."""
    words = clause.words
    last = min(index + _NEAR, len(words))
    while index < last and words[index].lower in STOP - QUESTIONS:
        index += 1
    if index == last:
        return False
    head, near = words[index], {word.stem for word in words[index + 1 : index + _NEAR]}
    asks = head.lower in QUESTIONS or "show" in VERBS.get(head.stem, ())
    for tool in tools:
        ordered = bool(VERBS.get(head.stem, frozenset()) & tool.concepts) or head.stem == tool.verb
        if asks and tool.reads and near & tool.nouns:
            return True
        alone = tool.single or ("save" in tool.concepts and head.stem in SAVE_ALONE)
        if ordered and (alone or near & tool.nouns):
            return True
        if tool.verb is None and head.stem in tool.nouns:
            return True
    return False


def _choose(clause: Clause, tools: Sequence[Tool]) -> Choice | None:
    """The tool the clause asks for, or nothing; a complete call is preferred to a better match."""
    matches = [(match, tool) for tool in tools if (match := _match(clause, tool)).score >= 1]
    matches.sort(key=lambda pair: -pair[0].score)
    best: tuple[float, Choice] | None = None
    complete: tuple[float, Choice] | None = None
    for match, tool in matches[:_CANDIDATES]:
        filled = fill(clause, tool.root, match.choosers, tool.vocabulary)
        score = match.score + min(filled.evidence, 2)
        if score < _THRESHOLD or not _is_meant(clause, match, filled):
            continue
        if best is None or score > best[0]:
            best = score, Choice(tool.spec, filled)
        if not filled.missing and (complete is None or score > complete[0]):
            complete = score, Choice(tool.spec, filled)
    if best is not None and complete is not None and complete[0] >= best[0] - 2:
        return complete[1]
    return None if best is None else best[1]


def _is_meant(clause: Clause, match: _Match, filled: Filled) -> bool:
    """Whether the words were said to order it, or there is little else in the clause."""
    if filled.missing and not (match.named or filled.evidence):
        return False
    unexplained = clause.content_count - len(match.matched) - filled.explained
    explained = clause.content_count - unexplained
    return (
        match.asked or explained > unexplained or (explained == unexplained and not filled.missing)
    )


def _match(clause: Clause, tool: Tool) -> _Match:
    score, where = _verb(clause, tool)
    # `Tell me` alone is said of anything: it takes more for a question to be about the tool.
    about = score >= 2
    choosers = set(where)
    for noun in sorted(tool.nouns):
        weight, where = _noun(clause, noun)
        score += weight
        choosers |= where
    described = tool.described & clause.positions.keys()
    score += min(len(described), 2.5)
    ordered = clause.order is not None and clause.order in choosers
    asks = clause.question or _shows(clause)
    about = about or bool(described) or len(choosers) > ordered
    score += ordered + _mood(clause, tool, asks=asks and about)
    if score and clause.order is not None and clause.words[clause.order].stem in VERBS:
        choosers.add(clause.order)
    if tool.spelled is not None and (name := tool.spelled.search(clause.text)):
        ordered, score = True, score + 5
        choosers |= set(range(clause.word_at(name.start()), clause.word_at(name.end())))
    extra = (index for said in described for index in clause.positions[said])
    names = tool.nouns | {tool.verb}
    return _Match(
        score,
        frozenset(choosers),
        frozenset(choosers).union(extra),
        named=any(clause.words[index].stem in names for index in choosers),
        asked=asks or ordered,
    )


def _mood(clause: Clause, tool: Tool, *, asks: bool) -> float:
    """A question is for tools that find something out, and hardly ever for the others."""
    if asks and tool.reads:
        return 1
    return -1.5 if clause.question and not tool.reads else 0


def _noun(clause: Clause, noun: str) -> tuple[float, set[int]]:
    if noun in clause.positions:
        return 3, set(clause.positions[noun])
    for other in sorted(clause.by_concept.keys() & NOUNS.get(noun, frozenset())):
        return 2, set(clause.by_concept[other])
    return 0, set()


def _verb(clause: Clause, tool: Tool) -> tuple[float, set[int]]:
    """A verb alone orders little, as people say it of anything; `save` and `find` are clearer."""
    if tool.verb is None:
        return 0, set()
    if tool.verb in clause.positions:
        clear = tool.single or not tool.concepts.isdisjoint({"save", "find"})
        return (3 if clear else 1.5), set(clause.positions[tool.verb])
    if clause.order is not None:
        said = clause.words[clause.order].stem
        if VERBS.get(said, frozenset()) & tool.concepts:
            clear = tool.single or ("save" in tool.concepts and _saves(clause, clause.order))
            return (2.1 if clear else 1), {clause.order}
        if "save" in tool.concepts and (said == "tak" or "create" in VERBS.get(said, ())):
            return 0.5, {clause.order}  # One makes, takes or adds a note.
    for said, indexes in clause.positions.items() if tool.single else ():
        if VERBS.get(said, frozenset()) & tool.concepts & _COMPUTES:
            return 2.1, set(indexes)
    return 0, set()


def _saves(clause: Clause, index: int) -> bool:
    followed = clause.words[index + 1].lower if index + 1 < len(clause.words) else ""
    return clause.words[index].stem in SAVE_ALONE or followed == "down"


def _shows(clause: Clause) -> bool:
    """`Tell me the time` is a question in all but form."""
    if clause.order is None:
        return False
    return "show" in VERBS.get(clause.words[clause.order].stem, frozenset())


def _likeliest(clause: Clause, tools: Sequence[Tool]) -> list[Choice]:
    """For a caller that insists on a call: the best match of those that can be called."""
    matches = [(_match(clause, tool), tool) for tool in tools]
    matches.sort(key=lambda pair: -pair[0].score)
    for match, tool in matches:
        filled = fill(clause, tool.root, match.choosers, tool.vocabulary)
        if not filled.missing:
            return [Choice(tool.spec, filled)]
    return []
