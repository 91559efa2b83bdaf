"""`ask`: one prompt in, one answer out, and a truthful exit code."""

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from .conftest import APP, SAMPLE, Run


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_answer_is_all_there_is_on_stdout(run: Run) -> None:
    done = run("ask", "What time is it in Tokyo?", app=APP)

    assert done.returncode == 0
    assert "Tokyo" in done.stdout
    assert "current_time" not in done.stdout.splitlines()[0]
    assert done.stdout.endswith("\n")


def test_the_tool_call_is_told_on_stderr(run: Run) -> None:
    done = run("ask", "What time is it in Tokyo?", app=APP)

    told = done.stderr.splitlines()
    assert told[0] == '→ current_time(timezone="Asia/Tokyo")'
    assert told[1].startswith("← current_time ok: ")
    assert told[2].startswith("2 steps · ")
    assert "conversation" in told[2]


def test_text_is_shown_once_though_it_is_streamed_and_returned(invoke: Run) -> None:
    done = invoke("ask", "hello", "--model", "echo")

    assert done.stdout == "You said: hello\n"


def test_the_status_tells_tokens_and_cost(invoke: Run) -> None:
    done = invoke("ask", "hello", "--model", "echo")

    assert "1 step · 1,234 tokens · 0.0012 USD · " in done.stderr


def test_what_is_not_known_is_called_unknown(invoke: Run) -> None:
    done = invoke("ask", "hello", "--model", "count")

    assert "1 step · tokens unknown · cost unknown · " in done.stderr


def test_the_prompt_may_come_from_a_pipe(run: Run) -> None:
    assert run("ask", "--model", "echo", stdin="from a pipe").stdout == "You said: from a pipe\n"
    assert run("ask", "-", "--model", "echo", stdin="dash").stdout == "You said: dash\n"


def test_piped_text_goes_after_the_argument(invoke: Run) -> None:
    done = invoke("ask", "Summarise:", "--model", "echo", stdin="a long text\n")

    assert done.stdout == "You said: Summarise:\n\na long text\n"


@pytest.mark.parametrize("arguments", [[], [""], ["  \n"], ["-"]])
def test_an_empty_prompt_is_a_usage_error(invoke: Run, arguments: list[str]) -> None:
    done = invoke("ask", *arguments, "--model", "echo")

    assert done.returncode == 2
    assert done.stdout == ""
    assert "the prompt is empty" in done.stderr


def test_a_prompt_that_is_not_text_is_a_usage_error(run: Run) -> None:
    assert run("ask", "--model", "echo", stdin=b"\xff\xfe\x00").returncode == 2
    assert run("ask", os.fsdecode(b"\xff"), "--model", "echo").returncode == 2


def test_a_conversation_goes_on_where_it_stopped(invoke: Run) -> None:
    first = invoke("ask", "one", "--model", "count", "--conversation", "mine")
    second = invoke("ask", "two", "--model", "count", "-c", "mine")
    last = invoke("ask", "three", "--model", "count", "-c", "last")
    other = invoke("ask", "four", "--model", "count")

    counts = [int(done.stdout.split()[0]) for done in (first, second, last, other)]
    assert counts == [counts[0], counts[0] + 2, counts[0] + 4, counts[0]]


def test_there_is_no_last_conversation_at_first(invoke: Run) -> None:
    done = invoke("ask", "one", "--model", "count", "-c", "last")

    assert done.returncode == 2
    assert "there is no conversation yet" in done.stderr


def test_json_tells_everything_as_lines_with_the_answer_last(run: Run) -> None:
    done = run("ask", "What time is it in Tokyo?", "--json", app=APP)

    told = lines(done.stdout)
    kinds = [line["type"] for line in told]
    assert kinds[:2] == ["tool_call", "tool_result"]
    assert set(kinds[2:-1]) == {"text"}
    assert kinds[-1] == "answer"
    assert told[0]["name"] == "current_time"
    assert json.loads(told[0]["arguments"]) == {"timezone": "Asia/Tokyo"}
    assert (told[1]["call_id"], told[1]["status"]) == (told[0]["id"], "ok")
    answer = told[-1]
    assert answer["text"] == "".join(line["text"] for line in told if line["type"] == "text")
    assert answer["steps"] == 2
    assert answer.keys() >= {"usage", "cost", "conversation_id", "trace_id", "finish_reason"}
    assert done.stderr == ""


