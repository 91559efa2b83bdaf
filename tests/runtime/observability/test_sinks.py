"""The log on disk: whole lines, bounded, and never in the way of the application."""

import fcntl
import json
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.llmgine.errors import ConfigurationError
from app.llmgine.observability import JsonlSink, LogReader, Record, log_files
from app.llmgine.observability.records import timestamp


def record(number: int, size: int = 0) -> Record:
    return Record(timestamp(), "log", "test", fields={"n": number, "pad": "x" * size})


def numbers_in(log: Path) -> list[object]:
    return [found.fields["n"] for found in LogReader(log) if "n" in found.fields]


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("log ")]


@contextmanager
def locked(log: Path) -> Iterator[None]:
    """As if another process were writing, and did not come to an end."""
    with log.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_every_record_is_one_line_in_order(log: Path) -> None:
    sink = JsonlSink(log)

    for number in range(1000):
        sink.emit(record(number))
    sink.close()

    lines = log.read_text().splitlines()
    assert [json.loads(line)["fields"]["n"] for line in lines] == list(range(1000))


def test_the_thread_starts_with_the_first_record_and_ends_with_close(log: Path) -> None:
    sink = JsonlSink(log)
    before = writers()
    sink.emit(record(1))
    during = writers()
    sink.close()

    assert (len(before), len(during), len(writers())) == (0, 1, 0)


def test_a_record_after_close_is_written_by_the_next_close(log: Path) -> None:
    sink = JsonlSink(log)
    sink.emit(record(1))
    sink.close()

    sink.emit(record(2))
    sink.close()

    assert numbers_in(log) == [1, 2]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 1500), max_size=60),
    st.integers(1000, 3000),
    st.integers(0, 4),
    st.lists(st.integers(1, 9000), max_size=6),
)
def test_files_never_take_more_than_their_cap_and_keep_the_newest_records(
    sizes: list[int], max_bytes: int, backups: int, left_behind: list[int]
) -> None:
    with TemporaryDirectory() as folder:
        log = Path(folder) / "app.jsonl"
        for number, size in enumerate(left_behind):  # By a run with other settings.
            name = f"app.jsonl.{number}" if number else "app.jsonl"
            (log.parent / name).write_text("x" * size)
        sink = JsonlSink(log, max_bytes=max_bytes, backups=backups)
        for number, size in enumerate(sizes):
            sink.emit(record(number, size))
            if number % 5 == 0:
                sink.close()
        sink.close()

        kept = numbers_in(log)
        file_sizes = [file.stat().st_size for file in log.parent.iterdir()]

    if sizes:
        assert sum(file_sizes) <= max_bytes * (backups + 1)
        assert len(file_sizes) <= backups + 1
        assert kept == list(range(len(sizes)))[-len(kept) :]
        assert kept


def test_only_its_owner_can_read_the_log(log: Path) -> None:
    sink = JsonlSink(log, max_bytes=1000, backups=2)

    for number in range(50):
        sink.emit(record(number))
    sink.close()

    modes = {stat.S_IMODE(file.stat().st_mode) for file in log_files(log)}
    assert modes == {0o600}
    assert len(log_files(log)) == 3


def test_a_record_larger_than_a_file_is_shortened_and_says_so(log: Path) -> None:
    sink = JsonlSink(log, max_bytes=2000)

    sink.emit(record(7, size=1_000_000))
    sink.close()

    (found,) = LogReader(log)
    assert found.fields["n"] == 7
    assert found.fields["shortened_from_bytes"] == pytest.approx(1_000_100, abs=100)


def test_a_full_queue_drops_records_without_waiting_and_tells_how_many(log: Path) -> None:
    sink = JsonlSink(log, queue_bytes=10_000)

    with locked(log):
        for number in range(1000):
            sink.emit(record(number))  # Would wait here for ever, if it waited.
    sink.close()

    kept = numbers_in(log)
    told = [found.fields["dropped"] for found in LogReader(log) if "dropped" in found.fields]
    assert 0 < len(kept) < 1000
    assert kept == list(range(len(kept)))
    assert told == [1000 - len(kept)] == [sink.dropped]


def test_close_comes_back_in_time_when_the_file_cannot_be_written(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sink = JsonlSink(log)

    with locked(log):
        sink.emit(record(1))
        sink.close(timeout_s=0.1)
        told = capsys.readouterr().err
    sink.close()

    assert "1 records could not be written" in told
    assert numbers_in(log) == [1]


def test_a_full_disk_is_told_once_and_over_by_itself(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.parent.mkdir()
    log.symlink_to("/dev/full")
    sink = JsonlSink(log, retry_s=0.01)

    for number in range(3):
        sink.emit(record(number))
        _wait_until(lambda: bool(capsys_text(capsys)))
    log.unlink()
    _wait_until(lambda: numbers_in(log) == [0, 1, 2])
    sink.emit(record(3))
    sink.close()

    assert _seen[capsys].count("cannot write the log") == 1
    assert "No space left on device" in _seen[capsys]
    assert numbers_in(log) == [0, 1, 2, 3]


_seen: dict[object, str] = {}


def capsys_text(capsys: pytest.CaptureFixture[str]) -> str:
    _seen[capsys] = _seen.get(capsys, "") + capsys.readouterr().err
    return _seen[capsys]


def _wait_until(condition: Callable[[], bool]) -> None:
    while not condition():  # The test's own time limit ends it.
        threading.Event().wait(0.002)


def test_a_folder_that_is_taken_away_is_made_again(log: Path) -> None:
    sink = JsonlSink(log)
    sink.emit(record(1))
    sink.close()

    shutil.rmtree(log.parent)
    sink.emit(record(2))
    sink.close()

    assert numbers_in(log) == [2]


def test_a_line_that_a_crash_has_cut_does_not_swallow_the_next(log: Path) -> None:
    log.parent.mkdir()
    log.write_text(record(1).to_json() + "\n" + record(2).to_json()[:30])
    sink = JsonlSink(log)

    sink.emit(record(3))
    sink.close()

    reader = LogReader(log)
    assert [found.fields["n"] for found in reader] == [1, 3]
    assert reader.junk == 1


@pytest.mark.parametrize("obstacle", ["file for a folder", "folder for the file"])
def test_a_log_that_cannot_be_written_is_refused_with_its_folder_and_the_fix(
    tmp_path: Path, obstacle: str
) -> None:
    folder = tmp_path / "logs"
    if obstacle == "file for a folder":
        folder.touch()
    else:
        (folder / "app.jsonl").mkdir(parents=True)

    with pytest.raises(ConfigurationError) as refusal:
        JsonlSink(folder / "app.jsonl")

    assert repr(str(folder)) in str(refusal.value)
    assert "LLMGINE_LOG_DIR" in str(refusal.value)


def test_records_from_many_threads_are_all_written_whole(log: Path) -> None:
    sink = JsonlSink(log)
    start = threading.Barrier(8)

    def emit(first: int) -> None:
        start.wait()
        for number in range(first, first + 500):
            sink.emit(record(number, size=number % 300))

    threads = [threading.Thread(target=emit, args=(first,)) for first in range(0, 4000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()

    reader = LogReader(log)
    assert sorted(str(found.fields["n"]) for found in reader) == sorted(map(str, range(4000)))
    assert reader.junk == 0
