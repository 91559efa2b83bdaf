"""`chat`: at a terminal, and from a pipe."""

import json
import os
import sqlite3
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from .conftest import SAMPLE, Run

pytest.importorskip("pty", reason="Windows has no pseudo terminals")
from .terminal import Terminal

Open = Callable[..., Terminal]
CTRL_C, CTRL_D, ENTER, ALT_ENTER = "\x03", "\x04", "\r", "\x1b\r"


@pytest.fixture
def open_chat(tmp_path: Path, environment: dict[str, str]) -> Open:
    def open_chat(*arguments: str, columns: int = 80, **extra: str) -> Terminal:
        return Terminal(
            [sys.executable, "-W", "error", *SAMPLE, "chat", *arguments],
            folder=tmp_path,
            environment={**environment, **extra},
            columns=columns,
        )

    return open_chat


def said_in(folder: Path) -> list[tuple[str, str]]:
    """Role and text of every message in the store."""
    with closing(sqlite3.connect(folder / "data" / "app.db")) as database:
        rows = database.execute("SELECT message FROM context_messages ORDER BY seq").fetchall()
    messages = [json.loads(row) for (row,) in rows]
    return [
        (message["role"], "".join(part.get("text", "") for part in message["parts"]))
        for message in messages
    ]


def test_the_banner_says_what_is_running_and_how_to_leave(open_chat: Open) -> None:
    with open_chat("--model", "echo", "-c", "mine") as terminal:
        terminal.wait_for_prompt()
        banner = terminal.text

    assert "sample" in banner
    assert "model echo" in banner
    assert "conversation mine" in banner
    assert "data in data" in banner
    assert "Alt-Enter" in banner
    assert "/help" in banner


def test_an_answer_is_streamed_and_followed_by_its_figures(open_chat: Open) -> None:
    with open_chat("--model", "echo") as terminal:
        terminal.wait_for_prompt()
        terminal.press("hello" + ENTER)
        terminal.wait_for("You said: hello")
        terminal.wait_for("1 step · 1,234 tokens · 0.0012 USD · ")
        terminal.wait_for_prompt()
        terminal.press(CTRL_D)

        assert terminal.wait_for_end() == 0


