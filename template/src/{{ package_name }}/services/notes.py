"""A small notebook in SQLite. This file is yours."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


class Notes:
    """Keeps short texts; safe to use from several threads and processes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, text: str) -> None:
        with self._opened() as database:
            database.execute("INSERT INTO notes (text) VALUES (?)", (text,))

    def find(self, query: str) -> list[str]:
        """The notes that hold every word of the query, newest first."""
        words = query.lower().split()
        with self._opened() as database:
            rows = database.execute("SELECT text FROM notes ORDER BY id DESC").fetchall()
        return [text for (text,) in rows if all(word in text.lower() for word in words)]

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=5.0)) as database, database:
                database.execute(
                    "CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT)"
                )
                yield database
        except (OSError, sqlite3.Error) as error:
            raise RuntimeError(f"the notes in {self._path} cannot be used: {error}") from error
