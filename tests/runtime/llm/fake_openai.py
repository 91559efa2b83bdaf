"""What tests of Chat Completions alone need: the vendors' server, and its replies as raw bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.llm.vendors import SILENCE, Call, Raw, Recorded, VendorServer, as_event, cut, whole
from runtime.llm.vendors import Answer as AnyAnswer
from runtime.llm.vendors.answers import Then
from runtime.llm.vendors.chat_completions import body, chunks

__all__ = [
    "SILENCE",
    "Answer",
    "Call",
    "FakeOpenAI",
    "Raw",
    "Recorded",
    "as_event",
    "cut",
    "refusal",
    "stream",
    "whole",
]

FakeOpenAI = VendorServer


@dataclass(frozen=True)
class Answer(AnyAnswer):
    def body(self, model: str) -> dict[str, Any]:
        """The `chat.completion` object."""
        return body(self, {"model": model})

    def events(self, model: str, *, usage: bool = True) -> list[dict[str, Any]]:
        """The `chat.completion.chunk` objects."""
        return chunks(self, {"model": model, "stream_options": {"include_usage": usage}})


def refusal(
    status: int,
    message: str,
    *,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Raw:
    """An error in OpenAI's form."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return whole({"error": error}, status, headers)


def stream(*events: dict[str, Any] | str | bytes, then: Then = "end") -> Raw:
    """An event stream of JSON objects, texts (`[DONE]`), and bytes that are sent as they are."""
    pieces = [event if isinstance(event, bytes) else as_event(event) for event in events]
    return Raw(pieces, headers={"Content-Type": "text/event-stream"}, then=then)
