"""Commands: one handler, a typed result, in the caller's task."""

import asyncio
from functools import partial

import pytest

from app.llmgine.bus import (
    CommandErrorEvent,
    CommandResultEvent,
    MessageBus,
)
from app.llmgine.errors import (
    BusClosedError,
    BusError,
    BusStartError,
    HandlerExistsError,
    HandlerMissingError,
)
from app.llmgine.messages import Command, Envelope, Event, current_envelope


class Shout(Command[str]):
    text: str


class Whisper(Command[str]):
    text: str


class Shouted(Event):
    text: str


async def shout(command: Shout) -> str:
    return command.text.upper()


async def fail(command: Shout | Whisper) -> str:
    raise ValueError(f"cannot shout {command.text!r}")


def seen(events: list[Event]):
    async def record(event: Event) -> None:
        events.append(event)

    return record


async def test_execute_returns_what_the_handler_returns():
    bus = MessageBus()
    bus.register_command_handler(Shout, shout)

    async with bus:
        assert await bus.execute(Shout(text="hi")) == "HI"


async def test_a_handlers_error_reaches_the_caller_as_itself():
    bus = MessageBus()
    bus.register_command_handler(Shout, fail)

    async with bus:
        with pytest.raises(ValueError, match="cannot shout 'hi'"):
            await bus.execute(Shout(text="hi"))


async def test_try_execute_returns_the_value_or_the_error():
    good, bad = MessageBus(), MessageBus()
    good.register_command_handler(Shout, shout)
    bad.register_command_handler(Shout, fail)

    async with good, bad:
        succeeded = await good.try_execute(Shout(text="hi"))
        failed = await bad.try_execute(Shout(text="hi"))

    assert succeeded.ok
    assert succeeded.unwrap() == "HI"
    assert isinstance(failed.error, ValueError)
    assert failed.error.__traceback__ is not None
    assert failed.envelope is not None
    assert failed.envelope.message == Shout(text="hi")
    with pytest.raises(ValueError, match="cannot shout"):
        failed.unwrap()


async def test_the_handler_runs_in_the_callers_task():
    async def task_of(_: Shout) -> str:
        task = asyncio.current_task()
        return task.get_name() if task else ""

    bus = MessageBus()
    bus.register_command_handler(Shout, task_of)

    async with bus:
        name = await asyncio.create_task(bus.execute(Shout(text="")), name="the caller")

    assert name == "the caller"


async def test_a_plain_function_runs_in_a_thread_and_sees_the_envelope():
    loop_thread = asyncio.get_running_loop()

    def handle(_: Shout) -> str:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        envelope = current_envelope()
        return envelope.session_id or "" if envelope else "none"

    bus = MessageBus()
    bus.register_command_handler(Shout, handle)

    async with bus:
        session_id = await bus.execute(Shout(text=""), session_id="s1")

    assert session_id == "s1"
    assert loop_thread.is_running()


@pytest.mark.parametrize("kind", ["partial", "method", "callable"])
async def test_handlers_may_be_partials_methods_and_callable_objects(kind):
    class Shouter:
        async def handle(self, command: Shout) -> str:
            return command.text.upper()

        async def __call__(self, command: Shout) -> str:
            return command.text.upper()

    async def suffixed(command: Shout, *, suffix: str) -> str:
        return command.text.upper() + suffix

    handlers = {
        "partial": partial(suffixed, suffix=""),
        "method": Shouter().handle,
        "callable": Shouter(),
    }
    bus = MessageBus()
    bus.register_command_handler(Shout, handlers[kind])

    async with bus:
        assert await bus.execute(Shout(text="hi")) == "HI"


async def test_a_second_handler_is_an_error_that_names_both():
    bus = MessageBus()
    bus.register_command_handler(Shout, shout)
    bus.register_command_handler(Shout, fail)

    with pytest.raises(BusStartError, match=r"test_commands\.shout.*test_commands\.fail") as wrong:
        await bus.start()

    assert isinstance(wrong.value.problems[0], HandlerExistsError)


async def test_an_unknown_command_names_the_closest_and_the_line_to_add():
    class Shot(Command[str]):
        pass

    bus = MessageBus()
    bus.register_command_handler(Shout, shout)

    async with bus:
        with pytest.raises(HandlerMissingError) as caught:
            await bus.execute(Shot())

    assert "Shout" in str(caught.value)
    assert "bus.register_command_handler(Shot, ...)" in str(caught.value)


async def test_a_handler_that_cannot_take_one_message_is_refused_at_the_start():
    async def needs_two(command: Shout, other: str) -> str:
        return command.text + other

    bus = MessageBus()
    bus.register_command_handler(Shout, needs_two)

    with pytest.raises(BusStartError, match=r"needs_two.*functools\.partial"):
        await bus.start()


async def test_registering_after_the_start_is_refused_with_the_way_out():
    async with MessageBus() as bus:
        with pytest.raises(BusError, match=r"bus\.session\(\)"):
            bus.register_command_handler(Shout, shout)


async def test_a_bus_that_is_not_running_refuses_work():
    bus = MessageBus()
    bus.register_command_handler(Shout, shout)

    with pytest.raises(BusClosedError, match=r"await bus\.start\(\)"):
        await bus.execute(Shout(text="early"))
    async with bus:
        pass
    with pytest.raises(BusClosedError, match="stopped"):
        await bus.execute(Shout(text="late"))
    with pytest.raises(BusClosedError):
        await bus.publish(Shouted(text="late"))


