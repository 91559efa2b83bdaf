"""What a start checks, and how handlers come to the bus."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from app.llmgine.bus import Binding, MessageBus, Middleware
from app.llmgine.errors import BusClosedError, BusError, BusStartError
from app.llmgine.messages import Command, Event

from . import declared
from .declared import Greet, Greeted

if TYPE_CHECKING:
    from only.for_checkers import Unknown


class Add(Command[int]):
    first: int
    second: int


class Do(Command):
    pass


class Write(Command[AsyncIterator[str]]):
    pass


class Said(Event):
    text: str


async def add(command: Add) -> int:
    return command.first + command.second


def add_in_a_thread(command: Add) -> int:
    return command.first + command.second


async def add_to(command: Add, *, start: int) -> int:
    return start + command.first + command.second


async def add_as_text(command: Add) -> str:
    return ""


async def add_slowly(command: Add) -> AsyncIterator[int]:
    yield 1


async def write(command: Write) -> AsyncIterator[str]:
    yield "word"


async def write_at_once(command: Write) -> str:
    return ""


async def note(event: Said) -> None: ...


async def note_greeting(event: Greeted) -> None: ...


async def note_all(events: list[Greeted]) -> None: ...


class Refusing:
    def bind(self, bus: MessageBus) -> Middleware:
        raise BusError("This policy is for commands.")


async def problems_of(bus: MessageBus) -> list[str]:
    with pytest.raises(BusStartError) as wrong:
        await bus.start()
    assert all(isinstance(problem, BusError) for problem in wrong.value.problems)
    assert all(str(problem) in str(wrong.value) for problem in wrong.value.problems)
    return [str(problem) for problem in wrong.value.problems]


WRONG: dict[str, tuple[Binding, list[str]]] = {
    "the parameter": (Said.handled_by(note_greeting), ["note_greeting", "Greeted", "Said"]),
    "the parameter of a command's": (Add.handled_by(write), ["write", "Write", "Add"]),
    "the result": (Add.handled_by(add_as_text), ["add_as_text", "str", "int"]),
    "the result of none": (Do.handled_by(lambda _: None, middleware=[Refusing()]), ["policy"]),
    "a generator": (Add.handled_by(add_slowly), ["add_slowly", "Command[AsyncIterator[...]]"]),
    "no generator": (Write.handled_by(write_at_once), ["write_at_once", "must yield"]),
    "the option": (Said.handled_by(note, colour="red"), ["note", "colour"]),
    "the message class": (Binding(dict, (note,)), ["note", "dict"]),
    "the message": (Binding("Said", (note,)), ["note", "'Said'"]),
    "the capacity": (Said.handled_by(note, capacity=0), ["note", "capacity must be at least 1"]),
    "the concurrency": (
        Said.handled_by(note, concurrency=0),
        ["note", "concurrency must be at least 1"],
    ),
    "the overflow": (Said.handled_by(note, overflow="burst"), ["note", "burst", "drop_oldest"]),
    "the group": (Said.handled_by([]), ["Said", "group"]),
    "the second of a group": (Said.handled_by([note, note_greeting]), ["note_greeting"]),
    "the batch's list": (Said.handled_in_batches_by(note, size=1, within_s=0), ["note", "list"]),
    "the batch's items": (
        Said.handled_in_batches_by(note_all, size=1, within_s=0),
        ["note_all", "Greeted", "Said"],
    ),
    "the batch's size": (
        Greeted.handled_in_batches_by(note_all, size=0, within_s=0),
        ["note_all", "size"],
    ),
    "a policy": (Said.handled_by(note, middleware=[Refusing()]), ["This policy is for commands."]),
    "no callable": (Binding(Said, (5,)), ["5"]),
}


@pytest.mark.parametrize("what", WRONG)
async def test_the_start_refuses_a_handler_that_does_not_fit_and_says_which(what: str):
    binding, words = WRONG[what]
    bus = MessageBus()
    bus.include(binding)

    (problem,) = await problems_of(bus)

    assert all(word in problem for word in words), problem


async def test_the_start_names_everything_wrong_at_once_and_two_handlers_of_a_command():
    bus = MessageBus()
    bus.register_command_handler(Add, add)
    bus.register_command_handler(Add, add_in_a_thread)
    bus.include(*(binding for binding, _ in WRONG.values()))
    bus.register_event_handler(Said, note)

    first, *others = await problems_of(bus)

    assert "add_in_a_thread" in first
    assert f"{__name__}.add;" in first
    assert "exactly one handler" in first
    assert len(others) >= len(WRONG) - 3


async def test_after_a_failed_start_nothing_runs_and_no_handler_is_left_over():
    bus = MessageBus()
    bus.register_command_handler(Add, add)
    bus.register_event_handler(Said, note)
    bus.register_event_handler(Said, note, capacity=0)

    (first,) = await problems_of(bus)
    (again,) = await problems_of(bus)

    assert first == again
    with pytest.raises(BusClosedError):
        await bus.execute(Add(first=1, second=2))
    assert bus.lanes() == []
    assert bus.handlers() == []
    assert (await bus.stop()).drained


async def test_a_module_with_declarations_is_included_whole():
    declared.seen.clear()
    bus = MessageBus()
    bus.include(declared)

    async with bus:
        greeting = await bus.execute(Greet(name="Ada"))
        for name in ("", "Bo"):
            await bus.publish(Greeted(name=name))
        await bus.idle()

    assert greeting == "Hello Ada"
    assert sorted(declared.seen) == ["+Bo", "Bo"]


async def test_one_declaration_serves_many_buses():
    one, two = MessageBus(), MessageBus()
    for bus in (one, two):
        bus.include(declared.greeting)

    async with one, two:
        assert await one.execute(Greet(name="Ada")) == "Hello Ada"
        assert await two.execute(Greet(name="Bo")) == "Hello Bo"
        assert one.describe().handlers[0].handled == 1


def test_a_module_that_declares_nothing_is_refused_with_the_line_to_write():
    with pytest.raises(BusError, match=r"'json' declares no handler.*handled_by"):
        MessageBus().include(json)


async def test_including_after_the_start_is_refused_with_the_way_out():
    async with MessageBus() as bus:
        with pytest.raises(BusError, match=r"declared\.greet.*bus\.session\(\)"):
            bus.include(declared.greeting)


async def test_a_declaration_may_be_included_in_a_session():
    async with MessageBus() as bus, bus.session() as session:
        session.include(declared.greeting)

        assert await session.execute(Greet(name="Ada")) == "Hello Ada"


async def test_annotations_that_cannot_be_resolved_are_let_through():
    async def answer(command: "Unknown") -> "Unknown":
        return 3

    def plain(command) -> Any:
        return 4

    async def anything(event: Any) -> Any: ...

    bus = MessageBus()
    bus.register_command_handler(Add, answer)
    bus.register_command_handler(Do, plain)
    bus.register_event_handler(Said, anything)
    bus.register_batch_handler(Said, anything, size=1, within_s=0)

    async with bus:
        assert await bus.execute(Add(first=1, second=2)) == 3
        assert await bus.execute(Do()) == 4


class Adder:
    async def method(self, command: Add) -> int:
        return await add(command)

    def sync_method(self, command: Add) -> int:
        return add_in_a_thread(command)

    @staticmethod
    async def static(command: Add) -> int:
        return await add(command)

    @classmethod
    async def of_class(cls, command: Add) -> int:
        return await add(command)

    async def __call__(self, command: Add) -> int:
        return await add(command)


class SyncAdder:
    def __call__(self, command: Add) -> int:
        return add_in_a_thread(command)


@pytest.mark.parametrize(
    "handler",
    [
        add,
        add_in_a_thread,
        partial(add_to, start=0),
        partial(partial(add_to), start=0),
        Adder().method,
        Adder().sync_method,
        Adder.static,
        Adder.of_class,
        Adder(),
        SyncAdder(),
        partial(Adder()),
        lambda command: add_in_a_thread(command),
        lambda command: add(command),
    ],
)
async def test_any_callable_may_handle_a_command(handler):
    bus = MessageBus()
    bus.register_command_handler(Add, handler)

    async with bus:
        assert await bus.execute(Add(first=1, second=2)) == 3


@pytest.mark.parametrize(
    "handler", [write, partial(write), lambda command: write(command)], ids=str
)
async def test_any_callable_that_makes_a_stream_may_handle_a_streamed_command(handler):
    bus = MessageBus()
    bus.register_command_handler(Write, handler)

    async with bus:
        assert [word async for word in bus.stream(Write())] == ["word"]


async def test_plain_functions_take_at_most_max_threads_at_once():
    entered, release = threading.Semaphore(0), threading.Event()
    lock, now, most = threading.Lock(), 0, 0

    def hold(_: Do) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        entered.release()
        assert release.wait(30)
        with lock:
            now -= 1

    bus = MessageBus(max_threads=3)
    bus.register_command_handler(Do, hold)

    async with bus:
        running = [asyncio.create_task(bus.execute(Do())) for _ in range(12)]
        for _ in range(3):
            await asyncio.to_thread(entered.acquire)
        release.set()
        await asyncio.gather(*running)

    assert most == 3
