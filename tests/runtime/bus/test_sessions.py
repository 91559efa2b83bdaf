"""Sessions: handlers, an order and metadata of their own, from beginning to end."""

import asyncio
import gc
import sys
from collections.abc import Awaitable

import pytest

from app.llmgine.bus import (
    CommandErrorEvent,
    MessageBus,
    SessionEndedEvent,
    SessionStartedEvent,
)
from app.llmgine.errors import BusError, HandlerMissingError
from app.llmgine.messages import Command, Envelope, Event, current_envelope
from app.llmgine.testing.clock import FakeClock


class Ask(Command[str]):
    pass


class Answer(Command[str]):
    pass


class Said(Event):
    n: int


class Heard(Event):
    pass


async def ask(_: Ask) -> str:
    return "asked"


async def answer(_: Answer) -> str:
    return "answered"


def collector(seen: list[Event]):
    async def collect(event: Event) -> None:
        seen.append(event)

    return collect


def envelope() -> Envelope:
    found = current_envelope()
    assert found is not None
    return found


async def steps_of(work: Awaitable[object]) -> int:
    """How many lines of Python run until it is done."""
    steps = 0

    def count(_frame: object, kind: str, _argument: object) -> object:
        nonlocal steps
        steps += kind == "line"
        return count

    before = sys.gettrace()
    gc.disable()  # What it calls would be counted, and comes when it likes.
    sys.settrace(count)
    try:
        await work
    finally:
        sys.settrace(before)
        gc.enable()
    return steps


async def test_sessions_that_share_a_key_are_in_order_and_another_key_is_not_held_up():
    opened, first, seen = asyncio.Event(), asyncio.Event(), []
    clock = FakeClock()

    async def slow_at_first(event: Said) -> None:
        if event.n == 0:
            first.set()
            await opened.wait()
        seen.append(event.n)

    bus = MessageBus(clock=clock)
    bus.register_event_handler(Said, slow_at_first, concurrency=4)

    async with (
        bus,
        bus.session(key="room") as one,
        bus.session(key="room") as two,
        bus.session() as other,
    ):
        await one.publish(Said(n=0))
        await two.publish(Said(n=1))
        await other.publish(Said(n=2))
        await first.wait()
        await clock.advance(0)
        assert seen == [2]
        opened.set()
        await bus.idle()

    assert seen == [2, 0, 1]


async def test_a_key_given_with_an_event_goes_before_the_sessions():
    keys = []

    async def note(_: Said) -> None:
        keys.append(envelope().key)

    async with MessageBus() as bus, bus.session(key="room") as session:
        session.register_event_handler(Said, note)
        await session.publish(Said(n=0))
        await session.publish(Said(n=1), key="own")

    assert keys == ["room", "own"]


async def test_the_metadata_is_in_every_envelope_of_the_session_and_of_what_these_cause():
    metadata: dict[str, dict[str, str]] = {}

    async def outer(_: Ask) -> str:
        metadata["command"] = dict(envelope().metadata)
        return await bus.execute(Answer())

    async def inner(_: Answer) -> str:
        metadata["caused command"] = dict(envelope().metadata)
        await bus.publish(Heard())
        raise ValueError

    async def note(event: Event) -> None:
        metadata[type(event).__name__] = dict(envelope().metadata)

    bus = MessageBus()
    bus.register_command_handler(Ask, outer)
    bus.register_command_handler(Answer, inner)
    for event_type in (Said, Heard, CommandErrorEvent):
        bus.register_event_handler(event_type, note)

    async with bus:
        async with bus.session(metadata={"user": "Ada"}) as session:
            await session.publish(Said(n=0))
            await session.try_execute(Ask())
            await bus.idle()
        await bus.publish(Said(n=1))
        await bus.idle()

    assert metadata.pop("Said") == {}
    assert set(metadata) == {"command", "caused command", "Heard", "CommandErrorEvent"}
    assert all(one == {"user": "Ada"} for one in metadata.values())


async def test_what_the_bus_tells_of_a_session_is_in_the_order_of_its_events():
    keys = []

    async def note(_: CommandErrorEvent) -> None:
        keys.append(envelope().key)

    async def refuse(_: Ask) -> str:
        raise ValueError

    bus = MessageBus()
    bus.register_command_handler(Ask, refuse)
    bus.register_event_handler(CommandErrorEvent, note)

    async with bus, bus.session(key="room") as session:
        await session.try_execute(Ask())
        await bus.idle()

    assert keys == ["room"]


async def test_the_beginning_and_the_end_of_a_session_are_told():
    started, ended = [], []
    bus = MessageBus()
    bus.register_event_handler(SessionStartedEvent, collector(started))
    bus.register_event_handler(SessionEndedEvent, collector(ended))

    async with bus:
        async with bus.session("s1"):
            await bus.idle()
            assert started == [SessionStartedEvent(session_id="s1")]
            assert ended == []

    assert ended == [SessionEndedEvent(session_id="s1", error_type=None)]


async def test_a_slow_handler_sees_the_beginning_of_a_session_whole_before_its_end():
    seen = []

    async def slow_at_first(event: Event) -> None:
        if isinstance(event, SessionStartedEvent):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        seen.append(type(event).__name__)

    bus = MessageBus()
    bus.register_event_handler(Event, slow_at_first)

    async with bus, bus.session() as session:
        await session.publish(Said(n=0))

    assert seen == ["SessionStartedEvent", "Said", "SessionEndedEvent"]


