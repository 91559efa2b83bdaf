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
    Usage,
)
from . import answer
from .plan import Choice, Tool, plan

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
    lacking = [answer.missing(choice) for choice in choices if choice not in calls]
    if turn.results:
        # The tools have answered: calling again could only repeat them.
        return _Reply("\n".join([_clean(answer.from_results(turn.results)), *lacking]))
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

    return answer.introduction(request.tools, works, may_call=request.tool_choice != "none")


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
