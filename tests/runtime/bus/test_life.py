"""Sessions that end, and a bus that stops."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from app.llmgine.bus import MessageBus
from app.llmgine.errors import BusClosedError, BusError, HandlerExistsError, HandlerMissingError
from app.llmgine.messages import Command, Event


class Ask(Command[str]):
    pass


class Said(Event):
    text: str


async def test_a_sessions_handlers_see_only_its_events_and_end_with_it():
    mine, all_of_them = [], []
    bus = MessageBus()

    async def everywhere(event: Said) -> None:
        all_of_them.append(event.text)

    async def here(event: Said) -> None:
        mine.append(event.text)

    bus.register_event_handler(Said, everywhere)

    async with bus:
        async with bus.session("s1") as session:
            session.register_event_handler(Said, here)
            await session.publish(Said(text="inside"))
            await bus.publish(Said(text="outside"))
        assert mine == ["inside"]
        await bus.publish(Said(text="after"), session_id="s1")
        await bus.idle()

    assert mine == ["inside"]
    assert sorted(all_of_them) == ["after", "inside", "outside"]


async def test_a_sessions_events_reach_its_handler_in_order():
    seen = []

    async def slower_at_first(event: Said) -> None:
        for _ in range(10 - int(event.text)):
            await asyncio.sleep(0)
        seen.append(event.text)

    async with MessageBus() as bus, bus.session() as session:
        session.register_event_handler(Said, slower_at_first)
        for n in range(10):
            await session.publish(Said(text=str(n)))

        await session.idle()

        assert seen == [str(n) for n in range(10)]


async def test_a_sessions_command_handler_goes_before_the_bus_wide_one():
    async def bus_wide(_: Ask) -> str:
        return "bus"

    async def own(_: Ask) -> str:
        return "session"

    bus = MessageBus()
    bus.register_command_handler(Ask, bus_wide)

    async with bus:
        async with bus.session() as session:
            session.register_command_handler(Ask, own)
            with pytest.raises(HandlerExistsError):
                session.register_command_handler(Ask, own)
            inside = await session.execute(Ask())
            outside = await bus.execute(Ask())
        after = await bus.execute(Ask(), session_id=session.id)

    assert (inside, outside, after) == ("session", "bus", "bus")


async def test_a_session_unregisters_after_an_error_too():
    async def own(_: Ask) -> str:
        return "session"

    async with MessageBus() as bus:
        with pytest.raises(RuntimeError):
            async with bus.session("s1") as session:
                session.register_command_handler(Ask, own)
                raise RuntimeError
        with pytest.raises(HandlerMissingError):
            await bus.execute(Ask(), session_id="s1")
        async with bus.session("s1"):
            pass


async def test_two_open_sessions_cannot_share_an_id():
    async with MessageBus() as bus, bus.session("s1"):
        with pytest.raises(BusError, match="s1"):
            async with bus.session("s1"):
                pass


async def bus_with_a_command_running() -> tuple[
    MessageBus, asyncio.Task[str], asyncio.Event, list[str]
]:
    """The bus, the command that publishes once it is released, the release, what was heard."""
    entered, release, seen = asyncio.Event(), asyncio.Event(), []

    async def ask(_: Ask) -> str:
        entered.set()
        await release.wait()
        await bus.publish(Said(text="sent while draining"))
        return "done"

    async def note(event: Said) -> None:
        seen.append(event.text)

    bus = MessageBus()
    bus.register_command_handler(Ask, ask)
    bus.register_event_handler(Said, note)
    await bus.start()
    running = asyncio.create_task(bus.execute(Ask()))
    await entered.wait()
    return bus, running, release, seen


async def test_stop_refuses_new_work_and_finishes_what_there_is():
    bus, running, release, seen = await bus_with_a_command_running()

    stopping = asyncio.create_task(bus.stop())
    await asyncio.sleep(0)
    with pytest.raises(BusClosedError):
        await bus.execute(Ask())
    release.set()
    report = await stopping

    assert report.drained
    assert await running == "done"
    assert seen == ["sent while draining"]


async def test_stop_reports_and_cancels_what_is_not_done_in_time():
    entered = asyncio.Event()

    async def hang(_: Ask) -> str:
        entered.set()
        await asyncio.Event().wait()
        return "never"

    async def stuck(_: Said) -> None:
        await asyncio.Event().wait()

    bus = MessageBus()
    bus.register_command_handler(Ask, hang)
    bus.register_event_handler(Said, stuck, concurrency=1)
    await bus.start()
    before = asyncio.all_tasks()
    running = asyncio.create_task(bus.execute(Ask()))
    await entered.wait()
    await bus.publish(Said(text="1"))
    await bus.publish(Said(text="2"))
    await asyncio.sleep(0)

    report = await bus.stop(grace_s=0.01)

    with pytest.raises(asyncio.CancelledError):
        await running
    assert report.commands == ("Ask",)
    assert len(report.events) == 2
    assert all("Said" in event and "stuck" in event for event in report.events)
    assert asyncio.all_tasks() == before


async def test_stopping_twice_or_before_the_start_does_nothing():
    bus = MessageBus()
    assert (await bus.stop()).drained
    assert (await bus.stop()).drained
    with pytest.raises(BusError):
        await bus.start()


def test_forgetting_to_stop_does_not_hang_the_interpreter():
    program = """
