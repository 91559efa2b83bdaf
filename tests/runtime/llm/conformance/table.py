"""The table of providers and cases, with what does not apply or differs, and why."""

from __future__ import annotations

from dataclasses import dataclass

# They fill the list of cases.
from runtime.llm.conformance import answering, asking, failing
from runtime.llm.conformance.cases import CASES, Case
from runtime.llm.conformance.subjects import KINDS, Kind

__all__ = ["CASES", "KINDS", "answering", "asking", "failing", "note", "page"]

_LIKE_OPENAI = ("litellm/openai", "litellm Router")
_LIKE_ANTHROPIC = ("litellm/anthropic",)


@dataclass(frozen=True)
class Note:
    """Why a case does not apply, or what is different."""

    columns: tuple[str, ...]
    cases: tuple[str, ...]
    text: str
    differs: bool = False


NOTES = (
    Note(("offline",), ("structured",), "It answers in words; `schema` keeps to a schema."),
    Note(
        _LIKE_OPENAI,
        ("interleaved",),
        "litellm makes up ids for calls that have none, and others each time.",
        differs=True,
    ),
    Note(
        _LIKE_ANTHROPIC,
        ("interleaved",),
        "litellm fails where a call has no id.",
        differs=True,
    ),
    Note(
        _LIKE_OPENAI,
        ("signature",),
        "litellm drops the `reasoning_details` of a server that it takes for OpenAI's.",
        differs=True,
    ),
    Note(
        _LIKE_ANTHROPIC,
        ("vendor_id",),
        "litellm makes up an id of its own.",
        differs=True,
    ),
    Note(
        _LIKE_ANTHROPIC,
        ("parallel_calls", "length_in_arguments"),
        "A complete answer of this API holds arguments parsed, and so does litellm's: they are "
        "spelled anew, and `{}` where they were cut off. A stream has them as they were.",
        differs=True,
    ),
    Note(
        _LIKE_ANTHROPIC,
        ("usage_missing",),
        "litellm fails where nothing was counted.",
        differs=True,
    ),
    Note(
        _LIKE_ANTHROPIC,
        ("overloaded", "cut_stream", "error_in_stream"),
        "litellm tells all of them as a failed server, with the status 500.",
        differs=True,
    ),
)


def note(kind: Kind, case: Case) -> Note | None:
    return next(
        (note for note in NOTES if kind.column in note.columns and case.name in note.cases), None
    )


def page() -> str:
    """The table in Markdown."""
    kinds = list({kind.column: kind for kind in KINDS}.values())
    lines = [
        "| case | " + " | ".join(kind.column for kind in kinds) + " |",
        "|---|" + ":-:|" * len(kinds),
        *(
            f"| {case.promise} | " + " | ".join(_cell(kind, case) for kind in kinds) + " |"
            for case in CASES
        ),
        "",
        *(f"{number}. {note.text}" for number, note in enumerate(NOTES, start=1)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _cell(kind: Kind, case: Case) -> str:
    if not case.applies_to(kind):
        return "–"
    found = note(kind, case)
    if found is None:
        return "yes"
    return f"{'no' if found.differs else '–'} ({NOTES.index(found) + 1})"
