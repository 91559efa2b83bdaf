"""Log lines: all of them in the sinks, a few words of the worst on the console."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog

from app.llmgine.observability import MemorySink, Observer, Redactor, configure_logging

SECRET = "hunter2-and-a-half"


@contextmanager
def routed(
    observer: Observer | None = None, *, console: bool = True, json: bool = False
) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    undo = configure_logging("DEBUG", observer, console=console, json=json, stream=stream)
    try:
        yield stream
    finally:
        undo()


def fail() -> None:
    local_secret = "a local variable"
    raise LookupError(f"no {len(local_secret)}\nsecond line")


def test_both_kinds_of_loggers_reach_the_sinks_alike(observer: Observer, sink: MemorySink) -> None:
    with routed(observer):
        logging.getLogger("app.old").info("took %s", "1 s", extra={"n": 1})
        structlog.get_logger("app.new").info("took %s", "1 s", n=1)

    old, new = sink.records
    assert (old.kind, old.name) == ("log", "app.old")
    assert (new.kind, new.name) == ("log", "app.new")
    assert old.fields == new.fields == {"level": "info", "message": "took 1 s", "n": 1}


def test_a_line_belongs_to_the_span_it_was_logged_in(observer: Observer, sink: MemorySink) -> None:
    with routed(observer), observer.span("work"):
        structlog.get_logger().info("hello")

    line, work = sink.records
    assert (line.trace_id, line.span_id) == (work.trace_id, work.span_id)


@pytest.mark.parametrize("kind", ["standard", "structlog"])
def test_the_record_of_an_exception_has_the_stack_and_the_console_one_line(
    observer: Observer, sink: MemorySink, kind: str
) -> None:
    logger = logging.getLogger("app") if kind == "standard" else structlog.get_logger("app")
    with routed(observer) as console:
        try:
            fail()
        except LookupError:
            logger.exception("it failed")

    (record,) = sink.records
    told = record.fields["exception"]
    assert isinstance(told, dict)
    assert told["type"] == "LookupError"
    assert told["message"] == "no 16\nsecond line"
    assert "in fail" in str(told["stacktrace"])
    assert "a local variable" not in str(told["stacktrace"]).replace('"a local variable"', "")
    assert console.getvalue().count("\n") == 1
    assert console.getvalue().endswith("error app: it failed (LookupError: no 16)\n")


def test_the_console_shows_warnings_and_what_is_worse(observer: Observer) -> None:
    with routed(observer) as console:
        logger = structlog.get_logger("app")
        logger.debug("d")
        logger.info("i")
        logger.warning("w", n=1)
        logger.critical("c")

    lines = [line.split(" ", 1)[1] for line in console.getvalue().splitlines()]
    assert lines == ["warning app: w n=1", "critical app: c"]


def test_without_an_observer_there_is_still_the_console() -> None:
    with routed() as console:
        logging.getLogger("app").warning("w")

    assert "warning app: w" in console.getvalue()


def test_nothing_goes_to_a_console_that_is_off(
    observer: Observer, capsys: pytest.CaptureFixture[str]
) -> None:
    with routed(observer, console=False) as console:
        logging.getLogger("app").critical("c")

    assert console.getvalue() == capsys.readouterr().err == ""


def test_lines_below_the_level_go_nowhere(sink: MemorySink) -> None:
    undo = configure_logging("WARNING", Observer([sink]), console=False)
    logging.getLogger("app").info("i")
    structlog.get_logger("app").info("i")
    structlog.get_logger("app").warning("w")
    undo()

    assert [record.fields["message"] for record in sink.records] == ["w"]


@pytest.mark.parametrize("json_lines", [False, True])
def test_no_secret_reaches_the_sinks_or_the_console(sink: MemorySink, *, json_lines: bool) -> None:
    observer = Observer([sink], redact=Redactor([SECRET]))
    with routed(observer, json=json_lines) as console:
        logging.getLogger("app").error("key %s", SECRET, extra={"x": [SECRET], "password": "pw1"})
        try:
            raise ValueError(f"bad {SECRET}")
        except ValueError:
            structlog.get_logger("app").exception("failed", api_key="pw2", y={"z": SECRET})

    written = console.getvalue() + "".join(record.to_json() for record in sink.records)
    assert len(sink.records) == 2
    assert not any(secret in written for secret in (SECRET, "pw1", "pw2"))


def test_the_console_can_be_json_with_the_trace(observer: Observer) -> None:
    with routed(observer, json=True) as console, observer.span("work"):
        logging.getLogger("app").warning("w")
        traceparent = observer.traceparent()

    line = json.loads(console.getvalue())
    assert line["fields"]["message"] == "w"
    assert line["trace_id"] in (traceparent or "")


def test_libraries_that_log_every_request_are_held_at_warning(
    observer: Observer, sink: MemorySink
) -> None:
    with routed(observer):
        for name in ("httpx", "httpcore.connection", "aiohttp.access", "LiteLLM"):
            logging.getLogger(name).info("GET https://x.test/?key=abc")
            logging.getLogger(name).warning("slow")

    assert [record.fields["message"] for record in sink.records] == ["slow"] * 4


def test_a_line_cannot_forge_another_or_command_the_terminal(observer: Observer) -> None:
    with routed(observer) as console:
        logging.getLogger("app").warning("one\n12:00:00 error app: two \x1b[2J", extra={"k": "\r"})

    assert console.getvalue().count("\n") == 1
    assert "\x1b" not in console.getvalue()
    assert "\r" not in console.getvalue()


def test_colors_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch, observer: Observer) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = []
    for no_color in ("", "1"):
        monkeypatch.setenv("NO_COLOR", no_color)
        terminal = Terminal()
        undo = configure_logging("INFO", observer, stream=terminal)
        logging.getLogger("app").warning("w")
        undo()
        shown.append("\x1b[" in terminal.getvalue())
    with routed(observer) as pipe:
        logging.getLogger("app").warning("w")

    assert shown == [True, False]
    assert "\x1b[" not in pipe.getvalue()


def test_a_line_whose_arguments_do_not_fit_is_still_a_line(
    observer: Observer, sink: MemorySink
) -> None:
    with routed(observer):
        logging.getLogger("app").warning("%d of %d", "one")

    assert sink.records[0].fields["message"] == "%d of %d"


def test_a_console_that_is_closed_disturbs_nobody(observer: Observer, sink: MemorySink) -> None:
    with routed(observer) as console:
        console.close()
        logging.getLogger("app").warning("w")

    assert len(sink.records) == 1


def test_lines_from_other_threads_arrive(observer: Observer, sink: MemorySink) -> None:
    with routed(observer):
        thread = threading.Thread(target=logging.getLogger("app").warning, args=("w",))
        thread.start()
        thread.join()

    assert len(sink.records) == 1


def test_undoing_puts_logging_back(observer: Observer) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("httpx").level)
    configured = structlog.is_configured()

    with routed(observer):
        during = (root.level, list(root.handlers), logging.getLogger("httpx").level)

    assert before == (root.level, list(root.handlers), logging.getLogger("httpx").level)
    assert during != before
    assert structlog.is_configured() == configured


def test_a_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'LOUD' is no log level"):
        configure_logging("LOUD")