@pytest.mark.parametrize(
    ("error", "name"), [(ValueError, "ValueError"), (asyncio.CancelledError, "CancelledError")]
)
async def test_a_session_that_ends_by_an_error_names_it_and_unregisters(error, name):
    ended, entered = [], asyncio.Event()
    bus = MessageBus()
    bus.register_event_handler(SessionEndedEvent, collector(ended))

    async def converse() -> None:
        async with bus.session("s1") as session:
            session.register_command_handler(Ask, ask)
            entered.set()
            if error is ValueError:
                raise ValueError
            await asyncio.Event().wait()

    async with bus:
        conversation = asyncio.create_task(converse())
        await entered.wait()
        conversation.cancel()
        await asyncio.gather(conversation, return_exceptions=True)
        with pytest.raises(HandlerMissingError):
            await bus.execute(Ask(), session_id="s1")

    assert [event.error_type for event in ended] == [name]


async def test_a_session_that_is_cancelled_while_it_drains_says_so():
    ended, entered = [], asyncio.Event()

    async def stuck(_: Said) -> None:
        entered.set()
        await asyncio.Event().wait()

    async def converse() -> None:
        async with bus.session() as session:
            session.register_event_handler(Said, stuck)
            await session.publish(Said(n=0))

    bus = MessageBus()
    bus.register_event_handler(SessionEndedEvent, collector(ended))

    async with bus:
        conversation = asyncio.create_task(converse())
        await entered.wait()
        conversation.cancel()
        await asyncio.gather(conversation, return_exceptions=True)

    assert [event.error_type for event in ended] == ["CancelledError"]


async def test_an_event_that_waits_for_room_in_a_session_does_not_run_after_its_end():
    entered, seen = asyncio.Event(), []
    clock = FakeClock()

    async def stuck(event: Said) -> None:
        seen.append(event.n)
        entered.set()
        if event.n == 0:
            await asyncio.Event().wait()

    async with MessageBus(clock=clock) as bus:
        with pytest.raises(ValueError, match="the end"):
            async with bus.session() as session:
                session.register_event_handler(Said, stuck, capacity=1)
                await session.publish(Said(n=0))
                await entered.wait()
                await session.publish(Said(n=1))
                waiting = asyncio.create_task(session.publish(Said(n=2)))
                await clock.advance(0)
                raise ValueError("the end")
        await asyncio.gather(waiting, return_exceptions=True)
        await clock.advance(0)

    assert seen == [0]


async def test_the_sessions_own_handlers_go_before_those_of_the_bus():
    order = []

    def note(name):
        async def handle(_: Said | Ask) -> str | None:
            order.append(name)
            return name

        return handle

    bus = MessageBus()
    bus.register_command_handler(Ask, note("bus"))
    bus.register_event_handler(Said, note("bus"))

    async with bus, bus.session() as session:
        session.register_command_handler(Ask, note("session"))
        session.register_event_handler(Said, note("session"))
        await session.execute(Ask())
        await session.publish(Said(n=0))
        await bus.idle()

    assert order == ["session", "session", "bus"]


async def test_a_session_filters_and_groups_as_the_bus_does():
    order = []

    def step(name):
        async def handle(event: Said) -> None:
            order.append((name, event.n))
            if name == "second" and event.n == 3:
                raise ValueError

        return handle

    async with MessageBus() as bus, bus.session() as session:
        group = [step("first"), step("second"), step("third")]
        session.register_event_handler(Said, group, where=lambda event: event.n % 2 == 1)
        for n in range(4):
            await session.publish(Said(n=n))

    assert order == [("first", 1), ("second", 1), ("third", 1), ("first", 3), ("second", 3)]


async def test_a_handler_that_does_not_fit_is_refused_where_it_is_registered():
    async def takes_an_answer(_: Answer) -> str:
        return ""

    async with MessageBus() as bus, bus.session() as session:
        with pytest.raises(BusError, match="takes Answer, but is registered for Ask"):
            session.register_command_handler(Ask, takes_an_answer)


async def steps_in_one_of(number: int) -> tuple[int, int]:
    bus = MessageBus()
    bus.register_command_handler(Ask, ask)
    bus.register_event_handler(Said, collector([]))
    await bus.start()
    sessions = [await bus.session().__aenter__() for _ in range(number)]
    chosen = sessions[number // 2]
    chosen.register_command_handler(Answer, answer)
    chosen.register_event_handler(Said, collector([]))
    await chosen.execute(Answer())
    await chosen.publish(Said(n=0))
    await chosen.idle()

    executing = await steps_of(chosen.execute(Answer()))
    publishing = await steps_of(chosen.publish(Said(n=1)))
    await bus.stop()
    return executing, publishing


async def test_what_a_message_costs_does_not_grow_with_the_number_of_open_sessions():
    few, many = await steps_in_one_of(5), await steps_in_one_of(5_000)

    assert min(few) > 5
    assert many == few


async def test_sessions_that_have_ended_leave_nothing_behind():
    async def handle(_: Said) -> None: ...

    bus = MessageBus()
    bus.register_event_handler(Said, handle)

    async def open_and_close(number: int) -> None:
        for n in range(number):
            async with bus.session(key="room", metadata={"n": str(n)}) as session:
                session.register_command_handler(Ask, ask)
                session.register_event_handler(Said, handle)
                await session.execute(Ask())
                await session.publish(Said(n=n))
        await bus.idle()

    async with bus:
        await open_and_close(100)
        gc.collect()
        before = len(gc.get_objects())
        await open_and_close(10_000)
        gc.collect()

        assert len(gc.get_objects()) - before < 100
