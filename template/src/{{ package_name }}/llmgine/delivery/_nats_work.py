# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""How a process takes messages from NATS, hands them to the bus, and tells the server the outcome.

A `Pulled` is one `Source` of a stream's messages: it has a `Puller` per durable consumer, and as
many workers as it needs. An `Asked` is one source of requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..errors import (
    MessageTooLargeError,
    MessageUnreadableError,
    TransportError,
    WorkerLostError,
)
from ._nats_names import token
from .transport import Again, Dead, Deliver, Done, Source, Verdict, unpack
from .wire import error_data

if TYPE_CHECKING:
    from .nats import NatsTransport

logger = logging.getLogger(__name__)

PULL_S = 30.0
LATE_S = 5.0
REMEMBERED = 1_000
QUICK_S = 0.002
AHEAD = 16
"""So many times more messages are taken ahead while handling each takes less than `QUICK_S`."""
PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
TRY_AGAIN_S = 1.0
LEAVE_S = 2.0

CLAIM = "Llmgine-Claim"
"""The content is in the object store, under that name."""
CANCEL = "cancel"
HANDLERS = "handlers"
"""The queue group of all who handle requests: each comes to one of them."""
REQUEST = "Llmgine-Request"
TIMEOUT = "Llmgine-Timeout"
FAILED = "Llmgine-Failed"
"""The answer is what a `Dead` held."""
LEFT = "Llmgine-Left"
"""No answer: the handler was cancelled because its process stops."""


class Loop:
    """Work that begins again when the connection does, and after each failure."""

    def __init__(self, transport: NatsTransport, name: str) -> None:
        self.transport = transport
        self.name = name
        self.stale = asyncio.Event()
        self.stopping = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"nats {self.name}")

    async def end(self) -> None:
        self.stopping = True
        self.stale.set()
        if self._task is not None:
            # Where nats-py waits by `asyncio.wait_for`, Python 3.11 may lose it: hence the flags.
            self._task.cancel()
            await asyncio.wait([self._task])
        self.transport.recovered(self.name)

    async def _run(self) -> None:
        pause_s = PAUSE_S
        while not self.stopping:
            self.stale.clear()
            await self.transport.ready.wait()
            began = time.monotonic()
            try:
                await self.work(await self.transport.connected())
            except Exception as error:  # Whatever it is, the work must go on.
                if self.transport.ready.is_set():
                    self.transport.trouble(self.name, error)
                if time.monotonic() - began > LONGEST_PAUSE_S:
                    pause_s = PAUSE_S
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def work(self, client: Any) -> None:
        """Return as soon as it is stale."""
        raise NotImplementedError

    async def leave(self, client: Any, *subscriptions: Any) -> None:
        """Take no more; what was on its way still comes."""
        errors = self.transport.library.errors
        for one in subscriptions:
            with contextlib.suppress(errors.Error, TimeoutError, OSError):
                if self.transport.ready.is_set() and not client.is_closed:
                    async with asyncio.timeout(LEAVE_S):
                        await one.drain()
                else:
                    await one.unsubscribe()


@dataclass(slots=True, eq=False)
class Handed:
    """A message that the server handed out to this process."""

    puller: Puller
    seq: int
    deliveries: int
    time_ns: str
    message: Any

    @property
    def place(self) -> tuple[int, str]:
        """Where it stands in its stream; a stream made anew counts from 1 again."""
        return self.seq, self.time_ns

    @property
    def reply(self) -> str:
        return str(self.message.reply)

    @property
    def claim(self) -> str | None:
        """What the object store keeps its content under, if it does."""
        return (self.message.headers or {}).get(CLAIM)


