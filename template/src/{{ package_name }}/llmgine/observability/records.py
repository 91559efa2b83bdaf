# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What is recorded, and where it goes: a `Record` is one JSON object, a `Sink` takes them."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import JsonValue, TypeAdapter
from pydantic_core import to_json


def message_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # Other people's `__str__`, on the way to telling that something failed.
        return f"<{type(error).__name__} without a message>"


def stack_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


Kind = Literal["log", "span", "event", "metric"]


class Record(NamedTuple):
    """One thing that happened. A span's record is made when it ends; `ts` is when it began.

    A named tuple, since one is made for every span and log line and it is the cheapest to make.
    """

    ts: str
    """UTC in ISO 8601, always to the microsecond, so that it sorts as text."""
    kind: Kind
    name: str
    trace_id: str | None = None
    span_id: str | None = None
    parent_id: str | None = None
    session_id: str | None = None
    fields: Mapping[str, JsonValue] = {}

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.ts)

    def to_line(self) -> bytes:
        """The record as one line of JSON in UTF-8. Identifiers that are not set are left out."""
        line: dict[str, Any] = {"ts": self.ts, "kind": self.kind, "name": self.name}
        if self.trace_id is not None:
            line["trace_id"] = self.trace_id
        if self.span_id is not None:
            line["span_id"] = self.span_id
        if self.parent_id is not None:
            line["parent_id"] = self.parent_id
        if self.session_id is not None:
            line["session_id"] = self.session_id
        line["fields"] = self.fields
        try:
            # Takes a third of the time of the standard library's.
            return to_json(line, fallback=str) + b"\n"
        except ValueError:
            # Half of a surrogate pair is no UTF-8; the escape that JSON has for it is.
            return json.dumps(line, default=str).encode() + b"\n"

    def to_json(self) -> str:
        """The same line as text, without its end."""
        return self.to_line()[:-1].decode()

    @classmethod
    def from_json(cls, line: str | bytes) -> Record:
        """The record of a line that `to_line` wrote.

        Raises:
            ValueError: the line is cut, or is not a record.
        """
        record = _adapter().validate_python(json.loads(line))
        _ = record.time  # Raises where `ts` is not a time.
        return record


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Record]:
    return TypeAdapter(Record)  # Only who reads logs back pays for it.


class Sink(Protocol):
    """Takes records, from any thread. Neither method may block the caller for long, or raise."""

    def emit(self, record: Record) -> None: ...

    def close(self, timeout_s: float) -> None:
        """Write out what was taken, within that time."""
        ...


def timestamp(time_ns: int | None = None) -> str:
    """Nanoseconds since 1970, or now, as a record's `ts`."""
    seconds, rest_ns = divmod(time.time_ns() if time_ns is None else time_ns, 1_000_000_000)
    return f"{_to_the_second(seconds)}.{rest_ns // 1000:06d}Z"


@lru_cache(maxsize=64)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
