# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""`chat`: a conversation at the terminal, or one prompt per line from a pipe."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

from ...application import Application
from ...engine import PromptResult
from ...errors import ConfigurationError
from .ask import (
    Happening,
    TextView,
    as_text,
    choose_conversation,
    interrupt_cancels,
    interrupt_raises,
    new_conversation_id,
    status_line,
    take_turn,
)
from .entry import Entry, ExitCode
from .render import bold, colour_wanted, count, dim, width_columns, wrap
from .tools import tool_lines

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

KEYS = """\
Enter sends. New line: Alt-Enter (or Esc, Enter), or end the line with \\
Ctrl-C stops an answer and keeps what was said."""
HELP = f"""\
/tools  what the model may call
/new    begin another conversation
/exit   leave; so do Ctrl-D, and Ctrl-C twice
{KEYS}"""
OFFLINE = """\
'offline' is no real model: it answers by calling your tools. For one, in .env:
  LLMGINE_MODEL=openai/<name>
  OPENAI_API_KEY=<key>"""


async def chat(entry: Entry, *, model: str | None, wanted: str | None) -> None:
    """Talk until the user leaves or the pipe ends; a failed turn does not end it."""
    live = sys.stdin.isatty() and sys.stdout.isatty()
    async with entry.application(model=model) as app:
        talk = Chat(entry, app, await choose_conversation(app, wanted), live=live)
        if live:
            await talk.welcome()
            await talk.run(TerminalInput(app.settings.data_dir / "chat_history", talk.note))
        else:
            await talk.run(PipedInput())
    if talk.failure is not ExitCode.OK and not live:
        raise typer.Exit(talk.failure)


class Input(Protocol):
    """Where prompts come from."""

    async def read(self) -> str | None:
        """The next prompt, or `None` at the end."""
        ...


class PipedInput:
    """One prompt a line, from whatever stdin is."""

    async def read(self) -> str | None:
        # Nothing else has to run meanwhile, and a thread that waits for stdin could not be ended.
        with interrupt_raises():
            line = sys.stdin.buffer.readline()
        return as_text(line) if line else None


class TerminalInput:
    """Reads prompts at the terminal; `note` shows a hint to the user."""

    def __init__(self, history: Path, note: Callable[[str], None]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory

        self._note = note
        self._session: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation="  ",
            history=FileHistory(str(_private_file(history))),
            key_bindings=_keys(),
        )

    async def read(self) -> str | None:
        """The next prompt, or `None` after Ctrl-D or a second Ctrl-C in a row."""
        for hint in ("Ctrl-C again, or Ctrl-D, leaves", None):
            try:
                return await self._session.prompt_async()
            except EOFError:
                return None
            except KeyboardInterrupt:
                if hint:
                    self._note(hint)
        return None


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-c")
    def clear_or_leave(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return keys


def _private_file(path: Path) -> Path:
    """The file, made if it is not there, that only its owner may read.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise ConfigurationError(
            f"The chat history {str(path)!r} cannot be written: {error.strerror}. "
            "Mend the folder, or set LLMGINE_DATA_DIR to another one."
        ) from error
    return path


class LiveView(TextView):
    """Text on a terminal, with a word in the place of what has not come yet."""

    def __init__(self) -> None:
        super().__init__(sys.stdout, sys.stdout)
        self._waiting = colour_wanted(sys.stdout)
        if self._waiting:
            print(dim("thinking…", sys.stdout), end="", flush=True)

    def show(self, happening: Happening) -> None:
        self._clear()
        super().show(happening)

    def end_line(self) -> None:
        self._clear()
        super().end_line()

    def _clear(self) -> None:
        if self._waiting:
            self._waiting = False
            print("\r\x1b[K", end="", flush=True)


class Chat:
    """The conversation in hand. `failure` is the exit code of the first turn that failed."""

    def __init__(self, entry: Entry, app: Application, conversation_id: str, *, live: bool) -> None:
        self.failure = ExitCode.OK
        self._entry = entry
        self._app = app
        self._conversation_id = conversation_id
        self._live = live

    async def welcome(self) -> None:
        settings = self._app.settings
        messages = len(await self._app.store.read(self._conversation_id))
        said = f" ({count(messages, 'message')})" if messages else ""
        print(f"{bold(self._entry.name, sys.stdout)}  model {settings.model}")
        self.note(f"conversation {self._conversation_id}{said}, data in {settings.data_dir}")
        if settings.model.partition("/")[0] == "offline":
            self.note(OFFLINE)
        self.note(f"{KEYS} /help says more.\n")

    async def run(self, prompts: Input) -> None:
        while (text := await prompts.read()) is not None:
            prompt = text.strip()
            if prompt == "/exit":
                return
            if re.fullmatch("/[a-z]+", prompt):
                self._obey(prompt)
            elif prompt:
                await self._turn(prompt)

    def note(self, text: str) -> None:
        """Say something that is not the model's."""
        stream = sys.stdout if self._live else sys.stderr
        shown = wrap(text, width_columns()) if self._live else text
        print(dim(shown, stream), file=stream, flush=True)

    def _obey(self, command: str) -> None:
        match command:
            case "/help":
                self.note(HELP)
            case "/tools":
                self.note("\n".join(tool_lines(self._app.tools.specs(), width_columns())))
            case "/new":
                self._conversation_id = new_conversation_id()
                self.note(f"conversation {self._conversation_id}")
            case _:
                self.note(f"{command} is not a command; /help lists them")

    async def _turn(self, prompt: str) -> None:
        began = time.monotonic()
        view = LiveView() if self._live else TextView(sys.stdout, sys.stderr)
        turn = asyncio.create_task(self._take_turn(prompt, view))
        try:
            with interrupt_cancels(turn) if self._live else nullcontext():
                await asyncio.wait([turn])
        finally:
            if not turn.done():
                turn.cancel()
                await asyncio.wait([turn])
            view.end_line()
        if turn.cancelled():
            self.note("stopped; what was said is kept\n")
        elif error := turn.exception():
            self._failed(error)
        else:
            self._answered(turn.result(), view, time.monotonic() - began)

    async def _take_turn(self, prompt: str, view: TextView) -> PromptResult:
        with self._entry.traced(self._app, "cli.chat"):
            return await take_turn(self._app, prompt, self._conversation_id, view)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, BrokenPipeError):
            raise error
        code = self._entry.report(error)
        self.failure = self.failure or code

    def _answered(self, result: PromptResult, view: TextView, seconds: float) -> None:
        if not view.said:
            print(result.text, flush=True)
        self.note(status_line(result, seconds) + ("\n" if self._live else ""))
