# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The bus itself: who handles what, how a message gets there, and how it all ends."""

from __future__ import annotations

import asyncio
import logging
from asyncio import current_task
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
)
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar
from uuid import uuid4

from ..clock import Clock, SystemClock
from ..errors import BusClosedError, BusError
from ..messages import (
    NO_METADATA,
    Command,
    CommandResult,
    Envelope,
    Event,
    Message,
    R,
    _current,
)
from ..threads import DaemonThreads
from .approvals import Approvals
from .doing import Postponed, current_doing
from .failures import FAILURES, CommandResultEvent, DeadLetters, tell_error, tell_result
from .handlers import (
    CommandHandler,
)
from .lane import CANCEL_TIMEOUT_S, TURNS, Lane, Tally, offer_to_each
from .registry import Registry
from .schedule import Scheduler
from .session import Session
from .streaming import stream

if TYPE_CHECKING:
    from ..delivery.journal import Journal
    from ..delivery.transport import Transport
    from .describe import BusDescription
    from .durable import Delivery
    from .remote import Remote

C = TypeVar("C", bound="Command[Any]")
E = TypeVar("E", bound=Event)
P = ParamSpec("P")
Q = TypeVar("Q")
T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StopReport:
    """What `stop` left undone: commands cancelled, events unseen, what was scheduled."""

    commands: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    scheduled: tuple[str, ...] = ()

    @property
    def drained(self) -> bool:
        return not (self.commands or self.events or self.scheduled)

    def summary(self) -> str:
        """How much of what, in one line."""
        left = Counter([*self.commands, *self.events, *self.scheduled])
        return ", ".join(f"{count} x {what}" for what, count in left.most_common(10))


