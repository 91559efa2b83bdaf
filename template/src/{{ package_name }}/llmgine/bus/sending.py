# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Sending what is durable, now or later, and getting its result, now or later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from ..delivery.journal import OPEN, Entry, LoggedEvent
from ..delivery.wire import child_id, envelope_json, error_from, message_json, result_from
from ..errors import BusError, ResultTimeoutError, UnknownReceiptError
from ..messages import Command, Envelope, Event, Message, Receipt, is_stream, schema_name
from .doing import Postponed, current_doing
from .handlers import CommandHandler
from .lane import Lane
from .recurring import SCHEDULE, Recurring
from .remote import RELAY

if TYPE_CHECKING:
    from .durable import Delivery

PUBLISH = "publish"
# Where the nanoseconds end that a database can count.
NEVER_S = 2**63 / 1e9


class Sending:
    """What is accepted: kept first, then done here, or by any other worker."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        # Where what is sent goes instead, when a transport carries it to other machines.
        self.relayed = False
        self._recurring = Recurring(delivery)
        delivery.add_route(PUBLISH, 16, self._publish)

    def entry(
        self,
        envelope: Envelope,
        route: str,
        entry_id: str | None = None,
        told: LoggedEvent | None = None,
    ) -> Entry:
        """The message as it is kept; a handler's, under the same id whenever it runs again.

        `told` is the same message as it is logged, so that it is not written out twice.
        """
        message = envelope.message
        name = schema_name(type(message))
        payload = told.payload if told else message_json(message)
        if entry_id is None and (doing := current_doing()) is not None:
            what = f"{route} {name}"
            entry_id = child_id(doing.entry.id, what, payload, doing.count(what, payload))
        return Entry(
            id=entry_id or envelope.id,
            route=route,
            name=name,
            version=message.schema_version,
            payload=payload,
            headers=told.headers if told else envelope_json(envelope),
            key=envelope.key,
            created_ns=self._delivery.now_ns(),
        )

    async def keep(self, envelope: Envelope, lanes: Sequence[Lane]) -> Sequence[Lane]:
        """Log the event, keep it for its durable subscriptions, and return who hears it now."""
        delivery, event = self._delivery, envelope.message
        if not event.durable:
            delivery.log.put(envelope)
            return lanes
        envelope.key = envelope.key or envelope.session_id
        told, key = delivery.log.entry(envelope), envelope.idempotency_key
        if key is not None:
            told.id = f"{told.name}:{key}"
        doing = current_doing()
        # A handler's own share of ids is worked out, to be the same when it runs again.
        known = doing is None or key is not None
        routes = [(lane, delivery.route_of(lane)) for lane in lanes]
        hearing = [lane for lane, route in routes if route is None]
        entries = [
            self.entry(envelope, route, f"{told.id}/{route}" if known else None, told)
            for lane, route in routes
            if route is not None and not self.relayed and lane.wants(envelope)
        ]
        if self.relayed:
            entries = [self.relay(envelope, "event", told.id if known else None)]
        if doing is not None:
            doing.outbox += entries
            doing.events.append(told)
            doing.after.append((envelope, hearing))
            return ()
        events, duplicate = delivery.log.take([told]), True
        try:
            owner = delivery.owner_for(entries)
            became = await delivery.accept(entries, events, owner=owner)
            duplicate = became[:1] == ["duplicate"]
        finally:
            if duplicate:
                delivery.log.put_back(events, [told])
        delivery.begin(entries, became)
        return () if duplicate else hearing

    def relay(self, envelope: Envelope, kind: str, entry_id: str | None = None) -> Entry:
        """The message as it waits to be sent over the transport."""
        entry = self.entry(envelope, RELAY, entry_id)
        entry.note = json.dumps({"address": [kind, entry.name]})
        return entry

    async def send(
        self,
        envelope: Envelope,
        *,
        at: datetime | None,
        every: timedelta | None,
        cron: str | None,
        timezone: tzinfo,
        entry_id: str | None,
    ) -> Receipt[Any]:
        message, delivery = envelope.message, self._delivery
        name = schema_name(type(message))
        self._check(message, at, every, cron)
        for what, given in (("key", envelope.key), ("id", entry_id)):
            if given is not None and not (isinstance(given, str) and given):
                raise BusError(f"{what}={given!r} must be a text, and not an empty one.")
        delivery.know(type(message))  # type: ignore[arg-type]  # checked to be one of both
        route = f"command {name}" if isinstance(message, Command) else PUBLISH
        entry = self.entry(envelope, route, entry_id and f"{name}:{entry_id}")
        if self.relayed and isinstance(message, Command):
            entry.route, entry.note = RELAY, json.dumps({"address": ["command", name]})
        if at is not None:
            entry.due_ns = max(int(at.timestamp() * 1e9), 1)
        if every is not None or cron is not None:
            self._recurring.begin(entry, every, cron, timezone)
        if (doing := current_doing()) is not None:
            doing.outbox.append(entry)
            return Receipt(entry.id, name)
        [became] = await delivery.accept([entry], owner=delivery.owner_for([entry]))
        if became == "duplicate" and entry.route == SCHEDULE:
            await self._recurring.change(entry)
        delivery.begin([entry], [became])
        return Receipt(entry.id, name, became == "duplicate")

    def _check(
        self, message: Message, at: datetime | None, every: timedelta | None, cron: str | None
    ) -> None:
        name = type(message).__name__
        if not message.durable:
            raise BusError(
                f"{name!r} is not durable and cannot be kept. Say so on its class: durable = True"
            )
        if is_stream(type(message)):
            raise BusError(f"{name!r} is streamed: sent, it would have no reader.")
        if at is not None and at.utcoffset() is None:
            raise BusError(f"at={at} has no timezone. Give it one: at.replace(tzinfo=UTC).")
        if at is not None and at.timestamp() >= NEVER_S:
            raise BusError(f"at={at} is too far away: the journal counts up to the year 2262.")
        if every is not None and cron is not None:
            raise BusError(f"{name!r} needs one of every= and cron=, not both.")
        if every is not None and not (isinstance(every, timedelta) and every > timedelta(0)):
            raise BusError(f"every={every!r} must be a positive timedelta.")

    async def execute(self, envelope: Envelope, handler: CommandHandler | None) -> Any:
        """Keep the command, run it here or else have it run elsewhere, and return its result."""
        delivery, command = self._delivery, envelope.message
        name, key = schema_name(type(command)), envelope.idempotency_key
        entry_id = key and f"{name}:{key}"
        if handler is None:
            entry = self.relay(envelope, "command", entry_id)
            delivery.know(type(command))  # type: ignore[arg-type]  # a command
            delivery.begin([entry], await delivery.accept([entry]))
            return await self.wait(entry.id, type(command), None)
        entry = self.entry(envelope, f"command {name}", entry_id)
        owner = delivery.worker.id
        [became] = await delivery.accept([entry], owner=owner)
        if became != "owned":
            return await self._ended_before(entry, type(command))
        entry.state, entry.owner, entry.attempt = "running", owner, 1

        async def handle(envelope: Envelope) -> Any:
            return await delivery.bus.run(handler, envelope)

        delivery.held[entry.id] = entry
        try:
            with suppress(Postponed):
                return await delivery.do(entry, envelope, handle, called=True)
        finally:
            delivery.loosen(entry)
        return await self.wait(entry.id, type(command), None)

    async def _ended_before(self, entry: Entry, command_type: type[Message]) -> Any:
        """The result of the one that was kept before; one that failed is tried again."""
        delivery = self._delivery
        at_ns = delivery.now_ns()
        if await delivery.journal.amend(
            entry.id, was=["failed", "dead"], state="ready", at_ns=at_ns, fresh=True
        ):
            delivery.wake_at(0)
        return await self.wait(entry.id, command_type, None)

    async def result(self, receipt: Receipt[Any], timeout_s: float | None) -> Any:
        command_type = self._delivery.catalogue.get(receipt.name)
        if command_type is None:
            raise BusError(
                f"{receipt.name!r} is no message known here. Register its handler, or send one."
            )
        return await self.wait(receipt.id, command_type, timeout_s)

    async def wait(
        self, entry_id: str, command_type: type[Message] | None, timeout_s: float | None
    ) -> Any:
        """The result, or the error raised.

        Raises:
            ResultTimeoutError: it is not there in that time.
            UnknownReceiptError: there is no such entry, or no longer.
        """
        delivery = self._delivery
        clock = delivery.bus.clock
        until = None if timeout_s is None else clock.monotonic() + timeout_s
        doing = current_doing()
        if doing is not None and any(entry.id == entry_id for entry in doing.outbox):
            raise BusError(
                "What a durable handler sends goes out when the handler returns: its result cannot "
                "be waited for inside. Execute the command instead: await bus.execute(...)"
            )
        while True:
            entry = await delivery.journal.get(entry_id)
            if entry is None:
                raise UnknownReceiptError(entry_id)
            if entry.state == "done":
                if command_type is None or not issubclass(command_type, Command):
                    return None
                return result_from(command_type, entry.result or "null")
            if entry.state not in OPEN:
                raise error_from(entry.error)
            left_s = None if until is None else until - clock.monotonic()
            if left_s is not None and left_s <= 0:
                raise ResultTimeoutError(entry_id, timeout_s=timeout_s or 0, state=entry.state)
            await delivery.news(entry_id, left_s)

    async def _publish(self, envelope: Envelope) -> None:
        """Publish an event that was kept until now; committed with what comes of it."""
        assert isinstance(envelope.message, Event)
        await self._delivery.bus.publish(
            envelope.message, key=envelope.key, idempotency_key=envelope.idempotency_key
        )
