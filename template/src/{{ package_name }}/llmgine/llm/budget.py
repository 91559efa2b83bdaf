# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What may be spent, and the ledger of what was: in one SQLite file for all processes."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date
from decimal import ROUND_CEILING, Decimal
from functools import partial
from itertools import count
from math import inf
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from ..clock import Clock, SystemClock, Timer
from ..contracts import Contract, LLMRequest, Money, Usage
from ..errors import BudgetError, StoreError
from ..sqlite_file import explained, transaction
from ..threads import DaemonThreads
from . import _ledger
from ._ledger import Account, Sums
from .prices import PriceTable, estimated_usage

T = TypeVar("T")
Scope = Literal["call", "session", "user", "day", "model"]

# How long spending that nothing depends on may wait to be written.
FLUSH_S = 1.0
# In units of 1e-12 USD: prices have six decimals for a million tokens, so that every token costs a
# whole number of them.
_UNIT = 12
# What one call counts at most, so that no sum leaves 64 bits.
_MOST_USD = 100_000
_MOST_TOKENS = 10**15

logger = logging.getLogger(__name__)


class Cap(Contract):
    """At most so much; input and output tokens count alike. 0 USD allows what is free."""

    usd: Decimal | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)


class Budget(Contract):
    """What may be spent: on one call, on a session over its whole life, and in a day.

    A session is a `conversation_id`, a user a `user_id`; a call without one is not held to that
    cap. `user` is for each user and day, `day` for everyone together. Days are those of UTC.
    """

    call: Cap | None = None
    session: Cap | None = None
    user: Cap | None = None
    day: Cap | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """The place that the ledger keeps for one call.

    `held` is what stands against the caps until then; `None` if there is no cap to stand against.
    """

    id: int
    target: str
    request: LLMRequest
    accounts: tuple[Account, ...]
    held: Sums | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """What stands against a cap. Reserved is what calls under way, or lost in a crash, may cost.

    `estimated_usd` is the part of `spent_usd` that nobody counted exactly. The calls of unknown
    price, `unpriced`, are in `calls` and in the tokens, but in no amount.
    """

    scope: Scope
    key: str
    cap: Cap | None
    calls: int
    spent_usd: Decimal
    spent_tokens: int
    estimated_usd: Decimal
    unpriced: int
    open_calls: int
    reserved_usd: Decimal
    reserved_tokens: int


@dataclass(frozen=True, slots=True)
class Balances:
    """Today's, with the sessions, users and models that spent the most today."""

    day: date
    total: Balance
    sessions: tuple[Balance, ...]
    users: tuple[Balance, ...]
    models: tuple[Balance, ...]


