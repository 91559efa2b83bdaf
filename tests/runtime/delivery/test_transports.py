"""Every transport, on a real server, does what the contract says."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from faststream.redis import RedisBroker

from app.llmgine.delivery.faststream import FastStreamTransport
from app.llmgine.delivery.nats import NatsTransport
from app.llmgine.delivery.transport import Transport
from runtime.delivery.transport_contract import (
    HELD_S,
    MakeTransport,
    RequestContract,
    StrictContract,
    TransportContract,
)
from servers import NatsServer, RedisServer


class TestNats(TransportContract, StrictContract, RequestContract):
    @pytest.fixture
    async def make(self, nats_server: NatsServer) -> AsyncIterator[MakeTransport]:
        url = nats_server.fresh_url()
        async with AsyncExitStack() as opened:

            async def make() -> Transport:
                transport = NatsTransport(url, ack_wait_s=HELD_S, shards=3, stream_bytes=9_000_000)
                await transport.open()
                opened.push_async_callback(transport.aclose)
                return transport

            yield make


class TestRedis(TransportContract):
    @pytest.fixture
    async def make(self, redis_server: RedisServer) -> AsyncIterator[MakeTransport]:
        url = redis_server.fresh_url()
        async with AsyncExitStack() as opened:

            async def make() -> Transport:
                transport = FastStreamTransport(RedisBroker(url))
                await transport.open()
                opened.push_async_callback(transport.aclose)
                return transport

            yield make
