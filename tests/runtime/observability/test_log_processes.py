"""The log and the processes around it: their ends, their siblings, their forks."""

import os
import subprocess
import sys
from pathlib import Path

from app.llmgine.observability import LogReader

PRELUDE = """
import atexit, os, sys
from pathlib import Path
from app.llmgine.observability import JsonlSink, Observer, Record
from app.llmgine.observability.records import timestamp
def record(n): return Record(timestamp(), "log", "test", fields={"n": n})
log = Path(sys.argv[1])
"""


def begin(script: str, log: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, str(log)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, log: Path) -> tuple[int, str, str]:
    process = begin(script, log)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def numbers_in(log: Path) -> list[object]:
    return [record.fields["n"] for record in LogReader(log) if "n" in record.fields]


def test_a_sink_that_nobody_closes_still_writes_everything_before_the_exit(log: Path) -> None:
    status, _, errors = run("sink = JsonlSink(log)\nfor n in range(500): sink.emit(record(n))", log)

    assert (status, errors) == (0, "")
    assert numbers_in(log) == list(range(500))


def test_a_record_of_the_very_last_moment_is_written(log: Path) -> None:
    # Registered first, so that it runs after the sink has closed itself.
    status, _, errors = run(
        "atexit.register(lambda: sink.emit(record(2)))\n"
        "sink = JsonlSink(log)\nsink.emit(record(1))",
        log,
    )

    assert (status, errors) == (0, "")
    assert numbers_in(log) == [1, 2]


def test_a_disk_that_stays_full_does_not_hold_up_the_exit(log: Path) -> None:
    log.parent.mkdir()
    log.symlink_to("/dev/full")

    status, _, errors = run("JsonlSink(log).emit(record(1))", log)

    assert status == 0
    assert "No space left on device" in errors
    assert "1 records could not be written" in errors


def test_processes_that_share_a_log_lose_nothing_and_keep_its_cap(log: Path) -> None:
    script = """
sink = JsonlSink(log, max_bytes=20_000, backups=50)
for n in range(int(os.environ["FIRST"]), int(os.environ["FIRST"]) + 1000):
    sink.emit(record(n))
    if n % 50 == 0: sink.close()
"""
    processes = []
    for first in range(0, 4000, 1000):
        os.environ["FIRST"] = str(first)
        processes.append(begin(script, log))
    ends = [process.communicate(timeout=60) for process in processes]

    reader = LogReader(log)
    found = [record.fields["n"] for record in reader]
    assert ends == [("", "")] * 4
    assert sorted(found, key=str) == sorted(range(4000), key=str)
    assert reader.junk == 0
    assert max(file.stat().st_size for file in log.parent.iterdir()) <= 20_000


def test_a_forked_child_logs_on_its_own_and_repeats_nothing(log: Path) -> None:
    script = """
sink = JsonlSink(log)
sink.emit(record(1))
if os.fork() == 0:
    sink.emit(record(2))
    sink.close()
    os._exit(0)
os.wait()
sink.close()
"""
    status, _, _ = run(script, log)

    assert status == 0
    assert sorted(numbers_in(log), key=str) == [1, 2]


def test_an_observer_without_sinks_imports_no_opentelemetry_and_starts_no_thread(
    log: Path,
) -> None:
    script = """
import threading
observer = Observer()
with observer.span("chat x", attributes={"a": 1}) as span:
    span.set("b", 2)
    span.fail("timeout")
observer.record("x", {"a": 1})
observer.close()
print(observer.traceparent(), threading.active_count(), observer.active)
heavy = {"opentelemetry", "structlog", "rich", "aiohttp", "openai"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""
    _, out, errors = run(script, log)

    assert out == "None 1 False\n[]\n", errors


def test_the_same_observer_with_a_sink_does_import_it(log: Path) -> None:
    _, out, _ = run('Observer([JsonlSink(log)])\nprint("opentelemetry.sdk" in sys.modules)', log)

    assert out == "True\n"


def test_lines_that_fit_only_in_part_are_taken_back_and_written_later(log: Path) -> None:
    script = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
sink = JsonlSink(log)
for n in range(100): sink.emit(record(n))
sink.close()
print(log.read_bytes()[-1:] in (b"", b"\\\\n"))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sink.emit(record(100))
sink.close()
"""
    status, out, errors = run(script, log)

    assert (status, out) == (0, "True\n")
    assert "File too large" in errors
    assert numbers_in(log) == list(range(101))
