# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Schedules in the journal: an entry that, whenever it is due, leaves another one to be done."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from ..delivery.journal import OPEN, Entry, Outcome
from ..delivery.wire import envelope_json, error_data
from ..errors import BusError, JournalError, MessageUnreadableError
from ..messages import Envelope
from .schedule import cron_times

if TYPE_CHECKING:
    from .durable import Delivery
    from .route import Route

logger = logging.getLogger(__name__)

SCHEDULE = "schedule"
# How soon to look again whether the last occurrence still runs, if the journal does not say.
RETRY_NS = 1_000_000_000


class Recurring:
    """Occurrences that were missed are made up for by one; one that still runs is not repeated."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        delivery.add_work(SCHEDULE, 4, self._work)

    def begin(
        self, entry: Entry, every: timedelta | None, cron: str | None, timezone: tzinfo
    ) -> None:
        """Make the entry a schedule; its `due_ns`, if any, is the first time.

        Raises:
            BusError: the expression or the timezone cannot be stored.
        """
        rule: dict[str, Any] = {"route": entry.route, "note": entry.note, "key": entry.key}
        if every is not None:
            rule["every_ns"] = every // timedelta(microseconds=1) * 1000
            rule["from_ns"] = entry.due_ns or self._delivery.now_ns()
        else:
            rule["cron"], rule["timezone"] = cron, _timezone_name(timezone)
        entry.due_ns = entry.due_ns or self._next_ns(rule)
        entry.route, entry.key, entry.note = SCHEDULE, None, json.dumps(rule)

    async def change(self, entry: Entry) -> None:
        """Let a schedule of the same id go by this rule and with this message from now on."""
        journal = self._delivery.journal
        while (known := await journal.get(entry.id)) is not None:
            if known.route != SCHEDULE or (known.state in OPEN and _same(known, entry)):
                return
            if await journal.drop(entry.id, ["ready", "parked", "dead"]):
                break
            await self._delivery.news(entry.id)  # It is due right now.
        await journal.append([entry])

    async def _work(self, route: Route, entry: Entry) -> None:
        delivery = self._delivery
        try:
            outcome = await self._decided(entry)
            await delivery.settle(entry, outcome)
            delivery.wake_at(0)
            delivery.wake_at(outcome.due_ns)
        finally:
            delivery.over(route, entry)

    async def _decided(self, entry: Entry) -> Outcome:
        try:
            return await self._outcome(entry)
        except JournalError as error:
            logger.warning("%s", error)
            now_ns = self._delivery.now_ns()
            return Outcome(state="ready", at_ns=now_ns, due_ns=now_ns + RETRY_NS, counts=False)
        except Exception as error:
            logger.exception("The schedule %s cannot go on", entry.id)
            return self._delivery.ended("dead", error)

    async def _outcome(self, entry: Entry) -> Outcome:
        delivery, rule = self._delivery, json.loads(entry.note or "{}")
        now_ns = delivery.now_ns()
        try:
            scheduled = delivery.catalogue.read(entry)
        except MessageUnreadableError as error:
            return Outcome(state="parked", at_ns=now_ns, error=error_data(error))
        before = await delivery.journal.get(rule["last"]) if "last" in rule else None
        outbox: list[Entry] = []
        if before is None or before.state not in OPEN:
            rule["last"] = f"{entry.id}@{entry.due_ns or now_ns}"
            occurrence = Envelope(scheduled.message, scheduled, key=rule["key"])
            outbox.append(
                Entry(
                    id=rule["last"],
                    route=rule["route"],
                    name=entry.name,
                    version=entry.version,
                    payload=entry.payload,
                    headers=envelope_json(occurrence),
                    key=rule["key"],
                    note=rule["note"],
                    created_ns=now_ns,
                )
            )
        return Outcome(
            state="ready",
            at_ns=now_ns,
            due_ns=self._next_ns(rule),
            note=json.dumps(rule),
            outbox=outbox,
            counts=False,
        )

    def _next_ns(self, rule: dict[str, Any]) -> int:
        now_ns = self._delivery.now_ns()
        if "every_ns" in rule:
            passed: int = (now_ns - rule["from_ns"]) // rule["every_ns"]
            return int(rule["from_ns"] + (max(passed, -1) + 1) * rule["every_ns"])
        timezone = UTC if rule["timezone"] == "UTC" else ZoneInfo(rule["timezone"])
        following = cron_times(rule["cron"], timezone, self._delivery.bus.clock.now)()
        if following is None:
            raise BusError(f"cron={rule['cron']!r} does not come in the next 50 years.")
        return _ns(following)


def _same(one: Entry, other: Entry) -> bool:
    old, new = json.loads(one.note or "{}"), json.loads(other.note or "{}")
    rule = ("every_ns", "cron", "timezone")
    return one.payload == other.payload and all(old.get(name) == new.get(name) for name in rule)


def _timezone_name(timezone: tzinfo) -> str:
    name = "UTC" if timezone is UTC else getattr(timezone, "key", None)
    if not isinstance(name, str):
        raise BusError(f"timezone={timezone!r} cannot be stored; give zoneinfo.ZoneInfo(...).")
    return name


def _ns(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)
