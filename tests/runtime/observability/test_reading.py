"""Logs read back: whole, in order, while they are written, and whatever else is in them."""

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.llmgine.observability import (
    JsonlSink,
    LogReader,
    Observer,
    Record,
    SpanNode,
    last_trace_id,
    log_files,
    trace_tree,
)
from app.llmgine.observability.records import timestamp


def record(number: int, size: int = 0) -> Record:
    return Record(timestamp(), "log", "test", fields={"n": number, "pad": "x" * size})


def write(log: Path, *numbers: int, size: int = 0, max_bytes: int = 100_000) -> None:
    sink = JsonlSink(log, max_bytes=max_bytes, backups=30)
    for number in numbers:
        sink.emit(record(number, size))
    sink.close()


def polls(*steps: Callable[[], object]) -> Callable[[], bool]:
    """Does the next step each time the reader has come to the end; then there are no more."""
    left = iter(steps)

    def poll() -> bool:
        step = next(left, None)
        if step is not None:
            step()
        return step is not None

    return poll


def numbers(records: Iterator[Record]) -> list[int]:
    return [int(str(found.fields["n"])) for found in records]


def test_a_log_that_is_not_there_has_no_records(log: Path) -> None:
    assert list(LogReader(log)) == []
    assert log_files(log) == []


def test_rotated_files_are_read_oldest_first(log: Path) -> None:
    write(log, *range(200), size=50, max_bytes=2000)

    assert len(log_files(log)) > 10
    assert numbers(iter(LogReader(log))) == list(range(200))


def test_other_files_beside_the_log_are_left_alone(log: Path) -> None:
    write(log, 1)
    for name in ("app.jsonl.bak", "app.jsonl.1.gz", "app.jsonl.0", "other.jsonl.1"):
        (log.parent / name).write_text("not ours")

    assert log_files(log) == [log]


@given(st.lists(st.sampled_from(["record", "junk", "cut"]), max_size=20))
@settings(max_examples=40, deadline=None)
def test_lines_that_are_no_records_are_counted_and_left_out(kinds: list[str]) -> None:
    lines = {"record": record(1).to_json(), "junk": "[" * 100_000, "cut": record(1).to_json()[:-9]}
    with TemporaryDirectory() as folder:
        log = Path(folder) / "app.jsonl"
        log.write_text("\n".join(lines[kind] for kind in kinds))
        reader = LogReader(log)

        found = list(reader)

    assert len(found) == kinds.count("record") - (kinds[-1:] == ["record"])
    assert reader.junk == len(kinds) - len(found)


def test_following_gives_what_is_written_later(log: Path) -> None:
    write(log, 1)
    poll = polls(lambda: write(log, 2, 3), lambda: None, lambda: write(log, 4))

    assert numbers(LogReader(log).follow(poll)) == [1, 2, 3, 4]


def test_following_can_begin_before_there_is_a_log(log: Path) -> None:
    assert numbers(LogReader(log).follow(polls(lambda: write(log, 1)))) == [1]


def test_following_waits_for_the_rest_of_a_line(log: Path) -> None:
    line = record(1).to_json() + "\n"
    write(log)
    reader = LogReader(log)
    poll = polls(lambda: log.write_text(line[:40]), lambda: log.write_text(line))

    assert numbers(reader.follow(poll)) == [1]
    assert reader.junk == 0


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(1000, 4000))
@settings(max_examples=40, deadline=None)
def test_following_loses_and_repeats_nothing_however_the_log_is_rotated(
    bursts: list[int], max_bytes: int
) -> None:
    count = itertools.count()
    with TemporaryDirectory() as folder:
        log = Path(folder) / "app.jsonl"

        def burst(size: int) -> Callable[[], object]:
            return lambda: write(log, *itertools.islice(count, size), size=100, max_bytes=max_bytes)

        found = numbers(LogReader(log).follow(polls(*map(burst, bursts))))

    assert found == list(range(sum(bursts)))


def test_following_a_log_that_is_being_written_and_rotated_loses_nothing(log: Path) -> None:
    writer = threading.Thread(
        target=write, args=(log, *range(5000)), kwargs={"size": 100, "max_bytes": 30_000}
    )
    writer.start()

    alive = [True, True]

    def poll() -> bool:  # One look more after the writer has ended.
        alive.append(writer.is_alive())
        return alive[-2]

    found = numbers(LogReader(log).follow(poll))

    assert found == list(range(5000))


def test_a_file_that_is_thrown_away_while_it_is_read_is_read_to_its_end(log: Path) -> None:
    def churn() -> None:
        sink = JsonlSink(log, max_bytes=1000, backups=1)
        for number in range(2, 100):
            sink.emit(record(number))
        sink.close()

    write(log, 0, 1)
    found = numbers(LogReader(log).follow(polls(churn)))

    kept = numbers(iter(LogReader(log)))
    assert found[:2] == [0, 1]
    assert found[-len(kept) :] == kept
    assert found == sorted(set(found))


def tree(nodes: list[SpanNode]) -> list[object]:
    return [(node.span.name, tree(node.children)) for node in nodes]


def test_the_spans_of_a_trace_are_a_tree_with_the_records_inside_them(log: Path) -> None:
    sink = JsonlSink(log)
    observer = Observer([sink])
    with observer.span("other"):
        pass
    with observer.span("ask"):
        with observer.span("chat"):
            observer.record("hello", {})
        with observer.span("tool"):
            pass
        observer.record("bye", {})
    observer.close()

    records = list(LogReader(log))
    trace_id = last_trace_id(records)
    assert trace_id is not None
    trace = trace_tree(records, trace_id)
    (ask,) = trace.roots
    assert tree(trace.roots) == [("ask", [("chat", []), ("tool", [])])]
    assert [r.name for r in ask.records] == ["bye"]
    assert [r.name for r in ask.children[0].records] == ["hello"]


def test_a_span_whose_parent_is_not_there_is_a_root() -> None:
    span = Record("2026-01-01T00:00:00.000000Z", "span", "chat", "t", "b", parent_id="a")
    line = span._replace(kind="log", name="line", span_id="a")

    trace = trace_tree([span, line], "t")

    assert tree(trace.roots) == [("chat", [])]
    assert trace.records == [line]


ids = st.sampled_from("abcdef")


@given(st.dictionaries(ids, ids | st.none()))
def test_no_span_is_lost_whatever_a_damaged_log_says_of_parents(
    parents: dict[str, str | None],
) -> None:
    def count(nodes: list[SpanNode]) -> int:
        return sum(1 + count(node.children) for node in nodes)

    spans = [
        Record("2026-01-01T00:00:00.000000Z", "span", "x", "t", span_id, parent_id)
        for span_id, parent_id in parents.items()
    ]

    assert count(trace_tree(spans, "t").roots) == len(spans)


def test_a_log_without_spans_has_no_last_trace() -> None:
    assert last_trace_id([record(1)]) is None


@pytest.mark.parametrize("end", [b"", b"\xff\xfe", b'{"ts":1}'])
def test_bytes_that_are_no_text_are_junk(log: Path, end: bytes) -> None:
    write(log, 1)
    log.write_bytes(log.read_bytes() + end)
    reader = LogReader(log)

    assert numbers(iter(reader)) == [1]
    assert reader.junk == bool(end)