async def test_cancelling_the_caller_cancels_the_handler_and_is_told():
    started, told = asyncio.Event(), []

    async def hang(_: Shout) -> str:
        started.set()
        await asyncio.Event().wait()
        return "never"

    bus = MessageBus()
    bus.register_command_handler(Shout, hang)
    bus.register_event_handler(CommandErrorEvent, seen(told))

    async with bus:
        caller = asyncio.create_task(bus.execute(Shout(text="")))
        await started.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await bus.idle()

    assert [(event.command, event.error_type) for event in told] == [("Shout", "CancelledError")]


async def test_results_and_errors_are_events_for_whoever_listens():
    results, errors = [], []
    bus = MessageBus()
    bus.register_command_handler(Shout, shout)
    bus.register_command_handler(Whisper, fail)
    bus.register_event_handler(CommandResultEvent, seen(results))
    bus.register_event_handler(CommandErrorEvent, seen(errors))

    async with bus:
        await bus.execute(Shout(text="a"))
        await bus.try_execute(Whisper(text="b"))
        await bus.idle()

    assert [event.result for event in results] == ["A"]
    assert [event.error for event in errors] == ["cannot shout 'b'"]


async def test_what_a_handler_sends_is_linked_to_its_cause():
    envelopes: dict[str, Envelope] = {}

    def note(name: str) -> None:
        envelope = current_envelope()
        assert envelope is not None
        envelopes[name] = envelope

    async def outer(_: Shout) -> str:
        note("outer")
        return await bus.execute(Whisper(text=""))

    async def inner(_: Whisper) -> str:
        note("inner")
        await bus.publish(Shouted(text=""))
        return ""

    async def listener(_: Shouted) -> None:
        note("event")

    bus = MessageBus()
    bus.register_command_handler(Shout, outer)
    bus.register_command_handler(Whisper, inner)
    bus.register_event_handler(Shouted, listener)

    async with bus:
        await bus.execute(Shout(text=""), session_id="s1")
        await bus.idle()

    first, second, third = envelopes["outer"], envelopes["inner"], envelopes["event"]
    assert first.causation_id is None
    assert (second.causation_id, third.causation_id) == (first.id, second.id)
    assert {e.correlation_id for e in envelopes.values()} == {first.id}
    assert {e.session_id for e in envelopes.values()} == {"s1"}
    assert first.id < second.id < third.id
    assert current_envelope() is None


async def test_middleware_goes_around_commands_and_event_handlers_first_one_outermost():
    order = []

    def layer(name):
        async def around(message, envelope, call_next):
            order.append(f"{name}:{type(message).__name__}")
            assert envelope is current_envelope()
            return await call_next()

        return around

    async def listener(_: Shouted) -> None:
        order.append("listener")

    bus = MessageBus(middleware=[layer("outer"), layer("inner")])
    bus.register_command_handler(Shout, shout)
    bus.register_event_handler(Shouted, listener)

    async with bus:
        assert await bus.execute(Shout(text="a")) == "A"
        await bus.publish(Shouted(text="a"))
        await bus.idle()

    assert order == [
        "outer:Shout",
        "inner:Shout",
        "outer:Shouted",
        "inner:Shouted",
        "listener",
    ]


async def test_the_trace_context_of_the_sender_stands_in_the_envelope():
    parents = []

    async def listener(_: Shouted) -> None:
        envelope = current_envelope()
        parents.append(envelope.traceparent if envelope else None)

    bus = MessageBus(traceparent=lambda: "00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    bus.register_event_handler(Shouted, listener)

    async with bus:
        await bus.publish(Shouted(text=""))
        await bus.idle()

    assert parents == ["00-" + "a" * 32 + "-" + "b" * 16 + "-01"]


async def test_two_buses_in_one_process_know_nothing_of_each_other():
    one, two = MessageBus(), MessageBus()
    one.register_command_handler(Shout, shout)

    async with one, two:
        with pytest.raises(HandlerMissingError):
            await two.execute(Shout(text=""))


def test_identifiers_sort_by_time_and_are_valid_uuids_of_version_7():
    from uuid import UUID

    ids = [Envelope(Shout(text="")).id for _ in range(1000)]

    assert ids == sorted(ids)
    assert len(set(ids)) == 1000
    assert {UUID(i).version for i in ids} == {7}
    assert {UUID(i).variant for i in ids} == {"specified in RFC 4122"}


async def test_a_thread_that_raises_stop_iteration_fails_instead_of_hanging():
    def exhausted(_: Shout) -> str:
        return next(iter([]))

    bus = MessageBus()
    bus.register_command_handler(Shout, exhausted)

    async with asyncio.timeout(10), bus:
        with pytest.raises(RuntimeError, match="StopIteration was raised"):
            await bus.execute(Shout(text=""))


async def test_a_command_succeeds_though_nobody_has_room_for_its_result():
    release, entered = asyncio.Event(), asyncio.Event()

    async def slow(_: CommandResultEvent) -> None:
        entered.set()
        await release.wait()

    bus = MessageBus()
    bus.register_command_handler(Shout, shout)
    bus.register_event_handler(
        CommandResultEvent, slow, capacity=1, concurrency=1, overflow="reject"
    )

    async with bus:
        await bus.execute(Shout(text="running"))
        await entered.wait()
        await bus.execute(Shout(text="queued"))
        assert await bus.execute(Shout(text="full")) == "FULL"
        release.set()


async def test_an_error_whose_message_cannot_be_read_still_reaches_the_caller():
    class UnreadableError(Exception):
        def __str__(self) -> str:
            raise TypeError

    async def broken(_: Shout) -> str:
        raise UnreadableError

    told = []
    bus = MessageBus()
    bus.register_command_handler(Shout, broken)
    bus.register_event_handler(CommandErrorEvent, seen(told))

    async with bus:
        with pytest.raises(UnreadableError):
            await bus.execute(Shout(text=""))
        await bus.idle()

    assert told[0].error == "(its message cannot be read: TypeError)"
