# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The bus's side of a transport: what goes to other machines, and what comes from them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..delivery.journal import OPEN, Entry, Outcome, State
from ..delivery.transport import Address, Again, Dead, Done, Kind, Source, Transport, Verdict
from ..delivery.wire import (
    Catalogue,
    envelope_json,
    error_data,
    error_from,
    message_json,
    result_from,
    result_json,
)
from ..errors import (
    DeadlineExceededError,
    MessageUnreadableError,
    TransportError,
    WorkerLostError,
)
from ..messages import Command, Envelope, Event, schema_name
from .doing import Postponed
from .handlers import CommandHandler

if TYPE_CHECKING:
    from .bus import MessageBus
    from .durable import Delivery
    from .route import Handle, Route

logger = logging.getLogger(__name__)

RELAY = "relay"
# The name of what brings a result home; no class has it.
RESULT = "llmgine.result"
# How long a request may take whose sender has no deadline.
REQUEST_S = 60.0
# How soon to try a transport again that is away.
RETRY_S = 1.0
# How often a message may come, its retries counted, before it is taken for what ends its workers.
MAX_TIMES = 20
# Outgoing messages that one process sends at a time.
SENDING = 64


class Remote:
    """Sends what the journal keeps for others, and handles what they sent."""

    def __init__(self, bus: MessageBus, transport: Transport) -> None:
        self.transport = transport
        self._bus = bus
        self._delivery: Delivery | None = bus.delivery
        self._catalogue = self._delivery.catalogue if self._delivery else Catalogue()
        self._stops: list[Callable[[], Awaitable[None]]] = []
        if self._delivery is not None:
            self._delivery.add_work(RELAY, SENDING, self._relay)
            self._delivery.sending.relayed = True
            self._delivery.remote = self

    # Life.

    async def start(self) -> None:
        """Connect, and take what is for this process. Raises: TransportError."""
        await self.transport.open()
        for source, deliver in self._sources():
            self._stops.append(await self.transport.consume(source, deliver))

    def _sources(self) -> Iterator[tuple[Source, Callable[[Entry, int], Awaitable[Verdict]]]]:
        if self.transport.requests and self._bus.works:
            for handler in self._bus.command_handlers():
                name = schema_name(handler.binding.message_type)
                self._catalogue.add(handler.binding.message_type)
                yield _source("request", name, name), self._requested(handler)
        delivery = self._delivery
        if delivery is None:
            return
        yield _source("result", delivery.journal.node, delivery.journal.node), self._came_back
        if delivery.working:
            for route, handle, message_type in delivery.handles:
                kind: Kind = "command" if issubclass(message_type, Command) else "event"
                names = [schema_name(one) for one in _with_subclasses(message_type)]
                addresses = tuple(Address(kind=kind, name=name) for name in names)
                group = route.partition(" ")[2]
                yield Source(addresses=addresses, group=group), self._arrived(route, handle)

    async def drain(self) -> None:
        """Take no more, and wait for what is in hand."""
        stops, self._stops = self._stops, []
        await asyncio.gather(*(stop() for stop in stops))

    # Out.

    async def _relay(self, route: Route, entry: Entry) -> None:
        delivery = self._delivery
        assert delivery is not None
        note = json.loads(entry.note or "{}")
        kind, name = note["address"]
        node = delivery.journal.node
        headers = {**json.loads(entry.headers), "node": node, "id": entry.id, **_round(note)}
        try:
            # Retried by hand, it is another message on the way: the server would drop the same one.
            sent_id = f"{entry.id}#{note['round']}" if "round" in note else entry.id
            sent = replace(entry, id=sent_id, headers=json.dumps(headers))
            await self.transport.send(sent, Address(kind=kind, name=name))
            outcome = Outcome(
                state="sent" if kind == "command" else "done", at_ns=delivery.now_ns()
            )
            delivery.troubles.pop("transport", None)
        except TransportError as error:
            delivery.trouble("transport", error)
            now_ns, wait_ns = delivery.now_ns(), int(RETRY_S * 1e9)
            outcome = Outcome(
                state="ready",
                at_ns=now_ns,
                due_ns=now_ns + wait_ns,
                wait_ns=wait_ns,
                error=error_data(error),
            )
            delivery.wake_at(outcome.due_ns)
        except Exception as error:
            logger.error("%s %s cannot be sent: %s", entry.name, entry.id, error)
            outcome = delivery.ended("dead", error)
        await delivery.settle_at(route, entry, outcome)
        delivery.over(route, entry, postponed=outcome.state == "ready")

    async def request(self, command: Command[Any], envelope: Envelope) -> Any:
        """Have the command handled by another process now.

        Raises:
            HandlerMissingError: no process handles it now.
            DeadlineExceededError: no answer in time.
        """
        name, now = schema_name(type(command)), self._bus.clock.monotonic()
        timeout_s = REQUEST_S if envelope.deadline is None else envelope.deadline - now
        entry = Entry(
            id=envelope.id,
            route=f"request {name}",
            name=name,
            version=command.schema_version,
            payload=message_json(command),
            headers=envelope_json(envelope, timeout_s=timeout_s),
            created_ns=envelope.time_ns,
        )
        try:
            address = Address(kind="request", name=name)
            reply = json.loads(await self.transport.request(entry, address, timeout_s))
        except TimeoutError as error:
            raise DeadlineExceededError(type(command).__name__, seconds=timeout_s) from error
        if "error" in reply:
            raise error_from(reply["error"])
        return result_from(type(command), reply["result"])

    # In.

    def _requested(self, handler: CommandHandler) -> Callable[[Entry, int], Awaitable[Verdict]]:
        async def deliver(entry: Entry, times: int) -> Verdict:
            try:
                envelope = self._catalogue.read(entry)
                timeout_s = json.loads(entry.headers).get("timeout_s", REQUEST_S)
                envelope.deadline = self._bus.clock.monotonic() + timeout_s
                command: Any = envelope.message
                result = await self._bus.execute(command, envelope=envelope)
                reply = {"result": result_json(type(command), result)}
            except Exception as error:
                reply = {"error": error_data(error)}
            return Done(json.dumps(reply))

        return deliver

    def _arrived(self, route: str, handle: Handle) -> Callable[[Entry, int], Awaitable[Verdict]]:
        async def deliver(entry: Entry, times: int) -> Verdict:
            delivery = self._delivery
            assert delivery is not None
            headers = json.loads(entry.headers)
            entry_id = f"{headers.get('id', entry.id)}/{route}"
            here = replace(entry, id=entry_id, route=route, attempt=times, note=None)
            if times > 1 or "round" in headers:
                known = await delivery.journal.get(here.id)
                if known is not None:
                    await self._came_again(known, retried="round" in headers)
                    return Done()
                here.note = json.dumps({"failures": times - 1})

            async def settle(_: Entry, outcome: Outcome) -> bool:
                return outcome.state == "ready" or await self._keep(here, outcome)

            self._bus.tally.add()
            try:
                if times > MAX_TIMES:
                    lost = WorkerLostError(entry.name, losses=times - 1)
                    await settle(here, delivery.ended("dead", lost))
                    return Dead(error_data(lost))
                envelope = self._catalogue.read(entry)
                await delivery.do(here, envelope, handle, called=False, settle=settle)
            except Postponed as later:
                return Again(later.wait_s or 0) if later.state == "ready" else Done()
            except MessageUnreadableError as error:
                await settle(here, delivery.ended("parked", error))
            except Exception as error:
                return Dead(error_data(error))
            finally:
                self._bus.tally.remove()
            return Done()

        return deliver

    async def _came_again(self, known: Entry, *, retried: bool) -> None:
        """It is in this journal already. Who retried it wants it done, or its result again."""
        delivery = self._delivery
        assert delivery is not None
        if not retried:
            return
        now_ns = delivery.now_ns()
        if known.state == "done":
            outcome = Outcome(state="done", at_ns=now_ns, result=known.result)
            await delivery.append_all(self.with_result(known, outcome).outbox, (), ())
        elif await delivery.journal.amend(
            known.id, was=["dead", "parked"], state="ready", at_ns=now_ns, fresh=True
        ):
            delivery.wake_at(0)

    async def _keep(self, here: Entry, outcome: Outcome) -> bool:
        """Put what arrived, and what became of it, into this journal, unless it is there."""
        assert self._delivery is not None
        outcome = self.with_result(here, outcome)
        over = outcome.state in {"done", "dead", "failed"}
        kept = replace(
            here,
            state=outcome.state,
            owner=None,
            result=outcome.result,
            error=outcome.error,
            note=outcome.note,
            finished_ns=outcome.at_ns if over else None,
        )
        entries = [kept, *outcome.outbox]
        return await self._delivery.append_all(entries, outcome.events, outcome.writes)

    def with_result(self, entry: Entry, outcome: Outcome) -> Outcome:
        """The outcome, with the result on its way to the machine that sent the command."""
        if not entry.route.startswith("command ") or outcome.state not in {"done", "dead"}:
            return outcome
        headers = json.loads(entry.headers)
        node = headers.get("node")
        if node is None:
            return outcome
        told = {
            "id": headers["id"],
            "state": outcome.state,
            "result": outcome.result,
            "error": outcome.error,
        }
        result = Entry(
            id=f"{entry.id}/result@{outcome.at_ns}",
            route=RELAY,
            name=RESULT,
            payload=json.dumps(told),
            note=json.dumps({"address": ["result", node]}),
            created_ns=outcome.at_ns,
        )
        return replace(outcome, outbox=[*outcome.outbox, result])

    async def _came_back(self, entry: Entry, times: int) -> Verdict:
        delivery = self._delivery
        assert delivery is not None
        told = json.loads(entry.payload)
        state: State = told["state"]
        amended = await delivery.journal.amend(
            told["id"],
            # Done after all, by a retry at the other machine, is done here too.
            was=["sent", "dead"] if state == "done" else ["sent"],
            state=state,
            at_ns=delivery.now_ns(),
            result=told["result"],
            error=told["error"],
        )
        if not amended:
            known = await delivery.journal.get(told["id"])
            if known is not None and known.state in OPEN:
                return Again(RETRY_S)  # It came back before it was noted that it had gone.
        delivery.tell_settled(told["id"])
        return Done()


def _round(note: dict[str, Any]) -> dict[str, Any]:
    return {"round": note["round"]} if "round" in note else {}


def _source(kind: Kind, name: str, group: str) -> Source:
    return Source(addresses=(Address(kind=kind, name=name),), group=group)


def _with_subclasses(message_type: type[Any]) -> Iterator[type[Any]]:
    yield message_type
    if issubclass(message_type, Event):
        for subclass in message_type.__subclasses__():
            yield from _with_subclasses(subclass)
