"""Server-sent events, in whatever pieces and line ends they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.llm.providers._events import EventReader, EventTooLargeError


def read(*pieces: bytes, limit: int = 1000) -> list[str]:
    reader = EventReader(limit)
    events = [event for piece in pieces for event in reader.feed(piece)]
    return [*events, *reader.finish()]


@pytest.mark.parametrize(
    ("sent", "events"),
    [
        (b"data: a\n\n", ["a"]),
        (b"data:a\n\ndata:  b\n\n", ["a", " b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b": a comment\n\ndata: a\n: another\ndata: b\n\n", ["a\nb"]),
        (b"event: message\nid: 7\nretry: 10\ndata: a\n\n", ["a"]),
        (b"\n\n\ndata: a\n\n\n\n", ["a"]),
        (b"data\n\n", [""]),
        (b"data: no blank line\n", ["no blank line"]),
        (b"data: a\n\ndata: unfinis", ["a"]),
        (b'data: a\n\ndata: {"b": ', ["a"]),
        (b'data: a\n\ndata: {"b": 1}', ["a", '{"b": 1}']),
        (b'data: {"b":\ndata: 1}', ['{"b":\n1}']),
        (b"data: a\n\ndata: [DONE]", ["a", "[DONE]"]),
        (b"data: \xff\n\n", ["\ufffd"]),
        (b'error: {"code":400}\n\n', ['{"error": {"code":400}}']),
        (b"", []),
    ],
)
def test_events_are_read_as_servers_send_them(sent: bytes, events: list[str]) -> None:
    assert read(sent) == events


lines = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=8)
ends = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(st.lists(lines, min_size=1, max_size=3), max_size=4), ends, st.data())
def test_where_the_bytes_are_cut_makes_no_difference(
    events: list[list[str]], end: bytes, data: st.DataObject
) -> None:
    sent = b"".join(
        b"".join(b"data: " + line.encode() + end for line in event) + end for event in events
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)))))
    pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]

    assert read(*pieces, limit=10_000) == ["\n".join(event) for event in events]


def test_a_line_end_of_two_bytes_may_be_cut_in_half() -> None:
    sent = b"data: a\r\ndata: b\r\n\r\n"

    assert read(*(sent[i : i + 1] for i in range(len(sent)))) == ["a\nb"]


def test_an_event_is_out_as_soon_as_its_last_byte_is_in() -> None:
    reader = EventReader(100)

    assert [list(reader.feed(piece)) for piece in (b"data: a\n", b"\n")] == [[], ["a"]]


@pytest.mark.parametrize(
    "sent", [[b"data: " + b"x" * 101], [b"data: " + b"x" * 60 + b"\n"] * 2], ids=["line", "lines"]
)
def test_an_event_that_is_too_large_is_refused(sent: list[bytes]) -> None:
    with pytest.raises(EventTooLargeError, match="100 bytes"):
        read(*sent, limit=100)
