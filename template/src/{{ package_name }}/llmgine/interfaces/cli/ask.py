# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""`ask`: one prompt, one answer; and the turn that it shares with `chat`."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Protocol, TextIO

import typer

from ...application import Application
from ...contracts import StreamReset, TextPart, ToolCall, ToolResult
from ...engine import (
    PromptResult,
    TextDiscardedEvent,
    TextStreamedEvent,
    ToolCallEvent,
    ToolResultEvent,
)
from ...messages import Event
from ...observability import Observer
from .entry import Entry, ExitCode, exit_code, one_line
from .render import count, dim, duration, printable, red, shorten, width_columns

STDIN_HINT_S = 1.0


async def ask(entry: Entry, prompt: str | None, *, model: str | None, wanted: str | None) -> None:
    """The answer on stdout as it comes; everything else on stderr."""
    text = read_prompt(prompt)
    view = TextView(sys.stdout, sys.stderr)
    async with entry.application(model=model, work=False) as app:
        conversation_id = await choose_conversation(app, wanted)
        began = time.monotonic()
        try:
            with entry.traced(app, "cli.ask"):
                try:
                    result = await take_turn(app, text, conversation_id, view)
                finally:
                    view.end_line()
        except asyncio.CancelledError:
            note = f"stopped; what was said is kept in conversation {conversation_id}"
            print(dim(note, sys.stderr), file=sys.stderr)
            raise
        if not view.said:
            print(result.text, flush=True)
        status = f"{status_line(result, time.monotonic() - began)} · conversation {conversation_id}"
        print(dim(status, sys.stderr), file=sys.stderr)
        if waiting := await waiting_work(app):
            note = f"{count(waiting, 'durable message')} left to a worker: {entry.name} worker"
            print(dim(note, sys.stderr), file=sys.stderr)


async def waiting_work(app: Application) -> int:
    """How many messages are due that this process leaves to others, if there are none."""
    delivery = app.bus.delivery
    if delivery is None or delivery.upkeep.workers:
        return 0
    stats = await delivery.journal.stats(delivery.now_ns())
    return sum(one.counts.get("ready", 0) for one in stats if one.oldest_due_ns is not None)


async def ask_in_json(
    entry: Entry, prompt: str | None, *, model: str | None, wanted: str | None
) -> None:
    """One JSON line for each thing that happens; the last is the answer, or the error."""
    view = JsonView(sys.stdout)
    try:
        text = read_prompt(prompt)
        async with entry.application(model=model, work=False) as app:
            conversation_id = await choose_conversation(app, wanted)
            with entry.traced(app, "cli.ask"):
                result = await take_turn(app, text, conversation_id, view)
            view.line({"type": "answer", **result.model_dump(mode="json")})
    except BrokenPipeError:
        raise
    except (Exception, asyncio.CancelledError) as error:
        view.line({"type": "error", **_failure(error), "trace_id": entry.trace_id})
        raise


def _failure(error: BaseException) -> dict[str, object]:
    if isinstance(error, asyncio.CancelledError):
        return {"error": "Interrupted", "message": "", "exit_code": ExitCode.INTERRUPTED}
    return {
        "error": type(error).__name__,
        "message": one_line(error),
        "exit_code": exit_code(error),
    }


def read_prompt(argument: str | None) -> str:
    """The prompt from the argument, from stdin (`-` or no argument), or from both, stdin last.

    Raises:
        BadParameter: there is no prompt, or it is not text.
    """
    parts = [] if argument is None or argument == "-" else [as_text(os.fsencode(argument))]
    piped = sys.stdin is not None and not sys.stdin.isatty()
    if piped or argument == "-":
        parts.append(_read_stdin(hint=bool(parts)))
    prompt = "\n\n".join(part for part in parts if part.strip())
    if not prompt:
        raise typer.BadParameter('the prompt is empty: give it as an argument, "…", or pipe it in')
    return prompt


def _read_stdin(*, hint: bool) -> str:
    """All of stdin. Whoever left it open by mistake is told why nothing happens."""
    timer = threading.Timer(STDIN_HINT_S, _say_that_stdin_is_open)
    if hint:
        timer.start()
    try:
        with interrupt_raises():
            return as_text(sys.stdin.buffer.read())
    finally:
        timer.cancel()


def as_text(given: bytes) -> str:
    """What came from outside, whatever the locale.

    Raises:
        BadParameter: it is not text.
    """
    try:
        return given.decode("utf-8")
    except UnicodeDecodeError:
        raise typer.BadParameter("the prompt is not UTF-8 text") from None


def _say_that_stdin_is_open() -> None:
    print(
        "waiting for the end of stdin, which goes with the prompt; '< /dev/null' leaves it out",
        file=sys.stderr,
    )


Happening = TextPart | StreamReset | ToolCall | ToolResult


class TurnView(Protocol):
    """Shows what happens in a turn, in order; may raise `OSError` when its output is gone."""

    def show(self, happening: Happening) -> None: ...


