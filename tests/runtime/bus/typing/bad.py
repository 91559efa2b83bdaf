"""What both type checkers must refuse: each line that ends in `# error`, and no other."""

from collections.abc import AsyncIterator
from functools import partial

from app.llmgine.bus import MessageBus

from .messages import (
    Answer,
    Ask,
    Asked,
    Do,
    Write,
    answer,
    do,
    note,
    note_all,
    note_at_once,
    note_loud,
    write,
)


class Service:
    async def answer(self, command: Do) -> Answer:
        return Answer(text="")

    async def __call__(self, command: Ask) -> str:
        return ""


async def answer_text(command: Ask) -> str:
    return command.question


def answer_text_at_once(command: Ask) -> str:
    return command.question


def do_something(command: Do) -> str:
    return ""


async def write_numbers(command: Write) -> AsyncIterator[int]:
    yield 1


async def write_at_the_end(command: Write) -> str:
    return ""


async def answer_by(command: Ask, *, name: str) -> str:
    return name


async def two(command: Ask, other: str) -> Answer:
    return Answer(text=other)


async def note_text(event: Asked) -> str:
    return event.question


def is_answer(event: Answer) -> bool:
    return True


async def results(bus: MessageBus) -> None:
    text: str = await bus.execute(Ask(question=""))  # error
    tried: str = (await bus.try_execute(Ask(question=""))).unwrap()  # error
    async for word in bus.stream(Write()):
        number: int = word  # error
    numbers: AsyncIterator[int] = bus.stream(Write())  # error
    bus.stream(Ask(question=""))  # error
    bus.stream(Do())  # error
    await bus.execute(Asked(question=""))  # error
    await bus.publish(Ask(question=""))  # error
    async with bus.session() as session:
        said: str = await session.execute(Ask(question=""))  # error
        session.stream(Ask(question=""))  # error
        await session.publish(Do())  # error
    called: str = bus.call_from_thread(bus.execute, Ask(question=""))  # error


def commands(bus: MessageBus, service: Service) -> None:
    bus.register_command_handler(Ask, do)  # error
    bus.register_command_handler(Ask, answer_text)  # error
    bus.register_command_handler(Ask, answer_text_at_once)  # error
    bus.register_command_handler(Ask, two)  # error
    bus.register_command_handler(Ask, service.answer)  # error
    bus.register_command_handler(Ask, service)  # error
    bus.register_command_handler(Ask, partial(answer_by, name="me"))  # error
    bus.register_command_handler(Ask, lambda command: command.question)  # error
    bus.register_command_handler(Ask, note)  # error
    bus.register_command_handler(Ask, [answer])  # error
    bus.register_command_handler(Do, do_something)  # error
    bus.register_command_handler(Write, write_numbers)  # error
    bus.register_command_handler(Write, write_at_the_end)  # error
    bus.register_command_handler(Ask, write)  # error
    bus.register_command_handler(Asked, note)  # error


def events(bus: MessageBus) -> None:
    bus.register_event_handler(Asked, answer)  # error
    bus.register_event_handler(Asked, note_loud)  # error
    bus.register_event_handler(Asked, note_text)  # error
    bus.register_event_handler(Asked, [note, note_loud])  # error
    bus.register_event_handler(Asked, note_all)  # error
    bus.register_event_handler(Asked, note, where=is_answer)  # error
    bus.register_event_handler(Asked, note, capacity="9")  # error
    bus.register_event_handler(Asked, note, colour="red")  # error
    bus.register_event_handler(Asked, note, overflow="burst")  # error
    bus.register_event_handler(Ask, answer)  # error
    bus.register_batch_handler(Asked, note, size=9, within_s=1)  # error
    bus.register_batch_handler(Asked, note_at_once, size=9, within_s=1)  # error
    bus.register_batch_handler(Asked, note_all, size=9, within_s=1, where=is_answer)  # error


async def in_a_session(bus: MessageBus) -> None:
    async with bus.session() as session:
        session.register_command_handler(Ask, do)  # error
        session.register_command_handler(Ask, answer_text_at_once)  # error
        session.register_command_handler(Write, write_numbers)  # error
        session.register_event_handler(Asked, note_loud)  # error
        session.register_event_handler(Asked, [note, note_loud])  # error
        session.register_event_handler(Asked, note, where=is_answer)  # error


def declared(service: Service) -> None:
    Ask.handled_by(do)  # error
    Ask.handled_by(answer_text)  # error
    Ask.handled_by(answer_text_at_once)  # error
    Ask.handled_by(service)  # error
    Do.handled_by(do_something)  # error
    Write.handled_by(write_numbers)  # error
    Asked.handled_by(note_loud)  # error
    Asked.handled_by([note, note_loud])  # error
    Asked.handled_by(note, where=is_answer)  # error
    Asked.handled_by(note, colour="red")  # error
    Asked.handled_in_batches_by(note, size=9, within_s=1)  # error
    Asked.handled_in_batches_by(note_all, size=9, within_s=1, where=is_answer)  # error
