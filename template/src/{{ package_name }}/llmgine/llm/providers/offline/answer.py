# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What the stand-in says: a tool's result in words, what is missing, and what it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from pydantic import JsonValue

from ....contracts import ToolResult, ToolSpec, ToolStatus
from .plan import Choice
from .schema import Schema, type_of
from .slots import Slot, slots_of
from .words import name_words

_LISTED_TOOLS = 12
_DEEPEST = 4
_FAILURES = {
    ToolStatus.UNKNOWN_TOOL: "is not known here",
    ToolStatus.INVALID_ARGUMENTS: "refused the arguments",
    ToolStatus.FAILED: "failed",
    ToolStatus.TIMEOUT: "did not finish in time",
    ToolStatus.CANCELLED: "was cancelled",
}
WHAT_I_AM = (
    "I am the offline stand-in: no language model, only rules that match your words with the "
    "tools of this application."
)
REAL_MODEL = (
    "For a real model set LLMGINE_MODEL=openai/<name> and OPENAI_API_KEY, "
    "or pass --model openai/<name>."
)


def from_results(results: Sequence[ToolResult]) -> str:
    """The results in words, in the order of the calls."""
    if len(results) == 1:
        return _result(results[0])
    return "\n".join(_titled(result) for result in results)


def _titled(result: ToolResult) -> str:
    said = _result(result)
    if not result.ok:
        return said
    return f"{_spoken(result.name)}:" + (f"\n{said}" if "\n" in said else f" {said}")


def _result(result: ToolResult) -> str:
    if not result.ok:
        said = result.content.strip()
        return f"The tool {result.name} {_FAILURES[result.status]}" + (f": {said}" if said else ".")
    text = _readable(result.content).strip() or f"{_spoken(result.name)}: done."
    return f"{text}\n(The result was longer and was cut.)" if result.truncated else text


def _spoken(name: str) -> str:
    return " ".join(name_words(name)).capitalize() or name


def _readable(content: str) -> str:
    """JSON as text a person reads; anything else as it is."""
    try:
        return _in_words(json.loads(content), 0)
    except (ValueError, RecursionError):
        return content


def _in_words(value: JsonValue, depth: int) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case dict() if depth < _DEEPEST:
            return "\n".join(_entry(_label(key), item, depth) for key, item in value.items())
        case list() if depth < _DEEPEST:
            return "\n".join(_item(item, depth) for item in value) or "Nothing found."
        case dict() | list():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)


def _label(key: str) -> str:
    return " ".join(key.split("_")).strip() or key


def _entry(label: str, value: JsonValue, depth: int) -> str:
    said = _in_words(value, depth + 1) or "-"
    return (
        f"{label}:\n{_indent(said)}"
        if isinstance(value, (dict, list)) and value
        else (f"{label}: {said if not isinstance(value, (dict, list)) else 'none'}")
    )


def _item(value: JsonValue, depth: int) -> str:
    if isinstance(value, dict) and not any(isinstance(one, (dict, list)) for one in value.values()):
        said = ", ".join(_entry(_label(key), item, depth) for key, item in value.items())
    else:
        said = _in_words(value, depth + 1)
    return "- " + _indent(said).lstrip()


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.split("\n"))


def missing(choice: Choice) -> str:
    """Which tool fits, and what keeps it from being called."""
    lacking = "; ".join(_describe(slot) for slot in choice.filled.missing)
    return (
        f"I would call {choice.tool.name}, but your message does not say: {lacking}. "
        "Tell me that, and I will."
    )


def _describe(slot: Slot) -> str:
    described = " ".join(slot.description.split())
    return f"{slot.name} ({described.rstrip('.')})" if described else slot.name


