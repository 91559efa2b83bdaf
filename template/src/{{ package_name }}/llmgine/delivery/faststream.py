# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Messages over Kafka, RabbitMQ or Redis, through FastStream: for teams that have one of these.

    FastStreamTransport(RedisBroker("redis://127.0.0.1:6379"))

| holds                                 | Redis streams      | RabbitMQ      | Kafka        |
|---------------------------------------|--------------------|---------------|--------------|
| at least once, shared by a group      | yes                | yes           | yes          |
| kept until somebody takes it: commands| yes                | yes           | yes          |
| ... events, for a new group           | from then on       | from then on  | from the old |
| order per key                         | no                 | no            | by partition |
| several at once in one process        | yes                | yes           | one          |
| the same id twice is once             | no                 | no            | no           |
| what a lost process had comes again   | `lost_after_s`     | at once       | at once      |
| acknowledged means on disk            | appendfsync always | quorum queues | replicas     |
| request and reply                     | refused            | refused       | refused      |

What a broker cannot do is done here: `Again` is waited for in this process, which keeps the message
meanwhile and counts the times anew; what is cancelled is sent again; `Dead` goes to
`<prefix>.dead.<kind>.<name>`, a line with the error before the message. Deduplication is left to
whoever handles, by the message's id. On Redis a handler must end within `lost_after_s`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from typing import Any

from ..errors import MessageTooLargeError, MessageUnreadableError, MissingExtraError, TransportError
from ..messages import new_id
from .journal import Entry
from .transport import Address, Again, Dead, Deliver, Source, Verdict, pack, unpack
from .wire import error_data

logger = logging.getLogger(__name__)

ANSWER_S = 5.0
LIMITS = {"redis": 100_000_000, "rabbit": 16_000_000, "kafka": 1_000_000}


