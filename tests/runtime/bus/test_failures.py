"""What becomes of a failure: it is logged, told, kept and can be resent, and it never loops."""

import asyncio
import logging
import traceback

import pytest

from app.llmgine.bus import (
    CommandErrorEvent,
    CommandResultEvent,
    DeadLetterEvent,
    EventHandlerFailedEvent,
    MessageBus,
)
from app.llmgine.errors import BusError
from app.llmgine.messages import Command, Envelope, Event, current_envelope
from app.llmgine.observability import MemorySink, Observer
from app.llmgine.testing.clock import FakeClock


class Ordered(Event):
    n: int = 0


class Noted(Event):
    pass


class Pay(Command[str]):
    pass


class Alert(Command[str]):
    pass


class Flaky:
    """A handler that fails while it is `broken`, and keeps the envelope of every call."""

    def __init__(self) -> None:
        self.broken = True
        self.envelopes: list[Envelope] = []

    async def __call__(self, _: Event) -> None:
        envelope = current_envelope()
        assert envelope is not None
        self.envelopes.append(envelope)
        if self.broken:
            raise ValueError("broken")


async def refuse(_: Pay | Alert) -> str:
    raise ValueError("refused")


def hang_after(entered: asyncio.Event):
    async def hang(_: Pay) -> str:
        entered.set()
        await asyncio.Event().wait()
        return "never"

    return hang


def collector(seen: list[Event]):
    async def collect(event: Event) -> None:
        seen.append(event)

    return collect


async def test_a_failed_event_is_kept_with_its_envelope_and_the_error_where_it_was_raised():
    flaky, clock, event = Flaky(), FakeClock(), Ordered(n=1)
    bus = MessageBus(clock=clock)
    bus.register_event_handler(Ordered, flaky)

    async with bus:
        await bus.publish(event, session_id="s1")
        await bus.idle()

    (letter,) = bus.dead_letters
    assert letter.message == event
    assert letter.envelope.id == flaky.envelopes[0].id
    assert letter.envelope.session_id == "s1"
    assert letter.at == clock.now()
    assert traceback.extract_tb(letter.error.__traceback__)[-1].name == "__call__"


async def test_a_failed_event_is_told_as_a_failure_and_as_a_letter():
    flaky, failures, letters = Flaky(), [], []
    bus = MessageBus()
    bus.register_event_handler(Ordered, flaky)
    bus.register_event_handler(EventHandlerFailedEvent, collector(failures))
    bus.register_event_handler(DeadLetterEvent, collector(letters))

    async with bus:
        await bus.publish(Ordered())
        await bus.idle()

    (letter,) = bus.dead_letters
    about = {"handler": letter.handler, "error_type": "ValueError", "error": "broken"}
    event_id = flaky.envelopes[0].id
    assert failures == [EventHandlerFailedEvent(event="Ordered", event_id=event_id, **about)]
    assert letters == [
        DeadLetterEvent(letter_id=letter.id, message="Ordered", message_id=event_id, **about)
    ]


async def test_a_resent_letter_goes_only_to_the_handler_that_failed_and_is_gone():
    flaky, others = Flaky(), []
    bus = MessageBus()
    bus.register_event_handler(Ordered, flaky)
    bus.register_event_handler(Ordered, collector(others))

    async with bus:
        await bus.publish(Ordered())
        await bus.idle()
        (letter,) = bus.dead_letters
        flaky.broken = False
        await bus.dead_letters.resend(letter.id)
        await bus.idle()

    first, second = flaky.envelopes
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.id == second.id
    assert len(others) == 1
    assert not list(bus.dead_letters)


async def test_a_letter_that_fails_again_is_a_new_letter_with_one_attempt_more():
    bus = MessageBus()
    bus.register_event_handler(Ordered, Flaky())
    ids = set()

    async with bus:
        await bus.publish(Ordered())
        for attempt in range(1, 4):
            await bus.idle()
            (letter,) = bus.dead_letters
            ids.add(letter.id)
            assert letter.envelope.attempt == attempt
            await bus.dead_letters.resend(letter.id)

    assert len(ids) == 3


