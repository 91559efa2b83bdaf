"""What a sender set out to send and what was accepted, in a file that outlives its process."""

from __future__ import annotations

import os
from pathlib import Path


class Ledger:
    """A line per fact. What the system has taken survives the kill of the process."""

    def __init__(self, path: Path) -> None:
        self.sent: dict[str, None] = {}
        self.accepted: dict[str, str] = {}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        for line in path.read_text(encoding="utf-8").splitlines():
            what, label, receipt = line.split("\t")
            if what == "sent":
                self.sent[label] = None
            else:
                self.accepted[label] = receipt

    def note_sent(self, label: str) -> None:
        """Before it is sent: it may be accepted though nobody was left to hear of it."""
        if label not in self.sent:
            self.sent[label] = None
            os.write(self._file, f"sent\t{label}\t\n".encode())

    def note_accepted(self, label: str, receipt: str) -> None:
        self.accepted[label] = receipt
        os.write(self._file, f"accepted\t{label}\t{receipt}\n".encode())

    @property
    def unanswered(self) -> list[str]:
        """What was sent and not accepted, as far as is known."""
        return [label for label in self.sent if label not in self.accepted]

    def close(self) -> None:
        os.close(self._file)
