# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The provider: reads a request, decides what to say or to call, and streams it word by word."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from pydantic import JsonValue

from ....contracts import (
    Accumulator,
    ChatMessage,
    Chunk,
    FinishReason,
    LLMRequest,
    LLMResponse,
    Money,
    StreamEnd,
    TextDelta,
    ToolCall,
    ToolCallArgumentsDelta,
    ToolCallStart,
    ToolResult,
    ToolSpec,
    ToolStatus,
    Usage,
)
from .._json_schema import Schema, type_of
from .language import name_words
from .plan import Choice, Tool, plan
from .schema import Slot, slots_of

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


_WORD = re.compile(r"\s*\S+(?:\s+$)?|\s+$")


class OfflineProvider:
    """A deterministic stand-in for a model: no network, no key, no knowledge of its own.

    It picks a tool by the words of the newest prompt against the tools' names, descriptions and
    parameters, fills the arguments by type, and answers from the tool's result. Its tokens are
    words, so its usage is exact, and it costs nothing.

    Args:
        clock: what `today` and `in five minutes` count from; naive means the machine's zone.
    """

    name = "offline"

    def __init__(self, *, clock: Callable[[], datetime] = datetime.now) -> None:
        self._clock = clock

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """All of what `stream` says, at once."""
        accumulator = Accumulator()
        async for chunk in self.stream(request):
            accumulator.add(chunk)
        return accumulator.response()

    async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        """The answer word by word, or the calls one after another."""
        reply = _reply(request, self._clock())
        for chunk in _chunks(request, reply):
            # Others get their turn between words, as they do while a network is read.
            await asyncio.sleep(0)
            yield chunk

    async def aclose(self) -> None:
        """Nothing is held open."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """What the newest messages ask: the prompt, the one before it, the results since."""

    prompt: str
    before: str
    results: tuple[ToolResult, ...]


@dataclass(frozen=True, slots=True)
class _Reply:
    text: str = ""
    calls: tuple[ToolCall, ...] = ()


def _read(messages: Sequence[ChatMessage]) -> _Turn:
    prompts = [index for index, message in enumerate(messages) if message.role == "user"]
    if not prompts:
        return _Turn("", "", ())
    newest = prompts[-1]
    between = messages[prompts[-2] + 1 : newest] if len(prompts) > 1 else ()
    answered = any(message.tool_calls or message.tool_results for message in between)
    before = "" if answered or len(prompts) < 2 else messages[prompts[-2]].text
    results = [result for message in messages[newest + 1 :] for result in message.tool_results]
    return _Turn(_clean(messages[newest].text), _clean(before), tuple(results))


def _clean(text: str) -> str:
    """Without halves of surrogate pairs, which no JSON can carry."""
    return text.encode(errors="replace").decode()


def _reply(request: LLMRequest, now: datetime) -> _Reply:
    turn = _read(request.messages)
    may_call = request.tool_choice != "none"
    tools = [Tool(spec) for spec in request.tools] if may_call else []
    choices = plan(turn.prompt, tools, now, must=request.tool_choice == "required")
    if turn.before and not _complete(choices):
        choices = _continued(turn, tools, now) or choices
    calls = _complete(choices)
    lacking = [missing(choice) for choice in choices if choice not in calls]
    if turn.results:
        # The tools have answered: calling again could only repeat them.
        return _Reply("\n".join([_clean(from_results(turn.results)), *lacking]))
    if calls:
        return _Reply(calls=_calls(request, calls))
    return _Reply("\n".join(lacking) or _clean(_introduction(request, tools, now)))


def _complete(choices: Sequence[Choice]) -> list[Choice]:
    return [choice for choice in choices if not choice.filled.missing]


def _continued(turn: _Turn, tools: Sequence[Tool], now: datetime) -> list[Choice]:
    """The prompt before, where it lacked something and the newest one supplies it."""
    asked = plan(turn.before, tools, now)
    if not asked or _complete(asked):
        return []
    return _complete(plan(f"{turn.before.rstrip(' ?.!')} {turn.prompt}", tools, now))


def _introduction(request: LLMRequest, tools: Sequence[Tool], now: datetime) -> str:
    def works(example: str, spec: ToolSpec) -> bool:
        return any(
            choice.tool is spec and not choice.filled.missing
            for choice in plan(example, tools, now)
        )

    return introduction(request.tools, works, may_call=request.tool_choice != "none")


def _calls(request: LLMRequest, choices: Sequence[Choice]) -> tuple[ToolCall, ...]:
    wanted = dict.fromkeys(
        (choice.tool.name, json.dumps(arguments, ensure_ascii=False))
        for choice in choices
        for arguments in choice.filled.calls()
    )
    digest = _digest(request)
    return tuple(
        ToolCall(id=f"call_{digest}_{index}", name=name, arguments=arguments)
        for index, (name, arguments) in enumerate(wanted)
    )


def _digest(request: LLMRequest) -> str:
    """The same for the same messages, so that the same request gets the same ids."""
    digest = hashlib.sha256()
    for message in request.messages:
        digest.update(repr(message).encode(errors="backslashreplace"))
    return digest.hexdigest()[:12]


def _chunks(request: LLMRequest, reply: _Reply) -> Iterator[Chunk]:
    """The reply within the request's limits. A call that does not fit is not made, never cut."""
    left = request.max_output_tokens
    spent = 0
    finish = FinishReason.TOOL_CALL if reply.calls else FinishReason.STOP
    for word in _words(_until_stop(reply.text, request.stop)):
        if left is not None and spent >= left:
            finish = FinishReason.LENGTH
            break
        spent += 1
        yield TextDelta(text=word)
    for index, call in enumerate(reply.calls):
        words = _words(call.arguments)
        if left is not None and spent + len(words) > left:
            finish = FinishReason.LENGTH
            break
        spent += len(words)
        yield ToolCallStart(index=index, id=call.id, name=call.name)
        for word in words:
            yield ToolCallArgumentsDelta(index=index, text=word)
    yield StreamEnd(
        id=f"offline_{_digest(request)}",
        model=request.model,
        provider=OfflineProvider.name,
        finish_reason=finish,
        usage=Usage(input_tokens=_input_tokens(request), output_tokens=spent),
        cost=Money(amount=Decimal(0)),
    )


def _words(text: str) -> list[str]:
    """The text cut into words, each with the white space before it; joined they are the text."""
    return _WORD.findall(text)


def _until_stop(text: str, stop: Sequence[str]) -> str:
    ends = [at for sequence in stop if sequence and (at := text.find(sequence)) >= 0]
    return text[: min(ends)] if ends else text


def _input_tokens(request: LLMRequest) -> int:
    said = [
        part.model_dump(mode="python") for message in request.messages for part in message.parts
    ]
    read = [
        str(part.get("text") or part.get("arguments") or part.get("content") or "") for part in said
    ]
    tools = [
        f"{tool.name} {tool.description} {json.dumps(tool.parameters)}" for tool in request.tools
    ]
    return sum(len(text.split()) for text in (*read, *tools))
