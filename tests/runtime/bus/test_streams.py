"""Streamed commands: what the handler yields, while it yields it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from app.llmgine.bus import CommandErrorEvent, CommandResultEvent, MessageBus
from app.llmgine.bus.streaming import BUFFER as STREAM_BUFFER
from app.llmgine.errors import BusError, HandlerMissingError
from app.llmgine.messages import Command, Envelope, Event, current_envelope


class Count(Command[AsyncIterator[int]]):
    to: int = 3


class Inner(Command[str]):
    pass


class Counted(Event):
    pass


async def count(command: Count) -> AsyncIterator[int]:
    for n in range(command.to):
        yield n


def a_bus(handler: Callable[[Count], AsyncIterator[int]] = count) -> MessageBus:
    bus = MessageBus()
    bus.register_command_handler(Count, handler)
    return bus


def recorder(events: list[Any]):
    async def record(event: Event) -> None:
        events.append(event)

    return record


class Endless:
    """Counts for ever, and knows how far it came and whether it was closed."""

    def __init__(self) -> None:
        self.made = 0
        self.closed = asyncio.Event()

    async def __call__(self, command: Count) -> AsyncIterator[int]:
        try:
            while True:
                self.made += 1
                yield self.made
        finally:
            self.closed.set()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_items_arrive_while_they_are_made():
    release = asyncio.Event()

    async def held(command: Count) -> AsyncIterator[int]:
        yield 1
        await release.wait()
        yield 2

    async with a_bus(held) as bus:
        stream = bus.stream(Count())
        first = await anext(stream)
        release.set()
        rest = [item async for item in stream]

    assert (first, rest) == (1, [2])


async def test_all_items_arrive_in_order_also_those_beyond_the_buffer():
    async with a_bus() as bus:
        items = [item async for item in bus.stream(Count(to=STREAM_BUFFER * 3))]

    assert items == list(range(STREAM_BUFFER * 3))


@pytest.mark.parametrize("before", [0, 2, STREAM_BUFFER + 1])
async def test_the_handlers_error_comes_as_itself_after_the_items_before_it(before: int):
    error = ValueError("no more")

    async def fail(command: Count) -> AsyncIterator[int]:
        for n in range(before):
            yield n
        raise error

    got = []
    async with a_bus(fail) as bus:
        with pytest.raises(ValueError, match="no more") as caught:
            async for item in bus.stream(Count()):
                got.append(item)

    assert caught.value is error
    assert got == list(range(before))


async def test_who_stops_reading_closes_the_handler_and_leaves_no_task():
    endless = Endless()
    async with a_bus(endless) as bus:
        before = asyncio.all_tasks()
        async with aclosing(bus.stream(Count())) as stream:
            async for item in stream:
                if item == 3:
                    break

        assert endless.closed.is_set()
        assert asyncio.all_tasks() == before
        assert bus.running == 0


async def test_a_reader_that_is_cancelled_closes_the_handler_and_leaves_no_task():
    entered, closed = asyncio.Event(), asyncio.Event()

    async def hang(command: Count) -> AsyncIterator[int]:
        try:
            entered.set()
            await asyncio.Event().wait()
            yield 1
        finally:
            closed.set()

    async def read() -> None:
        async for _ in bus.stream(Count()):
            pass

    async with a_bus(hang) as bus:
        before = asyncio.all_tasks()
        reader = asyncio.create_task(read())
        await entered.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader

        assert closed.is_set()
        assert asyncio.all_tasks() == before


async def test_a_slow_reader_slows_the_handler():
    endless = Endless()
    async with a_bus(endless) as bus, aclosing(bus.stream(Count())) as stream:
        for read in range(1, 4):
            assert await anext(stream) == read
            await settle()
            for _ in range(STREAM_BUFFER):
                await settle()

            assert STREAM_BUFFER <= endless.made - read <= STREAM_BUFFER + 1


async def test_nothing_runs_before_somebody_reads():
    endless = Endless()
    async with a_bus(endless) as bus:
        stream = bus.stream(Count())
        await settle()

        assert endless.made == 0
        await stream.aclose()


async def test_middleware_goes_around_the_whole_stream_once():
    order = []

    async def around(message, envelope, call_next):
        order.append(f"enter {type(envelope.message).__name__}")
        result = await call_next()
        order.append(f"leave {result}")
        return result

    async def noted(command: Count) -> AsyncIterator[int]:
        for n in range(2):
            order.append(f"made {n}")
            yield n

    bus = MessageBus(middleware=[around])
    bus.register_command_handler(Count, noted)

    async with bus:
        async for _ in bus.stream(Count()):
            pass

    assert order == ["enter Count", "made 0", "made 1", "leave None"]


async def test_a_stream_is_told_once_as_a_result_or_as_an_error():
    async def fail(command: Count) -> AsyncIterator[int]:
        yield 1
        if command.to == 0:
            raise ValueError("broken")

    told: list[Any] = []
    bus = a_bus(fail)
    bus.register_event_handler(CommandResultEvent, recorder(told))
    bus.register_event_handler(CommandErrorEvent, recorder(told))

    async with bus:
        async for _ in bus.stream(Count()):
            pass
        await bus.idle()
        with pytest.raises(ValueError, match="broken"):
            async for _ in bus.stream(Count(to=0)):
                pass
        await bus.idle()

    done, failed = told
    assert (done.command, done.result) == ("Count", None)
    assert (failed.command, failed.error_type, failed.error) == ("Count", "ValueError", "broken")


async def test_a_stream_that_is_left_is_told_as_cancelled():
    told: list[Any] = []
    bus = a_bus(Endless())
    bus.register_event_handler(CommandErrorEvent, recorder(told))

    async with bus:
        async with aclosing(bus.stream(Count())) as stream:
            await anext(stream)
        await bus.idle()

    assert [event.error_type for event in told] == ["CancelledError"]


async def test_what_a_stream_sends_is_linked_to_it_and_its_reader_stays_who_it_was():
    envelopes: dict[str, Envelope | None] = {}

    def note(name: str) -> None:
        envelopes[name] = current_envelope()

    async def outer(_: Inner) -> str:
        note("reader")
        async for _item in bus.stream(Count()):
            note("reading")
        note("reader after")
        return ""

    async def noted(command: Count) -> AsyncIterator[int]:
        note("first")
        yield 1
        note("second")
        await bus.publish(Counted())
        yield 2

    async def listen(_: Counted) -> None:
        note("event")

    bus = a_bus(noted)
    bus.register_command_handler(Inner, outer)
    bus.register_event_handler(Counted, listen)

    async with bus:
        await bus.execute(Inner(), session_id="s1")
        await bus.idle()

    reader, stream, event = envelopes["reader"], envelopes["first"], envelopes["event"]
    assert reader is not None
    assert stream is not None
    assert event is not None
    assert envelopes["reading"] is envelopes["reader after"] is reader
    assert envelopes["second"] is stream
    assert isinstance(stream.message, Count)
    assert (stream.causation_id, event.causation_id) == (reader.id, stream.id)
    assert stream.session_id == event.session_id == "s1"


async def test_outside_of_any_handler_a_reader_has_no_envelope():
    async with a_bus() as bus:
        async for _ in bus.stream(Count()):
            assert current_envelope() is None

    assert current_envelope() is None


async def test_executing_a_streamed_command_says_to_stream_it():
    async with a_bus() as bus:
        with pytest.raises(BusError, match=r"'Count' is streamed: .*bus\.stream"):
            await bus.execute(Count())


async def test_executing_a_streamed_command_inside_a_stream_says_to_stream_it_too():
    async def nested(command: Count) -> AsyncIterator[int]:
        if command.to:
            await bus.execute(Count(to=0))
        yield 1

    async with a_bus(nested) as bus:
        with pytest.raises(BusError, match=r"'Count' is streamed"):
            async for _ in bus.stream(Count(to=1)):
                pass


async def test_a_stream_may_read_another():
    async def nested(command: Count) -> AsyncIterator[int]:
        yield command.to
        if command.to:
            async for item in bus.stream(Count(to=command.to - 1)):
                yield item

    async with a_bus(nested) as bus:
        assert [item async for item in bus.stream(Count(to=3))] == [3, 2, 1, 0]


async def test_a_stream_nobody_handles_is_a_missing_handler():
    async with MessageBus() as bus:
        with pytest.raises(HandlerMissingError, match="Count"):
            await anext(bus.stream(Count()))


async def test_a_command_that_is_not_streamed_cannot_be():
    async def answer(_: Inner) -> str:
        return ""

    bus = MessageBus()
    bus.register_command_handler(Inner, answer)

    async with bus:
        with pytest.raises(BusError, match=r"'Inner' is not streamed: await bus\.execute"):
            await anext(bus.stream(Inner()))


async def test_a_session_has_streams_of_its_own():
    async def own(command: Count) -> AsyncIterator[int]:
        yield 100

    async with a_bus() as bus:
        async with bus.session() as session:
            session.register_command_handler(Count, own)
            inside = [item async for item in session.stream(Count())]
            outside = [item async for item in bus.stream(Count(to=1))]
        after = [item async for item in bus.stream(Count(to=1), session_id=session.id)]

    assert (inside, outside, after) == ([100], [0], [0])


async def test_a_stop_waits_for_a_stream_that_is_read():
    release = asyncio.Event()

    async def held(command: Count) -> AsyncIterator[int]:
        yield 1
        await release.wait()
        yield 2

    bus = a_bus(held)
    await bus.start()
    stream = bus.stream(Count())
    assert await anext(stream) == 1
    stopping = asyncio.create_task(bus.stop())
    await settle()
    release.set()

    assert [item async for item in stream] == [2]
    assert (await stopping).drained


async def test_a_stop_without_grace_cancels_a_stream_and_reports_it():
    endless = Endless()
    bus = a_bus(endless)
    await bus.start()
    before = asyncio.all_tasks()
    stream = bus.stream(Count())
    await anext(stream)

    report = await bus.stop(grace_s=0)

    assert report.commands == ("Count",)
    assert endless.closed.is_set()
    with pytest.raises(asyncio.CancelledError):
        async for _ in stream:
            pass
    assert asyncio.all_tasks() == before
