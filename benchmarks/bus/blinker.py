"""The package `blinker`: `send_async` awaits the receivers in turn, not isolated."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from blinker import Signal

from ..measure import CpuTimer
from .subject import Handled, Subject

Receiver = Callable[..., Coroutine[Any, Any, Any]]


async def commands(count: int, timer: CpuTimer, handled: Handled) -> None:
    async def greet(sender: object, *, message: dict[str, object]) -> object:
        handled.count += 1
        return message["text"]

    await _send(Signal(), [greet], count, timer)


async def events(count: int, handlers: int, timer: CpuTimer, handled: Handled) -> None:
    receivers: list[Receiver] = []
    for _ in range(handlers):

        async def note(sender: object, *, message: dict[str, object]) -> None:
            handled.count += 1

        receivers.append(note)
    await _send(Signal(), receivers, count, timer)


async def _send(signal: Signal, receivers: list[Receiver], count: int, timer: CpuTimer) -> None:
    for receiver in receivers:
        signal.connect(receiver)
    with timer:
        for number in range(count):
            await signal.send_async("bench", message={"user": number, "text": "hello"})


SUBJECT = Subject("blinker", commands, events)
