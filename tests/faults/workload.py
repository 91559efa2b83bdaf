"""The application under test: pays, and tells that it paid; each makes one effect outside.

One process of it sends and works. It is killed, or dies by itself at a point of its journal or
transport, and is started again under the same name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

# A preloaded library costs each fork nothing.
import asyncpg  # noqa: F401
import nats  # noqa: F401

from app.llmgine import delivery
from app.llmgine.bus import Approval, MessageBus, Receipt
from app.llmgine.delivery.journal import Journal
from app.llmgine.delivery.nats import NatsTransport
from app.llmgine.delivery.transport import Transport
from app.llmgine.errors import (
    AlreadyDecidedError,
    DeliveryError,
    HandlerMissingError,
    ResultTimeoutError,
)
from app.llmgine.messages import Command, Envelope, Event, current_envelope

from .crash import Dying, Point
from .effects import say
from .ledger import Ledger


class Pay(Command[str]):
    """`hold_s` is how long it takes; a `deadly` one ends the process that handles it."""

    durable = True
    label: str
    hold_s: float = 0.0
    deadly: bool = False
    needs_approval: bool = False


class Ask(Command[str]):
    """Nobody handles it, and who executes it hears so."""


class Paid(Event):
    durable = True
    label: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    name: str
    journal: str
    transport: str
    effects: int
    folder: str
    lease_s: float
    send: bool = True
    work: bool = True
    stuck: bool = False
    loops: int = 4
    pace_s: float = 0.02
    crash: str = ""
    task: str = "load"


def make_journal(url: str) -> Journal:
    if "://" in url:
        return delivery.PostgresJournal(url)
    return delivery.SQLiteJournal(Path(url))


def make_bus(settings: Settings) -> MessageBus:
    journal = make_journal(settings.journal)
    transport: Transport | None = (
        NatsTransport(settings.transport, ack_wait_s=2) if settings.transport else None
    )
    if settings.crash:
        point = Point.parse(settings.crash)
        journal = Dying.journal(journal, point)
        transport = transport and Dying.transport(transport, point)
    bus = MessageBus(
        journal=journal, transport=transport, work=settings.work, lease_s=settings.lease_s
    )
    register(bus, settings.effects)
    if settings.stuck:
        bus.register_event_handler(Paid, stand_still, name="stuck")
    return bus


async def stand_still(event: Paid) -> None:
    await asyncio.Event().wait()


def register(bus: MessageBus, effects: int) -> None:
    """The handlers, which make their effects at that port."""

    async def effect(label: str) -> Envelope:
        envelope = current_envelope()
        assert envelope is not None
        await say(effects, what="effect", label=label, key=str(envelope.idempotency_key))
        return envelope

    async def pay(command: Pay) -> str:
        if command.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        envelope = await effect(f"pay {command.label}")
        await asyncio.sleep(command.hold_s)
        await bus.publish(Paid(label=command.label), key=envelope.key)
        return command.label

    async def thank(event: Paid) -> None:
        await effect(f"thank {event.label}")

    bus.register_command_handler(
        Pay, pay, middleware=[Approval(when=lambda command: command.needs_approval)]
    )
    bus.register_event_handler(Paid, thank, name="thank")


async def until_accepted(
    bus: MessageBus,
    ledger: Ledger,
    label: str,
    *,
    key: str | None = None,
    at: datetime | None = None,
    **more: Any,
) -> Receipt[str]:
    """Send it under its label for as long as it is not accepted, as a careful client does."""
    ledger.note_sent(label)
    while True:
        try:
            receipt = await bus.send(Pay(label=label, **more), key=key, at=at, id=label)
        except DeliveryError:
            await asyncio.sleep(0.05)
        else:
            ledger.note_accepted(label, receipt.id)
            return receipt


def key_of(loop: str) -> str | None:
    """Every other loop sends with a key, and so in order."""
    return loop if int(loop.rsplit(".")[-1]) % 2 == 0 else None


async def send_on(
    bus: MessageBus, ledger: Ledger, settings: Settings, loop: str, hushed: asyncio.Event
) -> None:
    """Send what was begun and not accepted, then more and more."""
    for label in ledger.unanswered:
        if label.startswith(f"{loop}.") and label.count(".") == loop.count(".") + 1:
            await until_accepted(bus, ledger, label, key=key_of(loop))
    number = sum(label.startswith(f"{loop}.") for label in ledger.sent)
    while settings.send and not hushed.is_set():
        number += 1
        receipt = await until_accepted(bus, ledger, f"{loop}.{number}", key=key_of(loop))
        if number % 10 == 0:
            assert await result(bus, receipt) == f"{loop}.{number}"
        await asyncio.sleep(settings.pace_s)


async def result(bus: MessageBus, receipt: Receipt[str]) -> str:
    while True:
        try:
            return await bus.result(receipt, timeout_s=60)
        except DeliveryError:
            await asyncio.sleep(0.05)


async def load(bus: MessageBus, settings: Settings) -> None:
    """Work and send until told to stop."""
    stopped, hushed = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, hushed.set)
    ledger = Ledger(Path(settings.folder) / f"{settings.name}.ledger")
    await bus.start()
    await say(settings.effects, what="ready", label=settings.name)
    senders = [
        asyncio.create_task(send_on(bus, ledger, settings, f"{settings.name}.{number}", hushed))
        for number in range(settings.loops)
    ]
    await stopped.wait()
    for sender in senders:
        sender.cancel()
    await asyncio.wait(senders)
    await bus.stop(grace_s=5)


async def slow(bus: MessageBus, settings: Settings) -> None:
    """Accept one whose handler takes ten times as long as the lease, and work."""
    ledger = Ledger(Path(settings.folder) / f"{settings.name}.ledger")
    await bus.start()
    await until_accepted(bus, ledger, f"{settings.name}.0.1", hold_s=settings.lease_s * 10)
    await asyncio.Event().wait()


async def scenario(bus: MessageBus, settings: Settings) -> None:
    """Everything that calls the journal and the transport; run again, it goes on where it was."""
    name = settings.name
    ledger = Ledger(Path(settings.folder) / f"{name}.ledger")
    await bus.start()
    receipts = [
        await until_accepted(bus, ledger, f"{name}.{loop}.{number}", key=key_of(f"{name}.{loop}"))
        for number in (1, 2, 3)
        for loop in (0, 1)
    ]
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    receipts.append(await until_accepted(bus, ledger, f"{name}.3.1", at=soon))
    receipts.append(await until_accepted(bus, ledger, f"{name}.5.1", needs_approval=True))
    much_later = soon + timedelta(hours=1)
    await bus.cancel(await bus.send(Pay(label="never"), at=much_later, id="never"))
    await approve(bus, receipts[-1])
    for receipt in receipts:
        await result(bus, receipt)
    async for _ in bus.events(after=0):
        break
    await check(bus)
    await asyncio.sleep(settings.lease_s)  # The upkeep looks around, tidies up, and beats again.
    await bus.stop()


async def approve(bus: MessageBus, receipt: Receipt[str]) -> None:
    """Approve what waits, until that one is done."""
    while True:
        for approval in await bus.approvals.pending():
            with contextlib.suppress(AlreadyDecidedError):
                await bus.approvals.decide(approval.id, True, by="somebody")
        with contextlib.suppress(ResultTimeoutError):
            await bus.result(receipt, timeout_s=0.05)
            return


async def check(bus: MessageBus) -> None:
    """Look at both as `doctor` does, and call who is not there."""
    assert bus.journal is not None
    await bus.journal.check()
    if bus.transport is not None:
        await bus.transport.check()
        with contextlib.suppress(HandlerMissingError):
            await bus.execute(Ask())


async def deadly(bus: MessageBus, settings: Settings) -> None:
    """Accept one that ends its process among ten that do not."""
    ledger = Ledger(Path(settings.folder) / f"{settings.name}.ledger")
    await bus.start()
    for number in range(1, 11):
        await until_accepted(bus, ledger, f"{settings.name}.1.{number}")
        if number == 5:
            await bus.send(Pay(label="deadly", deadly=True))
    await bus.stop()


TASKS: dict[str, Callable[[MessageBus, Settings], Awaitable[None]]] = {
    "load": load,
    "slow": slow,
    "deadly": deadly,
    "scenario": scenario,
}


def main(**settings: Any) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(message)s")
    chosen = Settings(**settings)

    async def run() -> None:
        await TASKS[chosen.task](make_bus(chosen), chosen)

    asyncio.run(run())
