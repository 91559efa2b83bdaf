# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""A model that calls every tool with arguments made from its schema: to try tools without a key."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from math import inf
from random import Random

from ...contracts import (
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
    accumulate,
)
from ...errors import LLMError, LLMErrorKind
from ...tokens import estimate_tokens
from ._examples import CannotMakeError, make_value
from ._json_schema import Schema

_WORD = re.compile(r"\s*\S+|\s+")


class SchemaProvider:
    """Calls each offered tool once, all at the same time, then says what they answered.

    The arguments fit the tool's JSON Schema and mean nothing; the same request and `seed` (the
    request's own, or the provider's) give the same ones. Where a request asks for an `output`, the
    text is JSON of that schema. A schema that cannot be satisfied, or is not understood, is an
    error that names it. With `tool_choice="required"` the tools are called again and again.
    """

    name = "schema"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """All of what `stream` says, at once."""
        return accumulate([chunk async for chunk in self.stream(request)])

    async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        """The calls, or the text, word by word.

        Raises:
            LLMError: no value of a schema could be made.
        """
        for chunk in self._chunks(request):
            yield chunk

    async def aclose(self) -> None:
        """Nothing is held open."""

    def _chunks(self, request: LLMRequest) -> Iterator[Chunk]:
        calls = self._calls(request)
        text = "" if calls else self._text(request)
        left = inf if request.max_output_tokens is None else request.max_output_tokens
        spent, finish = 0, FinishReason.TOOL_CALL if calls else FinishReason.STOP
        for word in _WORD.findall(text):
            if spent >= left:
                finish = FinishReason.LENGTH
                break
            spent += 1
            yield TextDelta(text=word)
        for index, call in enumerate(calls):
            words = _WORD.findall(call.arguments)
            if spent + len(words) > left:
                # A call that does not fit is not made, never cut.
                finish = FinishReason.LENGTH
                break
            spent += len(words)
            yield ToolCallStart(index=index, id=call.id, name=call.name)
            for word in words:
                yield ToolCallArgumentsDelta(index=index, text=word)
        yield StreamEnd(
            id=f"schema_{_digest(request)}",
            model=request.model,
            provider=self.name,
            finish_reason=finish,
            usage=Usage(
                input_tokens=sum(map(estimate_tokens, request.messages)), output_tokens=spent
            ),
            cost=Money(amount=Decimal(0)),
        )

    def _calls(self, request: LLMRequest) -> list[ToolCall]:
        if request.tool_choice == "none":
            return []
        called = {result.name for result in _results(request)}
        tools: list[ToolSpec] = [tool for tool in request.tools if tool.name not in called]
        if request.tool_choice == "required":
            tools = tools or list(request.tools)
        return [
            ToolCall(
                id=f"call_{_digest(request)}_{index}",
                name=tool.name,
                arguments=self._json(
                    request, f"the tool {tool.name!r}", {"type": "object", **tool.parameters}
                ),
            )
            for index, tool in enumerate(tools)
        ]

    def _text(self, request: LLMRequest) -> str:
        if request.output is not None:
            name = f"the output {request.output.name!r}"
            return self._json(request, name, request.output.parameters)
        results = _results(request)
        said = [f"{one.name} answered {one.status}: {one.content}" for one in results]
        return "\n".join(said) or "There is no tool to call, so there is nothing to say."

    def _json(self, request: LLMRequest, label: str, schema: Schema) -> str:
        seed = self._seed if request.seed is None else request.seed
        try:
            value = make_value(schema, Random(f"{seed} {label}"))  # noqa: S311  no secret
        except CannotMakeError as error:
            raise LLMError(
                f"schema/{request.model} cannot fill in {label}: {error}. Change its schema, or "
                "offer it to another model.",
                kind=LLMErrorKind.BAD_REQUEST,
                provider=self.name,
                model=request.model,
            ) from error
        return json.dumps(value, ensure_ascii=False)


def _results(request: LLMRequest) -> list[ToolResult]:
    """What the tools have answered since the user spoke."""
    results: list[ToolResult] = []
    for message in reversed(request.messages):
        if message.role == "user":
            break
        results[:0] = message.tool_results
    return results


def _digest(request: LLMRequest) -> str:
    digest = hashlib.sha256()
    for message in request.messages:
        digest.update(repr(message).encode(errors="backslashreplace"))
    return digest.hexdigest()[:12]
