"""Tools about notes. This file is yours."""

from collections.abc import Callable
from typing import Any

from ..services.notes import Notes


def note_tools(notes: Notes) -> list[Callable[..., Any]]:
    """The tools that read and write this notebook."""

    def save_note(text: str) -> str:
        """Save a note for later.

        Args:
            text: what to remember, in the user's own words.
        """
        notes.save(text)
        return f"Saved: {text}"

    def find_notes(query: str) -> list[str]:
        """Find the saved notes about something.

        Args:
            query: words that the notes must hold.
        """
        return notes.find(query)

    return [save_note, find_notes]