class MessageBus(Registry):
    """Carries commands to their one handler and events to all of theirs.

    A command runs in its caller's task, so cancelling the caller cancels the handler. An event is
    queued in a bounded lane for each handler and `publish` returns.
    """

    def __init__(
        self,
        *,
        middleware: Iterable[Any] = (),
        traceparent: Callable[[], str | None] | None = None,
        clock: Clock | None = None,
        max_threads: int = 8,
        journal: Journal | None = None,
        transport: Transport | None = None,
        work: bool = True,
        lease_s: float = 10.0,
    ) -> None:
        """What it is built from; nothing is opened before `start`.

        Args:
            middleware: around every handler, the first one outermost.
            traceparent: the W3C trace context to put on what is sent.
            clock: the machine's if not given.
            max_threads: for handlers that are plain functions.
            journal: where durable messages are kept.
            transport: what carries messages to other machines.
            work: whether this process does what waits in the journal, or leaves it to others.
            lease_s: how long a worker may show no life until its work goes to another.
        """
        if max_threads < 1:
            raise BusError(f"max_threads is {max_threads}: plain functions need at least 1 thread.")
        super().__init__()
        self.clock = clock or SystemClock()
        self.tally = Tally()
        self.dead_letters = DeadLetters(self)
        self.approvals = Approvals(self)
        self.scheduler = Scheduler(self)
        self.schedule = self.scheduler.schedule
        self.middleware = tuple(middleware)
        self._traceparent = traceparent
        self._threads = DaemonThreads(max_threads, name="bus")
        self._sessions: dict[str, Session] = {}
        self._tells_results = False
        self._published = 0
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: dict[Envelope, asyncio.Task[Any] | None] = {}
        self.state = "new"
        self.works = work
        self.journal = journal
        self.transport = transport
        self.remote: Remote | None = None
        self.delivery: Delivery | None = None
        if journal is not None:
            from .durable import Delivery  # Only who keeps messages pays for it.

            self.delivery = Delivery(self, journal, work=work, lease_s=lease_s)
            self.approvals.keep(self.delivery)
        if transport is not None:
            from .remote import Remote

            self.remote = Remote(self, transport)

    # How a message gets its envelope; not a method, for every message pays for it.
    _enclose: Callable[..., Envelope] = Envelope

    # Sessions.

    def session(
        self,
        session_id: str | None = None,
        *,
        key: str | None = None,
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> Session:
        """A scope with handlers of its own: `async with bus.session() as session: ...`.

        Args:
            session_id: made up if not given.
            key: what its events are ordered by, its id if not given; sessions may share one.
            metadata: for the envelope of every message in the session, and what these cause.
        """
        return Session(self, session_id or uuid4().hex, key, metadata)

    def open_session(self, session: Session) -> None:
        if session.id in self._sessions:
            raise BusError(f"Session {session.id!r} is already open; give the new one another id.")
        self._sessions[session.id] = session

    def close_session(self, session: Session) -> None:
        del self._sessions[session.id]

    def enclose(self, message: Message, session_id: str | None) -> Envelope:
        """The message's envelope, caused by what is handled here.

        Raises:
            BusClosedError: the bus is not running.
        """
        cause, trace = _current.get(), self._traceparent
        self._check_open(message, cause)
        envelope = self._enclose(message, cause, session_id, None, trace and trace())
        if session := self._sessions.get(envelope.session_id or ""):
            session.mark(envelope)
        return envelope

    # Commands.

    async def execute(
        self,
        command: Command[R],
        *,
        session_id: str | None = None,
        idempotency_key: str | None = None,
        envelope: Envelope | None = None,
    ) -> R:
        """Run the command's handler here and return its result, or raise its error.

        Args:
            command: answered by its one handler, in the task that calls this.
            session_id: the session of the handler that this is called in, if not given.
            idempotency_key: what `Idempotency` knows the command by.
            envelope: the command's, where it is executed again as the same message.

        Raises:
            HandlerMissingError: nobody handles this command.
            BusClosedError: the bus is not running.
        """
        cause = _current.get()
        if self.state != "running":
            self._check_open(command, cause)
        if envelope is None:
            trace = self._traceparent
            envelope = self._enclose(command, cause, session_id, None, trace and trace())
        if idempotency_key is not None:
            envelope.mark(idempotency_key=idempotency_key)
        handler = self._commands.get(type(command))
        if handler is None or self._sessions:
            if session := self._sessions.get(envelope.session_id or ""):
                session.mark(envelope)
            handler = self._command_handler(command, envelope)
            if handler is None or command.durable:
                return await self._execute_elsewhere(command, envelope, handler)
        result: R = await self.run(handler, envelope)
        return result

    async def _execute_elsewhere(
        self, command: Command[R], envelope: Envelope, handler: CommandHandler | None
    ) -> R:
        """By way of the journal, or of the transport."""
        if command.durable:
            result: R = await self.keeper(type(command)).sending.execute(envelope, handler)
        else:
            assert self.remote is not None
            result = await self.remote.request(command, envelope)
        return result

    async def run(self, handler: CommandHandler, envelope: Envelope) -> Any:
        """Run the command's handler here, whatever else has to be done for the command."""
        self._running[envelope] = current_task(self._loop)
        token = _current.set(envelope)
        try:
            result = await handler.run(envelope.message)
            handler.handled += 1
        except Postponed:
            raise
        except BaseException as error:
            handler.failed += 1
            # What is cut off when the bus stops has not failed, if another worker will do it.
            cut_off = self.state == "stopping" and isinstance(error, asyncio.CancelledError)
            if not (cut_off and envelope.message.durable):
                tell_error(self, envelope, error)
            raise
        else:
            if self._tells_results or self._sessions:
                await tell_result(self, envelope, result)
            return result
        finally:
            _current.reset(token)
            del self._running[envelope]
            if self.tally.waiters:
                self.tally.wake()

    async def try_execute(
        self, command: Command[R], *, session_id: str | None = None
    ) -> CommandResult[R]:
        """As `execute`, with the handler's error returned instead of raised."""
        trace = self._traceparent
        envelope = self._enclose(command, _current.get(), session_id, None, trace and trace())
        try:
            value = await self.execute(command, envelope=envelope)
        except Exception as error:
            return CommandResult(error=error, envelope=envelope)
        return CommandResult(value=value, envelope=envelope)

    def stream(
        self, command: Command[AsyncIterator[T]], *, session_id: str | None = None
    ) -> AsyncIterator[T]:
        """What the command's handler yields, while it yields it.

        The handler runs in a task of its own, inside its middleware, and a few items ahead. Who
        stops reading cancels it.
        """
        return stream(self, command, session_id)

    # Events.

    async def publish(
        self,
        event: Event,
        *,
        key: str | None = None,
        session_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Offer the event to every handler of its class and of the classes above it.

        Events of one `key` (by default, of one session) reach each handler in order. Waits only
        for room in a full lane, and never when called from an event's handler.

        Raises:
            LaneFullError: a lane that rejects is full; the other handlers got the event.
            BusClosedError: the bus is not running.
        """
        self._published += 1
        if self._published % TURNS == 0:
            await asyncio.sleep(0)
        cause = _current.get()
        if self.state != "running":
            self._check_open(event, cause)
        trace = self._traceparent
        envelope = self._enclose(event, cause, session_id, key, trace and trace())
        envelope.deadline = None  # A fact has none, whatever its cause was given.
        if idempotency_key is not None:
            envelope.mark(idempotency_key=idempotency_key)
        lanes = self._routes.get(type(event))
        if lanes is None or self._sessions:
            if session := self._sessions.get(envelope.session_id or ""):
                session.mark(envelope)
            lanes = self.lanes_of(type(event), envelope.session_id)
            if (event.durable or event.logged) and self.delivery is not None:
                lanes = tuple(await self.delivery.sending.keep(envelope, lanes))
        full: tuple[Lane, ...] = ()
        for lane in lanes:
            if lane.queued >= lane.capacity or lane.restricted:
                full = (*full, lane)
            else:
                lane.put(envelope)
        if full:
            await offer_to_each(full, envelope)

    def tell(
        self,
        event_type: type[E],
        about: Envelope | None,
        make: Callable[[], E],
        session: Session | None = None,
    ) -> None:
        """Put an event of the bus's own, made only if anybody listens. It waits for nothing.

        Not of what came of a failure that was told already: that would have no end.
        """
        if self.state in {"new", "stopped"} or (about is not None and about.of_failure):
            return
        cause = about or _current.get()
        session_id = session.id if session else cause.session_id if cause else None
        lanes = self.lanes_of(event_type, session_id)
        log = self.delivery.log if self.delivery is not None and event_type.logged else None
        if not lanes and log is None:
            return
        envelope = Envelope(make(), cause, session_id)
        envelope.deadline = None
        if event_type in FAILURES:
            envelope.mark(of_failure=True)
        if session := session or self._sessions.get(session_id or ""):
            session.mark(envelope)
        if log is not None:
            log.put(envelope)
        for lane in lanes:
            if lane.wants(envelope) and lane.has_room():
                lane.put(envelope)

    def redeliver(self, lane: Lane, envelope: Envelope) -> None:
        """Put the event into that lane alone.

        Raises:
            BusError: the lane went with its session.
        """
        self._check_open(envelope.message, None)
        if lane not in self.lanes():
            raise BusError(f"{lane.name} is no longer registered: it went with its session.")
        lane.put(envelope)

    # Life.

    def _check_open(self, message: Message, cause: Envelope | None) -> None:
        # While it drains, the bus still serves the handlers that it waits for.
        if self.state == "running" or (self.state == "stopping" and cause is not None):
            return
        fix = "await bus.start() first" if self.state == "new" else "it takes no more work"
        raise BusClosedError(f"{type(message).__name__!r} refused: the bus is {self.state}; {fix}.")

    async def start(self) -> None:
        """Take work from now on; nothing can be registered any more, but in sessions.

        Raises:
            BusStartError: with the list of everything that is wrong with what was registered.
        """
        if self.state != "new":
            raise BusError(f"The bus cannot start: it is {self.state}.")
        self._loop = asyncio.get_running_loop()
        self.compile_all()
        self._tells_results = bool(self.matching(CommandResultEvent))
        if self.delivery is not None:
            await self.delivery.start()
        self.state = "running"
        if self.remote is not None:
            await self._start_remote(self.remote)

    async def _start_remote(self, remote: Remote) -> None:
        try:
            await remote.start()
        except BaseException:
            await self.stop(0)
            raise

    def call_from_thread(
        self, method: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a method of the bus from another thread, and wait there for what it returns.

        As in `bus.call_from_thread(bus.execute, Ask(...))`. What is sent from the thread of a
        handler is linked to its cause.

        Raises:
            BusClosedError: the bus is not running.
            BusError: called from the bus's own thread, where it would wait for itself.
        """
        loop = self._loop
        if loop is None or loop.is_closed() or self.state == "stopped":
            raise BusClosedError(f"The bus is {self.state}; it can be called while it runs.")
        with suppress(RuntimeError):
            if asyncio.get_running_loop() is loop:
                raise BusError("In the bus's own thread, await the method itself.")
        with self._threads.waiting():
            return asyncio.run_coroutine_threadsafe(method(*args, **kwargs), loop).result()

    async def idle(self) -> None:
        """Wait until no command runs and no event waits or runs: an exact count, not a timer.

        Batches that still gather are handed over.

        Raises:
            BusError: called from a handler, which would wait for itself.
        """
        task = asyncio.current_task()
        handles = _current.get() in self._running or current_doing() is not None
        if handles or any(task in lane.workers for lane in self.lanes()):
            raise BusError(
                "A handler cannot wait for the bus to be idle: it would wait for itself."
            )
        await self._drain()
        while self.delivery is not None and (await self.delivery.has_due() or self.tally.busy):
            if not self.tally.busy:
                await self.delivery.news()
            await self._drain()

    async def _drain(self) -> None:
        while self._running or self.tally.busy:
            for lane in self.lanes():
                lane.flush()
            await self.tally.change()

    # What `describe` reads.

    def describe(self) -> BusDescription:
        """Everything registered, with counters as they stand now."""
        from .describe import describe  # Not needed to run, and its imports are not free.

        return describe(self)

    @property
    def running(self) -> int:
        """How many commands run now."""
        return len(self._running)

    def sessions(self) -> list[Session]:
        """The sessions that are open."""
        return list(self._sessions.values())

    async def stop(self, grace_s: float = 15.0) -> StopReport:
        """Refuse new work, finish what there is, and cancel what is not done after `grace_s`.

        Returns what was left undone, which is also logged. Stopping again waits for the first.
        """
        if self.state == "stopping":
            await self._stopped.wait()
        if self.state != "running":
            self.state = "stopped"
            return StopReport()
        self.state = "stopping"
        report = StopReport(scheduled=self.scheduler.stop())
        try:
            async with asyncio.timeout(grace_s):
                if self.delivery is not None:
                    await self.delivery.drain()
                if self.remote is not None:
                    await self.remote.drain()
                await self._drain()
        except (TimeoutError, asyncio.CancelledError) as ended:
            report = await self._abandon(report)
            if isinstance(ended, asyncio.CancelledError):
                raise
        finally:
            if not report.drained:
                logger.warning("Stopped with work left: %s", report.summary())
            self.state = "stopped"
            self._threads.close()
            try:
                if self.transport is not None:
                    await self.transport.aclose()
            finally:
                try:
                    if self.delivery is not None:
                        await self.delivery.stop()
                finally:
                    self._stopped.set()
        return report

    async def _abandon(self, report: StopReport) -> StopReport:
        if self.delivery is not None:
            self.delivery.abandon()
        commands = [type(envelope.message).__name__ for envelope in self._running]
        lanes = self.lanes()
        # All at once and first: whatever the cancelled ones still say is left undone as well.
        for lane in lanes:
            lane.close()
        tasks = {task for task in self._running.values() if task is not None}
        for task in tasks - {current_task()}:
            task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                while self._running or self.tally.busy:
                    await self.tally.change()
        events = [
            f"{type(one.message).__name__} for {lane.name}" for lane in lanes for one in lane.left
        ]
        return replace(report, commands=tuple(commands), events=tuple(events))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()
