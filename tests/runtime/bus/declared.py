"""A module that only declares handlers; `test_start.py` includes it."""

from app.llmgine.messages import Command, Event


class Greet(Command[str]):
    name: str


class Greeted(Event):
    name: str


seen: list[str] = []


async def greet(command: Greet) -> str:
    return f"Hello {command.name}"


async def note(event: Greeted) -> None:
    seen.append(event.name)


async def note_all(events: list[Greeted]) -> None:
    seen.append("+".join(event.name for event in events))


greeting = Greet.handled_by(greet)
noting = Greeted.handled_by(note, where=lambda event: event.name != "")
noting_all = Greeted.handled_in_batches_by(note_all, size=2, within_s=0)
