# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Commands that wait for somebody's word before their handler runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from ..clock import Timer
from ..errors import (
    AlreadyDecidedError,
    ApprovalRejectedError,
    BusError,
    NotAllowedError,
    UnknownApprovalError,
)
from ..messages import Command, Envelope, Event, Message, new_id
from .doing import doing_of
from .handlers import Middleware, Next, handler_name

if TYPE_CHECKING:
    from .bus import MessageBus
    from .durable import Delivery
    from .kept_approvals import KeptApprovals

Outcome = Literal["decided", "expired", "withdrawn"]
Otherwise = Literal["approve", "reject"]


class ApprovalRequestedEvent(Event):
    """A command waits. What it says is only in `bus.approvals.pending()`: it may be sensitive."""

    logged = True

    approval_id: str
    command: str
    command_id: str
    by: str
    expires_at: datetime | None


class ApprovalDecidedEvent(Event):
    """A command waits no more. `by` is `None` if nobody decided; `withdrawn`: it was cancelled."""

    logged = True

    approval_id: str
    command: str
    approved: bool
    by: str | None
    reason: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Approval:
    """The command runs once somebody approves it; otherwise it is an `ApprovalRejectedError`.

    A policy of commands, to stand outside of any retry: each attempt would ask again.

    Args:
        by: who may decide: one name, some, or a predicate on the name; `None` is anybody.
        within: how long the command waits; `None` is for ever.
        otherwise: what happens when that time is over.
        when: which commands need it, all if not given.
    """

    by: str | Collection[str] | Callable[[str], bool] | None = None
    within: timedelta | None = None
    otherwise: Otherwise = "reject"
    when: Callable[[Any], bool] | None = None

    def __post_init__(self) -> None:
        if self.otherwise not in get_args(Otherwise):
            raise BusError(f"{self}: otherwise must be one of {', '.join(get_args(Otherwise))}.")
        if self.within is not None and self.within <= timedelta(0):
            raise BusError(f"{self}: within must be positive.")
        if isinstance(self.by, Collection) and not self.by:
            raise BusError(f"{self}: nobody could decide; by=None lets anybody.")

    def bind(self, bus: MessageBus) -> Middleware:
        async def approval(message: Message, envelope: Envelope, call_next: Next) -> Any:
            if not isinstance(message, Command):
                raise BusError(
                    f"{type(message).__name__!r} is an event: it has happened and needs no "
                    "approval. Give Approval to the handlers of commands."
                )
            if self.when is None or self.when(message):
                await bus.approvals.ask(message, envelope, self)
            return await call_next()

        return approval

    def allows(self, name: str) -> bool:
        if self.by is None:
            return True
        if isinstance(self.by, str):
            return name == self.by
        return self.by(name) if callable(self.by) else name in self.by

    def allowed(self) -> str:
        """Who may decide, as text."""
        if self.by is None:
            return "anybody"
        if isinstance(self.by, str):
            return self.by
        return handler_name(self.by) if callable(self.by) else ", ".join(sorted(self.by))


@dataclass(frozen=True, slots=True)
class PendingApproval:
    """A command that waits, for an interface to show; `by` says who may decide."""

    id: str
    command: Command[Any]
    envelope: Envelope
    requested_at: datetime
    expires_at: datetime | None
    by: str


@dataclass(frozen=True, slots=True)
class _Decision:
    approved: bool
    by: str | None
    reason: str
    outcome: Outcome
    at: datetime


@dataclass(slots=True)
class _Waiting:
    shown: PendingApproval
    rule: Approval
    ended: asyncio.Event
    decision: _Decision | None = None


