"""What both type checkers accept, and the types that they infer."""

from collections.abc import AsyncIterator
from functools import partial
from typing import assert_type

from app.llmgine.bus import Binding, CommandResult, MessageBus
from app.llmgine.messages import Command, Event

from .messages import (
    Answer,
    Ask,
    Asked,
    AskedLoudly,
    AskLoudly,
    Do,
    Write,
    answer,
    answer_at_once,
    do,
    note,
    note_all,
    note_all_at_once,
    note_any,
    note_at_once,
    write,
)


class Service:
    async def answer(self, command: Ask) -> Answer:
        return Answer(text=command.question)

    async def write(self, command: Write) -> AsyncIterator[str]:
        yield "word"

    async def note(self, event: Asked) -> None: ...

    async def __call__(self, command: Ask) -> Answer:
        return Answer(text=command.question)


class Notes:
    def __call__(self, event: Asked) -> None: ...


async def answer_by(command: Ask, *, name: str) -> Answer:
    return Answer(text=name)


async def note_by(event: Asked, *, name: str) -> None: ...


async def answer_better(command: Ask) -> "BetterAnswer":
    return BetterAnswer(text=command.question)


class BetterAnswer(Answer):
    pass


async def answer_any(command: Command[Answer]) -> Answer:
    return Answer(text="")


def is_loud(event: Asked) -> bool:
    return event.question.isupper()


async def results(bus: MessageBus) -> None:
    assert_type(await bus.execute(Ask(question="")), Answer)
    assert_type(await bus.execute(AskLoudly(question="")), Answer)
    assert_type(await bus.execute(Do()), None)
    assert_type(await bus.try_execute(Ask(question="")), CommandResult[Answer])
    assert_type((await bus.try_execute(Ask(question=""))).unwrap(), Answer)
    assert_type(bus.stream(Write()), AsyncIterator[str])
    async for word in bus.stream(Write()):
        assert_type(word, str)
    async with bus.session() as session:
        assert_type(await session.execute(Ask(question="")), Answer)
        assert_type(await session.execute(Do()), None)
        assert_type(session.stream(Write()), AsyncIterator[str])
    assert_type(bus.call_from_thread(bus.execute, Do()), None)


def commands(bus: MessageBus, service: Service) -> None:
    bus.register_command_handler(Ask, answer)
    bus.register_command_handler(Ask, answer_at_once)
    bus.register_command_handler(Ask, answer_better)
    bus.register_command_handler(Ask, answer_any)
    bus.register_command_handler(AskLoudly, answer)
    bus.register_command_handler(Ask, service.answer)
    bus.register_command_handler(Ask, service)
    bus.register_command_handler(Ask, partial(answer_by, name="me"))
    bus.register_command_handler(Ask, lambda command: Answer(text=command.question))
    bus.register_command_handler(Do, do)
    bus.register_command_handler(Write, write)
    bus.register_command_handler(Write, service.write)


def events(bus: MessageBus, service: Service) -> None:
    bus.register_event_handler(Asked, note)
    bus.register_event_handler(Asked, note_at_once)
    bus.register_event_handler(Asked, note_any)
    bus.register_event_handler(AskedLoudly, note, where=is_loud)
    bus.register_event_handler(Event, note_any)
    bus.register_event_handler(Asked, service.note)
    bus.register_event_handler(Asked, Notes())
    bus.register_event_handler(Asked, partial(note_by, name="me"))
    bus.register_event_handler(Asked, [note, note_at_once, note_any, service.note])
    bus.register_event_handler(Asked, note, where=lambda event: event.question == "", capacity=9)
    bus.register_batch_handler(Asked, note_all, size=9, within_s=1)
    bus.register_batch_handler(Asked, note_all_at_once, size=9, within_s=1, where=is_loud)


async def in_a_session(bus: MessageBus, service: Service) -> None:
    async with bus.session() as session:
        session.register_command_handler(Ask, answer)
        session.register_command_handler(Ask, answer_at_once)
        session.register_command_handler(Write, service.write)
        session.register_event_handler(Asked, [note, note_any], where=is_loud)
        session.register_event_handler(Asked, note_at_once, overflow="drop_oldest")


def declared(service: Service) -> list[Binding]:
    return [
        Ask.handled_by(answer),
        Ask.handled_by(answer_at_once),
        Ask.handled_by(service),
        AskLoudly.handled_by(answer),
        Ask.handled_by(partial(answer_by, name="me")),
        Do.handled_by(do),
        Write.handled_by(write),
        Asked.handled_by(note),
        Asked.handled_by([note, note_any], where=is_loud),
        Asked.handled_by(note_at_once, where=lambda event: event.question == "", concurrency=1),
        AskedLoudly.handled_by(note),
        Asked.handled_in_batches_by(note_all, size=9, within_s=1),
        Asked.handled_in_batches_by(note_all_at_once, size=9, within_s=1, where=is_loud),
    ]
