"""The basics on uvloop, which replaces asyncio's loop, its futures and its timers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from app.llmgine.bus import MessageBus
from app.llmgine.messages import Command, Event

uvloop = pytest.importorskip("uvloop")


class Ask(Command[str]):
    text: str


class Count(Command[AsyncIterator[int]]):
    to: int


class Said(Event):
    text: str


async def answer(command: Ask) -> str:
    return command.text.upper()


async def count(command: Count) -> AsyncIterator[int]:
    for n in range(command.to):
        yield n


async def commands_and_streams() -> None:
    bus = MessageBus()
    bus.register_command_handler(Ask, answer)
    bus.register_command_handler(Count, count)

    async with bus:
        assert await bus.execute(Ask(text="a")) == "A"
        assert [n async for n in bus.stream(Count(to=40))] == list(range(40))


async def events_in_order_through_a_full_lane() -> None:
    bus, seen = MessageBus(), []

    async def note(event: Said) -> None:
        await asyncio.sleep(0)
        seen.append(event.text)

    bus.register_event_handler(Said, note, concurrency=1, capacity=1)
    async with bus:
        await asyncio.gather(*(bus.publish(Said(text=str(n))) for n in range(20)))
        await bus.idle()

    assert seen == [str(n) for n in range(20)]


async def a_session_that_drains() -> None:
    seen = []

    async def note(event: Said) -> None:
        await asyncio.sleep(0)
        seen.append(event.text)

    async with MessageBus() as bus:
        async with bus.session() as session:
            session.register_event_handler(Said, note)
            await session.publish(Said(text="a"))
        assert seen == ["a"]


async def a_batch_when_its_time_has_come() -> None:
    bus, handed_over = MessageBus(), asyncio.Event()

    async def note(events: list[Said]) -> None:
        handed_over.set()

    bus.register_batch_handler(Said, note, size=100, within_s=0.01)
    async with bus:
        await bus.publish(Said(text="a"))
        await handed_over.wait()


async def a_stop_that_does_not_wait_for_ever() -> None:
    bus = MessageBus()

    async def hang(_: Said) -> None:
        await asyncio.Event().wait()

    bus.register_event_handler(Said, hang)
    await bus.start()
    await bus.publish(Said(text="a"))

    report = await bus.stop(0.01)

    assert len(report.events) == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def calls_from_a_thread() -> None:
    bus = MessageBus()

    def relay(event: Said) -> None:
        answers.append(bus.call_from_thread(bus.execute, Ask(text=event.text)))

    answers: list[str] = []
    bus.register_command_handler(Ask, answer)
    bus.register_event_handler(Said, relay)
    async with bus:
        await bus.publish(Said(text="a"))
        await bus.idle()

    assert answers == ["A"]


@pytest.mark.parametrize(
    "basics",
    [
        commands_and_streams,
        events_in_order_through_a_full_lane,
        a_session_that_drains,
        a_batch_when_its_time_has_come,
        a_stop_that_does_not_wait_for_ever,
        calls_from_a_thread,
    ],
)
def test_the_basics_hold_on_uvloop(basics: Callable[[], Awaitable[None]]):
    async def main() -> None:
        async with asyncio.timeout(20):
            await basics()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
