"""The bus beside a simple model of it, in whatever order hypothesis can think of.

A handler waits at a gate until the machine opens it, so what runs is known at every step.
`make test-long` tries far more than `make test`.
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from app.llmgine.bus import MessageBus, Session, StopReport
from app.llmgine.errors import BusClosedError, BusError, LaneFullError
from app.llmgine.messages import Command, Event
from app.llmgine.testing.clock import FakeClock

LONG = bool(os.environ.get("LLMGINE_TEST_LONG"))
WITHIN_S = 10.0
SESSIONS = ("s1", "s2")


class Happened(Event):
    n: int


class Repeated(Happened):
    pass


class Ask(Command[str]):
    n: int


class Count(Command[AsyncIterator[int]]):
    to: int


class AsToldError(Exception):
    pass


@dataclass(eq=False)
class Item:
    """One event in the model, on its way through the lanes that are still to be offered it."""

    event: Happened
    key: str | None
    lanes: "list[LaneModel]"
    session_id: str | None = None
    rejected: bool = False
    task: "asyncio.Task[None] | None" = None


@dataclass(eq=False)
class Run:
    """A handler at its gate."""

    items: list[Item]
    gate: "asyncio.Future[str]"


@dataclass(eq=False)
class LaneModel:
    wanted: type[Happened]
    concurrency: int
    capacity: int
    overflow: str
    even_only: bool
    size: int | None
    pending: list[Item] = field(default_factory=list)
    running: list[Run] = field(default_factory=list)
    waiting: list[Item] = field(default_factory=list)
    handled: int = 0
    failed: int = 0
    dropped: int = 0
    closed: bool = False

    def wants(self, event: Happened) -> bool:
        return isinstance(event, self.wanted) and not (self.even_only and event.n % 2)

    @property
    def busy(self) -> bool:
        return bool(self.pending or self.running)

    def may_start(self, item: Item) -> bool:
        """Whether the order of the lane lets this one run now."""
        if len(self.running) >= self.concurrency:
            return False
        if self.concurrency == 1:
            return self.pending[0] is item
        if item.key is None:
            return True
        first = next(one for one in self.pending if one.key == item.key)
        return first is item and item.key not in {run.items[0].key for run in self.running}


LANES = st.builds(
    LaneModel,
    wanted=st.sampled_from([Happened, Repeated]),
    concurrency=st.sampled_from([1, 1, 2, 3]),
    capacity=st.sampled_from([1, 2, 3, 100]),
    overflow=st.just("wait"),
    even_only=st.booleans(),
    size=st.none(),
)
DROPPING = st.builds(
    LaneModel,
    wanted=st.sampled_from([Happened, Repeated]),
    concurrency=st.just(1),
    capacity=st.sampled_from([1, 2, 3]),
    overflow=st.sampled_from(["drop_oldest", "drop_new", "reject"]),
    even_only=st.booleans(),
    size=st.none(),
)
BATCHING = st.builds(
    LaneModel,
    wanted=st.just(Happened),
    concurrency=st.just(1),
    capacity=st.sampled_from([3, 100]),
    overflow=st.just("wait"),
    even_only=st.booleans(),
    size=st.sampled_from([1, 2, 3]),
)


class BusMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.bus = MessageBus(clock=self.clock)
        self.number = 0
        self.lanes: list[LaneModel] = []
        self.sessions: dict[str, tuple[Session, list[LaneModel], bool]] = {}
        self.closing: dict[str, asyncio.Task[Any]] = {}
        self.commands: dict[int, tuple[asyncio.Task[Any], asyncio.Future[str], str]] = {}
        self.letters: list[tuple[Item, LaneModel]] = []
        self.idles: list[asyncio.Task[Any]] = []
        self.wrong: list[str] = []
        self.streams = 0
        self.stopped = False
        self.cancels = False

    # Driving the loop.

    def go(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run it, and then everybody else until all of them wait."""
        ended = self.loop.run_until_complete(self.start(coroutine, wait=True))
        assert not self.wrong, self.wrong
        return ended

    async def start(self, coroutine: Coroutine[Any, Any, Any], *, wait: bool = False) -> Any:
        task = asyncio.create_task(coroutine, name="own")
        await self.clock.advance(0)  # Returns when nobody can run any more.
        return await asyncio.wait_for(task, 2) if wait else task

    def settle(self) -> None:
        self.go(asyncio.sleep(0))

    # Handlers.

    def add(self, lane: LaneModel, to: "MessageBus | Session") -> None:
        async def one(event: Happened) -> None:
            await self.handle(lane, [event])

        async def many(events: list[Happened]) -> None:
            await self.handle(lane, events)

        async def before(_: Happened) -> None: ...

        where = (lambda event: event.n % 2 == 0) if lane.even_only else None
        options: Any = {"capacity": lane.capacity, "overflow": lane.overflow}
        if lane.size is not None:
            to.register_batch_handler(
                lane.wanted, many, size=lane.size, within_s=WITHIN_S, where=where, **options
            )
        else:
            handlers = [before, one] if lane.even_only else one
            options["concurrency"] = lane.concurrency
            to.register_event_handler(lane.wanted, handlers, where=where, **options)

    async def handle(self, lane: LaneModel, events: list[Happened]) -> None:
        run = self.begin(lane, events)
        try:
            outcome = await run.gate
        except asyncio.CancelledError:
            if not (lane.closed or self.cancels):
                self.wrong.append(f"{events} cancelled")
            lane.running.remove(run)
            raise
        if outcome == "publish":
            session_id = run.items[0].session_id
            await self.publish(Happened(n=self.next()), None, session_id, inside=True)
        lane.running.remove(run)
        if outcome in {"fail", "cancel"}:
            lane.failed += len(run.items)
            self.letters += [(item, lane) for item in run.items]
            raise AsToldError if outcome == "fail" else asyncio.CancelledError
        lane.handled += len(run.items)

    def begin(self, lane: LaneModel, events: list[Happened]) -> Run:
        run = Run([], self.loop.create_future())
        for event in events:
            item = next((one for one in lane.pending if one.event is event), None)
            if item is None or lane.closed or not lane.may_start(item):
                self.wrong.append(f"{event!r} began, while {lane}")
                item = item or Item(event, None, [])
            else:
                lane.pending.remove(item)
            run.items.append(item)
        if lane.size is not None and len(events) > lane.size:
            self.wrong.append(f"{len(events)} in a batch of {lane.size}")
        lane.running.append(run)
        for _ in events:
            if lane.waiting and len(lane.pending) < lane.capacity:
                item = lane.waiting.pop(0)
                lane.pending.append(item)
                self.offer(item)
        return run

    def offer(self, item: Item, *, waits: bool = True) -> None:
        """What the bus should do with the event in each of its lanes, until it has to wait."""
        while item.lanes:
            lane = item.lanes.pop(0)
            if lane.closed:
                continue
            if len(lane.pending) >= lane.capacity:
                if lane.overflow == "wait" and waits:
                    lane.waiting.append(item)
                    return
                if lane.overflow == "reject":
                    item.rejected = True
                    continue
                lane.dropped += lane.overflow != "wait"
                if lane.overflow == "drop_new":
                    continue
                if lane.overflow == "drop_oldest":
                    lane.pending.pop(0)
            lane.pending.append(item)

    def next(self) -> int:
        self.number += 1
        return self.number

    def live(self) -> list[LaneModel]:
        """In the order of `bus.lanes()`."""
        return self.lanes + [lane for _, lanes, _ in self.sessions.values() for lane in lanes]

    def quiet(self) -> bool:
        return not (self.commands or any(lane.busy for lane in self.live()))

    # Rules.

    @initialize(
        lanes=st.lists(LANES | BATCHING, min_size=1, max_size=4)
        | st.lists(DROPPING | BATCHING, min_size=1, max_size=3)
    )
    def begin_it_all(self, lanes: list[LaneModel]) -> None:
        async def count(command: Count) -> AsyncIterator[int]:
            self.streams += 1
            try:
                for n in range(command.to):
                    yield n
            finally:
                self.streams -= 1

        self.lanes = lanes
        for lane in lanes:
            self.add(lane, self.bus)
        self.bus.register_command_handler(Ask, self.answers("bus"))
        self.bus.register_command_handler(Count, count)
        self.go(self.bus.start())

    def answers(self, who: str) -> Any:
        async def answer(command: Ask) -> str:
            task, gate, _ = self.commands[command.n]
            self.commands[command.n] = (task, gate, who)
            if await gate == "fail":
                raise AsToldError(command.n)
            return f"{who} {command.n}"

        return answer

    @precondition(lambda self: not self.stopped)
    @rule(
        kind=st.sampled_from([Happened, Repeated]),
        key=st.sampled_from([None, "a", "b"]),
        session_id=st.sampled_from([None, *SESSIONS]),
        count=st.integers(1, 4),
    )
    def send(self, kind: type[Happened], key: str | None, session_id: str | None, count: int):
        for _ in range(count):
            event = kind(n=self.next())
            self.go(self.start(self.publish(event, key, session_id)))

    async def publish(
        self, event: Happened, key: str | None, session_id: str | None, *, inside: bool = False
    ) -> None:
        own = self.sessions[session_id][1] if session_id in self.sessions else []
        lanes = [lane for lane in [*own, *self.lanes] if lane.wants(event)]
        item = Item(event, key or session_id, lanes, session_id, task=asyncio.current_task())
        for lane in lanes.copy():  # Those that neither choose nor are full get it at once.
            if len(lane.pending) < lane.capacity and not lane.even_only:
                lanes.remove(lane)
                lane.pending.append(item)
        self.offer(item, waits=not inside)
        inherited = None if inside else session_id
        try:
            await self.bus.publish(event, key=key, session_id=inherited)
        except LaneFullError:
            if not item.rejected:
                self.wrong.append(f"{event!r} rejected")
        else:
            if item.rejected:
                self.wrong.append(f"{event!r} not rejected")

    @precondition(lambda self: any(lane.running for lane in self.live()))
    @rule(data=st.data(), outcome=st.sampled_from(["ok", "ok", "fail", "publish", "cancel"]))
    def open_a_gate(self, data: st.DataObject, outcome: str) -> None:
        runs = [run for lane in self.live() for run in lane.running]
        run = runs[data.draw(st.integers(0, len(runs) - 1))]
        run.gate.set_result(outcome)
        self.settle()

    @precondition(lambda self: not self.stopped and any(lane.waiting for lane in self.live()))
    @rule(data=st.data())
    def give_up_waiting_for_room(self, data: st.DataObject) -> None:
        waiting = [(lane, item) for lane in self.live() for item in lane.waiting]
        lane, item = waiting[data.draw(st.integers(0, len(waiting) - 1))]
        lane.waiting.remove(item)
        item.task.cancel()
        self.settle()
        assert item.task.cancelled()

    @precondition(lambda self: not self.stopped)
    @rule(session_id=st.sampled_from([None, *SESSIONS]))
    def ask(self, session_id: str | None) -> None:
        n = self.next()
        gate = self.loop.create_future()

        async def asked() -> str:
            self.commands[n] = (asyncio.current_task(), gate, "nobody")
            return await self.bus.execute(Ask(n=n), session_id=session_id)

        self.go(self.start(asked()))
        own = session_id in self.sessions and self.sessions[session_id][2]
        assert self.commands[n][2] == (session_id if own else "bus")

    @precondition(lambda self: self.commands)
    @rule(data=st.data(), outcome=st.sampled_from(["ok", "fail", "cancel"]))
    def answer(self, data: st.DataObject, outcome: str) -> None:
        n = data.draw(st.sampled_from(sorted(self.commands)))
        task, gate, who = self.commands.pop(n)
        if outcome == "cancel":
            task.cancel()
        else:
            gate.set_result(outcome)
        self.settle()
        assert task.done()
        if outcome == "ok":
            assert task.result() == f"{who} {n}"
        elif outcome == "fail":
            assert repr(task.exception()) == repr(AsToldError(n))
        else:
            assert task.cancelled()

    @precondition(lambda self: not self.stopped)
    @rule(to=st.integers(0, 40), read=st.integers(0, 40))
    def stream(self, to: int, read: int) -> None:
        async def reading() -> list[int]:
            got: list[int] = []
            stream = self.bus.stream(Count(to=to))
            while len(got) < read:
                try:
                    got.append(await anext(stream))
                except StopAsyncIteration:
                    break
            await stream.aclose()
            return got

        assert self.go(reading()) == list(range(min(to, read)))
        assert self.streams == 0

    @precondition(lambda self: not self.stopped and len(self.sessions) < len(SESSIONS))
    @rule(lanes=st.lists(LANES, max_size=2), answers=st.booleans())
    def open_a_session(self, lanes: list[LaneModel], answers: bool) -> None:
        session_id = next(name for name in SESSIONS if name not in self.sessions)
        session = self.bus.session(session_id)
        for lane in lanes:
            self.add(lane, session)
        if answers:
            session.register_command_handler(Ask, self.answers(session_id))
        self.sessions[session_id] = (session, lanes, answers)
        self.go(session.__aenter__())

    @precondition(lambda self: set(self.sessions) - set(self.closing))
    @rule(data=st.data(), by_error=st.booleans())
    def leave_a_session(self, data: st.DataObject, by_error: bool) -> None:
        session_id = data.draw(st.sampled_from(sorted(set(self.sessions) - set(self.closing))))
        session, lanes, _ = self.sessions[session_id]
        if not by_error:
            leaving = self.start(session.__aexit__(None, None, None))
            self.closing[session_id] = self.go(leaving)
            return
        del self.sessions[session_id]
        for lane in lanes:
            lane.closed = True
        for item in [item for lane in lanes for item in lane.waiting]:
            self.offer(item)
        self.go(session.__aexit__(AsToldError, AsToldError(), None))
        for lane in lanes:
            assert not lane.running

    @precondition(lambda self: self.letters and not self.stopped)
    @rule(data=st.data())
    def resend_a_dead_letter(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.letters) - 1))
        item, lane = self.letters[at]
        letter = list(self.bus.dead_letters)[at]
        if lane not in self.live():
            with pytest.raises(BusError, match="session"):
                self.go(self.bus.dead_letters.resend(letter.id))
            return
        del self.letters[at]
        lane.pending.append(item)
        self.go(self.bus.dead_letters.resend(letter.id))

    @precondition(lambda self: not self.stopped)
    @rule()
    def wait_until_idle(self) -> None:
        self.idles.append(self.go(self.start(self.bus.idle())))

    @precondition(lambda self: not self.stopped)
    @rule()
    def let_batches_be_due(self) -> None:
        self.go(self.clock.advance(WITHIN_S))
        for lane in self.live():
            assert lane.size is None or lane.running or not lane.pending

    @precondition(lambda self: not self.stopped and self.number > 5)
    @rule(patient=st.booleans())
    def stop(self, patient: bool) -> None:
        self.stopped = True
        if patient:
            self.stop_when_all_is_done()
        else:
            self.stop_now()

    @precondition(lambda self: self.stopped)
    @rule()
    def send_too_late(self) -> None:
        with pytest.raises(BusClosedError):
            self.go(self.bus.publish(Happened(n=0)))

    def stop_when_all_is_done(self) -> None:
        stopping = self.go(self.start(self.bus.stop(60)))
        for _, gate, _ in self.commands.values():
            gate.set_result("ok")
        self.commands.clear()
        self.settle()
        while runs := [run for lane in self.live() for run in lane.running]:
            runs[0].gate.set_result("ok")
            self.settle()
        assert not any(lane.busy for lane in self.live())
        assert stopping.result() == StopReport()

    def stop_now(self) -> None:
        lanes = [(model, lane) for model, lane in zip(self.live(), self.bus.lanes(), strict=True)]
        due, possible = Counter[str](), Counter[str]()
        for model, lane in lanes:
            items = model.pending + [item for run in model.running for item in run.items]
            due.update(f"{type(item.event).__name__} for {lane.name}" for item in items)
            # Who waits for room is refused, or is offered to all the lanes that were left.
            for item in model.waiting:
                name = type(item.event).__name__
                left = [lane for model, lane in lanes if model in [*item.lanes]]
                possible.update(f"{name} for {one.name}" for one in [lane, *left])

        self.cancels = True
        report = self.go(self.bus.stop(0))

        assert len(report.commands) == len(self.commands)
        assert due <= Counter(report.events) <= due + possible
        assert all(task.done() for task, _, _ in self.commands.values())
        for model, _ in lanes:
            assert not model.running
            model.closed = True
            model.pending.clear()
            model.waiting.clear()
        self.commands.clear()

    # What always holds.

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        for session_id, task in list(self.closing.items()):
            assert task.done() == (not any(one.busy for one in self.sessions[session_id][1]))
            if task.done():
                task.result()
                del self.sessions[session_id], self.closing[session_id]
        if not self.stopped:
            for model, lane in zip(self.live(), self.bus.lanes(), strict=True):
                assert lane.queued == len(model.pending)
                assert (lane.handled, lane.failed) == (model.handled, model.failed)
                assert lane.dropped == model.dropped
                self.nobody_waits_in_vain(model)
        assert [letter.message for letter in self.bus.dead_letters] == [
            item.event for item, _ in self.letters
        ]

    def nobody_waits_in_vain(self, lane: LaneModel) -> None:
        if lane.size is not None:
            assert lane.running or len(lane.pending) < lane.size
        else:
            assert not [item for item in lane.pending if lane.may_start(item)]
        assert not lane.waiting or len(lane.pending) >= lane.capacity

    @invariant()
    def idle_means_that_nothing_is_left(self) -> None:
        quiet = self.stopped or self.quiet()
        assert all(task.done() == quiet for task in self.idles)
        if quiet:
            self.idles.clear()
            names = [task.get_name() for task in asyncio.all_tasks(self.loop)]
            assert not [name for name in names if name != "own"]

    def teardown(self) -> None:
        try:
            if not self.stopped and self.bus.state == "running":
                self.stop_now()
            for session_id in set(self.sessions) - set(self.closing):
                self.go(self.sessions[session_id][0].__aexit__(None, None, None))
            self.settle()
            assert not [one for one in asyncio.all_tasks(self.loop) if one.get_name() != "own"]
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            with suppress(Exception):
                self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Handlers fail here by the thousand, each with a traceback in the log."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


TestBus = BusMachine.TestCase
TestBus.settings = settings(
    max_examples=5_000 if LONG else 120,
    stateful_step_count=80 if LONG else 40,
    suppress_health_check=list(HealthCheck),
)
