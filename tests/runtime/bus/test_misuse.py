"""What is easily mixed up is refused, with the call that was meant."""

import asyncio

import pytest

from app.llmgine.bus import Approval, ApprovalRequestedEvent, MessageBus, Retry, Timeout
from app.llmgine.errors import BusError, BusStartError
from app.llmgine.messages import Command, Event


class Ask(Command[str]):
    pass


class Asked(Event):
    pass


async def ask(_: Ask) -> str:
    return ""


async def note(_: Asked) -> None:
    pass


async def test_a_command_is_not_published_and_an_event_not_executed():
    bus = MessageBus()
    bus.register_command_handler(Ask, ask)
    bus.register_event_handler(Event, lambda _: None)

    async with bus:
        with pytest.raises(BusError, match=r"'Ask' is no event.*bus\.execute"):
            await bus.publish(Ask())
        with pytest.raises(BusError, match=r"is no command.*bus\.publish"):
            await bus.execute(Asked())
        with pytest.raises(BusError, match="is no command"):
            await bus.execute(Ask)


def test_each_kind_of_message_is_registered_by_its_own_method():
    bus = MessageBus()

    with pytest.raises(BusError, match=r"no command class.*register_event_handler"):
        bus.register_command_handler(Asked, note)
    with pytest.raises(BusError, match=r"no event class.*register_command_handler"):
        bus.register_event_handler(Ask, ask)
    with pytest.raises(BusError, match="no event class"):
        bus.register_batch_handler(Ask, ask, size=1, within_s=1)


async def test_a_session_serves_only_between_its_beginning_and_its_end():
    async with MessageBus() as bus:
        session = bus.session()
        with pytest.raises(BusError, match="has not begun"):
            await session.publish(Asked())
        async with session:
            pass

        with pytest.raises(BusError, match="has ended"):
            await session.publish(Asked())
        with pytest.raises(BusError, match="has ended"):
            session.register_event_handler(Asked, note)
        with pytest.raises(BusError, match="has ended"):
            async with session:
                pass


async def test_the_metadata_of_a_session_cannot_be_changed_by_a_handler():
    async with MessageBus() as bus, bus.session(metadata={"user": "ada"}) as session:
        with pytest.raises(TypeError):
            session.metadata["user"] = "eve"  # type: ignore[index]


@pytest.mark.parametrize("layer", [3, Retry, "retry"])
async def test_what_is_no_middleware_is_refused_at_the_start(layer):
    bus = MessageBus()
    bus.register_command_handler(Ask, ask, middleware=[layer])

    with pytest.raises(BusStartError, match=r"around .*\.ask is no middleware"):
        await bus.start()


@pytest.mark.parametrize("where", ["x", note])
async def test_a_predicate_that_cannot_be_one_is_refused_at_the_start(where):
    bus = MessageBus()
    bus.register_event_handler(Asked, note, where=where)

    with pytest.raises(BusStartError, match="where must be a plain function"):
        await bus.start()


def test_a_bus_without_threads_is_refused():
    with pytest.raises(BusError, match="max_threads is 0"):
        MessageBus(max_threads=0)


async def test_a_handler_that_waits_for_the_bus_to_be_idle_is_told_so():
    bus = MessageBus()

    async def wait(_: Ask) -> str:
        await bus.idle()
        return ""

    bus.register_command_handler(Ask, wait)
    async with asyncio.timeout(10), bus:
        with pytest.raises(BusError, match="would wait for itself"):
            await bus.execute(Ask())


async def test_only_true_and_false_are_decisions():
    bus = MessageBus()
    refused = []

    async def decide(event: ApprovalRequestedEvent) -> None:
        try:
            await bus.approvals.decide(event.approval_id, approve="no", by="ada")  # type: ignore[arg-type]
        except BusError as error:
            refused.append(str(error))
        await bus.approvals.decide(event.approval_id, approve=True, by="ada")

    bus.register_command_handler(Ask, ask, middleware=[Approval()])
    bus.register_event_handler(ApprovalRequestedEvent, decide)
    async with bus:
        await bus.execute(Ask())

    assert refused == ["approve must be True or False, not 'no'."]


async def test_a_policy_is_shown_with_what_it_was_given():
    bus = MessageBus(middleware=[Timeout(5)])
    bus.register_command_handler(Ask, ask, middleware=[Retry(attempts=4)])
    bus.register_event_handler(Asked, note, middleware=[Retry(on=callable)])

    described = bus.describe()

    assert described.policies == ("Timeout(seconds=5)",)
    assert [handler.policies for handler in described.handlers] == [
        ("Retry(attempts=4)",),
        ("Retry(on=<built-in function callable>)",),
    ]
