# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Reads records back from the files that a `JsonlSink` wrote."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from .records import Record
from .sinks import backups_of

_POLL_S = 0.2


def log_files(path: Path) -> list[Path]:
    """The files of the log at `path`, oldest first, those that were set aside included."""
    backups = backups_of(path)
    files = [backups[number] for number in sorted(backups, reverse=True)]
    return [*files, path] if path.exists() else files


class LogReader:
    """Iterates over the records of a log, oldest first; of a log that is not there, over none.

    Lines that are cut, or are no records, are left out; `junk` counts those of the last reading.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.junk = 0

    def __iter__(self) -> Iterator[Record]:
        return self.follow(lambda: False)

    def follow(self, poll: Callable[[], bool] | None = None) -> Iterator[Record]:
        """The records there are, then those that come, wherever rotation puts them meanwhile.

        `poll` is called at the end of the log and says whether to look again. By default it waits
        a moment and says yes, so that this goes on for ever.
        """
        self.junk = 0
        tail = _Tail(self.path)
        try:
            while True:
                for line in tail.lines():
                    try:
                        yield Record.from_json(line)
                    except (ValueError, RecursionError):
                        self.junk += 1
                if not (poll or _wait_a_moment)():
                    break
            self.junk += bool(tail.rest)
        finally:
            tail.close()


def _wait_a_moment() -> bool:
    time.sleep(_POLL_S)
    return True


class _Tail:
    """Reads on where it stopped, from file to file as they were written."""

    def __init__(self, path: Path) -> None:
        self.rest = b""
        self._path = path
        self._file: BinaryIO | None = None

    def lines(self) -> Iterator[bytes]:
        """The whole lines that are new; what was cut by the end of an older file as well."""
        while True:
            # Looked for before reading on: nobody writes to a file that has been followed by
            # another, so that what is read then is all of it.
            newer = self._open_newer()
            if self._file is not None:
                yield from self._read(self._file)
            if newer is None:
                return
            if self.rest:
                yield self.rest
            self.close()
            self._file = newer

    def _read(self, file: BinaryIO) -> Iterator[bytes]:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes < file.tell():  # A line that did not fit on the disk was taken back.
            file.seek(size_bytes)
            self.rest = b""
        for line in file:
            self.rest += line
            if line.endswith(b"\n"):
                whole, self.rest = self.rest, b""
                yield whole

    def _open_newer(self) -> BinaryIO | None:
        """The file that was begun after the one at hand; the oldest at the start."""
        while True:
            files = self._identified()
            path = self._next_path(files)
            if path is None:
                return None
            try:
                newer = path.open("rb")
            except FileNotFoundError:
                continue
            # A rotation in between has given the path to another file.
            if files == self._identified():
                return newer
            newer.close()

    def _identified(self) -> list[tuple[Path, int, int]]:
        """The files, oldest first, each with its inode and the time of its last line."""
        found: list[tuple[Path, int, int]] = []
        for file in log_files(self._path):
            try:
                status = file.stat()
            except FileNotFoundError:
                continue
            found.append((file, status.st_ino, status.st_mtime_ns))
        return found

    def _next_path(self, files: list[tuple[Path, int, int]]) -> Path | None:
        if self._file is None:
            return files[0][0] if files else None
        here = os.fstat(self._file.fileno())
        inodes = [inode for _, inode, _ in files]
        if here.st_ino in inodes:
            later = files[inodes.index(here.st_ino) + 1 :]
        else:  # It was thrown away while it was read.
            later = [file for file in files if file[2] >= here.st_mtime_ns]
        return later[0][0] if later else None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
        self.rest = b""


@dataclass(frozen=True, slots=True)
class SpanNode:
    """A span, the spans inside it, and the other records made in it, each by time."""

    span: Record
    children: list[SpanNode] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trace:
    """All there is of one trace. Whatever stands in no span that was recorded is in `records`."""

    trace_id: str
    roots: list[SpanNode]
    records: list[Record]


def last_trace_id(records: Iterable[Record]) -> str | None:
    """The trace of the span that ended last."""
    last: str | None = None
    for record in records:
        if record.kind == "span":
            last = record.trace_id
    return last


def trace_tree(records: Iterable[Record], trace_id: str) -> Trace:
    """The spans of the trace as a tree.

    A span whose parent is not there, since it still runs or was thrown away, is a root.
    """
    of_trace = sorted(
        (record for record in records if record.trace_id == trace_id), key=lambda record: record.ts
    )
    nodes: dict[str | None, SpanNode] = {
        record.span_id: SpanNode(record)
        for record in of_trace
        if record.kind == "span" and record.span_id is not None
    }
    trace = Trace(trace_id, [], [])
    for record in of_trace:
        if record.kind != "span":
            node = nodes.get(record.span_id)
            (trace if node is None else node).records.append(record)
    for node in nodes.values():
        parent = nodes.get(node.span.parent_id)
        if parent is None or _in_a_circle(node, nodes):
            trace.roots.append(node)
        else:
            parent.children.append(node)
    return trace


def _in_a_circle(node: SpanNode, nodes: dict[str | None, SpanNode]) -> bool:
    """Whether its parents lead back to it, as only a damaged log can say."""
    seen: set[str | None] = set()
    parent = nodes.get(node.span.parent_id)
    while parent is not None and parent.span.span_id not in seen:
        if parent is node:
            return True
        seen.add(parent.span.span_id)
        parent = nodes.get(parent.span.parent_id)
    return False
