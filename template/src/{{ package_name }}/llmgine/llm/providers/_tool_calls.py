# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Puts streamed tool calls together, however raggedly a server sends them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...contracts import Chunk, ToolCallArgumentsDelta, ToolCallStart


class _Call:
    """One tool call; `rank` is its place among the calls of the answer."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.id = ""
        self.name = ""
        self.held: list[str] = []


class ToolCallAssembler:
    """Turns `tool_calls` deltas into chunks: calls in the order of their index, each with an id.

    A call starts once its id and name are known and every call before it has started; until then
    its arguments are held back. What is still unknown at the end gets an id from `id_prefix`, or
    an empty name. A call may lack its index (it is then found by its id, or is the newest one),
    repeat its id and name in every delta, or share its index with another call.
    """

    def __init__(self, id_prefix: Callable[[], str]) -> None:
        self._id_prefix = id_prefix
        self._calls: dict[int, _Call] = {}  # by rank
        self._by_index: dict[int, _Call] = {}
        self._newest: _Call | None = None
        self._started = 0
        self._used_ids: set[str] = set()

    def __len__(self) -> int:
        return len(self._calls)

    def feed(self, delta: Mapping[str, Any]) -> Iterator[Chunk]:
        """Take one item of a delta's `tool_calls`."""
        function = delta.get("function")
        function = function if isinstance(function, dict) else {}
        id_, name = _text(delta.get("id")), _text(function.get("name"))
        call = self._find(delta.get("index"), id_, name)
        call.id = call.id or id_
        call.name = call.name or name
        arguments = _arguments(function.get("arguments"))
        if call.rank < self._started:
            if arguments:
                yield ToolCallArgumentsDelta(index=call.rank, text=arguments)
            return
        call.held.append(arguments)
        while (ready := self._calls.get(self._started)) and ready.id and ready.name:
            yield from self._start(ready)

    def finish(self) -> Iterator[Chunk]:
        """Start whatever could not start yet."""
        waiting = sorted(rank for rank in self._calls if rank >= self._started)
        for rank in waiting:
            yield from self._start(self._calls[rank])

    def _find(self, index: Any, id_: str, name: str) -> _Call:
        if isinstance(index, int):
            call = self._by_index.get(index)
            # Gemini's endpoint gives every parallel call, each in one delta, the index 0.
            another = call is not None and bool(name and call.name and id_ not in ("", call.id))
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
        yield ToolCallStart(index=call.rank, id=call.id, name=call.name)
        arguments = "".join(call.held)
        if arguments:
            yield ToolCallArgumentsDelta(index=call.rank, text=arguments)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _arguments(value: Any) -> str:
    """The arguments as JSON text: some servers send the object itself."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