async def test_the_oldest_letters_make_room_and_nobody_waits_for_it():
    failures = []
    bus = MessageBus()
    bus.dead_letters.capacity = 3
    bus.register_event_handler(Ordered, Flaky())
    bus.register_event_handler(EventHandlerFailedEvent, collector(failures))

    async with asyncio.timeout(10), bus:
        for n in range(10):
            await bus.publish(Ordered(n=n), key="same")
        await bus.idle()

    assert [letter.message.n for letter in bus.dead_letters] == [7, 8, 9]
    assert bus.dead_letters.dropped == 7
    assert len(failures) == 10


async def test_a_letter_whose_session_has_closed_cannot_be_resent_and_stays():
    async with MessageBus() as bus:
        async with bus.session() as session:
            session.register_event_handler(Ordered, Flaky())
            await session.publish(Ordered())
        (letter,) = bus.dead_letters

        with pytest.raises(BusError, match="went with its session"):
            await bus.dead_letters.resend(letter.id)

        assert list(bus.dead_letters) == [letter]


async def test_a_letter_can_be_dropped_and_then_is_as_unknown_as_any_other():
    bus = MessageBus()
    bus.register_event_handler(Ordered, Flaky())

    async with bus:
        await bus.publish(Ordered())
        await bus.idle()
        (letter,) = bus.dead_letters
        bus.dead_letters.drop(letter.id)
        with pytest.raises(BusError, match=letter.id):
            await bus.dead_letters.resend(letter.id)
        with pytest.raises(BusError, match=letter.id):
            bus.dead_letters.drop(letter.id)
        with pytest.raises(BusError, match=letter.id):
            bus.dead_letters[letter.id]

    assert len(bus.dead_letters) == 0


async def test_a_resent_command_is_executed_as_the_same_message():
    envelopes: list[Envelope] = []

    async def pay(_: Pay) -> str:
        envelope = current_envelope()
        assert envelope is not None
        envelopes.append(envelope)
        if len(envelopes) == 1:
            raise ValueError("refused")
        return "paid"

    bus = MessageBus()
    bus.register_command_handler(Pay, pay)

    async with bus:
        with pytest.raises(ValueError, match="refused") as refused:
            await bus.execute(Pay(), session_id="s1", idempotency_key="once")
        letter = bus.dead_letters.add(envelopes[0], "pay", refused.value)
        await bus.dead_letters.resend(letter.id)

    first, second = envelopes
    assert (second.session_id, second.idempotency_key) == ("s1", "once")
    assert second.attempt == first.attempt + 1
    assert len(bus.dead_letters) == 0


async def test_a_letter_being_resent_is_not_lost_when_the_caller_gives_up():
    entered = asyncio.Event()
    bus = MessageBus()
    bus.register_command_handler(Pay, hang_after(entered))

    async with bus:
        letter = bus.dead_letters.add(Envelope(Pay()), "pay", ValueError("refused"))
        resending = asyncio.create_task(bus.dead_letters.resend(letter.id))
        await entered.wait()
        resending.cancel()
        await asyncio.gather(resending, return_exceptions=True)

    assert [letter.message for letter in bus.dead_letters] == [Pay()]


@pytest.mark.parametrize("told", [EventHandlerFailedEvent, DeadLetterEvent, CommandErrorEvent])
async def test_a_failing_handler_of_failures_is_called_once_logged_and_kept(told, caplog):
    source, hearer = Flaky(), Flaky()
    bus = MessageBus()
    bus.register_event_handler(Ordered, source)
    bus.register_command_handler(Pay, refuse)
    bus.register_event_handler(told, hearer)

    with caplog.at_level(logging.ERROR):
        async with asyncio.timeout(10), bus:
            await bus.publish(Ordered())
            await bus.try_execute(Pay())
            await bus.idle()

    assert (len(source.envelopes), len(hearer.envelopes)) == (1, 1)
    assert sum(told.__name__ in record.getMessage() for record in caplog.records) == 1
    assert sorted(type(letter.message).__name__ for letter in bus.dead_letters) == sorted(
        ["Ordered", told.__name__]
    )


async def test_failing_handlers_of_every_kind_of_failure_end():
    hearer = Flaky()
    bus = MessageBus()
    bus.register_command_handler(Pay, refuse)
    bus.register_event_handler(Event, hearer)

    async with asyncio.timeout(10), bus:
        await bus.publish(Ordered())
        await bus.try_execute(Pay())
        await bus.idle()

    heard = sorted(type(envelope.message).__name__ for envelope in hearer.envelopes)
    assert heard == ["CommandErrorEvent", "DeadLetterEvent", "EventHandlerFailedEvent", "Ordered"]