def test_ctrl_c_stops_the_turn_and_keeps_what_was_said(open_chat: Open, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    with open_chat("--model", "hang", CLOSED_FILE=str(closed)) as terminal:
        terminal.wait_for_prompt()
        terminal.press("hello" + ENTER)
        terminal.wait_for("The beginning of an answer")
        terminal.press(CTRL_C)
        terminal.wait_for("stopped; what was said is kept")
        terminal.wait_for_prompt()
        terminal.press("/exit" + ENTER)

        assert terminal.wait_for_end() == 0
    assert "The beginning of an answer" in terminal.text
    assert closed.read_text() == "closed"
    assert said_in(tmp_path) == [("user", "hello"), ("assistant", "The beginning of an answer")]


def test_a_second_ctrl_c_ends_a_turn_that_does_not_stop(open_chat: Open) -> None:
    with open_chat("--model", "cling") as terminal:
        terminal.wait_for_prompt()
        terminal.press("hello" + ENTER)
        terminal.wait_for("I hold on")
        terminal.press(CTRL_C)
        terminal.wait_for("<cancelled>")
        terminal.press(CTRL_C)

        assert terminal.wait_for_end() == 130
    assert "interrupted" in terminal.text
    assert "Traceback" not in terminal.text


def test_the_conversation_goes_on_after_a_stopped_turn(open_chat: Open, tmp_path: Path) -> None:
    with open_chat("--model", "hang", "-c", "mine") as terminal:
        terminal.wait_for_prompt()
        terminal.press("hello" + ENTER)
        terminal.wait_for("The beginning of an answer")
        terminal.press(CTRL_C)
        terminal.wait_for_prompt()
        terminal.press(CTRL_D)
        terminal.wait_for_end()
    with open_chat("--model", "count", "-c", "last") as terminal:
        terminal.wait_for_prompt()
        banner = terminal.text
        terminal.press("more" + ENTER)
        terminal.wait_for("4 messages")  # the system's, the two before, and this one

    assert "conversation mine (2 messages)" in banner


def test_a_failed_turn_does_not_end_the_chat(open_chat: Open) -> None:
    with open_chat("--model", "fail") as terminal:
        terminal.wait_for_prompt()
        terminal.press("one" + ENTER)
        terminal.wait_for("error: The server at example.org is overloaded")
        terminal.wait_for_prompt()
        terminal.press("two" + ENTER)
        terminal.wait_for("error: The server at example.org is overloaded", times=2)
        terminal.wait_for_prompt()
        terminal.press(CTRL_D)

        assert terminal.wait_for_end() == 0
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize("new_line", [ALT_ENTER, "\\" + ENTER])
def test_a_prompt_may_have_several_lines(open_chat: Open, tmp_path: Path, new_line: str) -> None:
    with open_chat("--model", "echo") as terminal:
        terminal.wait_for_prompt()
        terminal.press("first" + new_line + "second" + ENTER)
        terminal.wait_for("1 step")
        terminal.wait_for_prompt()

    assert said_in(tmp_path)[0] == ("user", "first\nsecond")


def test_ctrl_c_clears_a_line_and_twice_on_an_empty_one_leaves(
    open_chat: Open, tmp_path: Path
) -> None:
    with open_chat("--model", "echo") as terminal:
        terminal.wait_for_prompt()
        terminal.press("not this" + CTRL_C)
        terminal.press("this" + ENTER)
        terminal.wait_for("You said: this")
        terminal.wait_for_prompt()
        terminal.press(CTRL_C)
        terminal.wait_for("Ctrl-C again, or Ctrl-D, leaves")
        terminal.wait_for_prompt()
        terminal.press(CTRL_C)

        assert terminal.wait_for_end() == 0
    assert said_in(tmp_path)[0] == ("user", "this")


def test_one_ctrl_c_alone_does_not_leave(open_chat: Open) -> None:
    with open_chat("--model", "echo") as terminal:
        terminal.wait_for_prompt()
        for times in (1, 2):
            terminal.press(CTRL_C)
            terminal.wait_for("Ctrl-C again, or Ctrl-D, leaves", times=times)
            terminal.wait_for_prompt()
            terminal.press("hello" + ENTER)
            terminal.wait_for("You said: hello", times=times)
            terminal.wait_for_prompt()

        assert terminal.process.poll() is None


def test_the_commands_of_the_chat(open_chat: Open) -> None:
    with open_chat("--model", "echo", "-c", "first") as terminal:
        terminal.wait_for_prompt()
        terminal.press("/help" + ENTER)
        terminal.wait_for("/new    begin another conversation")
        terminal.wait_for_prompt()
        terminal.press("/tools" + ENTER)
        terminal.wait_for("add         Add two numbers.")
        terminal.wait_for_prompt()
        terminal.press("/nonsense" + ENTER)
        terminal.wait_for("/nonsense is not a command; /help lists them")
        terminal.wait_for_prompt()
        terminal.press("/new" + ENTER)
        terminal.wait_for("conversation 20", times=1)
        terminal.wait_for_prompt()
        terminal.press("/exit" + ENTER)

        assert terminal.wait_for_end() == 0


def test_a_path_is_a_prompt_and_no_command(open_chat: Open) -> None:
    with open_chat("--model", "echo") as terminal:
        terminal.wait_for_prompt()
        terminal.press("/etc/hosts says what?" + ENTER)

        terminal.wait_for("You said: /etc/hosts says what?")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such mode")
def test_the_history_lasts_and_is_private(open_chat: Open, tmp_path: Path) -> None:
    with open_chat("--model", "echo") as terminal:
        terminal.wait_for_prompt()
        terminal.press("remember me" + ENTER)
        terminal.wait_for("1 step")
    with open_chat("--model", "echo") as terminal:
        terminal.wait_for_prompt()
        terminal.press("\x1b[A")
        terminal.wait_for("remember me")
        terminal.press(ENTER)
        terminal.wait_for("You said: remember me")

    mode = stat.S_IMODE((tmp_path / "data" / "chat_history").stat().st_mode)
    assert mode == 0o600


def test_a_model_cannot_steer_the_terminal(open_chat: Open) -> None:
    with open_chat("--model", "sly") as terminal:
        terminal.wait_for_prompt()
        terminal.press("hello" + ENTER)
        terminal.wait_for("ünïcödé 漢字")

    assert "red [31malert]52;c;aGk= ünïcödé 漢字" in terminal.text


@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_none_is_wanted(open_chat: Open, plain: dict[str, str]) -> None:
    with open_chat("--model", "echo", **plain) as terminal:
        terminal.wait_for_prompt()
        terminal.press("hello" + ENTER)
        terminal.wait_for("1 step")
        terminal.wait_for_prompt()

    for colour in ("\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[33m"):
        assert colour not in terminal.raw


def test_a_terminal_gets_its_notes_dimly(open_chat: Open) -> None:
    with open_chat("--model", "echo") as terminal:
        terminal.wait_for_prompt()

    assert "\x1b[2m" in terminal.raw


def test_a_narrow_window_holds_the_whole_answer(open_chat: Open) -> None:
    with open_chat("--model", "echo", columns=20) as terminal:
        terminal.wait_for_prompt()
        terminal.press("hi" + ENTER)
        terminal.wait_for("You said: hi")
        terminal.wait_for("1 step")
        terminal.wait_for_prompt()
        terminal.press(CTRL_D)

        assert terminal.wait_for_end() == 0


def test_from_a_pipe_each_line_is_a_prompt_and_each_answer_a_line(run: Run) -> None:
    done = run("chat", "--model", "echo", stdin="one\n\ntwo\r\nthree")

    assert done.returncode == 0
    assert done.stdout == "You said: one\nYou said: two\nYou said: three\n"
    assert "\x1b" not in done.stdout + done.stderr


def test_from_a_pipe_it_is_one_conversation(invoke: Run) -> None:
    done = invoke("chat", "--model", "count", stdin="one\ntwo\n")

    first, second = (int(line.split()[0]) for line in done.stdout.splitlines())
    assert second == first + 2


def test_from_a_pipe_a_failed_turn_shows_in_the_exit_code_and_the_rest_is_done(invoke: Run) -> None:
    done = invoke("chat", "--model", "fail", stdin="one\ntwo\n")

    assert done.returncode == 4
    assert done.stdout == "Half of\nHalf of\n"
    assert done.stderr.count("error: ") == 2


def test_an_empty_pipe_is_an_empty_chat(invoke: Run) -> None:
    done = invoke("chat", "--model", "echo")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_chat_cannot_begin_with_an_unknown_model(invoke: Run) -> None:
    assert invoke("chat", "--model", "nonsense").returncode == 3


def test_a_history_that_cannot_be_written_is_a_configuration_error(
    open_chat: Open, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("")
    with open_chat("--model", "echo", LLMGINE_CONTEXT_STORE="memory") as terminal:
        code = terminal.wait_for_end()

    assert code == 3
    assert "LLMGINE_DATA_DIR" in terminal.text
