"""`logs`: what the log on disk tells, without a running application."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.interfaces.cli.logs import draw
from app.llmgine.interfaces.cli.render import cells
from app.llmgine.observability import Record, trace_tree

from .conftest import SAMPLE, Run

TRACE, OTHER = "a" * 32, "ab" + "b" * 30


def span(
    name: str,
    span_id: str,
    parent: str | None,
    *,
    start_ms: int = 0,
    took_ms: float = 1,
    trace: str = TRACE,
    **fields: Any,
) -> Record:
    return Record(
        f"2026-11-21T10:00:00.{start_ms:03d}000Z",
        "span",
        name,
        trace,
        span_id,
        parent,
        fields={"duration_s": took_ms / 1000, "status": "ok", "attributes": {}, **fields},
    )


def log(level: str, message: str, **fields: Any) -> Record:
    return Record(
        "2026-11-21T10:00:00.000000Z",
        "log",
        "app.jobs",
        fields={"level": level, "message": message, **fields},
    )


TURN = [
    span("ask", "1", None, took_ms=100),
    span(
        "chat gpt",
        "2",
        "1",
        start_ms=10,
        took_ms=50,
        attributes={
            "gen_ai.usage.input_tokens": 120,
            "gen_ai.usage.output_tokens": 33,
            "llmgine.llm.cost_usd": 0.5,
        },
    ),
    span(
        "execute_tool add",
        "3",
        "1",
        start_ms=60,
        took_ms=40,
        attributes={"llmgine.tool.status": "timeout"},
    ),
]


def write(folder: Path, *records: Record) -> None:
    (folder / "logs").mkdir(exist_ok=True)
    with (folder / "logs" / "app.jsonl").open("a") as file:
        file.writelines(record.to_json() + "\n" for record in records)


def test_an_empty_log_says_so_and_is_no_error(invoke: Run) -> None:
    for arguments in (["tail"], ["trace"]):
        done = invoke("logs", *arguments)
        assert (done.returncode, done.stdout) == (0, "")
        assert "logs/app.jsonl" in done.stderr


def test_the_tail_is_the_newest_records_in_order(invoke: Run, tmp_path: Path) -> None:
    write(tmp_path, *(log("info", f"number {number}") for number in range(30)))

    lines = invoke("logs", "tail", "-n", "3").stdout.splitlines()

    assert [line.split("number ")[1].strip() for line in lines] == ["27", "28", "29"]
    assert len(invoke("logs", "tail").stdout.splitlines()) == 20
    assert invoke("logs", "tail", "-n", "0").stdout == ""


def test_a_log_line_shows_its_level_name_message_and_fields(invoke: Run, tmp_path: Path) -> None:
    write(tmp_path, log("warning", "disk is\nfull", free_mb=3))

    line = invoke("logs", "tail").stdout

    assert line.split(maxsplit=1)[1].split() == "warning app.jobs disk is full free_mb=3".split()


def test_the_level_keeps_only_log_lines_of_it_and_above(invoke: Run, tmp_path: Path) -> None:
    write(tmp_path, *TURN, *(log(level, level) for level in ("debug", "info", "warning", "error")))

    lines = invoke("logs", "tail", "--level", "warning").stdout.splitlines()

    assert [line.split()[1] for line in lines] == ["warning", "error"]
    assert invoke("logs", "tail", "--level", "loud").returncode == 2


def test_json_gives_the_records_as_they_are(invoke: Run, tmp_path: Path) -> None:
    write(tmp_path, *TURN)

    lines = invoke("logs", "tail", "--json").stdout.splitlines()

    assert [json.loads(line)["name"] for line in lines] == [record.name for record in TURN]


def test_an_exception_is_one_line_in_the_tail(invoke: Run, tmp_path: Path) -> None:
    exception = {"type": "ValueError", "message": "no", "stacktrace": "Traceback\n ..."}
    write(tmp_path, log("error", "it failed", exception=exception))

    done = invoke("logs", "tail")

    assert done.stdout.count("\n") == 1
    assert "it failed ValueError=no" in done.stdout
    assert "Traceback" not in done.stdout


def test_lines_that_are_no_records_are_counted(invoke: Run, tmp_path: Path) -> None:
    write(tmp_path, log("info", "good"))
    with (tmp_path / "logs" / "app.jsonl").open("a") as file:
        file.write("{cut\n")

    done = invoke("logs", "tail")

    assert "good" in done.stdout
    assert "1 lines of" in done.stderr


def test_following_shows_what_comes_until_it_is_interrupted(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    write(tmp_path, log("info", "before"))
    with subprocess.Popen(
        [sys.executable, *SAMPLE, "logs", "tail", "-f"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        write(tmp_path, log("info", "after"))
        second = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)

    assert "before" in first
    assert "after" in second
    assert process.returncode == 130
    assert "Traceback" not in stderr


def test_a_trace_is_drawn_as_a_waterfall() -> None:
    lines = list(draw(trace_tree(TURN, TRACE), 80))

    assert lines[0] == f"trace {TRACE}"
    assert lines[1].endswith(", 100 ms")
    assert lines[2].split() == ["ask", "█" * 20, "100", "ms"]
    assert lines[3].split() == [
        *["chat", "gpt", "··██████████········", "50", "ms"],
        *["120", "+", "33", "tokens,", "0.5", "USD"],
    ]
    assert lines[4].split() == [
        "execute_tool",
        "add",
        "············████████",
        "40",
        "ms",
        "timeout",
    ]
    assert [len(line) - len(line.lstrip()) for line in lines[2:]] == [0, 2, 2]


def test_what_went_wrong_is_told_where_it_went_wrong() -> None:
    failed: dict[str, Any] = {"status": "error", "status_message": "the cause"}
    spans = [
        span("outer", "1", None, took_ms=9, attributes={"error.type": "LLMError"}, **failed),
        span("inner", "2", "1", took_ms=8, attributes={"error.type": "timeout"}, **failed),
    ]

    lines = list(draw(trace_tree(spans, TRACE), 100))

    assert lines[2].endswith("failed inside")
    assert lines[3].endswith("timeout: the cause")


def test_a_long_error_has_a_line_of_its_own() -> None:
    message = "the server is overloaded, try again in a minute"
    failed = span(
        "chat", "1", None, status="error", status_message=message, attributes={"error.type": "rate"}
    )

    lines = list(draw(trace_tree([failed], TRACE), 80))

    assert lines[3] == f"  rate: {message}"


def test_a_warning_stands_below_the_span_it_was_logged_in() -> None:
    warning = log("warning", "retrying")._replace(trace_id=TRACE, span_id="2")
    quiet = log("info", "nothing")._replace(trace_id=TRACE, span_id="2")

    lines = list(draw(trace_tree([*TURN, warning, quiet], TRACE), 80))

    assert lines[4] == "    warning: retrying"
    assert not any("nothing" in line for line in lines)


def test_a_narrow_window_puts_the_details_below() -> None:
    lines = list(draw(trace_tree(TURN, TRACE), 40))

    assert lines[4].strip() == "120 + 33 tokens, 0.5 USD"


def test_the_last_trace_is_drawn_unless_another_is_named(invoke: Run, tmp_path: Path) -> None:
    write(tmp_path, *TURN, span("later", "9", None, trace=OTHER))

    assert "later" in invoke("logs", "trace").stdout
    assert "later" in invoke("logs", "trace", "last").stdout
    assert "chat gpt" in invoke("logs", "trace", "aaa").stdout


@pytest.mark.parametrize(("wanted", "why"), [("a", "2 traces begin with"), ("f", "no trace in")])
def test_a_trace_that_is_not_clear_is_a_usage_error(
    invoke: Run, tmp_path: Path, wanted: str, why: str
) -> None:
    write(tmp_path, *TURN, span("later", "9", None, trace=OTHER))

    done = invoke("logs", "trace", wanted)

    assert done.returncode == 2
    assert why in done.stderr


NAMES = st.text(st.characters(codec="utf-8"), max_size=30)


@st.composite
def traces(draw: st.DrawFn) -> list[Record]:
    """Spans in any tree, also a deep or a broken one."""
    count = draw(st.integers(0, 12))
    return [
        span(
            draw(NAMES),
            str(number),
            draw(st.sampled_from([None, *map(str, range(count))])),
            start_ms=draw(st.integers(0, 999)),
            took_ms=draw(st.floats(0, 1e7)),
            status=draw(st.sampled_from(["ok", "error"])),
            status_message=draw(NAMES),
            attributes={"llmgine.tool.status": draw(NAMES)},
        )
        for number in range(count)
    ]


@given(traces(), st.integers(30, 120))
def test_no_line_of_a_drawing_is_wider_than_the_window(spans: list[Record], width: int) -> None:
    lines = list(draw(trace_tree(spans, TRACE), width))

    assert all(cells(line) <= width for line in lines)
    assert all("\n" not in line for line in lines)


def test_every_span_of_a_deep_tree_is_drawn() -> None:
    spans = [span(f"s{n}", str(n), str(n - 1) if n else None) for n in range(300)]

    lines = list(draw(trace_tree(spans, TRACE), 80))

    assert len(lines) == 302