class TextView:
    """The answer on `out`, as it comes; the tool calls around it, dimly, on `err`."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self.said = False
        self._out = out
        self._err = err
        self._in_line = False

    def show(self, happening: Happening) -> None:
        match happening:
            case TextPart():
                self._say(happening.text)
            case StreamReset():
                self.said = False
                self._note(f"↺ the text above is void ({happening.reason}); the answer begins anew")
            case ToolCall():
                self._note(f"→ {happening.name}({_compact(happening.arguments)})")
            case ToolResult():
                content = happening.content
                self._note(f"← {happening.name} {happening.status}: {content}", ok=happening.ok)

    def end_line(self) -> None:
        if self._in_line:
            self._in_line = False
            print(file=self._out, flush=True)

    def _say(self, text: str) -> None:
        shown = printable(text) if self._out.isatty() else text
        if shown:
            print(shown, end="", file=self._out, flush=True)
            self.said = True
            self._in_line = not shown.endswith("\n")

    def _note(self, text: str, *, ok: bool = True) -> None:
        self.end_line()
        line = shorten(text, width_columns())
        print(dim(line, self._err) if ok else red(line, self._err), file=self._err, flush=True)


class JsonView:
    """One JSON object a line, with a `type`: text, tool_call, tool_result, answer, error.

    `stream_reset` voids the text since the last line of another type.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, happening: Happening) -> None:
        self.line(happening.model_dump(mode="json"))

    def line(self, fields: dict[str, object]) -> None:
        print(json.dumps(fields, ensure_ascii=False), file=self._out, flush=True)


async def take_turn(
    app: Application, prompt: str, conversation_id: str, view: TurnView
) -> PromptResult:
    """Send the prompt and show the turn; whatever was said before a failure has been shown.

    Raises:
        LlmgineError: the turn failed.
        OSError: the view's output is gone; the turn was cancelled.
    """
    shower = _Shower(view, app.observer)
    async with app.bus.session() as session:
        # One handler for all of them: each handler has its own queue, and their order must hold.
        session.register_event_handler(Event, shower.on_event)
        try:
            try:
                # stdout is the answer's; what a tool prints must not come between.
                with redirect_stdout(sys.stderr):
                    return await session.execute(app.ask(prompt, conversation_id))
            finally:
                await session.idle()
        except asyncio.CancelledError:
            shower.raise_if_gone()
            raise


class _Shower:
    """Passes the turn's events to the view, and cancels the turn when nobody can see them."""

    def __init__(self, view: TurnView, observer: Observer) -> None:
        self._view = view
        self._observer = observer
        self._turn = asyncio.current_task()
        self._gone: OSError | None = None

    async def on_event(self, event: Event) -> None:
        self._observer.hide_span()  # One for every word of the answer would fill the log.
        if self._gone is not None:
            return
        try:
            match event:
                case TextStreamedEvent():
                    self._view.show(TextPart(text=event.text))
                case TextDiscardedEvent():
                    self._view.show(StreamReset(reason=event.reason))
                case ToolCallEvent():
                    self._view.show(event.call)
                case ToolResultEvent():
                    self._view.show(event.result)
                case _:
                    pass
        except OSError as error:
            self._gone = error
            if self._turn is not None:
                self._turn.cancel()

    def raise_if_gone(self) -> None:
        if self._gone is not None:
            if self._turn is not None:
                self._turn.uncancel()
            raise self._gone


def new_conversation_id() -> str:
    """A name that a person can read and type: when it began, and a few random letters."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


async def choose_conversation(app: Application, wanted: str | None) -> str:
    """The conversation to go on with: a new one, the newest (`last`), or the one named.

    Raises:
        BadParameter: there is none to go on with.
    """
    if wanted is None:
        return new_conversation_id()
    if not wanted.strip():
        raise typer.BadParameter("the conversation's name is empty")
    if wanted != "last":
        return wanted
    known = await app.store.conversations()
    if not known:
        raise typer.BadParameter("there is no conversation yet; leave out --conversation")
    return known[0]


def status_line(result: PromptResult, seconds: float) -> str:
    """`2 steps · 153 tokens · cost unknown · 0.12 s`, and who answered if others had failed."""
    usage = result.usage
    tokens = (
        "tokens unknown"
        if usage is None
        else count(usage.input_tokens + usage.output_tokens, "token")
    )
    cost = "cost unknown"
    if result.cost is not None:
        cost = f"{result.cost.amount.normalize():f} {result.cost.currency}"
    words = [count(result.steps, "step"), tokens, cost, duration(seconds)]
    failed = [f"{one.target} ({one.error})" for one in result.attempts if one.error]
    if failed:
        words.append(f"{result.attempts[-1].target} after {', '.join(dict.fromkeys(failed))}")
    return " · ".join(words)


def _compact(arguments: str) -> str:
    """JSON arguments as `key=value, …`; whatever else the model wrote, as it is."""
    try:
        values = json.loads(arguments)
    except ValueError:
        return arguments
    if not isinstance(values, dict):
        return arguments
    return ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in values.items()
    )


@contextmanager
def interrupt_raises() -> Iterator[None]:
    """Ctrl-C raises `KeyboardInterrupt` where the code stands, also while it waits for input."""
    with _on_interrupt(signal.default_int_handler):
        yield


@contextmanager
def interrupt_cancels(task: asyncio.Task[Any]) -> Iterator[None]:
    """The first Ctrl-C cancels the task; the next one raises `KeyboardInterrupt`."""
    loop = asyncio.get_running_loop()

    def cancel(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        loop.call_soon_threadsafe(task.cancel)

    with _on_interrupt(cancel):
        yield


@contextmanager
def _on_interrupt(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
