"""The bus and threads: called from them, running plain functions in them, not kept by them."""

import asyncio
import concurrent.futures
import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.llmgine.bus import MessageBus
from app.llmgine.errors import BusClosedError, BusError
from app.llmgine.messages import Command, Envelope, Event, current_envelope

TESTS = Path(__file__).parents[2]


class Ask(Command[str]):
    text: str = ""


class Relay(Command[str]):
    pass


class Wait(Command[str]):
    pass


class Said(Event):
    n: int = 0


async def ask(command: Ask) -> str:
    if not command.text:
        raise ValueError("nothing to say")
    return command.text.upper()


class Hang:
    """A handler that never ends, and says when it has begun."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()

    async def __call__(self, _: Ask | Said) -> str:
        self.entered.set()
        await asyncio.Event().wait()
        return "never"


async def test_a_thread_gets_the_result_or_the_error_as_itself():
    bus = MessageBus()
    bus.register_command_handler(Ask, ask)

    async with asyncio.timeout(10), bus:
        call = bus.call_from_thread
        assert await asyncio.to_thread(call, bus.execute, Ask(text="hi"), session_id="s") == "HI"
        with pytest.raises(ValueError, match="nothing to say"):
            await asyncio.to_thread(call, bus.execute, Ask())


async def test_the_handler_runs_on_the_loop_of_the_bus_whichever_thread_calls():
    threads = []

    async def note(_: Ask) -> str:
        threads.append(threading.current_thread())
        return ""

    bus = MessageBus()
    bus.register_command_handler(Ask, note)

    async with asyncio.timeout(10), bus:
        await asyncio.to_thread(bus.call_from_thread, bus.execute, Ask())

    assert threads == [threading.current_thread()]


async def test_what_a_plain_handler_sends_from_its_thread_is_linked_to_its_cause():
    envelopes: dict[str, Envelope | None] = {}

    def relay(_: Relay) -> str:
        envelopes["relay"] = current_envelope()
        bus.call_from_thread(bus.publish, Said())
        return bus.call_from_thread(bus.execute, Ask(text="hi"))

    async def note(message: Ask | Said) -> str:
        envelopes[type(message).__name__] = current_envelope()
        return ""

    bus = MessageBus()
    bus.register_command_handler(Relay, relay)
    bus.register_command_handler(Ask, note)
    bus.register_event_handler(Said, note)

    async with asyncio.timeout(10), bus:
        await bus.execute(Relay(), session_id="s1")
        await bus.idle()

    cause, command, event = (envelopes[name] for name in ("relay", "Ask", "Said"))
    assert cause is not None
    assert command is not None
    assert event is not None
    assert (command.causation_id, event.causation_id) == (cause.id, cause.id)
    assert (command.session_id, event.session_id) == ("s1", "s1")


async def test_plain_handlers_that_call_plain_handlers_do_not_use_up_the_threads():
    def relay(_: Relay) -> str:
        return bus.call_from_thread(bus.execute, Ask(text="hi"))

    def shout(command: Ask) -> str:
        return command.text.upper()

    bus = MessageBus(max_threads=1)
    bus.register_command_handler(Relay, relay)
    bus.register_command_handler(Ask, shout)
    await bus.start()
    try:
        async with asyncio.timeout(1):
            assert await bus.execute(Relay()) == "HI"
    finally:
        await bus.stop(grace_s=0)


async def test_a_plain_handler_that_queued_for_its_thread_can_call_another():
    released = threading.Event()

    def wait(_: Wait) -> str:
        released.wait()
        return "waited"

    def relay(_: Relay) -> str:
        return bus.call_from_thread(bus.execute, Ask(text="hi"))

    def shout(command: Ask) -> str:
        return command.text.upper()

    bus = MessageBus(max_threads=1)
    bus.register_command_handler(Wait, wait)
    bus.register_command_handler(Relay, relay)
    bus.register_command_handler(Ask, shout)
    await bus.start()
    try:
        async with asyncio.timeout(1), asyncio.TaskGroup() as group:
            group.create_task(bus.execute(Wait()))
            relaying = group.create_task(bus.execute(Relay()))
            # Called after the tasks have begun, so one has the thread and the other queues for it.
            asyncio.get_running_loop().call_soon(released.set)
        assert relaying.result() == "HI"
    finally:
        await bus.stop(grace_s=0)


async def test_there_are_no_more_threads_than_given_once_one_has_waited_for_another():
    together, met = threading.Barrier(2), []

    def meet(_: Wait) -> str:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(timeout=0.2)
            met.append(1)
        return ""

    def relay(_: Relay) -> str:
        return bus.call_from_thread(bus.execute, Ask(text="hi"))

    def shout(command: Ask) -> str:
        return command.text.upper()

    bus = MessageBus(max_threads=1)
    bus.register_command_handler(Wait, meet)
    bus.register_command_handler(Relay, relay)
    bus.register_command_handler(Ask, shout)

    async with asyncio.timeout(10), bus:
        await bus.execute(Relay())
        await asyncio.gather(bus.execute(Wait()), bus.execute(Wait()))

    assert met == []


async def test_in_the_buss_own_thread_it_is_an_error_and_not_a_deadlock():
    bus = MessageBus()
    bus.register_command_handler(Ask, ask)

    async with bus:
        with pytest.raises(BusError, match="await the method itself"):
            bus.call_from_thread(bus.execute, Ask(text="hi"))


async def test_before_the_start_and_after_the_stop_a_thread_is_refused():
    bus = MessageBus()
    bus.register_command_handler(Ask, ask)

    async def refused(state: str) -> None:
        with pytest.raises(BusClosedError, match=state):
            await asyncio.to_thread(bus.call_from_thread, bus.execute, Ask(text="hi"))

    await refused("new")
    await bus.start()
    await bus.stop()
    await refused("stopped")


def test_when_the_loop_has_ended_without_a_stop_a_thread_is_refused():
    bus = MessageBus()
    bus.register_command_handler(Ask, ask)
    asyncio.run(bus.start())

    with pytest.raises(BusClosedError):
        bus.call_from_thread(bus.execute, Ask(text="hi"))


async def called(bus: MessageBus, method, *arguments) -> BaseException | None:
    """What became of a call in a thread; a cancellation there would end the test's task here."""

    def call() -> BaseException | None:
        try:
            bus.call_from_thread(method, *arguments)
        except (Exception, concurrent.futures.CancelledError) as error:
            return error
        return None

    return await asyncio.to_thread(call)


