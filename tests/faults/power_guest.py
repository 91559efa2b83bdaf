"""What runs in the small machine whose power is cut: the application, on a disk of its own.

It is the first process there. It tells on the console what was accepted and which effects were
made; who reads that is the world outside.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import termios
from contextlib import closing
from pathlib import Path

from app.llmgine.bus import MessageBus
from app.llmgine.delivery import SQLiteJournal
from app.llmgine.messages import Command, Event, current_envelope

AT_ONCE = 16


class Pay(Command[None]):
    durable = True
    label: str


class Paid(Event):
    durable = True
    label: str


def tell(*words: str) -> None:
    """Return once it is outside, and not only on its way."""
    os.write(1, ("\n" + " ".join(("@", *words)) + "\n").encode())
    if os.isatty(1):
        termios.tcdrain(1)


def effect(label: str) -> None:
    envelope = current_envelope()
    assert envelope is not None
    tell("effect", label, str(envelope.idempotency_key))


async def main(path: Path, boot: str) -> None:
    """Send until the power goes; on the boot called `last`, only finish what there is."""
    bus = MessageBus(journal=SQLiteJournal(path), lease_s=1.0)

    async def pay(command: Pay) -> None:
        effect(f"pay-{command.label}")
        await bus.publish(Paid(label=command.label))

    async def thank(event: Paid) -> None:
        effect(f"thank-{event.label}")

    bus.register_command_handler(Pay, pay)
    bus.register_event_handler(Paid, thank, name="thank")
    await bus.start()
    tell("ready")
    if boot != "last":
        await asyncio.gather(*(send_on(bus, f"{boot}-{number}") for number in range(AT_ONCE)))
    assert bus.delivery is not None
    while (await bus.delivery.health()).depth:
        await bus.delivery.journal.changed(0.5)
    await bus.stop()
    with closing(sqlite3.connect(path)) as connection:
        tell("integrity", *(row[0] for row in connection.execute("PRAGMA integrity_check")))
    tell("over")


async def send_on(bus: MessageBus, loop: str) -> None:
    number = 0
    while True:
        number += 1
        await bus.send(Pay(label=f"{loop}-{number}"))
        tell("accepted", f"{loop}-{number}")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
