"""The messages and handlers that `good.py` and `bad.py` register."""

from collections.abc import AsyncIterator

from app.llmgine.messages import Command, Event


class Answer(Event):
    text: str


class Ask(Command[Answer]):
    question: str


class AskLoudly(Ask):
    pass


class Do(Command):
    pass


class Write(Command[AsyncIterator[str]]):
    pass


class Asked(Event):
    question: str


class AskedLoudly(Asked):
    pass


async def answer(command: Ask) -> Answer:
    return Answer(text=command.question)


def answer_at_once(command: Ask) -> Answer:
    return Answer(text=command.question)


async def do(command: Do) -> None: ...


async def write(command: Write) -> AsyncIterator[str]:
    yield "word"


async def note(event: Asked) -> None: ...


def note_at_once(event: Asked) -> None: ...


async def note_loud(event: AskedLoudly) -> None: ...


async def note_any(event: Event) -> None: ...


async def note_all(events: list[Asked]) -> None: ...


def note_all_at_once(events: list[Asked]) -> None: ...
