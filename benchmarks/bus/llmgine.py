"""Our own bus, as `bootstrap` builds it but without observability."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from app.llmgine.bus import MessageBus, Policy
from app.llmgine.bus.policies import CircuitBreaker, Retry, Timeout
from app.llmgine.messages import Command, Event

from ..measure import CpuTimer
from .subject import AT_ONCE, KEYS, Handled, Subject


class Greet(Command[str]):
    user: int
    text: str


class Greeted(Event):
    user: int
    text: str


def answering(bus: MessageBus, handled: Handled, middleware: Sequence[Policy] = ()) -> MessageBus:
    """The bus, with a handler of `Greet`."""

    async def greet(command: Greet) -> str:
        handled.count += 1
        return command.text

    bus.register_command_handler(Greet, greet, middleware=middleware)
    return bus


async def execute(bus: MessageBus, count: int) -> None:
    for number in range(count):
        await bus.execute(Greet(user=number, text="hello"))


async def commands(count: int, timer: CpuTimer, handled: Handled) -> None:
    async with answering(MessageBus(), handled) as bus:
        with timer:
            await execute(bus, count)


async def with_policies(count: int, timer: CpuTimer, handled: Handled) -> None:
    policies: list[Policy] = [Timeout(5), Retry(), CircuitBreaker()]
    async with answering(MessageBus(), handled, policies) as bus:
        with timer:
            await execute(bus, count)


async def at_once(count: int, timer: CpuTimer, handled: Handled) -> None:
    async with answering(MessageBus(), handled) as bus:
        with timer:
            for _ in range(count // AT_ONCE):
                messages = (Greet(user=number, text="hello") for number in range(AT_ONCE))
                await asyncio.gather(*map(bus.execute, messages))


def _noting(handlers: int, handled: Handled) -> MessageBus:
    async def note(event: Greeted) -> None:
        handled.count += 1

    bus = MessageBus()
    for _ in range(handlers):
        bus.register_event_handler(Greeted, note)
    return bus


async def events(count: int, handlers: int, timer: CpuTimer, handled: Handled) -> None:
    async with _noting(handlers, handled) as bus:
        with timer:
            for number in range(count):
                await bus.publish(Greeted(user=number, text="hello"))
            await bus.idle()


async def keyed(count: int, handlers: int, timer: CpuTimer, handled: Handled) -> None:
    async with _noting(handlers, handled) as bus:
        with timer:
            for number in range(count):
                key = KEYS[number % len(KEYS)]
                await bus.publish(Greeted(user=number, text="hello"), key=key)
            await bus.idle()


SUBJECT = Subject("llmgine", commands, events, at_once, keyed)
WITH_POLICIES = Subject("llmgine, three policies", with_policies)
