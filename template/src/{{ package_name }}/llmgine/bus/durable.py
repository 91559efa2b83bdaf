# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The bus's work on its journal: what is durable is kept first, then done, by one worker each."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import replace
from functools import partial
from time import time_ns
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from pydantic.errors import PydanticUserError

from ..clock import SystemClock, Timer, sleep
from ..delivery.journal import (
    SUSPECT_LOSSES,
    Appended,
    Entry,
    Journal,
    LoggedEvent,
    Outcome,
    State,
    Worker,
)
from ..delivery.wire import Catalogue, error_data, result_adapter, result_json
from ..errors import BusError, DeliveryError, JournalError, MessageUnreadableError, WorkerLostError
from ..messages import Command, Envelope, Event, Message, _current, schema_name
from .doing import Doing, Postponed, doing
from .eventlog import EventLog
from .failures import tell_dead
from .handlers import CommandHandler
from .lane import CANCEL_TIMEOUT_S, Lane, offer_to_each
from .route import Handle, Route, Work
from .sending import Sending
from .upkeep import Health, Upkeep

if TYPE_CHECKING:
    from .bus import MessageBus
    from .remote import Remote

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Commands of one class that one process runs at once.
CONCURRENCY = 128
# Entries of which this process knows when they fall due; the others are found by looking.
MAX_TIMERS = 1_000
# Entries that are claimed at a time.
MAX_CLAIMED = 500
# An entry that lost its worker so often is dead: it may be what ended them.
MAX_LOSSES = 5
# How often to look for work that no notice came of.
POLL_S = 0.5
# How soon to look again after a notice, for under load each commit brings one.
NOTICE_S = 0.02


