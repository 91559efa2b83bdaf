"""JetStream with every write on the disk: by nats-py alone, by our transport, and by FastStream."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import nats
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub

from app.llmgine.delivery.journal import Entry
from app.llmgine.delivery.nats import NatsTransport
from app.llmgine.delivery.transport import Address, Done, Source, Verdict

from .subject import TEXT, Greet, Taken, Watch, in_flight

PUBLISHING = 256
PULL = 500
PAYLOAD = Greet(user=1, text=TEXT).model_dump_json()


async def stored(url: str, count: int) -> Taken:
    """Published by `PUBLISHING` senders at once, each awaiting that it is stored."""
    client = await nats.connect(url)
    stream = client.jetstream(timeout=30)
    await stream.add_stream(name="bench", subjects=["bench"])
    with (watch := Watch()):
        await in_flight(count, PUBLISHING, lambda _: stream.publish("bench", PAYLOAD.encode()))
    await client.close()
    return watch.each(count)


async def _filled(url: str, count: int) -> Any:
    await stored(url, count)
    return await nats.connect(url)


async def bare(url: str, count: int) -> Taken:
    client = await _filled(url, count)
    pulled = await client.jetstream(timeout=30).pull_subscribe("bench", durable="bare")
    handled = 0
    with (watch := Watch()):
        while handled < count:
            for message in await pulled.fetch(min(PULL, count - handled)):
                Greet.model_validate_json(message.data)
                handled += 1
                await message.ack()
        await client.flush()
    await client.close()
    return watch.each(count)


async def ours(url: str, count: int) -> Taken:
    """By `NatsTransport.consume`, as the bus calls it."""
    transport = NatsTransport(url)
    await transport.open()
    address = Address(kind="command", name="Greet")

    def entry(number: int) -> Entry:
        return Entry(
            id=str(number),
            route="relay",
            name="Greet",
            payload=PAYLOAD,
            created_ns=time.time_ns(),
        )

    await in_flight(count, PUBLISHING, lambda number: transport.send(entry(number), address))
    handled, over = 0, asyncio.Event()

    async def handle(entry: Entry, times: int) -> Verdict:
        nonlocal handled
        Greet.model_validate_json(entry.payload)
        handled += 1
        if handled == count:
            over.set()
        return Done()

    with (watch := Watch()):
        stop = await transport.consume(Source(addresses=(address,), group="Greet"), handle)
        await over.wait()
        await stop()
        await transport.check()
    await transport.aclose()
    return watch.each(count)


async def faststream(url: str, count: int) -> Taken:
    await (await _filled(url, count)).close()
    broker = NatsBroker(url, log_level=0, logger=None)
    handled, over = 0, asyncio.Event()

    @broker.subscriber(
        "bench",
        durable="faststream",
        stream=JStream("bench", declare=False),
        pull_sub=PullSub(batch_size=PULL),
        ack_policy=AckPolicy.NACK_ON_ERROR,
    )
    async def handle(message: dict[str, Any]) -> None:
        nonlocal handled
        Greet.model_validate(message)
        handled += 1
        if handled == count:
            over.set()

    with (watch := Watch()):
        await broker.start()
        await over.wait()
        await broker.ping(5)
    await broker.stop()
    return watch.each(count)
