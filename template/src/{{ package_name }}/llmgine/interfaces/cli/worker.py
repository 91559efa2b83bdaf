# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""`worker`: works the journal until it is told to stop, in one process or in several."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import textwrap
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from ...application import Application
from ...bus.durable import Delivery
from ...bus.failures import DeadLetterEvent
from ...bus.upkeep import Health
from ...errors import ConfigurationError
from .entry import Entry, ExitCode
from .queue import NO_JOURNAL
from .render import bold, pad, printable, red, width_columns, yellow

if TYPE_CHECKING:
    from ..health import HealthServer

# Whoever asks whether the process is well gives up after about a second.
PATIENCE_S = 0.8
# After the grace: for what is cancelled to end, and for the supervisor to see that it did.
MARGIN_S = 2.0
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
# A process that lived so long did not fail by how it starts.
STEADY_S = 60.0
LONGEST_LINE = 1_000_000


class Say:
    """Prints what happens: a text for people, or one JSON object for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def __call__(self, event: str, text: str, **facts: Any) -> None:
        line = json.dumps({"event": event, "text": text, **facts}, ensure_ascii=False)
        with suppress(BrokenPipeError):  # The work goes on though nobody reads of it.
            print(line if self.as_json else text, flush=True)


# Signals that come so close are one.
TOGETHER_S = 1.0


class Stop:
    """Set by the first signal. A later one ends the process at once, after `at_once()`.

    Not one that comes with the first: who starts it, such as `uv run`, may pass its own on too.
    """

    def __init__(self, at_once: Callable[[], object] = lambda: None) -> None:
        self.asked = asyncio.Event()
        self._at_once = at_once
        self._first_at: float | None = None

    def listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            # Not on Windows: there Ctrl-C cancels the command.
            with suppress(NotImplementedError):
                loop.add_signal_handler(number, self._signal, number)

    def listen_to_stdin(self) -> None:
        """Stop when it is closed, which it is also when the supervisor was killed."""
        loop = asyncio.get_running_loop()

        def wait() -> None:
            while os.read(0, 1_024):
                pass
            with suppress(RuntimeError):  # The loop has ended by itself.
                loop.call_soon_threadsafe(self.asked.set)

        threading.Thread(target=wait, name="stdin", daemon=True).start()

    def _signal(self, number: int) -> None:
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
        elif now - self._first_at > TOGETHER_S:
            self._at_once()
            os._exit(128 + number)
        self.asked.set()


async def work(entry: Entry, *, port: int | None, as_json: bool, supervised: bool) -> None:
    """Work the journal in this process; `port` is that of the health endpoint, `None` for none.

    Raises:
        ConfigurationError: a setting or the wiring is wrong.
        JournalError: the journal cannot be opened.
        TransportError: the message server cannot be reached.
    """
    say, stop = Say(as_json=as_json or supervised), Stop()
    stop.listen()
    if supervised:
        stop.listen_to_stdin()
    app = entry.bootstrap(entry.settings(work=True))
    app.llm.check(app.settings.model)
    app.bus.register_event_handler(DeadLetterEvent, _telling(say))
    server = None if port is None else _server(lambda: _health(app), port)
    try:
        async with app:
            delivery = _delivery(app)
            address = await server.start() if server else None
            text, facts = await banner(entry.name, app, address)
            say("started", text, **facts)
            await stop.asked.wait()
            grace_s = app.settings.stop_grace_s
            _end_after(grace_s + MARGIN_S)
            say("stopping", f"stopping: {delivery.in_hand:,} in hand, at most {grace_s:g} s")
    finally:
        if server:
            await server.stop()
    say("stopped", "stopped")


def _delivery(app: Application) -> Delivery:
    if app.bus.delivery is None:
        raise ConfigurationError(NO_JOURNAL)
    return app.bus.delivery


def _server(
    report: Callable[[], Awaitable[Health]], port: int, patience_s: float = PATIENCE_S
) -> HealthServer:
    from ..health import HealthServer  # Slow to import, and not needed with --no-health.

    return HealthServer(report, port, patience_s)


async def _health(app: Application) -> Health:
    health = await _delivery(app).health()
    problems = tuple(map(app.observer.redact.text, health.problems))
    return replace(health, problems=problems)


def _telling(say: Say) -> Callable[[DeadLetterEvent], Awaitable[None]]:
    async def tell_dead_letter(event: DeadLetterEvent) -> None:
        text = f"dead letter {event.letter_id}: {event.handler} failed on {event.message}"
        say("dead_letter", f"{text}: {event.error_type}", **event.model_dump())

    return tell_dead_letter


async def banner(name: str, app: Application, address: str | None) -> tuple[str, dict[str, Any]]:
    """What this process is and what it works on: as a text, and as facts."""
    transport, delivery = app.bus.transport, _delivery(app)
    facts = {
        "app": name,
        "worker": delivery.worker.name,
        "journal": await delivery.journal.check(),
        "transport": await transport.check() if transport else None,
        # The others are the bus's own.
        "routes": [name for name in delivery.worker.routes if " " in name],
        "health": address,
    }
    text = banner_text(facts, width_columns() if sys.stdout.isatty() else 10_000)
    return text, {**facts, "pid": os.getpid()}


def banner_text(facts: Mapping[str, Any], width: int) -> str:
    lines = [bold(f"{facts['app']} worker {facts['worker']}", sys.stdout)]
    shown = {
        "journal": facts["journal"],
        "transport": facts["transport"] or "none",
        "handles": ", ".join(facts["routes"]) or "nothing durable",
        "health": facts["health"] or "no endpoint",
    }
    for label, text in shown.items():
        head = f"  {pad(label, 9)}  "
        lines += textwrap.wrap(
            printable(text),
            max(width, len(head) + 20),
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _end_after(seconds: float) -> None:
    """A handler that will not be cancelled must not keep the process, nor its event loop."""

    def end() -> None:
        text = f"error: a handler holds on {seconds:g} s after the signal; ended without it"
        print(red(text, sys.stderr), file=sys.stderr, flush=True)
        os._exit(ExitCode.UNEXPECTED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


async def supervise(entry: Entry, *, processes: int, port: int | None, as_json: bool) -> None:
    """Work the journal in so many processes, and start those again that end.

    Raises:
        ConfigurationError, JournalError, TransportError: as `work`, before any is started.
        Exit: one did not end as it should have when it was told to.
    """
    say = Say(as_json=as_json)
    crew = Crew(entry.name, processes, say, health=port is not None)
    stop = Stop(crew.kill)
    stop.listen()
    # What is wrong with the settings, the wiring or the servers is said here, and once.
    async with entry.application(work=False) as app:
        _delivery(app)
        grace_s = app.settings.stop_grace_s
    server = None if port is None else _server(crew.health, port, 2 * PATIENCE_S)
    try:
        address = await server.start() if server else None
        at = f", health {address}" if address else ""
        text = bold(f"{entry.name} worker: {processes} processes{at}", sys.stdout)
        say("supervising", text, app=entry.name, pid=os.getpid(), health=address)
        left = await crew.run(stop.asked, grace_s + 2 * MARGIN_S)
    finally:
        if server:
            await server.stop()
    if left:
        print(red(f"error: {'; '.join(left)}", sys.stderr), file=sys.stderr)
        raise typer.Exit(ExitCode.UNEXPECTED)
    say("stopped", "stopped")


class Crew:
    """The processes of one supervisor. Closing their stdin tells them to stop."""

    def __init__(self, name: str, size: int, say: Say, *, health: bool) -> None:
        package = name.replace("-", "_")
        self._command = [sys.executable, "-m", package, "worker", "--supervised"]
        self._command += ["--health-port", "0"] if health else ["--no-health"]
        self._size = size
        self._say = say
        self._stopping = asyncio.Event()
        self._processes: dict[int, Process] = {}
        self._addresses: dict[int, str] = {}

    async def run(self, asked: asyncio.Event, patience_s: float) -> list[str]:
        """Keep all of them running until it is asked; say what went wrong at the end."""
        keeping = {asyncio.create_task(self._keep(no)): no for no in range(1, self._size + 1)}
        try:
            await asked.wait()
            self._say("stopping", f"stopping, at most {patience_s:g} s")
        finally:
            self._stopping.set()
            for process in self._processes.values():
                _tell_to_stop(process)
            _, late = await asyncio.wait(keeping, timeout=patience_s)
            self.kill()
            await asyncio.wait(keeping)
        left = [f"process {keeping[task]} did not end and was killed" for task in late]
        for task, number in keeping.items():
            if task not in late and (code := task.result()):
                left.append(f"process {number} ended by {_named(code)}")
        return left

    def kill(self) -> None:
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.kill()

    async def health(self) -> Health:
        """Of all of them together: ready if each is. They share one journal."""
        told = await asyncio.gather(*map(self._health_of, range(1, self._size + 1)))
        problems = ["stopping"] if self._stopping.is_set() else []
        for number, one in enumerate(told, 1):
            problems += [f"process {number}: {problem}" for problem in one.problems]
        return Health(
            ready=not self._stopping.is_set() and all(one.ready for one in told),
            problems=tuple(problems),
            depth=max(one.depth for one in told),
            lag_s=max(one.lag_s for one in told),
            in_hand=sum(one.in_hand for one in told),
        )

    async def _health_of(self, number: int) -> Health:
        from ..health import ask

        address = self._addresses.get(number)
        if address is None:
            return Health(ready=False, problems=("not started",))
        return await ask(address, 1.5 * PATIENCE_S) or Health(
            ready=False, problems=("does not answer",)
        )

    async def _keep(self, number: int) -> int:
        """Start it, again and again; the exit code that it ended with when it had to."""
        wait_s = FIRST_WAIT_S
        while True:
            began = time.monotonic()
            try:
                code = await self._run(number)
                told = f"ended by {_named(code)}"
            except OSError as error:
                code, told = ExitCode.UNEXPECTED, f"cannot be started: {error}"
            if self._stopping.is_set():
                return code
            if time.monotonic() - began > STEADY_S:
                wait_s = FIRST_WAIT_S
            text = f"process {number} {told}; starting it again in {wait_s:g} s"
            self._say("ended", yellow(text, sys.stdout), process=number, code=code)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
                return 0
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _run(self, number: int) -> int:
        # In a session of its own, so that Ctrl-C comes to the supervisor alone.
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, start_new_session=True
        )
        self._processes[number] = process
        if self._stopping.is_set():
            _tell_to_stop(process)
        assert process.stdout is not None
        reading = asyncio.create_task(self._read(number, process.stdout))
        try:
            code = await process.wait()
            # What it started may still hold its stdout.
            await asyncio.wait([reading], timeout=1.0)
            return code
        finally:
            reading.cancel()
            del self._processes[number]
            self._addresses.pop(number, None)

    async def _read(self, number: int, stdout: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stdout.read(65_536):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._hear(number, line.decode("utf-8", "replace"))

    def _hear(self, number: int, line: str) -> None:
        """Pass on what the process says, or what its handlers print."""
        try:
            told = json.loads(line)
            event, text = told.pop("event"), told.pop("text")
        except (ValueError, TypeError, AttributeError, KeyError):
            event, text, told = "printed", line, {}
        if event == "started":
            text = f"works as {told.get('worker')}"
            if address := told.get("health"):
                self._addresses[number] = address
        self._say(event, f"[{number}] {text}", **{**told, "process": number})


def _tell_to_stop(process: Process) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _named(code: int) -> str:
    """`SIGKILL` for what a signal ended, `code 3` otherwise."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"code {code}"