class FastStreamTransport:
    """A `Transport` over a FastStream broker that you made, which it starts and stops."""

    requests = False

    def __init__(
        self,
        broker: Any,
        *,
        prefix: str = "llmgine",
        lost_after_s: float = 900.0,
        keep_messages: int = 1_000_000,
    ) -> None:
        """Nothing is connected before `open`.

        Args:
            broker: a `RedisBroker`, `RabbitBroker` or `KafkaBroker`.
            prefix: begins the names of all channels; two applications need two.
            lost_after_s: on Redis, a message that somebody has had so long is given to another.
            keep_messages: how long a Redis stream may become; the oldest are dropped then.
        """
        self._broker = broker
        self._kind = type(broker).__module__.split(".")[1]
        if self._kind not in LIMITS:
            raise TransportError(
                f"{type(broker).__name__} is not supported. Take a RedisBroker, a RabbitBroker or "
                "a KafkaBroker; for NATS there is NatsTransport."
            )
        self._prefix = prefix
        self._lost_after_s = lost_after_s
        self._keep_messages = keep_messages
        self._client: Any = None
        self._opened = False
        self._subscribers: set[Any] = set()
        self._running: set[asyncio.Task[Verdict]] = set()
        self._left: list[tuple[str, Any]] = []

    async def open(self) -> None:
        if not self._opened:
            try:
                async with asyncio.timeout(ANSWER_S):
                    self._client = await self._broker.connect()
                    await self._broker.start()
                    if not await self._broker.ping(ANSWER_S):
                        raise ConnectionError("no answer")
            except Exception as error:  # Each broker's library has errors of its own.
                await self._broker.stop()
                raise self._failed("connect", error) from error
            self._opened = True

    async def aclose(self) -> None:
        if not self._opened:
            return
        self._opened = False
        for task in self._running:
            task.cancel()
        # First of all nothing more is read: it would get what it left itself.
        await asyncio.gather(*(one.stop() for one in self._subscribers))
        self._subscribers.clear()
        try:
            await self._send_left()
        except TransportError as error:
            logger.warning("%s", error)
        await self._broker.stop()

    async def send(self, entry: Entry, address: Address) -> None:
        self._need_open()
        data = pack(entry)
        if len(data) > LIMITS[self._kind]:
            limit = LIMITS[self._kind]
            raise MessageTooLargeError(entry.name, size_bytes=len(data), limit_bytes=limit)
        await self._publish(self._channel(address.kind, address.name), data, entry.key)

    async def consume(self, source: Source, deliver: Deliver) -> Callable[[], Awaitable[None]]:
        self._need_open()
        if source.addresses[0].kind == "request":
            raise self._no_requests()
        begun = []
        for address in source.addresses:
            event = address.kind == "event"  # For those of one group; the others for all.
            group = source.group if event else "handlers"
            channel = self._channel(address.kind, address.name)
            route = f"{address.kind} {group if event else address.name}"
            handle = partial(self._handle, deliver, route, channel)
            begun += await self._subscribe(channel, group, source.concurrency, handle)
        self._subscribers.update(begun)

        async def stop() -> None:
            await asyncio.gather(*(one.stop() for one in begun))
            self._subscribers.difference_update(begun)

        return stop

    async def request(self, entry: Entry, address: Address, timeout_s: float) -> str:
        raise self._no_requests()

    async def check(self) -> str:
        self._need_open()
        if not await self._broker.ping(ANSWER_S):
            raise self._failed("answer", ConnectionError("no answer"))
        return f"FastStream over {self._kind}, {len(self._subscribers)} subscribers"

    async def _subscribe(
        self, channel: str, group: str, concurrency: int, handle: Callable[[Any], Awaitable[None]]
    ) -> list[Any]:
        policy = import_module("faststream").AckPolicy.MANUAL
        wanted: list[dict[str, Any]]
        if self._kind == "redis":
            wanted = await self._redis_streams(channel, group, concurrency)
        elif self._kind == "kafka":
            wanted = [{"topics": (channel,), "group_id": group, "auto_offset_reset": "earliest"}]
        else:
            wanted = [await self._rabbit_queue(channel, group)]
        begun = []
        for options in wanted:
            topics = options.pop("topics", ())
            subscriber = self._broker.subscriber(*topics, **options, ack_policy=policy)
            subscriber(_handler(handle))
            try:
                await subscriber.start()
            except Exception as error:  # Each broker's library has errors of its own.
                raise self._failed(f"take {channel!r}", error) from error
            begun.append(subscriber)
        return begun

    async def _redis_streams(
        self, channel: str, group: str, concurrency: int
    ) -> list[dict[str, Any]]:
        """One for what is new, and one for what a lost process had."""
        library = import_module("redis.exceptions")
        start = "$" if ".event." in channel[: len(self._prefix) + 7] else "0"
        try:
            await self._client.xgroup_create(channel, group, start, mkstream=True)
        except library.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise self._failed(f"take {channel!r}", error) from error
        stream = partial(
            import_module("faststream.redis").StreamSub, channel, group=group, consumer=new_id()
        )
        lost = stream(last_id=">", min_idle_time=int(self._lost_after_s * 1_000))
        new = stream(last_id=">", max_records=max(1, concurrency // 2))
        return [{"stream": new, "max_workers": concurrency}, {"stream": lost}]

    async def _rabbit_queue(self, channel: str, group: str) -> dict[str, Any]:
        library = import_module("faststream.rabbit")
        exchange = library.RabbitExchange(
            channel, type=library.ExchangeType.FANOUT, durable=True, auto_delete=False
        )
        queue = library.RabbitQueue(f"{channel}.{group}", durable=True)
        return {"queue": queue, "exchange": exchange}

    async def _publish(self, channel: str, data: bytes, key: str | None) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                if self._kind == "redis":
                    await self._broker.publish(data, stream=channel, maxlen=self._keep_messages)
                elif self._kind == "kafka":
                    await self._broker.publish(data, channel, key=key and key.encode())
                else:
                    await self._publish_rabbit(channel, data)
        except Exception as error:  # Each broker's library has errors of its own.
            raise self._failed(f"store a message in {channel!r}", error) from error

    async def _publish_rabbit(self, channel: str, data: bytes) -> None:
        options = await self._rabbit_queue(channel, "handlers")
        queue = await self._broker.declare_queue(options["queue"])
        exchange = await self._broker.declare_exchange(options["exchange"])
        if ".event." not in channel[: len(self._prefix) + 7]:
            await queue.bind(exchange)  # So that it is kept before anybody takes it.
        await self._broker.publish(data, exchange=options["exchange"], persist=True)

    async def _handle(self, deliver: Deliver, route: str, channel: str, message: Any) -> None:
        # A task of its own: to cancel FastStream's would cancel all that it does at the time.
        task = asyncio.create_task(self._verdict(deliver, route, message.body))
        self._running.add(task)
        try:
            verdict = await task
            if isinstance(verdict, Dead):
                dead = channel.replace(self._prefix, f"{self._prefix}.dead", 1)
                told = " ".join(verdict.error.splitlines())
                await self._publish(dead, f"{told}\n".encode() + message.body, None)
            await message.ack()
        except TransportError as error:  # It stays, and comes again.
            logger.warning("%s", error)
            await message.nack()
        except asyncio.CancelledError:
            task.cancel()
            self._left.append((channel, message))
            if self._opened:
                await self._send_left()
        finally:
            self._running.discard(task)

    async def _send_left(self) -> None:
        """None of them hands a message to another process at once: it is sent again."""
        while self._left:
            channel, message = self._left.pop()
            await self._publish(channel, message.body, None)
            await message.ack()

    async def _verdict(self, deliver: Deliver, route: str, body: bytes) -> Verdict:
        try:
            entry, times = unpack(body, route), 1
        except MessageUnreadableError as error:
            return Dead(error_data(error, "unreadable"))
        verdict: Verdict = Again(0.0)
        while isinstance(verdict, Again):
            entry.attempt = times
            verdict = await deliver(entry, times)
            if isinstance(verdict, Again):
                await asyncio.sleep(verdict.after_s)
                times += 1
        return verdict

    def _channel(self, kind: str, name: str) -> str:
        return f"{self._prefix}.{kind}.{name}"

    def _need_open(self) -> None:
        if not self._opened:
            raise TransportError(f"The transport over {self._kind} is not open.")

    def _failed(self, what: str, error: Exception) -> TransportError:
        told = " ".join(str(error).split()) or type(error).__name__
        return TransportError(
            f"The {self._kind} server failed to {what} ({told}). See that it runs, and that the "
            "address and the login given to the broker are right."
        )

    def _no_requests(self) -> TransportError:
        return TransportError(
            f"Over {self._kind} no command can wait for its answer from another process. Send it "
            "(bus.send), handle it in this process, or use NATS."
        )


def _handler(handle: Callable[[Any], Awaitable[None]]) -> Any:
    """The function that FastStream calls, which looks at its annotations."""
    try:
        library = import_module("faststream")
    except ModuleNotFoundError as error:
        raise MissingExtraError("Messages over Kafka, RabbitMQ or Redis", "faststream") from error

    async def handler(body: Any, message: Any) -> None:
        await handle(message)

    handler.__annotations__ = {"body": Any, "message": Any, "return": None}
    handler.__defaults__ = (library.Context("message"),)
    return handler
