# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The event log: what interfaces show, read from any point and followed without a gap."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..delivery.journal import LoggedEvent
from ..delivery.wire import envelope_json, message_json
from ..errors import CursorExpiredError, JournalError, MessageUnreadableError
from ..messages import Envelope, Event, schema_name

if TYPE_CHECKING:
    from .durable import Delivery

logger = logging.getLogger(__name__)

# Events that may wait for a journal that is away; beyond it the oldest are lost, and counted.
MAX_WAITING = 10_000
# How long to leave a journal alone that is away.
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Told:
    """An event of the log. `event` is `None` if no class here can read it; `name` says which.

    Whoever goes on after `cursor` gets what came after this one.
    """

    cursor: int
    name: str
    event: Event | None
    envelope: Envelope | None


class EventLog:
    """Writes events in the order they were told, and reads them by their cursor."""

    def __init__(self, delivery: Delivery) -> None:
        self.lost = 0
        self._delivery = delivery
        self._waiting: deque[LoggedEvent] = deque()
        self._writing: asyncio.Task[None] | None = None

    def entry(self, envelope: Envelope) -> LoggedEvent:
        """The event as it is logged."""
        message = envelope.message
        self._delivery.catalogue.add(type(message))  # To read it again, if no handler names it.
        return LoggedEvent(
            id=envelope.id,
            name=schema_name(type(message)),
            version=message.schema_version,
            payload=message_json(message),
            headers=envelope_json(envelope),
            session_id=envelope.session_id,
            time_ns=envelope.time_ns,
        )

    def put(self, envelope: Envelope) -> None:
        """Log an event that is not durable: soon, and without anybody waiting for it."""
        self._waiting.append(self.entry(envelope))
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self.lost += 1
            if self.lost == 1:
                logger.error("The journal is away too long: the event log loses its oldest events")
        self._write_soon()

    def _write_soon(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write(), context=Context())

    def take(self, events: Sequence[LoggedEvent]) -> Sequence[LoggedEvent]:
        """What is to be committed with those events, so that the log keeps the order."""
        if not events or not self._waiting:
            return events
        before = list(self._waiting)
        self._waiting.clear()
        return [*before, *events]

    def put_back(self, taken: Sequence[LoggedEvent], own: Sequence[LoggedEvent]) -> None:
        """They were not committed: what `take` put before a message's own events waits again."""
        self._waiting.extendleft(reversed(taken[: len(taken) - len(own)]))
        self._write_soon()

    async def _write(self) -> None:
        while self._waiting:
            batch = list(self._waiting)
            self._waiting.clear()
            try:
                await self._delivery.journal.append([], batch)
            except JournalError as error:
                self._waiting.extendleft(reversed(batch))
                if self._delivery.bus.state == "stopped":
                    return
                self._delivery.trouble("event log", error)
                await asyncio.sleep(RETRY_S)
            else:
                self._delivery.troubles.pop("event log", None)

    async def flush(self) -> None:
        """Write what waits. Raises: JournalError."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=RETRY_S)
        if waiting := list(self._waiting):
            self._waiting.clear()
            await self._delivery.journal.append([], waiting)

    async def read(self, after: int | None, session_id: str | None) -> AsyncIterator[Told]:
        """The events after that cursor, then those that come; from now on if it is `None`.

        Raises:
            CursorExpiredError: some of them are no longer kept, or the cursor is of another log.
        """
        journal = self._delivery.journal
        cursor = (await journal.read(0, limit=0)).last if after is None else after
        while True:
            page = await journal.read(cursor, session_id=session_id)
            if cursor > page.last or 0 < cursor < (page.first or page.last + 1) - 1:
                raise CursorExpiredError(cursor, first=page.first)
            for one in page.events:
                yield self._told(one)
            if page.upto > cursor:
                cursor = page.upto
            else:
                await self._delivery.news()

    def _told(self, one: LoggedEvent) -> Told:
        try:
            envelope = self._delivery.catalogue.read(one)
        except MessageUnreadableError:
            return Told(one.cursor, one.name, None, None)
        event = envelope.message
        return Told(one.cursor, one.name, event if isinstance(event, Event) else None, envelope)
