# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Tools and their calls, as all formats have them, and calls put together from their pieces."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import JsonValue
from pydantic_core import from_json

from ...contracts import (
    Chunk,
    LLMRequest,
    ToolCall,
    ToolCallArgumentsDelta,
    ToolCallStart,
    ToolSpec,
)
from ...errors import LLMError, LLMErrorKind
from ._direct import as_mapping, as_text
from ._failures import Origin


def encode_schema(tool: ToolSpec) -> dict[str, JsonValue]:
    """Its parameters; OpenAI refuses an object without `properties`, as MCP's servers have."""
    return {"type": "object", "properties": {}, **tool.parameters}


def encode_name(call: ToolCall) -> str:
    """Its tool, in the letters that are taken: models make up `multi_tool_use.parallel`."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", call.name)[:128] or "_"


def encode_arguments(call: ToolCall) -> dict[str, JsonValue]:
    """The object that the model wrote, or, if it wrote none, one that quotes what it wrote."""
    try:
        value = from_json(call.arguments or "{}")
        json.dumps(value, allow_nan=False)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"invalid_json": call.arguments}


def spell_arguments(call: ToolCall) -> str:
    """The same as text; many servers parse what they are sent, and fail if they cannot."""
    arguments = encode_arguments(call)
    is_quoted = not call.arguments or arguments == {"invalid_json": call.arguments}
    return json.dumps(arguments) if is_quoted else call.arguments


def nameless_call(origin: Origin) -> LLMError:
    return origin.error(
        LLMErrorKind.BAD_RESPONSE,
        "called a tool without its name",
        fix="Try again, or try another model.",
    )


def id_prefix(request: LLMRequest) -> str:
    """Names calls that came without an id: the same for the same request, new for the next."""
    digest = hashlib.sha256()
    for message in request.messages:
        digest.update(message.model_dump_json().encode())
    return f"call_{digest.hexdigest()[:12]}_"


class _Call:
    """One tool call; `rank` is its place among the calls of the answer."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.id = ""
        self.name = ""
        self.signature = ""
        self.held: list[str] = []

    @property
    def is_whole(self) -> bool:
        """Whether the arguments, held back for want of an id, are already a JSON object."""
        try:
            return not self.id and isinstance(from_json("".join(self.held)), dict)
        except ValueError:
            return False


class ToolCallAssembler:
    """Turns `tool_calls` deltas into chunks: calls in the order of their index, each with an id.

    A call starts once its id and name are known and every call before it has started; until then
    its arguments are held back. An id that is still unknown at the end is made from `id_prefix`. A
    call may lack its index (it is then found by its id, or is the newest one), repeat its id and
    name in every delta, or share its index with another call.
    """

    def __init__(self, id_prefix: Callable[[], str], signed_by: str) -> None:
        self._id_prefix = id_prefix
        self._signed_by = signed_by
        self._calls: dict[int, _Call] = {}  # by rank
        self._by_index: dict[int, _Call] = {}
        self._newest: _Call | None = None
        self._started = 0
        self._used_ids: set[str] = set()

    def __len__(self) -> int:
        return len(self._calls)

    def feed(self, delta: Mapping[str, Any]) -> Iterator[Chunk]:
        """Take one item of a delta's `tool_calls`."""
        function = as_mapping(delta.get("function"))
        id_, name = as_text(delta.get("id")), as_text(function.get("name"))
        arguments = arguments_text(function.get("arguments"))
        call = self._find(delta.get("index"), id_, name, arguments)
        call.id = call.id or id_
        call.name = call.name or name
        call.signature = call.signature or _thought_signature(delta)
        if call.rank < self._started:
            if arguments:
                yield ToolCallArgumentsDelta(index=call.rank, text=arguments)
            return
        call.held.append(arguments)
        while (ready := self._calls.get(self._started)) and ready.id and ready.name:
            yield from self._start(ready)

    @property
    def nameless(self) -> bool:
        """Whether a call lacks the name of its tool: it can neither run nor be sent back."""
        return not all(call.name for call in self._calls.values())

    def finish(self) -> Iterator[Chunk]:
        """Start whatever could not start yet."""
        waiting = sorted(rank for rank in self._calls if rank >= self._started)
        for rank in waiting:
            yield from self._start(self._calls[rank])

    def _find(self, index: Any, id_: str, name: str, arguments: str) -> _Call:
        if isinstance(index, int):
            call = self._by_index.get(index)
            another = False
            if call is not None and name and call.name:
                # Gemini's endpoint, and gateways to it, give every parallel call, each in one
                # delta, the index 0; some no id.
                another = id_ != call.id if id_ else bool(arguments) and call.is_whole
            if call is None or another:
                call = self._new(None if another else index)
                self._by_index[index] = call
            return call
        for call in self._calls.values():
            if id_ and call.id == id_:
                return call
        if self._newest is None or id_ or (name and self._newest.name):
            return self._new(None)
        return self._newest

    def _new(self, index: int | None) -> _Call:
        rank = max(self._calls, default=-1) + 1
        if index is not None and index >= self._started and index not in self._calls:
            rank = index
        self._newest = self._calls[rank] = call = _Call(rank)
        return call

    def _start(self, call: _Call) -> Iterator[Chunk]:
        if not call.id or call.id in self._used_ids:
            call.id = f"{self._id_prefix()}{call.rank}"
        self._used_ids.add(call.id)
        self._started = call.rank + 1
        signed = bool(call.signature)
        yield ToolCallStart(
            index=call.rank,
            id=call.id,
            name=call.name,
            signature=call.signature if signed else None,
            signed_by=self._signed_by if signed else None,
        )
        arguments = "".join(call.held)
        if arguments:
            yield ToolCallArgumentsDelta(index=call.rank, text=arguments)


def _thought_signature(call: Mapping[str, Any]) -> str:
    google = as_mapping(as_mapping(call.get("extra_content")).get("google"))
    return as_text(google.get("thought_signature"))


def arguments_text(value: Any) -> str:
    """The arguments as JSON text: some servers send the object itself."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
