# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Server-sent events, from the bytes as they arrive."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic_core import from_json


class EventTooLargeError(ValueError):
    """One event is larger than the limit."""


class EventReader:
    """Yields the data of each event as soon as its last byte is there.

    Lenient where servers are: a space after `data:` may be missing, an event may end with the
    stream, and so may its last line; one that was cut is dropped. llama.cpp of 2025 tells an error
    in a field of that name, which becomes the data `{"error": ...}`.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._line = bytearray()
        self._held = b""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, piece: bytes) -> Iterator[str]:
        """Take the next bytes.

        Raises:
            EventTooLargeError: an event outgrows the limit.
        """
        if self._held or b"\r" in piece:
            piece = self._with_plain_ends(piece)
        lines = piece.split(b"\n")
        unfinished = lines.pop()
        if lines and self._line:
            lines[0] = bytes(self._line + lines[0])
            self._line.clear()
        for line in lines:
            if line:
                self._take(line)
            elif self._data:
                yield self._event()
        if unfinished:
            self._line += unfinished
            if len(self._line) > self._max_event_bytes:
                raise self._too_large()

    def finish(self) -> Iterator[str]:
        """What is left when the stream has ended."""
        line = bytes(self._line)
        if self._held or self._completes(line):
            self._take(line)
        if self._data:
            yield self._event()

    def _completes(self, line: bytes) -> bool:
        """Whether the last line is whole, though it lacks its end: a cut object is no JSON."""
        name, _, value = line.partition(b":")
        data = b"\n".join([*self._data, value.strip()])
        if name != b"data" or data == b"[DONE]":
            return name == b"data"
        try:
            return isinstance(from_json(data), dict)
        except ValueError:
            return False

    def _with_plain_ends(self, piece: bytes) -> bytes:
        piece = self._held + piece
        # The last one may be the first half of a line's end: wait for the rest.
        self._held = b"\r" if piece.endswith(b"\r") else b""
        piece = piece.removesuffix(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name in (b"data", b"error"):
            value = value.removeprefix(b" ")
            self._data.append(value if name == b"data" else b'{"error": %b}' % value)
            self._data_bytes += len(value)
            if self._data_bytes > self._max_event_bytes:
                raise self._too_large()

    def _too_large(self) -> EventTooLargeError:
        return EventTooLargeError(f"an event of more than {self._max_event_bytes} bytes")

    def _event(self) -> str:
        data = b"\n".join(self._data)
        self._data, self._data_bytes = [], 0
        return data.decode("utf-8", "replace")