class Puller(Loop):
    """Takes the messages of one durable consumer, no more than can be handled soon."""

    def __init__(
        self, work: Pulled, name: str, subjects: list[str], *, batch: int, ordered: bool
    ) -> None:
        super().__init__(work.transport, name)
        self.in_hand: dict[int, Handed] = {}
        self._work_of = work
        self._stream = work.transport.stream(work.kind)
        self._subjects = subjects
        self._batch = batch
        self._ordered = ordered
        self._asked = 0
        self._heard = 0.0
        self._trouble = ""
        self._settled = False
        self._over: dict[tuple[int, str], None] = {}
        self._inbox = ""
        self._client: Any = None
        self._well_ns: int | None = None

    async def ensure(self, *, first: bool) -> None:
        """Make the consumer, if it is not there; at the first time, bring it up to date."""
        streams = self.transport.streams
        settings = {
            "filter_subjects": self._subjects,
            "ack_wait": self.transport.ack_wait_s,
            "max_ack_pending": 1 if self._ordered else -1,
            "max_deliver": -1,
            # A consumer of commands stays, for it knows which of them are done.
            "inactive_threshold": 0 if self._work_of.kind == "command" else self.transport.keep_s,
        }
        try:
            info = await streams.consumer_info(self._stream, self.name)
        except self.transport.library.js.errors.NotFoundError:
            await streams.add_consumer(
                self._stream,
                durable_name=self.name,
                name=self.name,
                ack_policy="explicit",
                **self._beginning(),
                **settings,
            )
        else:
            now = info.config
            filters = now.filter_subjects or [now.filter_subject]
            if first and (sorted(filters), now.ack_wait) != (
                sorted(self._subjects),
                self.transport.ack_wait_s,
            ):
                changed = now.evolve(**{**settings, "filter_subject": None})
                await streams.add_consumer(self._stream, changed)

    def _beginning(self) -> dict[str, Any]:
        if self._work_of.kind != "event":
            return {"deliver_policy": "all"}
        if self._well_ns is None:
            return {"deliver_policy": "new"}
        # The server lost the consumer: hand out again what may not have been handled.
        since_s = self._well_ns / 1e9 - 2 * self.transport.ack_wait_s
        start = datetime.fromtimestamp(since_s, UTC)
        return {"deliver_policy": "by_start_time", "opt_start_time": start}

    async def work(self, client: Any) -> None:
        await self.ensure(first=False)
        self._well_ns = time.time_ns()
        self._client, self._inbox = client, client.new_inbox()
        subscription = await client.subscribe(self._inbox, cb=self._arrived)
        self._asked, self._heard, self._trouble = 0, time.monotonic(), ""
        try:
            await self.refill()
            while not self.stale.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LATE_S):
                        await self.stale.wait()
                if not self._trouble:
                    self.transport.recovered(self.name)
                    self._well_ns = time.time_ns()
                    await self.sweep()
                silent_s = time.monotonic() - self._heard
                if self._asked and silent_s > PULL_S + LATE_S:
                    raise TransportError("the server does not answer")
            if self._trouble:
                raise TransportError(self._trouble)
        finally:
            await self.leave(client, subscription)

    async def sweep(self) -> None:
        """Delete what is handled, if nobody else is to have it."""
        if self._work_of.kind == "event" or not self._settled:
            return
        self._settled = False
        info = await self.transport.streams.consumer_info(self._stream, self.name)
        await self.transport.streams.purge_stream(
            self._stream, subject=self._subjects[0], seq=info.ack_floor.stream_seq + 1
        )

    def settled(self, one: Handed, verdict: Verdict) -> None:
        self.in_hand.pop(one.seq, None)
        self._settled = True
        if isinstance(verdict, Done):
            self._over[one.place] = None
            if len(self._over) > REMEMBERED:
                del self._over[next(iter(self._over))]

    async def refill(self) -> None:
        """Ask for as many as there is room for, once it is worth asking."""
        ahead = AHEAD if self._work_of.quick and not self._ordered else 1
        wanted = self._batch * ahead - self._asked - len(self.in_hand)
        enough = max(1, self._batch * ahead // 2)
        if self.stopping or wanted < enough or not self.transport.ready.is_set():
            return
        if not self._asked:
            self._heard = time.monotonic()
        self._asked += wanted
        pull = {"batch": wanted, "expires": int(PULL_S * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self.name}"
        try:
            await self._client.publish(subject, json.dumps(pull).encode(), self._inbox)
        except self.transport.library.errors.Error as error:
            self._trouble = str(error)
            self.stale.set()

    async def _arrived(self, message: Any) -> None:
        self._heard = time.monotonic()
        reply: str = message.reply
        if not reply:
            await self._told(message.headers or {})
            return
        self._asked = max(self._asked - 1, 0)
        # $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<seq>.<seq>.<time>.<left>
        # Source: https://docs.nats.io/reference/reference-protocols/nats_api_reference
        parts = reply.split(".")
        at = 4 if len(parts) == 9 else 6
        deliveries, seq, time_ns = int(parts[at]), int(parts[at + 1]), parts[at + 3]
        one = Handed(self, seq, deliveries, time_ns, message)
        if self.stopping:
            await self._work_of.hand_back(one)
        elif one.place in self._over:  # A server that was killed forgets what it was told last.
            await self.transport.tell(reply, b"+ACK")
            await self.refill()
        elif one.seq not in self.in_hand:  # Else it was given up for lost, and is being handled.
            self.in_hand[one.seq] = one
            self._work_of.take(one)

    async def _told(self, headers: dict[str, str]) -> None:
        status = headers.get("Status")
        if status == "408":  # The time of one pull is over.
            self._asked = max(self._asked - int(headers.get("Nats-Pending-Messages", 0)), 0)
            await self.refill()
        elif status != "100":
            self._trouble = headers.get("Description") or f"its consumer is gone (status {status})"
            self.stale.set()


class Pulled:
    """One source of commands, events or results."""

    def __init__(self, transport: NatsTransport, source: Source, deliver: Deliver) -> None:
        self.transport = transport
        self._deliver = deliver
        self._concurrency = source.concurrency
        self.kind = source.addresses[0].kind
        self._group = source.group
        self._waiting: deque[Handed] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._spawned = False
        self.quick = False
        self._pullers = list(self._consumers(source))

    def _consumers(self, source: Source) -> Iterable[Puller]:
        names = sorted({token(one.name) for one in source.addresses})
        # Events come to the group; a command or a result to one of all who take that name.
        owners = {token(self._group): names} if self.kind == "event" else {n: [n] for n in names}
        fair = max(1, source.concurrency // len(owners))
        for owner, these in owners.items():
            for shard in ("any", *map(str, range(self.transport.shards))):
                subjects = [f"{self.transport.prefix}.{self.kind}.{n}.{shard}" for n in these]
                batch = fair if shard == "any" else 1
                ordered = shard != "any"
                yield Puller(self, f"{owner}-{shard}", subjects, batch=batch, ordered=ordered)

    async def start(self) -> None:
        await asyncio.gather(*(one.ensure(first=True) for one in self._pullers))
        for one in self._pullers:
            one.begin()

    def renew(self) -> None:
        for one in self._pullers:
            one.stale.set()

    def replies(self) -> list[str]:
        return [handed.reply for one in self._pullers for handed in list(one.in_hand.values())]

    async def stop(self) -> None:
        """Hand back what was not begun, and wait for the rest."""
        await asyncio.gather(*(one.end() for one in self._pullers))
        while self._waiting:
            await self._settle(self._waiting.popleft(), Again(0.0))
        while self._workers:
            await asyncio.wait(self._workers)

    async def abandon(self) -> None:
        for one in self._pullers:
            one.stopping = True
        for task in list(self._workers):
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self.stop()

    def take(self, one: Handed) -> None:
        self._waiting.append(one)
        self._spawn()

    def _spawn(self) -> None:
        # One at a time: it may do everything before another would have begun.
        if not self._spawned and len(self._workers) < self._concurrency:
            self._spawned = True
            task = asyncio.create_task(self._work())
            self._workers.add(task)
            task.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        self._spawned = False
        me = asyncio.current_task()
        assert me is not None
        try:
            while self._waiting:
                one = self._waiting.popleft()
                if self._waiting:
                    self._spawn()
                began = time.monotonic()
                try:
                    verdict = await self._verdict(one)
                except asyncio.CancelledError:
                    verdict = Again(0.0)
                self.quick = time.monotonic() - began < QUICK_S
                await self._settle(one, verdict)
                if me.cancelling():
                    return
        finally:
            self._workers.discard(me)

    async def _verdict(self, one: Handed) -> Verdict:
        try:
            data = one.message.data
            if (claim := one.claim) is not None:
                data = await self.transport.claimed(claim)
            entry = unpack(data, self.kind)
            entry.route = f"{self.kind} {self._group if self.kind == 'event' else entry.name}"
            entry.attempt = one.deliveries
            if one.deliveries > self.transport.max_deliveries:
                lost = WorkerLostError(entry.name, losses=one.deliveries - 1)
                return Dead(error_data(lost))
            return await self._deliver(entry, one.deliveries)
        except MessageUnreadableError as error:
            return Dead(error_data(error, "unreadable"))
        except TransportError as error:
            logger.warning("%s", error)
        except Exception:  # The bus promised to raise nothing: its mistake must not end the work.
            logger.exception("A message of %s was not handled, and comes again", one.puller.name)
        return Again(TRY_AGAIN_S)

    async def _settle(self, one: Handed, verdict: Verdict) -> None:
        try:
            if isinstance(verdict, Done):
                await self._done(one)
            elif isinstance(verdict, Again):
                await self.hand_back(one, verdict.after_s)
            else:
                await self._bury(one, verdict.error)
        except (TransportError, self.transport.library.errors.Error) as error:
            # The server hands it out again, once it misses its heartbeats.
            logger.warning("The outcome of a message of %s is lost: %s", one.puller.name, error)
        finally:
            one.puller.settled(one, verdict)
            await one.puller.refill()

    async def _done(self, one: Handed) -> None:
        if self.kind == "event" or one.claim is None:
            await self.transport.tell(one.reply, b"+ACK")
        else:
            # Not forgotten before that is certain: it would come back without its content.
            await self.transport.confirm(one.reply)
            await self.transport.forget(one.claim)

    async def hand_back(self, one: Handed, after_s: float = 0.0) -> None:
        delay = f' {{"delay": {int(after_s * 1e9)}}}' if after_s > 0 else ""
        await self.transport.tell(one.reply, f"-NAK{delay}".encode())

    async def _bury(self, one: Handed, error: str) -> None:
        letter_id = f"{one.puller.name} {one.seq} {one.time_ns}"
        try:
            await self.transport.bury(one.message, letter_id, error)
        except TransportError as trouble:
            logger.warning("%s", trouble)
            await self.hand_back(one, TRY_AGAIN_S)
        else:
            await self.transport.tell(one.reply, b"+TERM")


class Asked(Loop):
    """One source of requests. All who take requests of a name share them, whatever their group."""

    def __init__(self, transport: NatsTransport, source: Source, deliver: Deliver) -> None:
        super().__init__(transport, f"requests of {source.group}")
        self._deliver = deliver
        self._names = [one.name for one in source.addresses]
        self._free = asyncio.Semaphore(source.concurrency)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._withdrawn: deque[str] = deque(maxlen=1_000)
        self._subscribed = asyncio.Event()

    async def start(self) -> None:
        self.begin()
        try:
            async with asyncio.timeout(LATE_S):
                await self._subscribed.wait()
        except TimeoutError as error:
            await self.end()
            raise TransportError(f"NATS at {self.transport.at} took no {self.name}.") from error

    def renew(self) -> None:
        self.stale.set()

    def replies(self) -> list[str]:
        return []

    async def stop(self) -> None:
        await self.end()
        if self._running:
            await asyncio.wait(list(self._running.values()))

    async def abandon(self) -> None:
        for task in list(self._running.values()):
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self.stop()

    async def work(self, client: Any) -> None:
        subject = self.transport.subject
        withdrawals = await client.subscribe(subject(CANCEL, "*"), cb=self._withdraw)
        requests = [
            await client.subscribe(subject("request", name), queue=HANDLERS, cb=self._begin)
            for name in self._names
        ]
        try:
            # Twice, because nats-py sends the first one's ping before the subscriptions.
            await client.flush()
            await client.flush()
            self._subscribed.set()
            self.transport.recovered(self.name)
            await self.stale.wait()
        finally:
            await self.leave(client, *requests, withdrawals)

    async def _withdraw(self, message: Any) -> None:
        request_id = message.subject.rpartition(".")[2]
        self._withdrawn.append(request_id)  # It may come before what it withdraws.
        if task := self._running.get(request_id):
            task.cancel()

    async def _begin(self, message: Any) -> None:
        headers = message.headers or {}
        request_id = headers.get(REQUEST, message.reply)
        if request_id not in self._withdrawn:
            task = asyncio.create_task(self._answer(request_id, message, headers))
            self._running[request_id] = task
            task.add_done_callback(lambda _: self._running.pop(request_id, None))

    async def _answer(self, request_id: str, message: Any, headers: dict[str, str]) -> None:
        try:
            async with asyncio.timeout(float(headers.get(TIMEOUT, PULL_S))), self._free:
                verdict = await self._verdict(message.data, headers.get(CLAIM))
        except TimeoutError:
            return  # Nobody waits any more.
        except asyncio.CancelledError:
            if request_id not in self._withdrawn:
                await self.transport.tell(message.reply, b"", {LEFT: "1"})
            return
        if isinstance(verdict, Done):
            await self._reply(message, verdict.reply.encode())
        else:
            await self._reply(message, verdict.error.encode(), {FAILED: "1"})

    async def _verdict(self, data: bytes, claim: str | None) -> Done | Dead:
        try:
            if claim is not None:
                data = await self.transport.claimed(claim)
            entry = unpack(data, "request")
            entry.route, times = f"request {entry.name}", 1
            while isinstance(verdict := await self._deliver(entry, times), Again):
                await asyncio.sleep(verdict.after_s)
                times += 1
        except MessageUnreadableError as error:
            return Dead(error_data(error, "unreadable"))
        except Exception as error:  # Whoever asked must not wait for the end of his time.
            logger.exception("A request was not handled")
            return Dead(error_data(error))
        return verdict

    async def _reply(
        self, message: Any, data: bytes, headers: dict[str, str] | None = None
    ) -> None:
        room = self.transport.room
        if len(data) > room:
            name = message.subject.rpartition(".")[2]
            error = MessageTooLargeError(
                f"The answer to {name}", size_bytes=len(data), limit_bytes=room
            )
            data, headers = error_data(error).encode(), {FAILED: "1"}
        await self.transport.tell(message.reply, data, headers)