def test_the_trace_of_an_answer_can_be_drawn(invoke: Run) -> None:
    answer = lines(invoke("ask", "hello", "--model", "echo", "--json").stdout)[-1]

    done = invoke("logs", "trace", answer["trace_id"])

    assert done.returncode == 0
    assert "invoke_agent" in done.stdout


def test_the_log_has_no_record_for_each_word_of_the_answer(invoke: Run, tmp_path: Path) -> None:
    invoke("ask", "hello", "--model", "echo")

    names = [record["name"] for record in lines((tmp_path / "logs" / "app.jsonl").read_text())]
    assert "cli.ask" in names
    assert "TextStreamedEvent" not in names


def test_a_failed_model_call_ends_with_an_error_line(invoke: Run) -> None:
    done = invoke("ask", "hello", "--model", "fail", "--json")

    told = lines(done.stdout)
    assert done.returncode == 4
    assert [line["type"] for line in told] == ["text", "error"]
    assert told[-1]["error"] == "LLMError"
    assert told[-1]["exit_code"] == 4
    assert "overloaded" in told[-1]["message"]
    assert len(told[-1]["trace_id"]) == 32


def test_a_usage_error_ends_with_an_error_line_too(invoke: Run) -> None:
    done = invoke("ask", "", "--json")

    assert done.returncode == 2
    assert lines(done.stdout)[-1]["exit_code"] == 2


def test_a_failed_model_call_is_one_line_and_where_to_read_more(invoke: Run) -> None:
    done = invoke("ask", "hello", "--model", "fail")

    assert done.returncode == 4
    assert done.stdout == "Half of\n"
    error, details = done.stderr.splitlines()
    assert error.startswith("error: The server at example.org is overloaded (529).")
    assert details.startswith("details: logs/app.jsonl; sample logs trace ")


def test_an_unexpected_error_is_one_line_and_its_stack_is_in_the_log(
    run: Run, tmp_path: Path
) -> None:
    done = run("ask", "hello", "--model", "crash")

    assert done.returncode == 1
    assert "error: unexpected ZeroDivisionError: a bug of the provider" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in (tmp_path / "logs" / "app.jsonl").read_text()


def test_a_bug_in_the_wiring_is_one_line_and_its_stack_is_in_the_log(
    invoke: Run, tmp_path: Path
) -> None:
    done = invoke("ask", "hello", env={"BROKEN_BOOTSTRAP": "1"})

    assert done.returncode == 1
    assert done.stderr.startswith("error: unexpected KeyError: 'a bug of the owner' (")
    assert "sample.py:" in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr
    assert "a bug of the owner" in (tmp_path / "logs" / "app.jsonl").read_text()


@pytest.mark.parametrize("model", ["nonsense", "openai", "/", "offlin", "echo "])
def test_an_unknown_model_is_a_configuration_error(invoke: Run, model: str) -> None:
    done = invoke("ask", "hello", "--model", model)

    assert done.returncode == 3
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")


def test_a_missing_key_is_a_configuration_error_that_names_it(run: Run) -> None:
    done = run("ask", "hello", "--model", "openai/gpt-5.1", app=APP)

    assert done.returncode == 3
    assert "OPENAI_API_KEY" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_a_configuration_error_that_names_it(invoke: Run) -> None:
    done = invoke("ask", "hello", env={"LLMGINE_MAX_STEPS": "many"})

    assert done.returncode == 3
    assert "LLMGINE_MAX_STEPS" in done.stderr


def test_running_out_of_steps_is_a_limit(run: Run) -> None:
    done = run("ask", "What time is it in Tokyo?", app=APP, env={"LLMGINE_MAX_STEPS": "1"})

    assert done.returncode == 5
    assert "LLMGINE_MAX_STEPS" in done.stderr


def test_running_out_of_time_is_a_limit(invoke: Run) -> None:
    done = invoke("ask", "hello", "--model", "hang", env={"LLMGINE_TURN_TIMEOUT_S": "0.2"})

    assert done.returncode == 5
    assert done.stdout == "The beginning of an answer\n"