async def test_a_thread_that_waits_for_a_command_is_let_go_by_the_stop():
    hang = Hang()
    bus = MessageBus()
    bus.register_command_handler(Ask, hang)
    await bus.start()
    calling = asyncio.create_task(called(bus, bus.execute, Ask()))
    await hang.entered.wait()

    await bus.stop(grace_s=0)

    async with asyncio.timeout(10):
        assert isinstance(await calling, concurrent.futures.CancelledError)


async def test_a_thread_that_waits_for_room_is_let_go_by_the_stop():
    hang, offered = Hang(), threading.Event()
    bus = MessageBus()
    bus.register_event_handler(Said, hang, capacity=1, concurrency=1)
    await bus.start()
    await bus.publish(Said())
    await hang.entered.wait()
    await bus.publish(Said())

    async def publish() -> None:
        asyncio.get_running_loop().call_soon(offered.set)
        await bus.publish(Said())

    calling = asyncio.create_task(called(bus, publish))
    await asyncio.to_thread(offered.wait)
    await bus.stop(grace_s=0)

    async with asyncio.timeout(10):
        await calling


async def test_a_thread_that_calls_while_the_bus_stops_is_refused_and_the_waiting_one_served():
    entered, release = asyncio.Event(), asyncio.Event()

    async def wait(_: Ask) -> str:
        entered.set()
        await release.wait()
        return "done"

    bus = MessageBus()
    bus.register_command_handler(Ask, wait)
    await bus.start()
    served = asyncio.create_task(asyncio.to_thread(bus.call_from_thread, bus.execute, Ask()))
    await entered.wait()
    stopping = asyncio.create_task(bus.stop())

    async with asyncio.timeout(10):
        assert isinstance(await called(bus, bus.execute, Ask()), BusClosedError)
        release.set()
        assert (await stopping).drained
        assert await served == "done"


def test_a_plain_handler_that_hangs_does_not_keep_the_interpreter_from_its_end():
    program = """
import asyncio, threading
from app.llmgine.bus import MessageBus
from app.llmgine.messages import Command

class Ask(Command[str]): pass
entered = threading.Event()

def hang(_: Ask) -> str:
    entered.set()
    threading.Event().wait()
    return ""

async def main():
    bus = MessageBus()
    bus.register_command_handler(Ask, hang)
    await bus.start()
    asking = asyncio.create_task(bus.execute(Ask()))
    while not entered.is_set(): await asyncio.sleep(0)
    report = await bus.stop(grace_s=0)
    print(report.commands)

asyncio.run(main())
"""

    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=TESTS, capture_output=True, text=True, timeout=30
    )

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "('Ask',)\n"


async def test_plain_handlers_run_side_by_side_up_to_the_threads_there_are():
    together = threading.Barrier(4)

    def meet(_: Ask) -> str:
        together.wait(timeout=10)
        return ""

    bus = MessageBus(max_threads=4)
    bus.register_command_handler(Ask, meet)

    async with asyncio.timeout(20), bus, asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(bus.execute(Ask()))


def test_buses_in_several_threads_and_one_loop_know_nothing_of_each_other():
    async def converse(name: str) -> list[int]:
        seen: list[int] = []

        def shout(_: Ask) -> str:
            bus.call_from_thread(bus.publish, Said(n=len(name)))
            return name

        async def note(event: Said) -> None:
            seen.append(event.n)

        bus = MessageBus()
        bus.register_command_handler(Ask, shout)
        bus.register_event_handler(Said, note)
        async with asyncio.timeout(20), bus:
            for _ in range(20):
                assert await bus.execute(Ask()) == name
        return seen

    async def both(name: str) -> list[list[int]]:
        return await asyncio.gather(converse(name), converse(name * 2))

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda n: asyncio.run(both("x" * n)), range(1, 5)))

    assert found == [[[n] * 20, [2 * n] * 20] for n in range(1, 5)]


async def test_a_plain_handler_can_call_another_bus_that_runs_in_another_thread():
    other, started, ended = MessageBus(), threading.Event(), threading.Event()
    other.register_command_handler(Ask, ask)

    async def live() -> None:
        async with other:
            started.set()
            await asyncio.get_running_loop().run_in_executor(None, ended.wait)

    def relay(_: Relay) -> str:
        return other.call_from_thread(other.execute, Ask(text="over there"))

    bus = MessageBus()
    bus.register_command_handler(Relay, relay)
    living = asyncio.create_task(asyncio.to_thread(asyncio.run, live()))

    async with asyncio.timeout(20), bus:
        await asyncio.to_thread(started.wait)
        assert await bus.execute(Relay()) == "OVER THERE"
        ended.set()
        await living
