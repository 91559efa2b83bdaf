"""The package `bubus`: `dispatch`, then await the event or its result.

What a message costs grows until the bus's history is full, so it is measured from there on.
"""

from __future__ import annotations

import bubus

from ..measure import CpuTimer
from .subject import Handled, Subject

HISTORY = 50


class Greet(bubus.BaseEvent[str]):
    user: int
    text: str


class Greeted(bubus.BaseEvent[None]):
    user: int
    text: str


async def commands(count: int, timer: CpuTimer, handled: Handled) -> None:
    async def greet(event: Greet) -> str:
        handled.count += 1
        return event.text

    bus = bubus.EventBus()
    bus.on(Greet, greet)
    for number in range(HISTORY):
        await bus.dispatch(Greet(user=number, text="hello")).event_result()
    handled.count = 0
    with timer:
        for number in range(count):
            await bus.dispatch(Greet(user=number, text="hello")).event_result()
    await bus.stop(clear=True)


async def events(count: int, handlers: int, timer: CpuTimer, handled: Handled) -> None:
    bus = bubus.EventBus()
    for number in range(handlers):

        async def note(event: Greeted) -> None:
            handled.count += 1

        note.__name__ = f"note_{number}"
        bus.on(Greeted, note)
    for number in range(HISTORY):
        await bus.dispatch(Greeted(user=number, text="hello"))
    handled.count = 0
    with timer:
        for number in range(count):
            # Each is awaited: the bus refuses more than a hundred at once.
            await bus.dispatch(Greeted(user=number, text="hello"))
    await bus.stop(clear=True)


SUBJECT = Subject("bubus", commands, events, rounds_of=60)
