"""Our own bus, as `bootstrap` builds it but without observability."""

from __future__ import annotations

from app.llmgine.bus import MessageBus
from app.llmgine.messages import Command, Event

from ..measure import CpuTimer
from .subject import Handled, Subject


class Greet(Command[str]):
    user: int
    text: str


class Greeted(Event):
    user: int
    text: str


async def commands(count: int, timer: CpuTimer, handled: Handled) -> None:
    async def greet(command: Greet) -> str:
        handled.count += 1
        return command.text

    bus = MessageBus()
    bus.register_command_handler(Greet, greet)
    async with bus:
        with timer:
            for number in range(count):
                await bus.execute(Greet(user=number, text="hello"))


async def events(count: int, handlers: int, timer: CpuTimer, handled: Handled) -> None:
    async def note(event: Greeted) -> None:
        handled.count += 1

    bus = MessageBus()
    for _ in range(handlers):
        bus.register_event_handler(Greeted, note)
    async with bus:
        with timer:
            for number in range(count):
                await bus.publish(Greeted(user=number, text="hello"))
            await bus.idle()


SUBJECT = Subject("llmgine", commands, events)
