# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Messages over NATS: JetStream keeps what is sent, core NATS carries requests and their answers.

What stands on the server, with the prefix `llmgine`:

- the streams `llmgine-commands`, `-events`, `-results` and `-dead`, and the object store
  `llmgine-payloads`. One that is there already keeps the settings it has: change those with the
  `nats` tool.
- subjects `llmgine.<kind>.<name>.<shard>`. A key belongs to one shard, so all processes need the
  same number of shards. Messages without a key go to the shard `any`.
- a durable consumer per command name (or per group, for events) and shard. One of a keyed shard has
  one message out at a time, everywhere: keys keep their order, also while a message is retried.
- a command or a result that was handled leaves its stream within seconds. Events stay for `keep_s`,
  so that a group sees those that were sent while it was away; a new group begins with the next one.
- dead letters: `llmgine.dead.<kind>.<name>`, a line with the error before the message.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from ..errors import (
    ConfigurationError,
    HandlerMissingError,
    MessageUnreadableError,
    MissingExtraError,
    TransportError,
)
from ..messages import new_id
from ._nats_names import parsed, token
from ._nats_work import CANCEL, CLAIM, FAILED, LEFT, REQUEST, TIMEOUT, Asked, Pulled
from .journal import Entry
from .transport import Address, Deliver, RequestFailedError, Source, pack

logger = logging.getLogger(__name__)

CONNECT_S = 5.0
# How soon a server says what it is.
GREETING_S = 1.0
ANSWER_S = 5.0
REOPEN_S = 0.5
STUCK_S = 30.0
PING_S = 5
LEAVE_S = 1.0
FETCH_S = 20.0
DEAD_KEEP_S = 30 * 86_400.0
HEADER_BYTES = 4_096
MSG_ID = "Nats-Msg-Id"