class Delivery:
    """Works the journal, together with every other process that does.

    Without `work` it only does what is executed here, and leaves the rest to others.
    """

    def __init__(self, bus: MessageBus, journal: Journal, *, work: bool, lease_s: float) -> None:
        if lease_s <= 0:
            raise BusError(f"lease_s is {lease_s:g}: it must be positive.")
        self.bus = bus
        self.journal = journal
        self.catalogue = Catalogue()
        self.routes: dict[str, Route] = {}
        self.worker = Worker(
            id=uuid4().hex, name=f"{socket.gethostname()}:{os.getpid()}", started_ns=self.now_ns()
        )
        self.log = EventLog(self)
        self.upkeep = Upkeep(self, lease_s)
        self.remote: Remote | None = None
        # The entries that are done here, or are about to be, by their ids.
        self.held: dict[str, Entry] = {}
        self.troubles: dict[str, str] = {}
        self._work = work
        self._draining = self._stopping = False
        self._lanes: dict[Lane, str] = {}
        # The route, handler and class of all that is durable and handled here.
        self.handles: list[tuple[str, Handle, type[Message]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._claiming = asyncio.Lock()
        # The routes that had no room for all there may be.
        self._hungry: set[str] = set()
        self._suspect_in_hand = False
        self._notice = asyncio.Event()
        # Who waits for an entry to be settled.
        self._waiting: dict[str, list[asyncio.Event]] = {}
        self._timers: set[Timer] = set()
        self.sending = Sending(self)

    async def health(self) -> Health:
        """How things stand now; never raises."""
        return await self.upkeep.health()

    def now_ns(self) -> int:
        """The wall clock."""
        clock = self.bus.clock
        # Many times as fast, and every message asks several times.
        return time_ns() if type(clock) is SystemClock else int(clock.now().timestamp() * 1e9)

    # What is registered, before the start.

    def add_command(self, handler: CommandHandler) -> None:
        """Raises: BusError: another class has its name, or its results cannot be stored."""
        wanted: Any = handler.binding.message_type
        self.know(wanted)
        try:
            result_adapter(wanted)
        except PydanticUserError as error:
            raise BusError(
                f"Results of {wanted.__name__} cannot be stored: {error.message.splitlines()[0]}"
            ) from error

        async def handle(envelope: Envelope) -> Any:
            return await self.bus.run(handler, envelope)

        name = f"command {schema_name(wanted)}"
        self.handles.append((name, handle, wanted))
        self.add_route(name, CONCURRENCY, handle)

    def add_lane(self, event_type: type[Event], lane: Lane) -> None:
        """Raises: BusError: another subscription has its name, or it is one of batches."""
        self.know(event_type)
        name = lane.name
        if lane.binding.batch is not None:
            raise BusError(
                f"{name} takes {event_type.__name__} in batches, but each durable event is "
                "handled and kept by itself. Register a handler of single events."
            )
        if f"event {name}" in self.routes:
            raise BusError(
                f"Two subscriptions of durable events are called {name!r}, and the journal could "
                "not tell them apart. Give one of them another: name=..."
            )

        async def handle(envelope: Envelope) -> None:
            try:
                await lane.run(envelope.message)
            except Exception:
                lane.failed += 1
                raise
            lane.handled += 1

        self._lanes[lane] = f"event {name}"
        self.handles.append((f"event {name}", handle, event_type))
        self.add_route(f"event {name}", lane.concurrency, handle)

    def add_route(self, name: str, limit: int, handle: Handle) -> None:
        """Do the entries of that route by this handler."""
        self.add_work(name, limit, partial(self._work_on, handle))

    def add_work(self, name: str, limit: int, work: Work) -> None:
        """Let `work` do the entries of that route, settle them and let go of them."""
        self.routes[name] = Route(name, limit, work)

    def know(self, message_type: type[Command[Any] | Event]) -> None:
        """Be able to read such messages. Raises: BusError: another class has the name."""
        if other := self.catalogue.add(message_type):
            raise BusError(
                f"{message_type.__module__}.{message_type.__qualname__} and {other.__module__}."
                f"{other.__qualname__} are both stored as {schema_name(message_type)!r}. Give one "
                "of them a schema_name of its own."
            )

    def route_of(self, lane: Lane) -> str | None:
        """The route of a subscription to durable events; `None` for one that only hears them."""
        return self._lanes.get(lane)

    # Life.

    @property
    def working(self) -> bool:
        """Whether this process takes work from the journal."""
        return self._work and not self._draining

    async def start(self) -> None:
        """Open the journal and begin to work it. Raises: JournalError."""
        if self._work:
            self.worker.routes = tuple(self.routes)
        try:
            await self.journal.open()
            await self.upkeep.begin()
        except BaseException:
            await self.journal.aclose()
            raise
        loops: list[Callable[[], Awaitable[None]]] = [self.upkeep.turn, self._watch]
        if self._work:
            loops.append(self._claim)
        self._tasks = [
            asyncio.get_running_loop().create_task(self._again_and_again(one), context=Context())
            for one in loops
        ]

    async def _again_and_again(self, turn: Callable[[], Awaitable[None]]) -> None:
        """Take turns for as long as the bus runs, whatever becomes of the journal."""
        # Each has its own troubles: a journal that cannot be written may still be read.
        where, wait_s = getattr(turn, "__qualname__", ""), 0.1
        while True:
            try:
                await turn()
            except DeliveryError as error:
                self.trouble(where, error)
                await sleep(self.bus.clock, wait_s)
                wait_s = min(wait_s * 2, 2.0)
            except Exception:
                logger.exception("Working the journal failed; it goes on")
                await sleep(self.bus.clock, 1.0)
            else:
                self.troubles.pop(where, None)
                wait_s = 0.1

    def trouble(self, where: str, error: Exception) -> None:
        """Not healthy until it is over; logged once."""
        if where not in self.troubles:
            logger.error("%s", error)
        self.troubles[where] = str(error)

    async def drain(self) -> None:
        """Claim nothing more, and leave to others what did not begin yet."""
        self._draining = True
        async with self._claiming:  # What is just being claimed comes in before.
            waiting = [
                (route, entry) for route in self.routes.values() for entry in route.take_waiting()
            ]
        for route, entry in waiting:
            self.let_go(route, entry)
            await self.give_back(entry)

    def abandon(self) -> None:
        """From now on, what is cancelled is left to others, and not failed."""
        self._stopping = True

    async def stop(self) -> None:
        """Leave what is still in hand to others, and the journal."""
        self.abandon()
        running = {task for route in self.routes.values() for task in route.cancel()}
        for task in self._tasks:
            task.cancel()
        for timer in self._timers:
            timer.cancel()
        try:
            if running or self._tasks:
                await asyncio.wait({*running, *self._tasks}, timeout=CANCEL_TIMEOUT_S)
            await self.log.flush()
            await self.journal.release(self.worker.id, lost=False)
        except JournalError as error:
            logger.warning("What was in hand waits until this worker's absence is seen: %s", error)
        finally:  # For a caller who is cancelled, too.
            await self.journal.aclose()

    # Claiming.

    async def accept(
        self,
        entries: Sequence[Entry],
        events: Sequence[LoggedEvent] = (),
        *,
        owner: str | None = None,
    ) -> list[Appended]:
        """Append what is sent here; a stop waits until it is known what became of it."""
        self.bus.tally.add()
        try:
            return await self.journal.append(entries, events, owner=owner)
        finally:
            self.bus.tally.remove()

    def owner_for(self, entries: Sequence[Entry]) -> str | None:
        """Who owns what is appended now: this process, unless it has its hands full."""
        if not self.working:
            return None
        for one in entries:
            route = self.routes.get(one.route)
            if route is None or route.in_hand >= route.capacity or route.is_busy(one.key):
                return None
        return self.worker.id

    def begin(self, entries: Sequence[Entry], appended: Sequence[Appended]) -> None:
        """Do what was appended here and is owned here."""
        for entry, became in zip(entries, appended, strict=True):
            if became == "owned" and not self._stopping:
                entry.state, entry.owner, entry.attempt = "running", self.worker.id, 1
                self._take(entry)
            elif became == "queued":
                self.wake_at(entry.due_ns)

    def wake_at(self, due_ns: int) -> None:
        """Look for work when that entry is due."""
        wait_s = (due_ns - self.now_ns()) / 1e9
        if wait_s <= 0:
            self._wake.set()
        elif len(self._timers) < MAX_TIMERS:
            clock = self.bus.clock

            def fell_due() -> None:
                self._timers.discard(timer)
                self._wake.set()

            timer = clock.call_at(clock.monotonic() + wait_s, fell_due)
            self._timers.add(timer)

    def _take(self, entry: Entry) -> None:
        route = self.routes[entry.route]
        route.in_hand += 1
        self.held[entry.id] = entry
        self.bus.tally.add()
        route.put(entry)

    def let_go(self, route: Route, entry: Entry) -> None:
        """The entry is no longer in hand."""
        route.in_hand -= 1
        self.loosen(entry)
        self.bus.tally.remove()
        if route.name in self._hungry and route.in_hand <= route.capacity * 3 // 4:
            self._wake.set()

    def loosen(self, entry: Entry) -> None:
        """It is not done here any more, unless it was claimed again meanwhile."""
        if self.held.get(entry.id) is entry:
            del self.held[entry.id]

    @property
    def in_hand(self) -> int:
        """Entries that this process does, or is about to do."""
        return sum(route.in_hand for route in self.routes.values())

    async def _claim(self) -> None:
        self._wake.clear()
        self._hungry.clear()
        async with self._claiming:
            found = await self._claimed(suspects=False)
            if not self._suspect_in_hand and self.upkeep.suspects_wait:
                suspects = await self._claimed(suspects=True)
                self._suspect_in_hand = self.upkeep.suspects_wait = bool(suspects)
                found += suspects
        self._hungry = {one.name for one in self.routes.values() if one.in_hand >= one.capacity}
        if not found or self._hungry:
            await self._wake.wait()

    async def _claimed(self, *, suspects: bool) -> list[Entry]:
        room = {one.name: one.capacity - one.in_hand for one in self.routes.values()}
        room = {name: 1 if suspects else count for name, count in room.items() if count > 0}
        if not self.working or not room:
            return []
        limit = 1 if suspects else MAX_CLAIMED
        claimed = await self.journal.claim(
            self.worker.id, room, limit, self.now_ns(), suspects=suspects
        )
        for entry in claimed:  # At once, or a later one of its key might come before.
            self._take(entry)
        return claimed

    async def _watch(self) -> None:
        await self.journal.changed(POLL_S)
        self._wake.set()
        self._notice.set()
        self._notice = asyncio.Event()
        await asyncio.sleep(NOTICE_S)

    async def has_due(self) -> bool:
        """Whether anything waits that this process would do now."""
        if not self.working:
            return False
        async with self._claiming:
            stats = await self.journal.stats(self.now_ns())
        return any(one.oldest_due_ns is not None and one.route in self.routes for one in stats)

    async def news(self, entry_id: str | None = None, within_s: float | None = None) -> None:
        """Return when something changed, or that entry was settled here, or after a while."""
        event = self._notice
        if entry_id is not None:
            event = asyncio.Event()
            self._waiting.setdefault(entry_id, []).append(event)
        try:
            async with asyncio.timeout(POLL_S if within_s is None else min(within_s, POLL_S)):
                await event.wait()
        except TimeoutError:
            return
        finally:
            if entry_id is not None and (waiting := self._waiting.get(entry_id)):
                waiting.remove(event)
                if not waiting:
                    del self._waiting[entry_id]

    # Doing.

    async def _work_on(self, handle: Handle, route: Route, entry: Entry) -> None:
        """Do an entry that nobody here waits for."""
        postponed = False
        try:
            if (envelope := await self._read(entry)) is not None:
                settle = None if entry.key is None else partial(self.settle_at, route)
                await self.do(entry, envelope, handle, called=False, settle=settle)
        except Postponed:
            postponed = True
        except (Exception, CancelledError) as error:
            if self._stopping:
                raise
            logger.error("%s failed on %s %s", route.name, entry.name, entry.id, exc_info=error)
        finally:
            self.over(route, entry, postponed=postponed)

    async def _read(self, entry: Entry) -> Envelope | None:
        """The message to be handled; `None` if it cannot be, which is then its end."""
        try:
            if entry.losses >= MAX_LOSSES:
                raise WorkerLostError(entry.name, losses=entry.losses)
            return self.catalogue.read(entry)
        except MessageUnreadableError as error:
            logger.error("Parked %s %s: %s", entry.name, entry.id, error)
            await self.settle(entry, self.ended("parked", error))
        except WorkerLostError as error:
            logger.error("%s", error)
            await self.settle(entry, self.ended("dead", error))
        return None

    def over(self, route: Route, entry: Entry, *, postponed: bool = False) -> None:
        """The entry is no longer in hand, and the next of its key goes on."""
        if entry.losses >= SUSPECT_LOSSES:
            self._suspect_in_hand = False
            self.upkeep.suspects_wait = True
            self._wake.set()
        if not postponed:
            route.next_of_key(entry)
        self.let_go(route, entry)

    async def settle_at(self, route: Route, entry: Entry, outcome: Outcome) -> bool:
        """As `settle`. What waits behind an entry that is postponed goes back with it."""
        if entry.key is None or outcome.state not in {"ready", "waiting"}:
            return await self.settle(entry, outcome)
        async with self._claiming:  # Or what is given back could be claimed in another order.
            behind = route.leave_key(entry)
            kept = await self.settle(entry, replace(outcome, give_back=behind))
        for one in behind:
            self.let_go(route, one)
        return kept

    async def give_back(self, entry: Entry) -> None:
        """Leave it to whoever claims it next, as if it had not been handed out."""
        await self.settle(entry, Outcome(state="ready", at_ns=self.now_ns(), counts=False))

    def ended(self, state: State, error: BaseException) -> Outcome:
        """What to commit of an entry that ends that way, now."""
        return Outcome(state=state, at_ns=self.now_ns(), error=error_data(error))

    def _postponed(self, one: Doing, later: Postponed) -> Outcome:
        at_ns, wait_ns = self.now_ns(), int((later.wait_s or 0) * 1e9)
        return Outcome(
            state=later.state,
            at_ns=at_ns,
            note=json.dumps(one.note) if one.note else None,
            due_ns=at_ns + wait_ns if later.wait_s is not None else 0,
            wait_ns=wait_ns,
            error=error_data(later.error) if later.error is not None else None,
        )

    async def do(
        self,
        entry: Entry,
        envelope: Envelope,
        handle: Handle,
        *,
        called: bool,
        settle: Callable[[Entry, Outcome], Awaitable[bool]] | None = None,
    ) -> Any:
        """Run the handler and commit how it ended, with everything it sent.

        `called`: somebody waits for it, and will be told if it fails. `settle` commits an entry
        that is not the journal's own.

        Raises:
            Postponed: it will be handled again.
            Exception: what the handler raised.
        """
        settle = settle or self.settle
        one = Doing(entry, envelope.message)
        key = envelope.idempotency_key or entry.id
        envelope.mark(attempt=entry.attempt, idempotency_key=key)
        token, caused = doing.set(one), _current.set(envelope)
        try:
            try:
                result = await handle(envelope)
            finally:
                one.closed = True  # What a task of the handler still sends goes by itself.
            text = None
            if isinstance(envelope.message, Command):
                text = result_json(type(envelope.message), result)
            outcome = Outcome(
                state="done",
                at_ns=self.now_ns(),
                result=text,
                outbox=one.outbox,
                events=one.events,
                writes=one.writes,
            )
            kept = await self._commit(one, outcome, settle)
        except Postponed as later:
            outcome = self._postponed(one, later)
            if await settle(entry, outcome):
                for tell in one.told:
                    tell()
                if later.state == "ready":
                    self.wake_at(outcome.due_ns)
            raise
        except (Exception, CancelledError) as error:
            if not self._stopping or not isinstance(error, CancelledError):
                await settle(entry, self.ended("failed" if called else "dead", error))
                if not called:
                    tell_dead(self.bus, envelope, entry.id, entry.route, error)
            raise
        finally:
            doing.reset(token)
            _current.reset(caused)
        if kept:
            self._tell(one, outcome)
        return result

    async def _commit(
        self, one: Doing, outcome: Outcome, settle: Callable[[Entry, Outcome], Awaitable[bool]]
    ) -> bool:
        kept, outcome.events = False, self.log.take(one.events)
        try:
            kept = await settle(one.entry, outcome)
        finally:
            if not kept:
                self.log.put_back(outcome.events, one.events)
        return kept

    def _tell(self, one: Doing, outcome: Outcome) -> None:
        if outcome.outbox:
            self._wake.set()
        for envelope, lanes in one.after:
            task = asyncio.get_running_loop().create_task(
                offer_to_each(lanes, envelope), context=Context()
            )
            self.bus.tally.add()
            task.add_done_callback(lambda _: self.bus.tally.remove())

    async def settle(self, entry: Entry, outcome: Outcome) -> bool:
        """Commit it, however long the journal is away; `False` if another worker has the entry."""
        if self.remote is not None:
            outcome = self.remote.with_result(entry, outcome)
        try:
            kept = await self.journal.settle(entry, outcome)
        except JournalError:
            kept = await self._insist(lambda: self.journal.settle(entry, outcome))
        if not kept:
            logger.warning(
                "%s %s was done here, but another worker has it by now: this one was taken for "
                "lost. Its handler may block the event loop.",
                entry.name,
                entry.id,
            )
        self.tell_settled(entry.id)
        return kept

    async def append_all(
        self,
        entries: Sequence[Entry],
        events: Sequence[LoggedEvent],
        writes: Sequence[Callable[[Any], Any]],
    ) -> bool:
        """Append them, however long the journal is away; `False` if the first was there before."""
        became = await self._insist(lambda: self.journal.append(entries, events, writes=writes))
        self.wake_at(0)
        return became[0] != "duplicate"

    def tell_settled(self, entry_id: str) -> None:
        """Wake who waits for that entry."""
        for waiting in self._waiting.get(entry_id, ()):
            waiting.set()

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        wait_s = 0.1
        while True:
            try:
                done = await call()
                self.troubles.pop("settling", None)
                return done
            except JournalError as error:
                self.trouble("settling", error)
                if self._stopping:
                    raise
            await sleep(self.bus.clock, wait_s)
            wait_s = min(wait_s * 2, 2.0)
