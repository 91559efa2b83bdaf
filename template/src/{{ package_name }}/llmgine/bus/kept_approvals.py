# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Approvals of durable commands: asked and decided in the journal, by any process, after any time.

A command that waits is no task and holds no worker: its entry waits, with the question in its note.
Whoever decides puts the decision there and makes the entry ready, and its handler begins again.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from ..delivery.journal import Entry
from ..errors import (
    AlreadyDecidedError,
    ApprovalRejectedError,
    MessageUnreadableError,
    NotAllowedError,
    UnknownApprovalError,
)
from ..messages import Command, Envelope
from .doing import Doing, Postponed

if TYPE_CHECKING:
    from .approvals import Approval, Approvals, Outcome, PendingApproval
    from .durable import Delivery

PAGE = 200


class KeptApprovals:
    """What `Approvals` does for commands that the journal keeps."""

    def __init__(self, approvals: Approvals, delivery: Delivery) -> None:
        self._approvals = approvals
        self._delivery = delivery

    def ask(self, one: Doing, envelope: Envelope, rule: Approval) -> None:
        """Return if the command may run.

        Raises:
            Postponed: nobody has decided yet.
            ApprovalRejectedError: it may not run.
        """
        number, one.asked = one.asked, one.asked + 1
        questions: list[dict[str, Any]] = one.note.setdefault("approvals", [])
        if number == len(questions):
            now_ns = self._delivery.now_ns()
            within = rule.within
            expires = None if within is None else now_ns + int(within.total_seconds() * 1e9)
            questions.append({"asked_ns": now_ns, "expires_ns": expires, "by": rule.allowed()})
            question = questions[number]
            question["otherwise"] = rule.otherwise
            shown = self._shown(one.entry, envelope, number, question)
            one.told.append(lambda: self._approvals.tell_requested(shown))
        decision = questions[number].get("decision")
        if decision is None:
            raise Postponed("waiting")
        if not decision["approved"]:
            raise ApprovalRejectedError(
                one.entry.name,
                by=decision["by"],
                reason=decision["reason"],
                expired=decision["outcome"] == "expired",
            )

    async def pending(self) -> list[PendingApproval]:
        """Those of commands that are known here, the oldest first."""
        found, after = [], 0
        while page := await self._delivery.journal.find(["waiting"], after_seq=after, limit=PAGE):
            for entry in page:
                number, question = _open_question(entry)
                if question is not None and (envelope := self._read(entry)) is not None:
                    found.append(self._shown(entry, envelope, number, question))
            after = page[-1].seq
        return found

    async def decide(self, approval_id: str, approve: bool, by: str, reason: str) -> None:
        """As `Approvals.decide`."""
        entry_id, _, number = approval_id.rpartition("#")
        while True:
            entry = await self._delivery.journal.get(entry_id)
            questions = json.loads(entry.note or "{}").get("approvals", []) if entry else []
            if entry is None or not number.isdigit() or int(number) >= len(questions):
                raise UnknownApprovalError(approval_id)
            if decision := questions[int(number)].get("decision"):
                raise AlreadyDecidedError(
                    approval_id,
                    approved=decision["approved"],
                    by=decision["by"],
                    at=_time(decision["at_ns"]),
                    outcome=decision["outcome"],
                )
            if await self._expired(entry):
                continue
            rule = self._rule(entry, int(number))
            if rule is None:
                raise UnknownApprovalError(approval_id)
            if not rule.allows(by):
                raise NotAllowedError(approval_id, by=by, allowed=rule.allowed())
            if await self._end(entry, int(number), "decided", approve, by, reason):
                return

    async def expire(self) -> None:
        """Decide what nobody decided in time, as its rule says."""
        after = 0
        while page := await self._delivery.journal.find(["waiting"], after_seq=after, limit=PAGE):
            for entry in page:
                await self._expired(entry)
            after = page[-1].seq

    async def _expired(self, entry: Entry) -> bool:
        """Whether its time is over; then that is its end."""
        number, question = _open_question(entry)
        expires_ns = None if question is None else question["expires_ns"]
        if question is None or expires_ns is None or expires_ns > self._delivery.now_ns():
            return False
        await self._end(entry, number, "expired", question["otherwise"] == "approve")
        return True

    async def _end(
        self,
        entry: Entry,
        number: int,
        outcome: Outcome,
        approved: bool,
        by: str | None = None,
        reason: str = "",
    ) -> bool:
        """Put the decision there, unless somebody else was first."""
        note, at_ns = json.loads(entry.note or "{}"), self._delivery.now_ns()
        note["approvals"][number]["decision"] = {
            "approved": approved,
            "by": by,
            "reason": reason,
            "outcome": outcome,
            "at_ns": at_ns,
        }
        decided = await self._delivery.journal.amend(
            entry.id,
            was=["waiting"],
            state="ready",
            at_ns=at_ns,
            note_was=entry.note,
            note=json.dumps(note),
        )
        if decided:
            self._delivery.wake_at(0)
            self._approvals.tell_decided(
                f"{entry.id}#{number}", entry.name, approved, by, reason, outcome
            )
        return decided

    def _rule(self, entry: Entry, number: int) -> Approval | None:
        """The rule by which the question was asked, as the code says it now."""
        envelope = self._read(entry)
        if envelope is None:
            return None
        rules = self._approvals.rules_for(cast("Command[Any]", envelope.message))
        return rules[number] if number < len(rules) else None

    def _read(self, entry: Entry) -> Envelope | None:
        try:
            return self._delivery.catalogue.read(entry)
        except MessageUnreadableError:
            return None

    def _shown(
        self, entry: Entry, envelope: Envelope, number: int, question: dict[str, Any]
    ) -> PendingApproval:
        from .approvals import PendingApproval

        expires = question["expires_ns"]
        return PendingApproval(
            f"{entry.id}#{number}",
            cast("Command[Any]", envelope.message),
            envelope,
            _time(question["asked_ns"]),
            None if expires is None else _time(expires),
            question["by"],
        )


def _open_question(entry: Entry) -> tuple[int, dict[str, Any] | None]:
    questions = json.loads(entry.note or "{}").get("approvals", [])
    for number, question in enumerate(questions):
        if "decision" not in question:
            return number, question
    return 0, None


def _time(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns / 1e9, UTC)