class NatsTransport:
    """A `Transport` over NATS JetStream, for any number of machines."""

    requests = True

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "llmgine",
        shards: int = 8,
        ack_wait_s: float = 10.0,
        max_deliveries: int = 25,
        duplicate_window_s: float = 120.0,
        claim_check_bytes: int = 256_000,
        keep_s: float = 7 * 86_400.0,
        stream_bytes: int = 512_000_000,
        replicas: int = 1,
    ) -> None:
        """Nothing is connected before `open`.

        Args:
            url: `nats://user:password@host:port`, or several, separated by commas.
            prefix: begins the names of all streams and subjects; two applications need two.
            shards: how many keyed messages of one name can be handled at the same time.
            ack_wait_s: a process that was silent so long has lost what it had in hand.
            max_deliveries: a message that was handed out so often, retries counted, is dead; the
                bus gives up before, and tells who sent it.
            duplicate_window_s: within it, a message that is sent twice is stored once.
            claim_check_bytes: larger messages go to the object store, and a reference is sent.
            keep_s: how long events, and results that nobody fetched, are kept.
            stream_bytes: how large each stream may become. A full one refuses commands; of
                events, results and dead letters it drops the oldest.
            replicas: copies of a new stream; 3 or 5 on a cluster.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]+", prefix):
            raise ConfigurationError(
                f"The prefix {prefix!r} may have only letters, digits, - and _."
            )
        self._servers, self._login, self.at = parsed(url)
        self.prefix = prefix
        self.shards = shards
        self.ack_wait_s = ack_wait_s
        self.max_deliveries = max_deliveries
        self.keep_s = keep_s
        self.ready = asyncio.Event()
        self.library: Any = None
        self._duplicate_window_s = duplicate_window_s
        self._claim_check_bytes = claim_check_bytes
        self._stream_bytes = stream_bytes
        self._replicas = replicas
        self._client: Any = None
        self._stream: Any = None
        self._payloads: Any = None
        self._refused = ""
        self._opening = asyncio.Lock()
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._work: set[Pulled | Asked] = set()
        self._troubles: dict[str, str] = {}

    async def open(self) -> None:
        if self.library is None:
            self.library = await asyncio.to_thread(_library)
        async with self._opening:
            if self._client is not None:
                return
            self._closing = False
            await self._connect()
            try:
                await self._make_streams()
            except BaseException:
                await self.aclose()
                raise
            self._start(self._beat())

    async def aclose(self) -> None:
        client = self._client
        if client is None or self._closing:
            return
        self._closing = True
        await asyncio.gather(*(one.abandon() for one in list(self._work)))
        self._work.clear()
        for task in list(self._tasks):
            task.cancel()
        with contextlib.suppress(OSError, self.library.errors.Error):
            async with asyncio.timeout(LEAVE_S):
                await client.flush()
        self.ready.clear()
        self._client = None
        await client.close()

    async def send(self, entry: Entry, address: Address) -> None:
        data, headers = await self._packed(entry, address)
        subject = self.subject(address.kind, address.name, entry.key)
        headers[MSG_ID] = entry.id
        async with self.explained(f"store {entry.name!r}"):
            try:
                await self._stream.publish(subject, data, timeout=ANSWER_S, headers=headers)
            except self.library.js.errors.NoStreamResponseError:
                await self._make_streams()
                await self._stream.publish(subject, data, timeout=ANSWER_S, headers=headers)

    async def consume(self, source: Source, deliver: Deliver) -> Callable[[], Awaitable[None]]:
        await self.connected()
        kind = source.addresses[0].kind
        work = (Asked if kind == "request" else Pulled)(self, source, deliver)
        async with self.explained(f"take messages for {source.group!r}"):
            await work.start()
        self._work.add(work)

        async def stop() -> None:
            await work.stop()
            self._work.discard(work)

        return stop

    async def request(self, entry: Entry, address: Address, timeout_s: float) -> str:
        data, headers = await self._packed(entry, address)
        until = time.monotonic() + timeout_s
        while (left_s := until - time.monotonic()) > 0:
            asked = {**headers, REQUEST: new_id(), TIMEOUT: f"{left_s:.3f}"}
            answer = await self._ask(data, asked, address.name, left_s)
            told = answer.headers or {}
            if LEFT not in told:
                if FAILED in told:
                    raise RequestFailedError(answer.data.decode())
                return str(answer.data.decode())
            await asyncio.sleep(0.05)  # It stops taking requests, and the others will get this one.
        raise TimeoutError(f"No answer to {address.name!r} within {timeout_s:g} s.")

    async def _ask(self, data: bytes, headers: dict[str, str], name: str, left_s: float) -> Any:
        client, errors = await self.connected(), self.library.errors
        subject = self.subject("request", name)
        try:
            return await client.request(subject, data, timeout=left_s, headers=headers)
        except errors.NoRespondersError as error:
            raise HandlerMissingError(
                f"Nobody handles {name!r} now. Start a process that does, and see that it uses "
                f"NATS at {self.at} with the prefix {self.prefix!r} too."
            ) from error
        except errors.TimeoutError as error:
            raise TimeoutError(f"No answer to {name!r} within {left_s:.3g} s.") from error
        except errors.Error as error:
            raise TransportError(self._advice(f"request {name!r}", error)) from error
        except asyncio.CancelledError:
            with contextlib.suppress(self.library.errors.Error):
                await client.publish(self.subject(CANCEL, headers[REQUEST]))
            raise

    async def check(self) -> str:
        client = await self.connected()
        for name, trouble in self._troubles.items():
            raise TransportError(f"NATS at {self.at} does not hand out {name}: {trouble}.")
        async with self.explained("look at the streams"):
            copies = [
                (await self._stream.stream_info(self.stream(kind))).config.num_replicas
                for kind in ("command", "event", "result", "dead")
            ]
        version = client.connected_server_version
        return (
            f"NATS {version.major}.{version.minor}.{version.patch} at {self.at}: JetStream, "
            f"{len(copies)} streams {self.prefix}-*, replicas {min(copies)}"
        )

    # What the work uses.

    @property
    def streams(self) -> Any:
        """The JetStream context of the client that is connected now."""
        return self._stream

    @property
    def room(self) -> int:
        """The most bytes that a message may have, with room left for its headers."""
        return int(self._client.max_payload) - HEADER_BYTES

    def stream(self, kind: str) -> str:
        return f"{self.prefix}-{kind if kind == 'dead' else f'{kind}s'}"

    def subject(self, kind: str, name: str, key: str | None = None) -> str:
        if kind == CANCEL:
            return f"{self.prefix}.{kind}.{name}"
        if kind == "request":
            return f"{self.prefix}.{kind}.{token(name)}"
        shard = "any" if key is None else zlib.crc32(key.encode()) % self.shards
        return f"{self.prefix}.{kind}.{token(name)}.{shard}"

    async def connected(self) -> Any:
        """The client, as soon as it is connected.

        Raises:
            TransportError: it was not within some seconds.
        """
        if not self.ready.is_set():
            try:
                async with asyncio.timeout(CONNECT_S if self._client is not None else 0):
                    await self.ready.wait()
            except TimeoutError as error:
                raise TransportError(
                    f"NATS at {self.at} is not connected. It is tried again all the time: see "
                    "that the server runs."
                    if self._client is not None
                    else f"The transport to NATS at {self.at} is not open."
                ) from error
        return self._client

    async def tell(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        """Publish without an answer, as soon as there is a connection."""
        while True:
            if not self.ready.is_set():
                await self.ready.wait()
            try:
                await self._client.publish(subject, data, headers=headers)
            except self.library.errors.ConnectionClosedError:
                self.ready.clear()  # The client is about to say so itself.
            else:
                return

    async def confirm(self, reply: str) -> None:
        """Acknowledge a message, and return once the server knows.

        Raises:
            TransportError: it may not know.
        """
        async with self.explained("acknowledge a message"):
            await (await self.connected()).request(reply, b"+ACK", timeout=ANSWER_S)

    async def bury(self, message: Any, letter_id: str, error: str) -> None:
        """Raises: TransportError: it could not be stored."""
        _, kind, name, _ = message.subject.split(".")
        headers = {**(message.headers or {}), MSG_ID: letter_id}
        body = f"{' '.join(error.splitlines())}\n".encode() + message.data
        async with self.explained("store a dead letter"):
            await self._stream.publish(
                f"{self.prefix}.dead.{kind}.{name}", body, timeout=ANSWER_S, headers=headers
            )

    async def claimed(self, claim: str) -> bytes:
        """The message that is kept there.

        Raises:
            MessageUnreadableError: it is not there any more.
            TransportError: it could not be fetched now.
        """
        async with self.explained("fetch a large message"), asyncio.timeout(FETCH_S):
            try:
                found = await (await self._bucket()).get(claim)
            except self.library.js.errors.NotFoundError as error:
                raise MessageUnreadableError(
                    f"A message came without its content: the object store {self.prefix}-payloads "
                    f"has no {claim!r} any more. Send it again."
                ) from error
        return bytes(found.data)

    async def forget(self, claim: str) -> None:
        """It would expire anyway, but take room until then."""
        with contextlib.suppress(self.library.errors.Error):
            await (await self._bucket()).delete(claim)

    def trouble(self, name: str, error: Exception) -> None:
        """A part of the work failed, and will be tried again: logged once."""
        text = " ".join(str(error).split()) or type(error).__name__
        if name not in self._troubles:
            logger.warning("NATS at %s does not hand out %s, trying on: %s", self.at, name, text)
        self._troubles[name] = text

    def recovered(self, name: str) -> None:
        if self._troubles.pop(name, None):
            logger.info("NATS at %s hands out %s again", self.at, name)

    # The connection.

    async def _refuse_plain(self) -> None:
        """`tls://` is a promise, but the client would send the login to a server without TLS.

        Raises:
            TransportError: a server has none.
        """
        for parts in map(urlsplit, self._servers):
            if parts.scheme != "tls":
                continue
            try:
                async with asyncio.timeout(GREETING_S):
                    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                    try:
                        told = json.loads((await reader.readline()).removeprefix(b"INFO "))
                    finally:
                        writer.close()
            except (OSError, TimeoutError, ValueError):
                continue  # Connecting will tell what is wrong, or it begins with TLS at once.
            if not told.get("tls_required"):
                raise TransportError(
                    f"The message server {parts.hostname}:{parts.port} does not ask for TLS, so "
                    "nothing was sent to it. Give the server a certificate, or write nats:// if "
                    "the network is trusted."
                )

    async def _connect(self) -> None:
        await self._refuse_plain()
        client = self.library.NATS()
        try:
            async with asyncio.timeout(CONNECT_S):
                await client.connect(
                    servers=self._servers,
                    **self._login,
                    name=self.prefix,
                    # Only until it is connected: so that the first failure ends it.
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=REOPEN_S,
                    connect_timeout=CONNECT_S,
                    ping_interval=PING_S,
                    error_cb=self._heard_error,
                    disconnected_cb=partial(self._lost, client),
                    reconnected_cb=partial(self._back, client),
                    closed_cb=partial(self._closed, client),
                )
        except (self.library.errors.Error, OSError, TimeoutError) as error:
            await client.close()
            raise TransportError(self._advice("connect", error)) from error
        except BaseException:
            await client.close()
            raise
        client.options.update(allow_reconnect=True, max_reconnect_attempts=-1)
        self._client, self._payloads, self._refused = client, None, ""
        self._stream = client.jetstream(timeout=ANSWER_S)
        self.ready.set()

    async def _heard_error(self, error: Exception) -> None:
        told = " ".join(str(error).split())
        if "ermissions" in told and told != self._refused:
            logger.warning("NATS at %s: %s", self.at, told)
        self._refused = told

    async def _lost(self, client: Any) -> None:
        if client is self._client and self.ready.is_set():
            self.ready.clear()
            logger.warning("NATS at %s is gone (%s), connecting again", self.at, self._refused)

    async def _back(self, client: Any) -> None:
        if client is self._client:
            self._renew(Pulled)

    def _renew(self, *kinds: type[Pulled | Asked]) -> None:
        self._refused = ""
        self.ready.set()
        logger.info("NATS at %s is connected again", self.at)
        for work in self._work:
            if isinstance(work, kinds):
                work.renew()

    async def _closed(self, client: Any) -> None:
        if client is self._client and not self._closing:
            self.ready.clear()
            self._start(self._reopen())

    async def _reopen(self) -> None:
        """The client gave up for good, as it does when its login is refused: make another."""
        pause_s = REOPEN_S
        while not self._closing:
            try:
                await self._connect()
            except TransportError as error:
                logger.debug("NATS: %s", error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, CONNECT_S)
            else:
                self._renew(Pulled, Asked)
                return

    async def _beat(self) -> None:
        """Say of everything in hand that it is in progress; see that connecting goes on."""
        lost_s = 0.0
        while True:
            await asyncio.sleep(pause_s := min(self.ack_wait_s / 3, STUCK_S))
            lost_s = 0.0 if self.ready.is_set() else lost_s + pause_s
            if lost_s > STUCK_S and not self._client.is_closed:
                # Its own trying ends in silence at an error it does not expect.
                lost_s = 0.0
                await self._client.close()
            for work in list(self._work):
                for reply in work.replies():
                    if self.ready.is_set():
                        with contextlib.suppress(self.library.errors.Error):
                            await self._client.publish(reply, b"+WPI")

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("NATS at %s: a task ended", self.at, exc_info=error)
            if not self._closing:
                self._start(self._beat())

    # What stands on the server.

    async def _make_streams(self) -> None:
        limits: dict[str, dict[str, Any]] = {
            "command": {"discard": "new"},
            "event": {"discard": "old", "max_age": self.keep_s},
            "result": {"discard": "old", "max_age": self.keep_s},
            "dead": {"discard": "old", "max_age": DEAD_KEEP_S},
        }
        for kind, settings in limits.items():
            async with self.explained(f"make the stream {self.stream(kind)}"):
                try:
                    await self._stream.stream_info(self.stream(kind))
                except self.library.js.errors.NotFoundError:
                    await self._stream.add_stream(
                        name=self.stream(kind),
                        subjects=[f"{self.prefix}.{kind}.>"],
                        # Not `workqueue`: with `sync_interval: always` it deletes each message by
                        # itself, and so slowly that acknowledgements pile up. See `Puller.sweep`.
                        retention="limits",
                        storage="file",
                        max_bytes=self._stream_bytes,
                        duplicate_window=self._duplicate_window_s,
                        num_replicas=self._replicas,
                        **settings,
                    )

    async def _bucket(self) -> Any:
        if self._payloads is None:
            name = f"{self.prefix}-payloads"
            try:
                self._payloads = await self._stream.object_store(name)
            except self.library.js.errors.BucketNotFoundError:
                self._payloads = await self._stream.create_object_store(
                    name,
                    ttl=DEAD_KEEP_S,
                    max_bytes=self._stream_bytes,
                    replicas=self._replicas,
                )
        return self._payloads

    async def _packed(self, entry: Entry, address: Address) -> tuple[bytes, dict[str, str]]:
        await self.connected()
        data, room = pack(entry), self.room
        if len(data) <= min(self._claim_check_bytes, room):
            return data, {}
        name = f"{address.kind}/{entry.id}"
        async with self.explained(f"keep the large {entry.name!r}"):
            bucket = await self._bucket()
            try:
                await bucket.get_info(name)  # A second put would take it from who fetches it now.
            except self.library.js.errors.NotFoundError:
                await bucket.put(name, data)
        return b"", {CLAIM: name}

    @contextlib.asynccontextmanager
    async def explained(self, what: str) -> AsyncIterator[None]:
        """Turn what NATS raises into a `TransportError` that says what to do."""
        try:
            yield
        except (self.library.errors.Error, OSError) as error:  # A timeout is an OSError.
            raise TransportError(self._advice(what, error)) from error

    def _advice(self, what: str, error: Exception) -> str:
        told = " ".join(f"{error} {self._refused}".split()) or type(error).__name__
        fitting = (fix for signs, fix in _FIXES if any(sign in told.lower() for sign in signs))
        advice = next(fitting, "See that the server runs and that its address is right")
        return f"NATS at {self.at} failed to {what} ({told}). {advice}."


_FIXES = (
    (("name or service", "name resolution", "getaddrinfo"), "Its name is not known: correct it"),
    (
        ("authorization", "authentication", "credentials"),
        "Correct the user and password in its url",
    ),
    (("permissions",), "Give the user the rights to the subject that is named"),
    (("maximum bytes",), "Its stream is full: handle what is queued, or give the stream more room"),
    (("insufficient", "resource"), "Give JetStream more room, or ask for less by stream_bytes"),
    (("replicas", "no suitable peers"), "Ask for fewer replicas, or add servers to the cluster"),
    (("serviceunavailable", "no response from stream"), "Start it with JetStream: see nats.conf"),
)


def _library() -> Any:
    try:
        for part in ("nats.js.api", "nats.js.errors"):
            import_module(part)
        return import_module("nats")
    except ModuleNotFoundError as error:
        raise MissingExtraError("Messages over NATS", "nats") from error