class Approvals:
    """The commands of one bus that wait for approval, and how the last ones ended.

    At most `remembered` of those that ended, so that whoever comes late hears who was first. Those
    of durable commands are in the journal, for every process and after any restart.
    """

    def __init__(self, bus: MessageBus, remembered: int = 1_000) -> None:
        self._bus = bus
        self._remembered = remembered
        self._waiting: dict[str, _Waiting] = {}
        self._ended: dict[str, _Decision] = {}
        self._kept: KeptApprovals | None = None

    async def pending(self) -> list[PendingApproval]:
        """Those that are to be decided, the oldest first; those of the journal after the others."""
        kept = await self._kept.pending() if self._kept is not None else []
        return [*(waiting.shown for waiting in self._waiting.values()), *kept]

    async def expire(self) -> None:
        """End those in the journal whose time is over; the others do so by themselves."""
        if self._kept is not None:
            await self._kept.expire()

    def keep(self, delivery: Delivery) -> None:
        """Ask for the approval of durable commands in the journal."""
        from .kept_approvals import KeptApprovals

        self._kept = KeptApprovals(self, delivery)

    def rules_for(self, command: Command[Any]) -> list[Approval]:
        """The approvals that its handler needs, in the order they are asked for."""
        layers = self._bus.layers_of(type(command))
        rules = [layer for layer in layers if isinstance(layer, Approval)]
        return [rule for rule in rules if rule.when is None or rule.when(command)]

    async def decide(self, approval_id: str, approve: bool, by: str, reason: str = "") -> None:
        """Let the command run, or have it rejected. The first decision is the only one.

        Raises:
            AlreadyDecidedError: it was decided, its time ran out, or its caller was cancelled.
            NotAllowedError: the approval is for others to decide; it stays pending.
            UnknownApprovalError: there is no such approval, or it ended long ago.
        """
        if not isinstance(approve, bool):
            raise BusError(f"approve must be True or False, not {approve!r}.")
        if ended := self._ended.get(approval_id):
            raise AlreadyDecidedError(
                approval_id,
                approved=ended.approved,
                by=ended.by,
                at=ended.at,
                outcome=ended.outcome,
            )
        waiting = self._waiting.get(approval_id)
        if waiting is None and self._kept is not None:
            await self._kept.decide(approval_id, approve, by, reason)
            return
        if waiting is None:
            raise UnknownApprovalError(approval_id)
        if not waiting.rule.allows(by):
            raise NotAllowedError(approval_id, by=by, allowed=waiting.shown.by)
        self._end(approval_id, "decided", approve, by, reason)

    async def ask(self, command: Command[Any], envelope: Envelope, rule: Approval) -> None:
        """Return when the command may run.

        Raises:
            ApprovalRejectedError: it may not.
        """
        one = doing_of(command)
        if one is not None and self._kept is not None:
            self._kept.ask(one, envelope, rule)
            return
        name, clock = type(command).__name__, self._bus.clock
        approval_id, now = new_id(), clock.now()
        expires_at = None if rule.within is None else now + rule.within
        shown = PendingApproval(approval_id, command, envelope, now, expires_at, rule.allowed())
        waiting = _Waiting(shown, rule, asyncio.Event())
        self._waiting[approval_id] = waiting
        timer: Timer | None = None
        if rule.within is not None:
            expire = partial(self._end, approval_id, "expired", rule.otherwise == "approve")
            timer = clock.call_at(clock.monotonic() + rule.within.total_seconds(), expire)
        try:
            self.tell_requested(shown)
            await waiting.ended.wait()
        finally:
            if timer is not None:
                timer.cancel()
            self._end(approval_id, "withdrawn", approved=False)
            decision = cast("_Decision", waiting.decision)
            self.tell_decided(
                approval_id,
                name,
                decision.approved,
                decision.by,
                decision.reason,
                decision.outcome,
            )
        if not decision.approved:
            raise ApprovalRejectedError(
                name, by=decision.by, reason=decision.reason, expired=decision.outcome == "expired"
            )

    def _end(
        self,
        approval_id: str,
        outcome: Outcome,
        approved: bool,
        by: str | None = None,
        reason: str = "",
    ) -> None:
        """End the wait, unless it has ended: who finds the approval still waiting is the first."""
        waiting = self._waiting.pop(approval_id, None)
        if waiting is None:
            return
        now = self._bus.clock.now()
        waiting.decision = self._ended[approval_id] = _Decision(approved, by, reason, outcome, now)
        if len(self._ended) > self._remembered:
            del self._ended[next(iter(self._ended))]
        waiting.ended.set()

    def tell_requested(self, shown: PendingApproval) -> None:
        self._bus.tell(
            ApprovalRequestedEvent,
            None,
            lambda: ApprovalRequestedEvent(
                approval_id=shown.id,
                command=type(shown.command).__name__,
                command_id=shown.envelope.id,
                by=shown.by,
                expires_at=shown.expires_at,
            ),
        )

    def tell_decided(
        self,
        approval_id: str,
        command: str,
        approved: bool,
        by: str | None,
        reason: str,
        outcome: Outcome,
    ) -> None:
        self._bus.tell(
            ApprovalDecidedEvent,
            None,
            lambda: ApprovalDecidedEvent(
                approval_id=approval_id,
                command=command,
                approved=approved,
                by=by,
                reason=reason,
                outcome=outcome,
            ),
        )
