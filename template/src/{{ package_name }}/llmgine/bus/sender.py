# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What a bus offers for what outlives the process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from ..errors import BusError
from ..messages import Command, Event, Message, R, Receipt
from .doing import current_doing

if TYPE_CHECKING:
    from .durable import Delivery
    from .eventlog import Told


class Sender:
    """Sends durable messages, brings their results, and tells what happened."""

    delivery: Delivery | None

    async def send(
        self,
        message: Command[R] | Event,
        *,
        at: datetime | None = None,
        every: timedelta | None = None,
        cron: str | None = None,
        timezone: tzinfo = UTC,
        key: str | None = None,
        id: str | None = None,  # noqa: A002  the word that its users would look for
        session_id: str | None = None,
    ) -> Receipt[R]:
        """Keep a durable command to be executed, or event to be published, once or on and on.

        Returns once it is committed; sent by a durable handler, it is committed with that handler's
        completion. It is done at least once, here or by any other worker of the journal.

        Args:
            message: of a class that says `durable = True`.
            at: not before then, with a timezone; the first time, if it is repeated.
            every: again after each interval.
            cron: again by five fields, as in `0 9 * * 1-5`, or six with the seconds first.
            timezone: whose days and hours `cron` means.
            key: those of one class and key are done in the order they were sent.
            id: kept once for each class, as long as finished messages are kept.
            session_id: the session of the handler in which it is sent, if not given.

        Raises:
            BusError: its class is not durable, the bus has no journal, or the time cannot be.
            JournalError: it could not be kept.
        """
        keeper = self.keeper(type(message))
        envelope = keeper.bus.enclose(message, session_id)
        envelope.key = key
        return await keeper.sending.send(
            envelope, at=at, every=every, cron=cron, timezone=timezone, entry_id=id
        )

    async def result(self, receipt: Receipt[R], *, timeout_s: float | None = None) -> R:
        """The result of what was sent, when it is there; or the error its handler raised.

        Raises:
            ResultTimeoutError: it is not there in that time.
            UnknownReceiptError: nothing is kept under that id, or no longer.
        """
        result: R = await self.keeper().sending.result(receipt, timeout_s)
        return result

    async def cancel(self, receipt: Receipt[Any]) -> bool:
        """Forget what was sent, a schedule too. `False` if it has begun or is done."""
        return await self.keeper().journal.drop(receipt.id, ["ready", "waiting"])

    def events(
        self, *, after: int | None = None, session: str | None = None
    ) -> AsyncIterator[Told]:
        """The events of the log after that cursor, then those that come; each once and in order.

        Args:
            after: the last cursor that was seen; 0 is the beginning, `None` is now.
            session: only events of this session.

        Raises:
            CursorExpiredError: some of them are no longer kept.
        """
        return self.keeper().log.read(after, session)

    def commit_with(self, write: Callable[[Any], Any]) -> None:
        """In a durable handler: call `write` in the transaction that marks its message as done.

        It gets the journal's own connection: a `sqlite3.Connection`, or an `asyncpg.Connection`,
        for which it is async. If it raises, nothing is committed and the handler has failed.

        Raises:
            BusError: called elsewhere.
        """
        one = current_doing()
        if one is None:
            raise BusError("commit_with belongs into the handler of a durable message.")
        one.writes.append(write)

    def keeper(self, message_type: type[Message] | None = None) -> Delivery:
        """Raises: BusError: there is no journal."""
        if self.delivery is None:
            what = "The bus has no journal"
            if message_type is not None:
                what = f"{message_type.__name__!r} is durable, but the bus has no journal"
            raise BusError(f"{what} to keep it in: MessageBus(journal=SQLiteJournal(...))")
        return self.delivery