def test_a_prompt_beyond_the_budget_is_a_limit(invoke: Run) -> None:
    done = invoke(
        "ask", "word " * 500, "--model", "echo", env={"LLMGINE_CONTEXT_BUDGET_TOKENS": "300"}
    )

    assert done.returncode == 5
    assert len(done.stderr.splitlines()) <= 2


def test_a_damaged_store_is_a_store_error_and_stays_as_it_is(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "app.db").write_bytes(b"no database at all" * 100)

    done = run("ask", "hello", "--model", "echo")

    assert done.returncode == 6
    assert "app.db" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "data" / "app.db").read_bytes() == b"no database at all" * 100


def test_a_data_folder_that_is_a_file_is_a_store_error(invoke: Run, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")

    done = invoke("ask", "hello", "--model", "echo")

    assert done.returncode == 6
    assert "data" in done.stderr


def test_a_log_folder_that_is_a_file_is_a_configuration_error(invoke: Run, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")

    done = invoke("ask", "hello", "--model", "echo")

    assert done.returncode == 3
    assert "LLMGINE_LOG_DIR" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_escape_sequences_reach_a_pipe_as_they_are(run: Run) -> None:
    done = run("ask", "hello", "--model", "sly")

    assert "\x1b[31malert" in done.stdout


def test_an_answer_survives_a_terminal_that_knows_only_ascii(run: Run) -> None:
    done = run(
        "ask", "Repeat: ünïcödé", app=APP, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    )

    assert done.returncode == 0


@pytest.mark.parametrize("command", [["ask", "hello", "--model", "endless"], ["tools", "list"]])
def test_nobody_reading_the_output_ends_it_quietly(
    tmp_path: Path, environment: dict[str, str], command: list[str]
) -> None:
    with subprocess.Popen(
        [sys.executable, *SAMPLE, *command],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        stderr = process.stderr.read()

    assert process.returncode == 141
    assert stderr == b""


def test_an_interrupt_stops_the_turn_and_keeps_what_was_said(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    closed = tmp_path / "closed"
    with subprocess.Popen(
        [sys.executable, *SAMPLE, "ask", "hello", "--model", "hang", "-c", "mine"],
        cwd=tmp_path,
        env={**environment, "CLOSED_FILE": str(closed)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read(len("The beginning of an answer"))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)

    assert process.returncode == 130
    assert said == b"The beginning of an answer"
    assert closed.read_text() == "closed"
    assert "conversation mine" in stderr.decode()
    assert "Traceback" not in stderr.decode()
    with closing(sqlite3.connect(tmp_path / "data" / "app.db")) as database:
        rows = database.execute("SELECT message FROM context_messages ORDER BY seq").fetchall()
    assert "The beginning of an answer" in rows[-1][0]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such mode")
def test_nobody_else_can_read_the_store(invoke: Run, tmp_path: Path) -> None:
    invoke("ask", "hello", "--model", "echo")

    assert stat.S_IMODE((tmp_path / "data" / "app.db").stat().st_mode) == 0o600


def test_whoever_left_stdin_open_is_told_why_nothing_happens(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with subprocess.Popen(
        [sys.executable, *SAMPLE, "ask", "hello", "--model", "echo"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        hint = process.stderr.readline()
        stdout, _ = process.communicate(b"and this", timeout=20)

    assert b"waiting for the end of stdin" in hint
    assert stdout == b"You said: hello\n\nand this\n"


@pytest.mark.parametrize("command", [["ask", "-"], ["chat"]])
def test_an_interrupt_while_waiting_for_stdin_ends_it_quietly(
    tmp_path: Path, environment: dict[str, str], command: list[str]
) -> None:
    with subprocess.Popen(
        [sys.executable, *SAMPLE, *command, "--model", "echo"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        _wait_until_it_reads(process.pid)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)

    assert process.returncode == 130
    assert (stdout, stderr) == ("", "interrupted\n")


def _wait_until_it_reads(pid: int) -> None:
    """Until the kernel says that its main thread waits for a pipe."""
    channel = Path(f"/proc/{pid}/syscall")
    if not channel.exists():
        pytest.skip("needs Linux")
    while channel.read_text().split()[:2] != ["0", "0x0"]:
        os.sched_yield()
