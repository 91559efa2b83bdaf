# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Text for a terminal or a pipe: colour where it is wanted, and widths."""

from __future__ import annotations

import os
import shutil
import textwrap
import unicodedata
from typing import TextIO

# What a model or a tool says is shown, never obeyed: an escape character in it could rewrite the
# screen or the clipboard. Tabs and line ends stay.
_CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])


def printable(text: str) -> str:
    """The text without control characters, safe to write to a terminal."""
    return text.translate(_CONTROLS)


def colour_wanted(stream: TextIO) -> bool:
    """Whether escape sequences may be written there. Source: https://no-color.org."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def dim(text: str, stream: TextIO) -> str:
    return _styled("2", text, stream)


def bold(text: str, stream: TextIO) -> str:
    return _styled("1", text, stream)


def red(text: str, stream: TextIO) -> str:
    return _styled("31", text, stream)


def yellow(text: str, stream: TextIO) -> str:
    return _styled("33", text, stream)


def green(text: str, stream: TextIO) -> str:
    return _styled("32", text, stream)


def _styled(code: str, text: str, stream: TextIO) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour_wanted(stream) else text


def width_columns() -> int:
    """Columns of the window, 80 where there is none; never so few that nothing fits."""
    return max(shutil.get_terminal_size().columns, 20)


def cells(text: str) -> int:
    """Columns that the text takes: East Asian wide characters take two, combining ones none."""
    return sum(_cells_of(character) for character in text)


def _cells_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shorten(text: str, width: int) -> str:
    """One line of at most `width` columns, ending in an ellipsis where something was cut."""
    line = " ".join(printable(text).split())
    if cells(line) <= width:
        return line
    kept, used = [], 1
    for character in line:
        used += _cells_of(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


def wrap(text: str, width: int) -> str:
    """The text with each of its lines broken where the window ends."""
    return "\n".join(
        textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False)
        for line in text.split("\n")
    )


def pad(text: str, width: int) -> str:
    """The text filled up with spaces to `width` columns."""
    return text + " " * max(width - cells(text), 0)


def count(number: int, thing: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def duration(seconds: float) -> str:
    """`840 µs`, `12.3 ms`, `4.56 s`, `2 m 5 s`, `3 h 0 m`."""
    if seconds < 0.0009995:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest_s} s"
    return f"{minutes // 60:,} h {minutes % 60} m"
