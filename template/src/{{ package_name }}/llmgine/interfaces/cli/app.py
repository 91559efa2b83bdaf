# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The commands and their options. What a command needs is imported when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec

import typer
from typer.core import TyperGroup

from .entry import Entry, ExitCode, exit_code_table

if TYPE_CHECKING:
    from ...application import Application
    from ...settings import RuntimeSettings

P = ParamSpec("P")

Model = Annotated[
    str | None,
    typer.Option(
        help="Model for this call: offline, openai/<name>, anthropic/<name>, litellm/<name>, "
        "or a name from [models] in config.toml."
    ),
]
Conversation = Annotated[
    str | None,
    typer.Option("--conversation", "-c", help="Conversation to go on with; `last` is the newest."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]
States = Annotated[
    list[str] | None, typer.Option("--state", help="Of this state; can be given several times.")
]
Message = Annotated[str | None, typer.Option(help="Of messages of this name.")]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="ID...", help="Their ids, or how these begin.")
]
ToolName = Annotated[str, typer.Argument(help="The tool's name, as `tools list` shows it.")]


def run_cli(package: str) -> NoReturn:
    """Run the command line of the application in `package`, by its `config` and `bootstrap`."""

    def load_settings(**overrides: Any) -> RuntimeSettings:
        settings: RuntimeSettings = import_module(".config", package).Settings.load(**overrides)
        return settings

    def bootstrap(settings: RuntimeSettings) -> Application:
        app: Application = import_module(".bootstrap", package).bootstrap(settings)
        return app

    # An answer may hold what the terminal's encoding does not; better odd than an error.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # as streams are
    build_cli(package.replace("_", "-"), load_settings, bootstrap)()
    raise SystemExit(ExitCode.OK)


def build_cli(
    name: str,
    load_settings: Callable[..., RuntimeSettings],
    bootstrap: Callable[[Any], Application],
) -> typer.Typer:
    """The command line as a typer application, to which an owner can add commands.

    Args:
        name: what the application calls itself.
        load_settings: called with options such as `model`; one that is `None` was not given.
        bootstrap: builds the application from the settings. Neither is called for `--help`.
    """
    cli = typer.Typer(
        cls=_Cli,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        epilog=exit_code_table(),
        context_settings={
            "obj": Entry(name, load_settings, bootstrap),
            "help_option_names": ["-h", "--help"],
        },
    )
    cli.callback()(main)
    for command in (ask, chat, bus, worker, budget, doctor):
        cli.command()(command)
    for group in (tools_group(), logs_group(), queue_group()):
        cli.add_typer(group)
    return cli


class _Cli(TyperGroup):
    """Where every command fails in the same way: one line on stderr, and an exit code."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer's own subclass
        entry: Entry = ctx.obj
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except (typer.TyperException, typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:
            _close_stdout()
            raise typer.Exit(ExitCode.OUTPUT_CLOSED) from None
        except (Exception, KeyboardInterrupt) as error:
            raise typer.Exit(entry.report(error)) from error


def _close_stdout() -> None:
    """Let Python's own flush at exit go nowhere.

    Source: https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def run_async(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make an async function a plain command; typer would call it and never await it."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        import asyncio

        asyncio.run(command(*args, **kwargs))

    return run


def show_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        from .project import find_project, version_line

        print(version_line(context.obj.name, find_project()))
        raise typer.Exit


def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="Show the versions and exit."
        ),
    ] = False,
) -> None:
    """Ask, chat, work on what was sent, look at the tools and the logs, check the installation."""


@run_async
async def ask(
    context: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(help="What to ask; `-` or nothing reads stdin. Piped text goes after it."),
    ] = None,
    model: Model = None,
    conversation: Conversation = None,
    as_json: AsJson = False,
) -> None:
    """Ask one question; the answer goes to stdout, everything else to stderr."""
    from .ask import ask, ask_in_json

    run = ask_in_json if as_json else ask
    await run(context.obj, prompt, model=model, wanted=conversation)


@run_async
async def chat(
    context: typer.Context, model: Model = None, conversation: Conversation = None
) -> None:
    """Talk at the terminal; from a pipe, one prompt a line."""
    from .chat import chat

    await chat(context.obj, model=model, wanted=conversation)


