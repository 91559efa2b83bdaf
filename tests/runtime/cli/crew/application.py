"""Its wiring."""

import asyncio
import os
from pathlib import Path
from typing import Any

from app.llmgine.application import (
    Application,
    default_journal,
    default_providers,
    default_transport,
    observe,
)
from app.llmgine.bus import MessageBus
from app.llmgine.context import MemoryStore
from app.llmgine.engine import PromptCommand
from app.llmgine.interfaces.cli import build_cli
from app.llmgine.llm import LLMManager
from app.llmgine.messages import Command
from app.llmgine.settings import RuntimeSettings
from app.llmgine.tools import ToolManager

# How soon it is seen that a file is there.
LOOK_S = 0.01


class Hold(Command[None]):
    """Makes the file `<name>.began`, and ends when there is `<name>.go`."""

    durable = True
    name: str


class Cling(Command[None]):
    """Makes the file `<name>.began`, and never ends, whatever it is told."""

    durable = True
    name: str


class Fail(Command[None]):
    durable = True
    why: str


async def hold(command: Hold) -> None:
    Path(f"{command.name}.began").touch()
    while not Path(f"{command.name}.go").exists():  # noqa: ASYNC110  another process makes it
        await asyncio.sleep(LOOK_S)


async def cling(command: Cling) -> None:
    Path(f"{command.name}.began").touch()
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("no", flush=True)


async def fail(command: Fail) -> None:
    raise ValueError(command.why)


def bootstrap(settings: RuntimeSettings) -> Application:
    observer = observe(settings)
    bus = MessageBus(
        journal=default_journal(settings),
        transport=default_transport(settings),
        work=settings.work,
    )
    if not os.environ.get("CREW_WITHOUT_HOLD"):
        bus.register_command_handler(Hold, hold)
    bus.register_command_handler(Cling, cling)
    bus.register_command_handler(Fail, fail)
    return Application(
        settings=settings,
        bus=bus,
        tools=ToolManager(observer=observer),
        llm=LLMManager(default_providers(settings), observer=observer),
        store=MemoryStore(),
        observer=observer,
        ask=lambda prompt, conversation_id: PromptCommand(
            prompt=prompt, conversation_id=conversation_id
        ),
    )


def load_settings(**overrides: Any) -> RuntimeSettings:
    return RuntimeSettings.load(**overrides)


cli = build_cli("crew", load_settings, bootstrap)