def introduction(
    tools: Sequence[ToolSpec], works: Callable[[str, ToolSpec], bool], *, may_call: bool
) -> str:
    """What this is, what it can call, and how to get a real model.

    `works(example, tool)` says whether the example makes the tool be called.
    """
    lines = [WHAT_I_AM]
    if not tools:
        lines.append("No tool is registered, so there is nothing I can call.")
    elif not may_call:
        lines.append("I was told not to call a tool, and I know nothing by myself.")
    else:
        lines.append("None of them fits your message. I can call:")
        lines += [_offer(tool, works) for tool in tools[:_LISTED_TOOLS]]
        if len(tools) > _LISTED_TOOLS:
            lines.append(f"- and {len(tools) - _LISTED_TOOLS} more")
    return "\n".join([*lines, REAL_MODEL])


def _offer(tool: ToolSpec, works: Callable[[str, ToolSpec], bool]) -> str:
    described = " ".join(tool.description.split())
    if len(described) > 100:
        described = described[:99].rstrip() + "\u2026"
    offer = f"- {tool.name}" + (f": {described.rstrip('.')}." if described else "")
    for example in examples(tool):
        if works(example, tool):
            return f'{offer} Try: "{example}"'
    return offer


_FORMATS = {
    "date": "12 March 2030",
    "date-time": "12 March 2030 at 15:00",
    "time": "15:00",
    "duration": "5 minutes",
    "email": "ann@example.com",
    "uri": "https://example.com",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
}
_NAMES = {
    "email mail recipient to": "ann@example.com",
    "url link website uri": "https://example.com",
    "id code sku key reference": "A-1001",
    "path file filename": "notes.txt",
    "language lang": "French",
    "name person user customer owner": "Ann",
    "room": "kitchen",
    "date day": "12 March 2030",
    "time": "15:00",
    "timezone tz": "Tokyo",
}
_SAMPLES = {word: sample for words, sample in _NAMES.items() for word in words.split()}


def examples(tool: ToolSpec) -> Iterator[str]:
    """Sentences that should make the tool be called, the most natural first; try them."""
    root = tool.parameters
    slots = [slot for slot in slots_of(root, root) if slot.required]
    order = " ".join(name_words(tool.name)).capitalize() or tool.name
    samples = [_sample(slot, place, root) for place, slot in enumerate(slots)]
    if not slots:
        yield order
    if len(slots) == 1:
        if slots[0].is_query:
            yield f"{order} about {samples[0]}"
        yield f"{order}: {samples[0]}" if slots[0].is_long else f"{order} {samples[0]}"
    if slots and all(slot.kind("integer", "number") for slot in slots):
        yield f"{order} {' and '.join(samples)}"
    labelled = [_labelled(slot, sample) for slot, sample in zip(slots, samples, strict=True)]
    yield ", ".join([order, *labelled])


def _labelled(slot: Slot, sample: str) -> str:
    said = f'"{sample}"' if slot.is_long else sample
    name = " ".join(name_words(slot.name))
    return said if said == name else f"{name} {said}"


def _sample(slot: Slot, place: int, root: Schema) -> str:
    for kind in slot.kinds:
        if isinstance(kind.get("enum"), list) and kind["enum"]:
            return str(kind["enum"][place % len(kind["enum"])])
        match type_of(kind):
            case "integer" | "number":
                least = kind.get("minimum")
                return str(2 + place + (int(least) if isinstance(least, (int, float)) else 0))
            case "boolean":
                return "on"
            case "object":
                inner = [one for one in slots_of(kind, root) if one.required]
                said = [_labelled(one, _sample(one, at, {})) for at, one in enumerate(inner)]
                return ", ".join(said)
            case "string":
                return _text(slot, str(kind.get("format", "")))
    return "2, 3 and 4"


def _text(slot: Slot, form: str) -> str:
    if form in _FORMATS:
        return _FORMATS[form]
    if slot.is_zone:
        return "Tokyo"
    named = [_SAMPLES[word] for word in name_words(slot.name) if word in _SAMPLES]
    if named:
        return named[-1]
    return "milk" if slot.is_query else "buy oat milk" if slot.is_long else "Paris"
