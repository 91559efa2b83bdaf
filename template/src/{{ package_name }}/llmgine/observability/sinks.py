# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Where records go: a rotated JSON lines file on disk, or a list in memory."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ConfigurationError
from .records import Record, timestamp

try:
    import fcntl
except ImportError:  # Windows: there, one process writes to one path.
    fcntl = None  # type: ignore[assignment]

_OPEN_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)


def backups_of(path: Path) -> dict[int, Path]:
    """The files that were set aside, by their number; 1 is the newest."""
    found: dict[int, Path] = {}
    for file in path.parent.glob(f"{path.name}.*"):
        number = file.name.removeprefix(f"{path.name}.")
        if number.isascii() and number.isdigit() and not number.startswith("0"):
            found[int(number)] = file
    return found


class RotatedFile:
    """Appends whole lines; with its backups it never takes more than `max_bytes` each.

    No line may be longer than that. Not for several threads at once. Several processes may append
    to one path: each holds a lock on the file while it writes, and looks whether another has set
    it aside in the meantime.
    """

    def __init__(self, path: Path, *, max_bytes: int, backups: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._file: int | None = None

    def open(self) -> None:
        """Make the folder and the file, readable for nobody else, where they are not there yet."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, _OPEN_FLAGS, 0o600)
        self._prune()

    def _prune(self) -> None:
        """Throw away what is more than it may be: by rotation, or by an earlier setting."""
        total_bytes = 0
        for number, file in sorted(backups_of(self.path).items()):
            with suppress(FileNotFoundError):  # Another process was quicker.
                total_bytes += file.stat().st_size
                if number > self._backups or total_bytes > self._backups * self._max_bytes:
                    file.unlink()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def append(self, lines: list[bytes]) -> tuple[int, OSError | None]:
        """How many of the lines were written, and what stopped the others."""
        written = 0
        try:
            while written < len(lines):
                with self._locked() as file:
                    written += self._append_some(file, lines[written:])
        except OSError as failure:
            self.close()
            return written, failure
        return written, None

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file that stands at the path now, and nobody else's for the time."""
        while True:
            if self._file is None:
                self.open()
            assert self._file is not None
            file = self._file
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                if self._stands_at_path(file):
                    yield file
                    return
            finally:
                if fcntl is not None and self._file is not None:
                    fcntl.flock(file, fcntl.LOCK_UN)
            self.close()

    def _stands_at_path(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self.path.stat())
        except FileNotFoundError:
            return False

    def _append_some(self, file: int, lines: list[bytes]) -> int:
        """Write as many lines as have room; where not even one has, set the file aside."""
        size_bytes = os.fstat(file).st_size
        torn = size_bytes > 0 and _last_byte(file) != b"\n"
        room_bytes = self._max_bytes - size_bytes - torn
        count = 0
        while count < len(lines) and len(lines[count]) <= room_bytes:
            room_bytes -= len(lines[count])
            count += 1
        if count:
            # A line that a crash has cut must not swallow the next one.
            _write_whole(file, b"\n" * torn + b"".join(lines[:count]), size_bytes)
        else:
            self._rotate()
        return count

    def _rotate(self) -> None:
        if fcntl is None:
            self.close()  # Windows refuses to rename an open file; elsewhere it holds the lock.
        backups = backups_of(self.path)
        for number in sorted(backups, reverse=True):
            backups[number].replace(self._backup(number + 1))
        self.path.replace(self._backup(1))
        self.close()

    def _backup(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def _last_byte(file: int) -> bytes:
    os.lseek(file, -1, os.SEEK_END)  # Where it writes is not moved by this.
    return os.read(file, 1)


def _write_whole(file: int, data: bytes, size_bytes: int) -> None:
    """Append all of it or nothing: half a line would be lost."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError:
        if len(rest) < len(data):
            os.ftruncate(file, size_bytes)
        raise


_BATCH_WINDOW_S = 0.05
_MIN_BYTES = 1000
_SHORTENED_CHARS = 500


class MemorySink:
    """Keeps every record in `records`: for tests."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def emit(self, record: Record) -> None:
        self.records.append(record)

    def close(self, timeout_s: float) -> None:
        """Nothing to do: they are where they belong."""


class JsonlSink:
    """Appends each record as one line to a file that is rotated by size.

    The file and its `backups` (`app.jsonl.1` is the newest) never take more than
    `max_bytes * (backups + 1)` together. Several processes may write to one path.

    Lines are written by one thread, which starts with the first record and takes its work from a
    queue of at most `queue_bytes`. A record that finds it full is dropped; a record that tells
    how many were dropped follows. While the file cannot be written, lines wait in the queue: this
    is told once on stderr, and ends by itself. A crash loses at most the last tenth of a second.

    Raises:
        ConfigurationError: the folder cannot be made, or the file in it cannot be written.
        ValueError: `max_bytes` is below 1000.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = 10_000_000,
        backups: int = 4,
        queue_bytes: int = 8_000_000,
        retry_s: float = 1.0,
    ) -> None:
        if max_bytes < _MIN_BYTES:
            raise ValueError(f"max_bytes is {max_bytes}; a file must hold {_MIN_BYTES} bytes.")
        self.path = path
        self.dropped = 0
        """Records that were dropped so far."""
        self._queue_bytes = queue_bytes
        self._retry_s = retry_s
        self._line_bytes = min(max_bytes, queue_bytes)
        self._file = RotatedFile(path, max_bytes=max_bytes, backups=backups)
        self._failing = False
        self._reset()
        self._check()

    def _reset(self) -> None:
        # Reentrant, as a finalizer that logs may run at any point of `emit`.
        self._changed = threading.Condition(threading.RLock())
        self._closing = threading.Event()
        self._lines: list[bytes] = []
        self._waiting_bytes = 0
        self._told = self.dropped
        self._file.close()
        self._thread: threading.Thread | None = None
        self._process_id = os.getpid()

    def _check(self) -> None:
        try:
            self._file.open()
            self._file.close()
        except OSError as error:
            raise ConfigurationError(
                f"The log folder {str(self.path.parent)!r} cannot be written: "
                f"{error.strerror or error} ({self.path.name!r}). Make it writable for this user, "
                "or set LLMGINE_LOG_DIR to a folder that is."
            ) from error

    def emit(self, record: Record) -> None:
        """Queue the record; never waits for the disk."""
        line = record.to_line()
        if len(line) > self._line_bytes:
            line = _shortened(record, len(line)).to_line()
        if self._process_id != os.getpid():
            self._reset()  # After a fork: the thread, and what was queued, are the parent's.
        with self._changed:
            room_bytes = self._queue_bytes - self._waiting_bytes
            if len(line) <= min(self._line_bytes, room_bytes):
                self._waiting_bytes += len(line)
                self._lines.append(line)
            else:
                self.dropped += 1
            if self._thread is None:
                self._start()
            elif len(self._lines) <= 1:
                self._changed.notify()

    def _start(self) -> None:
        if not threading.main_thread().is_alive():
            # The interpreter is exiting: a thread would be cut off, and no loop is left to block.
            self._write_queue()
            return
        self._closing.clear()
        self._thread = threading.Thread(
            target=self._work, name=f"log {self.path.name}", daemon=True
        )
        self._thread.start()
        atexit.register(self.close)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write out the queue and end the thread. A later record would start it again."""
        with self._changed:
            thread = self._thread
            self._closing.set()
            self._changed.notify()
        if thread is None:
            return
        thread.join(timeout_s)
        atexit.unregister(self.close)
        if self._lines:
            _tell(f"{len(self._lines)} records could not be written to {str(self.path)!r}.")

    def _work(self) -> None:
        failed = False
        while self._has_work(failed=failed):
            # One wake-up then serves all the records of this window.
            self._closing.wait(self._retry_s if failed else _BATCH_WINDOW_S)
            failed = not self._write_queue()

    def _has_work(self, *, failed: bool) -> bool:
        """Wait for work; false when there will be none, and the thread must end."""
        with self._changed:
            while not (self._has_news() or self._closing.is_set()):
                self._changed.wait()
            if self._closing.is_set() and (failed or not self._has_news()):
                self._thread = None
                self._file.close()
                return False
            return True

    def _has_news(self) -> bool:
        return bool(self._lines) or self.dropped > self._told

    def _write_queue(self) -> bool:
        """Write the queue out; whether that went well. What was not written stays queued."""
        with self._changed:
            lines = list(self._lines)
        written, failure = self._file.append(lines)
        with self._changed:
            del self._lines[:written]
            self._waiting_bytes -= sum(map(len, lines[:written]))
            dropped = self.dropped - self._told
        if dropped and failure is None:
            told, failure = self._file.append([_dropped(dropped).to_line()])
            self._told += dropped * told
        self._report(failure)
        return failure is None

    def _report(self, failure: OSError | None) -> None:
        if failure is not None and not self._failing:
            _tell(
                f"cannot write the log {str(self.path)!r}: {failure.strerror or failure}. "
                "The application goes on; records wait, and are dropped when too many do."
            )
        self._failing = failure is not None


def _shortened(record: Record, size_bytes: int) -> Record:
    """The record with its texts cut, for one that is longer than a whole file may be."""
    fields = {
        key: value[:_SHORTENED_CHARS] if isinstance(value, str) else value
        for key, value in record.fields.items()
        if not isinstance(value, dict | list)
    }
    return record._replace(fields=fields | {"shortened_from_bytes": size_bytes})


def _dropped(count: int) -> Record:
    return Record(
        timestamp(),
        "log",
        __name__,
        fields={
            "level": "warning",
            "message": "Records were dropped: they came faster than the disk takes them.",
            "dropped": count,
        },
    )


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # No stderr, or it is closed.
        sys.stderr.write(f"llmgine: {text}\n")
