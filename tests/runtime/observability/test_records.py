"""A record is one JSON line, and that line is the record."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.observability import Record
from app.llmgine.observability.records import timestamp

texts = st.text(st.characters())  # Halves of surrogate pairs as well.
ids = st.none() | texts
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=10,
)
records = st.builds(
    Record,
    ts=st.integers(0, 2**62).map(timestamp),
    kind=st.sampled_from(["log", "span", "event", "metric"]),
    name=texts,
    trace_id=ids,
    span_id=ids,
    parent_id=ids,
    session_id=ids,
    fields=st.dictionaries(texts, json_values),
)


@given(records)
def test_a_record_survives_its_line(record: Record) -> None:
    line = record.to_line()

    assert Record.from_json(line) == record
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line == f"{record.to_json()}\n".encode()


@given(records)
def test_identifiers_that_are_not_set_take_no_room(record: Record) -> None:
    unset = record._replace(trace_id=None, fields={})

    assert '"trace_id"' not in unset.to_json().split('"fields"')[0].replace(record.name, "")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "[1]",
        '{"ts":"2026-01-01T00:00:00.000000Z","kind":"log"',
        '{"ts":"2026-01-01T00:00:00.000000Z","kind":"rumour","name":"x","fields":{}}',
        '{"ts":"yesterday","kind":"log","name":"x","fields":{}}',
        '{"ts":"2026-01-01T00:00:00.000000Z","kind":"log","name":1,"fields":{}}',
        '{"ts":"2026-01-01T00:00:00.000000Z","kind":"log","name":"x","fields":[]}',
        '{"ts":"2026-01-01T00:00:00.000000Z","kind":"log","name":"x","fields":{},"more":1}',
    ],
)
def test_a_line_that_is_no_record_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Record.from_json(line)


@given(st.lists(st.integers(0, 2**62), min_size=2))
def test_times_sort_as_text(times_ns: list[int]) -> None:
    stamps = [timestamp(time_ns) for time_ns in sorted(times_ns)]

    assert stamps == sorted(stamps)


@given(st.integers(0, 2**61))
def test_a_time_is_kept_to_the_microsecond(time_ns: int) -> None:
    record = Record(timestamp(time_ns), "log", "x")

    micros = (record.time - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6
    assert micros == pytest.approx(time_ns // 1000, abs=1000)
    assert record.time.utcoffset() is not None
