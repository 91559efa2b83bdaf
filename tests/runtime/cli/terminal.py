"""A terminal for tests: runs a program in a pty, shows what a screen would, types into it."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pyte

TIMEOUT_S = 20.0


class _Screen(pyte.HistoryScreen):
    def __init__(self, columns: int, rows: int, answer: Callable[[str], None]) -> None:
        super().__init__(columns, rows, history=10_000, ratio=0.1)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        """Where the cursor is, when the program asks."""
        self._answer(data)


class Terminal:
    """`raw` is all that the program wrote, `text` what stands on the screen and above it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        columns: int = 80,
        rows: int = 24,
    ) -> None:
        self.raw = ""
        self._screen = _Screen(columns, rows, self.press)
        self._stream = pyte.ByteStream(self._screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)

    @property
    def text(self) -> str:
        columns = range(self._screen.columns)
        above = ["".join(line[x].data for x in columns) for line in self._screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self._screen.display]).rstrip()

    @property
    def cursor_line(self) -> str:
        return self._screen.display[self._screen.cursor.y].rstrip()

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_for(self, expected: str, *, times: int = 1) -> None:
        """Read until it stands there so many times."""
        self._read_until(lambda: self.text.count(expected) >= times, expected)

    def wait_for_prompt(self) -> None:
        """Read until the cursor stands in an empty prompt."""
        self._read_until(lambda: self.cursor_line == ">", "an empty prompt")

    def wait_for_end(self) -> int:
        """Read until the program ends; its exit code."""
        deadline = time.monotonic() + TIMEOUT_S
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(timeout=TIMEOUT_S)

    def _read_until(self, reached: Callable[[], bool], expected: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not reached():
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{expected!r} was not shown on this screen:\n{self.text}")

    def _read(self, timeout_s: float) -> bool:
        readable, _, _ = select.select([self._master], [], [], max(timeout_s, 0))
        if not readable:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux says so when the other end is closed.
            return False
        self.raw += data.decode("utf-8", "replace")
        self._stream.feed(data)
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)


def _take_terminal() -> None:
    """In the child: make the pty its controlling terminal, so that Ctrl-C becomes a signal."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