class Ledger:
    """Keeps a place in the budget for each call, and then writes down what the call took.

    Law: a call is allowed only if then, for each cap, spent + reserved <= cap, whatever runs at
    the same time in however many processes on the file. So caps hold exactly as long as calls take
    no more than was reserved for them; one that takes more passes the cap by its excess alone, and
    the next is refused. A call that costs nothing is always within a cap in USD. The reservation
    of a process that died stays, and counts as spent.

    With a cap on sessions, users or days, each call commits twice, without waiting for the disk: a
    crash of the process forgets nothing, a power cut perhaps the last seconds. With none, nothing
    depends on what the ledger knows. It is kept all the same, for what yesterday cost cannot be
    found out afterwards, but in memory, and written once a second.
    """

    def __init__(
        self,
        path: Path | None,
        budget: Budget | None = None,
        prices: PriceTable | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Nothing is opened before the first call. Without a `path` it lives in memory."""
        self.path = path
        self.budget = budget or Budget()
        self.prices = prices or PriceTable.load()
        self._clock = clock or SystemClock()
        self._ids = count()
        self._open: set[int] = set()
        self._pending: dict[Account, Sums] = {}
        self._flush: Timer | None = None
        self._flush_at = -inf
        self._thread = DaemonThreads(1, name="budget ledger")
        self._connection: sqlite3.Connection | None = None
        self._pruned: date | None = None
        self._closing: Future[None] | None = None

    async def reserve(self, target: str, request: LLMRequest) -> Reservation:
        """Keep a place for a call of `target`, as large as `PriceTable.estimate` says.

        Raises:
            BudgetError: a cap does not allow it, or asks for USD and the price is not known.
            StoreError: the file cannot be read or written, so nobody knows what is left.
        """
        accounts = self._accounts(target, request)
        place = Reservation(next(self._ids), target, request, accounts)
        if caps := list(self._caps(accounts)):
            place = await self._place(place, caps)
        self._open.add(place.id)
        return place

    async def _place(self, place: Reservation, caps: Sequence[tuple[Account, Cap]]) -> Reservation:
        usage = estimated_usage(place.request)
        money = self.prices.highest(place.target, usage)
        if money is None:
            _check_priced(place.target, caps)
        need = Sums(open_calls=1, reserved_usd=_units(money), reserved_tokens=_tokens(usage))
        kept = [(account, cap) for account, cap in caps if account[0] != "call"]
        for account, cap in caps:
            if account[0] == "call":
                _check(place.target, account, cap, Sums(), need)

        def admit(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                for account, cap in kept:
                    _check(place.target, account, cap, _ledger.read(connection, *account), need)
                _ledger.change(connection, dict.fromkeys(place.accounts, need))

        if not kept:
            return place
        await self._admit(admit, dict.fromkeys(place.accounts, _minus(need)))
        return replace(place, held=need)

    async def settle(
        self,
        reservation: Reservation,
        usage: Usage | None,
        cost: Money | None,
        *,
        estimated: bool = False,
    ) -> None:
        """Replace the reservation by what the call took. It never fails: the answer is paid for.

        Where the file cannot be written, the reservation stays and counts as spent.

        Args:
            usage: unknown, it counts as the estimate.
            cost: unknown, it is that of `usage`, or else the estimate's.
            estimated: `usage` or `cost` is not the provider's own.
        """
        if reservation.id in self._open:
            self._open.discard(reservation.id)
            spent = self._spent(reservation, usage, cost, estimated=estimated)
            await self._book(reservation, spent)

    async def release(self, reservation: Reservation) -> None:
        """Give the place back: the call took nothing. It never fails, as `settle`."""
        if reservation.id in self._open:
            self._open.discard(reservation.id)
            await self._book(reservation, None)

    async def balance(self, scope: Scope, key: str = "") -> Balance:
        """Of one session, user or model (`provider/model`) by its name, or of the day.

        Raises:
            StoreError: the file cannot be read.
        """
        day = self._today().isoformat()
        return await self._read(lambda connection: self._find(connection, scope, _text(key), day))

    async def balances(self, *, top: int = 5) -> Balances:
        """The visible ledger, with `top` sessions, users and models.

        Raises:
            StoreError: the file cannot be read.
        """
        today = self._today()

        def read(connection: sqlite3.Connection) -> Balances:
            day = today.isoformat()

            def most(scope: Scope) -> tuple[Balance, ...]:
                keys = _ledger.most_spent(connection, scope, day, top)
                return tuple(self._find(connection, scope, key, day) for key in keys)

            total = self._find(connection, "day", "", day)
            return Balances(today, total, most("session"), most("user"), most("model"))

        return await self._read(read)

    async def aclose(self) -> None:
        """Write what is not written yet, and close the file. Nothing is kept of later calls."""
        if self._closing is None:
            if self._flush is not None:
                self._flush.cancel()
            # In the thread, after all that was begun: a first call may be opening the file.
            self._closing = self._thread.submit(partial(self._close, self._take_pending()))
            self._thread.close()
        # Shielded: whoever gives up waiting must not keep the file open.
        await asyncio.shield(asyncio.wrap_future(self._closing))

    def _close(self, pending: Mapping[Account, Sums]) -> None:
        try:
            if pending:
                self._run(partial(_ledger.book, changes=pending))
        except StoreError as error:
            logger.warning("%s What was spent is lost.", error)
        finally:
            if self._connection is not None:
                self._connection.close()

    def _today(self) -> date:
        return self._clock.now().astimezone(UTC).date()

    def _accounts(self, target: str, request: LLMRequest) -> tuple[Account, ...]:
        day = self._today().isoformat()
        accounts = [("day", "", day), ("model", _text(target), day)]
        if request.conversation_id:
            accounts.append(("session", _text(request.conversation_id), day))
        if request.user_id:
            accounts.append(("user", _text(request.user_id), day))
        return tuple(accounts)

    def _caps(self, accounts: Sequence[Account]) -> Iterator[tuple[Account, Cap]]:
        if self.budget.call:
            yield ("call", "", ""), self.budget.call
        caps = {"session": self.budget.session, "user": self.budget.user, "day": self.budget.day}
        for account in accounts:
            if cap := caps.get(account[0]):
                yield account, cap

    def _spent(
        self, reservation: Reservation, usage: Usage | None, cost: Money | None, *, estimated: bool
    ) -> Sums:
        used = usage or estimated_usage(reservation.request)
        if cost is None or cost.currency != "USD":
            price = self.prices.cost if usage else self.prices.highest
            cost = price(reservation.target, used)
            estimated = estimated or usage is None
        usd = _units(cost)
        return Sums(
            calls=1,
            usd=usd,
            tokens=_tokens(used),
            estimated_usd=usd if estimated else 0,
            unpriced=int(cost is None),
        )

    async def _book(self, reservation: Reservation, spent: Sums | None) -> None:
        """In place of what is held for it; at once only if a cap depends on it."""
        if reservation.held is not None:
            change = (spent or Sums()).plus(_minus(reservation.held))
            changes = dict.fromkeys(reservation.accounts, change)
            try:
                await self._in_thread(partial(_ledger.book, changes=changes))
            except StoreError as error:
                logger.warning("%s The reservation stays, and counts as spent.", error)
        elif spent is not None:
            self._add_pending(dict.fromkeys(reservation.accounts, spent))

    def _find(self, connection: sqlite3.Connection, scope: Scope, key: str, day: str) -> Balance:
        found = _ledger.read(connection, scope, key, day)
        return Balance(
            scope=scope,
            key=key,
            cap=getattr(self.budget, scope, None),
            calls=found.calls,
            spent_usd=_usd(found.usd),
            spent_tokens=found.tokens,
            estimated_usd=_usd(found.estimated_usd),
            unpriced=found.unpriced,
            open_calls=found.open_calls,
            reserved_usd=_usd(found.reserved_usd),
            reserved_tokens=found.reserved_tokens,
        )

    async def _admit(
        self, admit: Callable[[sqlite3.Connection], None], undo: Mapping[Account, Sums]
    ) -> None:
        admitted = self._submit(admit)

        def give_back(connection: sqlite3.Connection) -> None:
            if not admitted.cancelled() and admitted.exception() is None:
                _ledger.book(connection, undo)

        try:
            await asyncio.wrap_future(admitted)
        except asyncio.CancelledError:
            # It may be admitted all the same, with nobody left to give the place back.
            with suppress(StoreError):
                self._submit(give_back)
            raise

    def _add_pending(self, changes: Mapping[Account, Sums]) -> None:
        for account, change in changes.items():
            before = self._pending.get(account)
            self._pending[account] = change if before is None else before.plus(change)
        # By the time: a timer that was not called is of an event loop that has ended.
        if (now := self._clock.monotonic()) >= self._flush_at and self._closing is None:
            self._flush_at = now + FLUSH_S
            self._flush = self._clock.call_at(self._flush_at, self._write_behind)

    def _take_pending(self) -> Mapping[Account, Sums]:
        pending, self._pending = self._pending, {}
        return pending

    def _write_behind(self) -> None:
        if self._closing is None and (pending := self._take_pending()):
            future = self._submit(partial(_ledger.book, changes=pending))
            asyncio.wrap_future(future).add_done_callback(partial(self._written, pending))

    def _written(self, pending: Mapping[Account, Sums], done: asyncio.Future[None]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            logger.warning("%s What was spent is written later.", error)
            self._add_pending(pending)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if pending := self._take_pending():
            try:
                await self._in_thread(partial(_ledger.book, changes=pending))
            except StoreError:
                self._add_pending(pending)
                raise
        return await self._in_thread(work)

    async def _in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        # Shielded: what was begun is written, also for a caller who is cancelled.
        return await asyncio.shield(asyncio.wrap_future(self._submit(work)))

    def _submit(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        if self._closing is not None:
            raise StoreError("The budget ledger is closed; it takes no more calls.")
        return self._thread.submit(partial(self._run, work))

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with explained(f"The budget ledger {self.path or 'in memory'}", StoreError):
            if self._connection is None:
                self._connection = _ledger.open_ledger(self.path)
            today = self._today()
            if self._pruned != today:
                _ledger.prune(self._connection, today)
                self._pruned = today
            return work(self._connection)


def usd_text(amount: Decimal) -> str:
    """`0.00 USD`, `0.0125 USD`, `1,250.00 USD`: millionths of a dollar at the finest."""
    whole, _, rest = f"{amount:,.6f}".partition(".")
    return f"{whole}.{rest.rstrip('0'):0<2} USD"


def _text(key: str) -> str:
    # Half of a surrogate pair, as an undecodable command-line byte leaves it, is no text to SQLite.
    return key.encode(errors="backslashreplace").decode()


def _minus(held: Sums) -> Sums:
    return Sums(*(-number for number in held))


def _tokens(usage: Usage) -> int:
    return min(usage.input_tokens + usage.output_tokens, _MOST_TOKENS)


def _units(money: Money | None) -> int:
    if money is None:
        return 0
    amount = min(max(money.amount, Decimal(0)), Decimal(_MOST_USD))
    return int(amount.scaleb(_UNIT).to_integral_value(ROUND_CEILING))


def _usd(units: int) -> Decimal:
    return Decimal(units).scaleb(-_UNIT)


def _check(target: str, account: Account, cap: Cap, found: Sums, need: Sums) -> None:
    """Raises: BudgetError."""
    spent, reserved, needed = _usd(found.usd), _usd(found.reserved_usd), _usd(need.reserved_usd)
    if cap.usd is not None and needed and spent + reserved + needed > cap.usd:
        raise _refused(target, account, "USD", *map(usd_text, (cap.usd, spent, reserved, needed)))
    numbers = (found.tokens, found.reserved_tokens, need.reserved_tokens)
    if cap.tokens is not None and sum(numbers) > cap.tokens:
        told = (f"{number:,} tokens" for number in (cap.tokens, *numbers))
        raise _refused(target, account, "TOKENS", *told)


def _refused(
    target: str, account: Account, unit: str, cap: str, spent: str, reserved: str, needed: str
) -> BudgetError:
    scope, key, day = account
    of = {
        "call": "one call",
        "session": f"session {key!r}",
        "user": f"user {key!r} on {day} (UTC)",
        "day": f"{day} (UTC)",
    }[scope]
    stands = "" if scope == "call" else f", {spent} are spent, {reserved} reserved by open calls"
    return BudgetError(
        f"The budget of {of} does not allow this call of {target}: the cap is {cap}{stands}, and "
        f"it may take {needed}. Raise LLMGINE_BUDGET_{scope.upper()}_{unit}, or lower the "
        "request's max_output_tokens.",
        scope=scope,
        model=target,
    )


def _check_priced(target: str, caps: Sequence[tuple[Account, Cap]]) -> None:
    """Raises: BudgetError: a cap is in USD, and what this call costs nobody knows."""
    for (scope, _, _), cap in caps:
        if cap.usd is not None:
            raise BudgetError(
                f"The price of {target} is not known, so the {scope} budget of "
                f'{usd_text(cap.usd)} cannot allow it. Add [prices."{target}"] with input and '
                "output, in USD per million tokens, to the file that LLMGINE_PRICES_FILE names.",
                scope=scope,
                model=target,
            )
