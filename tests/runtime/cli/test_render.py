"""Text fits the window and cannot steer the terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.interfaces.cli.logs import DURATION_COLUMNS
from app.llmgine.interfaces.cli.render import (
    cells,
    colour_wanted,
    dim,
    duration,
    pad,
    printable,
    shorten,
)


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(st.text(), st.integers(min_value=1, max_value=60))
def test_shortened_text_is_one_line_that_fits(text: str, width: int) -> None:
    line = shorten(text, width)

    assert cells(line) <= width
    assert "\n" not in line


@given(st.text(alphabet="abc 漢字é", max_size=10))
def test_text_that_fits_is_only_made_one_line(text: str) -> None:
    assert shorten(text, 40) == " ".join(text.split())


def test_wide_characters_take_two_columns() -> None:
    assert cells("漢字") == 4
    assert pad("漢字", 6) == "漢字  "
    assert shorten("漢字漢字", 5) == "漢字…"


@given(st.text())
def test_nothing_printable_begins_an_escape_sequence(text: str) -> None:
    shown = printable(text)

    assert not any(ord(c) < 32 and c not in "\n\t" for c in shown)
    assert not any(127 <= ord(c) < 160 for c in shown)


def test_a_pipe_gets_no_colour() -> None:
    assert dim("x", io.StringIO()) == "x"


def test_a_terminal_gets_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    assert dim("x", FakeTerminal()) == "\x1b[2mx\x1b[0m"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_is_left_out_where_it_is_not_wanted(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(name, value)

    assert not colour_wanted(FakeTerminal())


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 µs"),
        (0.00084, "840 µs"),
        (0.0009996, "1 ms"),
        (0.0123, "12.3 ms"),
        (0.9999, "1 s"),
        (4.561, "4.56 s"),
        (59.99, "1 m 0 s"),
        (125, "2 m 5 s"),
        (3600, "1 h 0 m"),
    ],
)
def test_durations_read_easily(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@given(st.floats(0, 360_000))
def test_durations_fit_the_column_they_are_given(seconds: float) -> None:
    assert len(duration(seconds)) <= DURATION_COLUMNS
    assert "e" not in duration(seconds)
