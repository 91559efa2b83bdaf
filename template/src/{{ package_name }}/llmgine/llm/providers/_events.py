# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Server-sent events, from the bytes as they arrive."""

from __future__ import annotations

import re
from collections.abc import Iterator

# A carriage return at the end of a piece may be the first half of a line's end: wait for the rest.
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


class EventTooLargeError(ValueError):
    """One event is larger than the limit."""


class EventReader:
    """Yields the data of each event as soon as its last byte is there.

    Lenient where servers are: a space after `data:` may be missing, an event may end with the
    stream. An unfinished line at the end of the stream is dropped; it was cut.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = bytearray()
        self._searched = 0
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, piece: bytes) -> Iterator[str]:
        """Take the next bytes.

        Raises:
            EventTooLargeError: an event outgrows the limit.
        """
        self._rest += piece
        begin = 0
        for end in _LINE_END.finditer(self._rest, self._searched):
            line = bytes(self._rest[begin : end.start()])
            begin = end.end()
            if line:
                self._take(line)
            elif self._data:
                yield self._event()
        del self._rest[:begin]
        self._searched = max(0, len(self._rest) - 1)
        self._check(len(self._rest))

    def finish(self) -> Iterator[str]:
        """What is left when the stream has ended."""
        if self._rest.endswith(b"\r"):
            self._take(bytes(self._rest[:-1]))
        if self._data:
            yield self._event()

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._data_bytes += len(value)
            self._check(self._data_bytes)

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._max_event_bytes:
            raise EventTooLargeError(f"an event of more than {self._max_event_bytes} bytes")

    def _event(self) -> str:
        data = b"\n".join(self._data)
        self._data, self._data_bytes = [], 0
        return data.decode("utf-8", "replace")
