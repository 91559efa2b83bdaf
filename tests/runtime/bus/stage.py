"""A bus on a fake clock with one handler behind policies, for the tests of these."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from app.llmgine.bus import (
    MessageBus,
)
from app.llmgine.clock import sleep
from app.llmgine.messages import Command, Envelope, Event, current_envelope
from app.llmgine.testing.clock import FakeClock


class Ask(Command[str]):
    text: str = ""


class Look(Command[str]):
    pass


class Recite(Command[AsyncIterator[str]]):
    pass


class Asked(Event):
    pass


Step = Callable[[], Awaitable[Any]]


class Stage:
    """A bus on a fake clock, with one handler behind the policies; it runs the steps in turn.

    A step is a number of seconds to take, an error to raise, or a function to await; the last one
    is for all further calls.
    """

    def __init__(self, *policies: Any) -> None:
        self.clock = FakeClock()
        self.steps: list[float | Exception | Step] = [0.0]
        self.began: list[float] = []
        self.seen: list[Envelope] = []
        self.bus = MessageBus(clock=self.clock)
        self.bus.register_command_handler(Ask, self.answer, middleware=policies)

    async def answer(self, command: Ask) -> str:
        envelope = current_envelope()
        assert envelope is not None
        self.began.append(self.clock.monotonic())
        self.seen.append(envelope)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, Exception):
            raise step
        if callable(step):
            await step()
        elif step:
            await sleep(self.clock, step)
        return command.text.upper()

    def ask(self, text: str = "hi", *, key: str | None = None) -> asyncio.Task[str]:
        return asyncio.create_task(self.bus.execute(Ask(text=text), idempotency_key=key))

    async def ended(self, *tasks: asyncio.Task[str]) -> list[str | BaseException]:
        """What came of them, without any time passing."""
        await self.clock.advance(0)
        assert all(task.done() for task in tasks)
        return await asyncio.gather(*tasks, return_exceptions=True)

    async def fail(self, times: int = 1) -> None:
        for _ in range(times):
            with pytest.raises(OSError, match="down"):
                await self.bus.execute(Ask())

    async def __aenter__(self) -> "Stage":
        await self.bus.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.bus.stop()


def down() -> OSError:
    return ConnectionError("down")