async def test_a_command_that_fails_in_a_handler_of_failures_is_not_told_but_kept():
    calls = []

    async def alert(_: CommandErrorEvent) -> None:
        calls.append("alert")
        await bus.execute(Alert())

    bus = MessageBus()
    bus.register_command_handler(Pay, refuse)
    bus.register_command_handler(Alert, refuse)
    bus.register_event_handler(CommandErrorEvent, alert)

    async with asyncio.timeout(10), bus:
        await bus.try_execute(Pay())
        await bus.idle()

    assert calls == ["alert"]
    (letter,) = bus.dead_letters
    assert isinstance(letter.message, CommandErrorEvent)
    assert str(letter.error) == "refused"


async def test_an_event_published_by_a_handler_of_failures_may_fail_without_an_end(caplog):
    calls, flaky = [], Flaky()

    async def note(_: CommandErrorEvent | EventHandlerFailedEvent) -> None:
        calls.append("note")
        await bus.publish(Noted())

    bus = MessageBus()
    bus.register_command_handler(Pay, refuse)
    bus.register_event_handler(CommandErrorEvent, note)
    bus.register_event_handler(EventHandlerFailedEvent, note)
    bus.register_event_handler(Noted, flaky)

    with caplog.at_level(logging.ERROR):
        async with asyncio.timeout(10), bus:
            await bus.try_execute(Pay())
            await bus.idle()

    assert calls == ["note"]
    assert len(flaky.envelopes) == 1
    assert [type(letter.message) for letter in bus.dead_letters] == [Noted]
    assert ["Noted" in record.getMessage() for record in caplog.records] == [True]


async def test_a_cancelled_command_is_told_and_its_span_ends():
    entered, told, sink = asyncio.Event(), [], MemorySink()
    bus = MessageBus(middleware=[Observer([sink]).around_message])
    bus.register_command_handler(Pay, hang_after(entered))
    bus.register_event_handler(CommandErrorEvent, collector(told))

    async with bus:
        paying = asyncio.create_task(bus.execute(Pay()))
        await entered.wait()
        paying.cancel()
        await asyncio.gather(paying, return_exceptions=True)
        await bus.idle()

    assert paying.cancelled()
    assert [event.error_type for event in told] == ["CancelledError"]
    assert [record.name for record in sink.records if record.name == "Pay"] == ["Pay"]


async def test_try_execute_does_not_swallow_a_cancellation():
    entered = asyncio.Event()
    bus = MessageBus()
    bus.register_command_handler(Pay, hang_after(entered))

    async with bus:
        trying = asyncio.create_task(bus.try_execute(Pay()))
        await entered.wait()
        trying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trying


async def test_a_failing_batch_is_logged_once_and_each_event_is_a_letter(caplog):
    async def broken(_: list[Ordered]) -> None:
        raise ValueError("broken")

    bus = MessageBus()
    bus.register_batch_handler(Ordered, broken, size=3, within_s=60)

    with caplog.at_level(logging.ERROR):
        async with bus:
            for n in range(3):
                await bus.publish(Ordered(n=n))
            await bus.idle()

    assert [letter.message.n for letter in bus.dead_letters] == [0, 1, 2]
    assert len(caplog.records) == 1


async def test_each_failure_of_a_batch_is_told_in_the_session_of_its_event():
    async def broken(_: list[Ordered]) -> None:
        raise ValueError("broken")

    heard: dict[str, list[Event]] = {"a": [], "b": []}
    bus = MessageBus()
    bus.register_batch_handler(Ordered, broken, size=2, within_s=60)

    async with bus, bus.session("a") as a, bus.session("b") as b:
        for session in (a, b):
            session.register_event_handler(DeadLetterEvent, collector(heard[session.id]))
            await session.publish(Ordered())
        await bus.idle()

    assert {session_id: len(letters) for session_id, letters in heard.items()} == {"a": 1, "b": 1}


async def test_a_command_that_ends_after_the_bus_keeps_its_result():
    async def shut_down(_: Pay) -> str:
        await bus.stop(grace_s=0)
        return "stopped"

    bus = MessageBus()
    bus.register_command_handler(Pay, shut_down)
    bus.register_event_handler(CommandResultEvent, collector([]))
    await bus.start()

    assert await bus.execute(Pay()) == "stopped"
