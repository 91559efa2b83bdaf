"""Ends that meet: of a handler, a publisher, a session and the bus, at the worst moment."""

import asyncio
from contextlib import suppress
from contextvars import Context

import pytest

from app.llmgine.bus import (
    EventHandlerFailedEvent,
    MessageBus,
    SessionEndedEvent,
    SessionStartedEvent,
)
from app.llmgine.errors import BusClosedError, BusError
from app.llmgine.messages import Command, Envelope, Event
from app.llmgine.testing.clock import FakeClock


class Ask(Command[str]):
    pass


class Said(Event):
    n: int = 0


class Told(Event):
    pass


class Gate:
    """Waits in its first event until it is opened, and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.opened = asyncio.Event()

    async def __call__(self, event: Said) -> None:
        self.seen.append(event.n)
        await self.opened.wait()


async def hang(_: Event | Command[str]) -> str:
    await asyncio.Event().wait()
    return ""


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def others() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_a_session_that_fails_before_its_handler_began_leaves_the_bus_idle():
    async with MessageBus() as bus:
        with suppress(ZeroDivisionError):
            async with bus.session() as session:
                session.register_event_handler(Said, Gate())
                await session.publish(Said())
                raise ZeroDivisionError

        await asyncio.wait_for(bus.idle(), 5)


async def test_who_waits_for_room_in_a_session_that_fails_runs_nothing_in_it():
    gate = Gate()
    async with MessageBus() as bus:
        with suppress(ZeroDivisionError):
            async with bus.session() as session:
                session.register_event_handler(Said, gate, capacity=1)
                waiting = []
                for n in range(4):
                    waiting.append(asyncio.create_task(session.publish(Said(n=n))))
                    await settle()
                raise ZeroDivisionError
        await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        await settle()

        assert gate.seen == [0]


async def test_who_waits_for_room_when_the_bus_stops_is_refused_or_reported():
    gate, bus = Gate(), MessageBus()
    bus.register_event_handler(Said, gate, capacity=1, concurrency=1)
    await bus.start()
    waiting = []
    for n in range(4):
        waiting.append(asyncio.create_task(bus.publish(Said(n=n))))
        await settle()

    report = await bus.stop(0)
    ended = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    await settle()

    refused = sum(isinstance(end, BusClosedError) for end in ended)
    assert len(report.events) + refused == 4
    assert gate.seen == [0]
    assert not others()


async def test_room_passed_on_while_the_bus_stops_runs_nothing_afterwards():
    bus, seen, opened = MessageBus(), [], asyncio.Event()

    async def handle(event: Said) -> None:
        seen.append(event.n)
        await opened.wait()
        if event.n == 1:
            waiting[2].cancel()

    bus.register_event_handler(Said, handle, capacity=1, concurrency=1)
    await bus.start()
    waiting = [asyncio.create_task(bus.publish(Said(n=n))) for n in range(4)]
    await settle()
    stopping = asyncio.create_task(bus.stop(5))
    await settle()

    opened.set()
    report = await stopping
    seen_until_stopped = list(seen)
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    await settle()

    assert report.drained
    assert seen == seen_until_stopped
    assert 3 in seen or isinstance(ended[3], BusClosedError)


async def test_an_event_whose_handler_waits_for_a_command_is_reported_when_time_is_up():
    bus = MessageBus()

    async def relay(_: Said) -> None:
        await bus.execute(Ask())

    bus.register_event_handler(Said, relay)
    bus.register_command_handler(Ask, hang)
    await bus.start()
    await bus.publish(Said())
    await settle()

    report = await bus.stop(0)

    assert report.commands == ("Ask",)
    assert len(report.events) == 1


@pytest.mark.parametrize("listens_first", [True, False])
async def test_a_cancelled_handlers_last_words_are_reported_and_not_handled(listens_first):
    bus, seen = MessageBus(), []

    async def listen(event: Event) -> None:
        seen.append(event)

    async def say_so_at_the_end(_: Said) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await bus.publish(Told())
            raise ZeroDivisionError

    if listens_first:
        bus.register_event_handler(Told, listen)
        bus.register_event_handler(EventHandlerFailedEvent, listen)
    bus.register_event_handler(Said, say_so_at_the_end)
    if not listens_first:
        bus.register_event_handler(Told, listen)
        bus.register_event_handler(EventHandlerFailedEvent, listen)
    await bus.start()
    await bus.publish(Said())
    await settle()

    report = await bus.stop(0)
    await settle()

    assert sorted(name.split()[0] for name in report.events) == ["Said", "Told"]
    assert not seen
    assert not list(bus.dead_letters)


async def test_a_session_opened_before_the_start_does_not_silence_later_ones():
    bus, seen = MessageBus(), []

    async def listen(event: SessionStartedEvent) -> None:
        seen.append(event.session_id)

    bus.register_event_handler(SessionStartedEvent, listen)
    async with bus.session("early"):
        await bus.start()
        async with bus.session("late"):
            await bus.idle()
    await bus.stop()

    assert "late" in seen


async def test_a_session_left_after_the_bus_stopped_runs_nothing():
    bus, seen = MessageBus(), []

    async def listen(event: SessionEndedEvent) -> None:
        seen.append(event)

    bus.register_event_handler(SessionEndedEvent, listen)
    await bus.start()
    async with bus.session():
        await bus.stop()
    await settle()

    assert not seen
    assert not others()


async def test_a_newcomer_does_not_overtake_those_who_wait_for_room():
    bus, seen, newcomers = MessageBus(), [], []

    async def handle(event: Said) -> None:
        seen.append(event.n)
        if event.n == 1:
            newcomer = bus.publish(Said(n=5), key="k")
            newcomers.append(asyncio.create_task(newcomer, context=Context()))

    bus.register_event_handler(Said, handle, capacity=1, concurrency=1)
    async with bus:
        await asyncio.gather(*(bus.publish(Said(n=n), key="k") for n in (1, 2, 3, 4)))
        await asyncio.gather(*newcomers)
        await bus.idle()

    assert seen == [1, 2, 3, 4, 5]


async def test_a_stop_cancelled_twice_leaves_nothing_running():
    bus = MessageBus()

    async def slow_to_go(_: Said) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await settle()

    bus.register_event_handler(Said, slow_to_go)
    bus.register_event_handler(Told, hang)
    await bus.start()
    await bus.publish(Said())
    await bus.publish(Told())
    await settle()

    stopping = asyncio.create_task(bus.stop())
    for _ in range(2):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        stopping.cancel()
    await asyncio.wait([stopping])
    await settle()
    await settle()

    assert not others()


async def test_a_handler_that_cancels_its_own_task_stops_nobody_else():
    bus, seen = MessageBus(), []

    async def cancels(event: Said) -> None:
        if event.n == 0:
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        seen.append(event.n)

    bus.register_event_handler(Said, cancels)
    async with bus:
        for n in range(3):
            await bus.publish(Said(n=n), key="k")
        await asyncio.wait_for(bus.idle(), 5)

    assert seen == [1, 2]
    assert [letter.message.n for letter in bus.dead_letters] == [0]


async def test_the_wait_of_a_batch_counts_from_its_first_event_though_the_handler_was_busy():
    clock, seen, opened = FakeClock(), [], asyncio.Event()
    bus = MessageBus(clock=clock)

    async def note(events: list[Said]) -> None:
        seen.append(([event.n for event in events], clock.monotonic()))
        if events[0].n == 0:
            await opened.wait()

    bus.register_batch_handler(Said, note, size=2, within_s=5)
    async with bus:
        for n in range(3):
            await bus.publish(Said(n=n))
        await clock.advance(10)
        opened.set()
        await clock.advance(10)

        assert seen == [([0, 1], 0), ([2], 10)]


async def test_a_dead_letter_whose_resending_is_cancelled_is_kept():
    bus = MessageBus()
    bus.register_command_handler(Ask, hang)
    async with bus:
        letter = bus.dead_letters.add(Envelope(Ask()), "somebody", ZeroDivisionError())
        resent = asyncio.create_task(bus.dead_letters.resend(letter.id))
        await settle()
        resent.cancel()
        await asyncio.wait([resent])

        assert [type(one.message) for one in bus.dead_letters] == [Ask]


async def test_streaming_what_is_not_streamed_is_an_error():
    bus = MessageBus()
    bus.register_command_handler(Ask, hang)

    async with bus:
        with pytest.raises(BusError, match="not streamed"):
            async for _ in bus.stream(Ask()):
                pass