import asyncio
from app.llmgine.bus import MessageBus
from app.llmgine.messages import Event

class Said(Event): pass

def in_a_thread(event): print("handled", flush=True)
async def stuck(event): await asyncio.Event().wait()

async def main():
    bus = MessageBus()
    bus.register_event_handler(Said, in_a_thread)
    bus.register_event_handler(Said, stuck)
    await bus.start()
    await bus.publish(Said())
    while not done(bus): await asyncio.sleep(0)

def done(bus): return bus._subscriptions[0][1].handled
asyncio.run(main())
"""
    tests = Path(__file__).parents[2]

    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=tests, capture_output=True, text=True, timeout=30
    )

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "handled\n"


async def test_stopping_while_it_stops_waits_for_the_first():
    bus, running, release, seen = await bus_with_a_command_running()

    first = asyncio.create_task(bus.stop())
    await asyncio.sleep(0)
    second = asyncio.create_task(bus.stop())
    await asyncio.sleep(0)
    assert not second.done()
    release.set()
    await asyncio.gather(first, second, running)

    assert seen == ["sent while draining"]


async def test_what_a_cancelled_command_says_of_its_end_is_reported_and_does_not_run_later():
    from app.llmgine.bus import CommandErrorEvent

    entered, told = asyncio.Event(), []

    async def hang(_: Ask) -> str:
        entered.set()
        await asyncio.Event().wait()
        return ""

    async def note(event: CommandErrorEvent) -> None:
        await asyncio.sleep(0)
        told.append(event)

    bus = MessageBus()
    bus.register_command_handler(Ask, hang)
    bus.register_event_handler(CommandErrorEvent, note)
    await bus.start()
    running = asyncio.create_task(bus.execute(Ask()))
    await entered.wait()

    report = await bus.stop(grace_s=0)
    await asyncio.gather(running, return_exceptions=True)

    assert report.commands == ("Ask",)
    assert bool(told) != any("CommandErrorEvent" in event for event in report.events)


async def test_a_stop_that_is_cancelled_leaves_nothing_running():
    async def stuck(_: Said) -> None:
        await asyncio.Event().wait()

    bus = MessageBus()
    bus.register_event_handler(Said, stuck)
    await bus.start()
    before = asyncio.all_tasks()
    await bus.publish(Said(text=""))
    await asyncio.sleep(0)

    stopping = asyncio.create_task(bus.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)

    assert stopping.cancelled()
    assert asyncio.all_tasks() == before
