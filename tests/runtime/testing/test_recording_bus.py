"""The recording bus is the real one, and remembers what was sent and why."""

import pytest

from app.llmgine.errors import HandlerMissingError
from app.llmgine.messages import Command, Event
from app.llmgine.testing import RecordingBus


class SaveNote(Command[int]):
    text: str


class Noted(Event):
    text: str


class Counted(Noted):
    count: int


class Stage:
    """A command whose handler publishes an event, whose handler publishes another."""

    def __init__(self) -> None:
        self.bus = RecordingBus()
        self.bus.register_command_handler(SaveNote, self.save)
        self.bus.register_event_handler(Noted, self.count)

    async def save(self, command: SaveNote) -> int:
        await self.bus.publish(Noted(text=command.text))
        return len(command.text)

    async def count(self, event: Noted) -> None:
        if type(event) is Noted:
            await self.bus.publish(Counted(text=event.text, count=1))


async def test_messages_are_kept_in_the_order_of_sending() -> None:
    stage = Stage()
    async with stage.bus as bus:
        length = await bus.execute(SaveNote(text="milk"))
        await bus.idle()

    assert length == 4
    assert [one.message for one in bus.sent] == [
        SaveNote(text="milk"),
        Noted(text="milk"),
        Counted(text="milk", count=1),
    ]


async def test_a_message_is_linked_to_what_sent_it() -> None:
    stage = Stage()
    command = SaveNote(text="milk")
    async with stage.bus as bus:
        await bus.execute(command)
        await bus.execute(SaveNote(text="eggs"))
        await bus.idle()

    assert bus.sent_by(command) == [Noted(text="milk")]
    assert bus.sent[1].envelope.causation_id == bus.sent[0].envelope.id


async def test_messages_of_a_class_include_those_below_it() -> None:
    stage = Stage()
    async with stage.bus as bus:
        await bus.publish(Noted(text="milk"))
        await bus.idle()

    assert bus.sent_of(Noted) == [Noted(text="milk"), Counted(text="milk", count=1)]
    assert bus.sent_of(SaveNote) == []


async def test_a_command_nobody_handles_was_sent_all_the_same() -> None:
    async with RecordingBus() as bus:
        with pytest.raises(HandlerMissingError):
            await bus.execute(SaveNote(text="milk"))

    assert bus.sent_of(SaveNote) == [SaveNote(text="milk")]


async def test_a_session_is_recorded_too() -> None:
    async with RecordingBus() as bus, bus.session("s1") as session:
        await session.publish(Noted(text="milk"))

    assert [one.envelope.session_id for one in bus.sent] == ["s1"]