@run_async
async def bus(
    context: typer.Context,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="A graph, for Mermaid.")] = False,
    asyncapi: Annotated[
        bool, typer.Option("--asyncapi", help="An AsyncAPI document of all messages.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show the commands and events, who handles them, and how."""
    from .bus import show_bus

    await show_bus(context.obj, mermaid=mermaid, asyncapi=asyncapi, as_json=as_json)


@run_async
async def worker(
    context: typer.Context,
    processes: Annotated[int, typer.Option(min=1, help="How many, on this machine.")] = 1,
    health_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port on loopback; 0 takes a free one.")
    ] = 0,
    no_health: Annotated[bool, typer.Option("--no-health", help="No health endpoint.")] = False,
    as_json: AsJson = False,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Do what has been sent, until Ctrl-C or SIGTERM; what runs is finished first."""
    from .worker import supervise, work

    port = None if no_health else health_port
    if processes > 1:
        await supervise(context.obj, processes=processes, port=port, as_json=as_json)
    else:
        await work(context.obj, port=port, as_json=as_json, supervised=supervised)


@run_async
async def budget(
    context: typer.Context,
    top: Annotated[
        int, typer.Option("--top", "-n", min=1, help="How many sessions, users and models.")
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Show what model calls cost today, and what the budget still allows."""
    from .budget import show_budget

    await show_budget(context.obj, top=top, as_json=as_json)


@run_async
async def doctor(
    context: typer.Context,
    online: Annotated[
        bool, typer.Option(help="Also ask the template's repository for a newer version.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check this installation; each line that is not ok says what to do."""
    from .doctor import doctor

    await doctor(context.obj, online=online, as_json=as_json)


def tools_group() -> typer.Typer:
    group = typer.Typer(
        name="tools", help="What the model may call.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command("list")(list_tools)
    group.command("describe")(describe_tool)
    group.command("call")(call_tool)
    return group


@run_async
async def list_tools(context: typer.Context) -> None:
    """List the tools."""
    from .tools import list_tools

    await list_tools(context.obj)


@run_async
async def describe_tool(context: typer.Context, name: ToolName) -> None:
    """Show what a tool does and what it takes."""
    from .tools import describe_tool

    await describe_tool(context.obj, name)


@run_async
async def call_tool(
    context: typer.Context,
    name: ToolName,
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    as_json: Annotated[
        str | None, typer.Option("--json", metavar="OBJECT", help="All arguments, as JSON.")
    ] = None,
) -> None:
    """Call a tool as the model would; exit code 7 when it does not answer."""
    from .tools import call_tool

    await call_tool(context.obj, name, arguments or [], as_json)


def logs_group() -> typer.Typer:
    group = typer.Typer(
        name="logs", help="What happened.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command("tail")(tail)
    group.command("trace")(trace)
    return group


def tail(
    context: typer.Context,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they come.")] = False,
    level: Annotated[
        str | None, typer.Option(help="Log lines of this level and above, nothing else.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the newest records of the log."""
    from .logs import tail

    tail(context.obj, lines=lines, follow=follow, level=level, as_json=as_json)


def trace(
    context: typer.Context,
    trace_id: Annotated[
        str, typer.Argument(help="The trace, or the beginning of its id; `last` is the newest.")
    ] = "last",
) -> None:
    """Draw where the time of a turn went."""
    from .logs import trace

    trace(context.obj, trace_id)


def queue_group() -> typer.Typer:
    group = typer.Typer(
        name="queue",
        help="What was sent and is not done.",
        invoke_without_command=True,
        rich_markup_mode=None,
    )
    group.callback()(queue)
    group.command("list")(list_queue)
    group.command("show")(show_queued)
    group.command("retry")(retry_queued)
    group.command("drop")(drop_queued)
    return group


@run_async
async def queue(context: typer.Context, as_json: AsJson = False) -> None:
    """Show how much waits, runs and has failed, and who works on it."""
    if context.invoked_subcommand is None:
        from .queue import show_stats

        await show_stats(context.obj, as_json=as_json)


@run_async
async def list_queue(
    context: typer.Context,
    state: States = None,
    message: Message = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List what is not done, the oldest first."""
    from .queue import list_entries

    await list_entries(
        context.obj, states=state or [], message=message, lines=lines, as_json=as_json
    )


@run_async
async def show_queued(
    context: typer.Context,
    entry_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, or how that begins.")],
    as_json: AsJson = False,
) -> None:
    """Show one entry, with its error and all that it holds."""
    from .queue import show_entry

    await show_entry(context.obj, entry_id, as_json=as_json)


@run_async
async def retry_queued(
    context: typer.Context,
    ids: Ids = None,
    every: Annotated[bool, typer.Option("--all", help="All that are dead or parked.")] = False,
    state: States = None,
    message: Message = None,
) -> None:
    """Have entries tried again that are dead, parked or failed."""
    from .queue import retry

    await retry(context.obj, ids or [], every=every, states=state or [], message=message)


@run_async
async def drop_queued(
    context: typer.Context,
    ids: Ids = None,
    every: Annotated[bool, typer.Option("--all", help="All that are dead or parked.")] = False,
    state: States = None,
    message: Message = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Forget entries that nobody works on."""
    from .queue import drop

    await drop(context.obj, ids or [], every=every, states=state or [], message=message, yes=yes)
