"""Servers that die, hang, break off or are away: workers live on, and lose and repeat nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from faults.harness import FINISHED_S, LONG, Harness, Place
from faults.nursery import Nursery
from faults.proxy import FaultProxy
from servers import NatsServer, PostgresServer, Server

AWAY_S = 60.0 if LONG else 2.5
ROUNDS = 5 if LONG else 1
NAMES = ("one", "two")
KINDS: dict[str, type[Server]] = {"postgres": PostgresServer, "nats": NatsServer}

pytestmark = pytest.mark.timeout(900 if LONG else 120)


@pytest.fixture(scope="module", params=["postgres", "nats"])
def hurt_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One that the other modules do not use, for it is going to be hurt."""
    with KINDS[request.param]() as server:
        yield server


@pytest.fixture
def server(hurt_server: Server) -> Server:
    if not hurt_server.running:  # A test failed halfway.
        hurt_server.start()
    return hurt_server


def place_at(server: Server, port: int) -> Place:
    url = server.through(port, server.fresh_url())
    return Place(transport=url) if isinstance(server, NatsServer) else Place(journal=url)


@pytest.fixture
async def harness(
    server: Server, fault_proxy: FaultProxy, nursery: Nursery, tmp_path: Path
) -> AsyncIterator[Harness]:
    """Workers that reach the server through the proxy."""
    await fault_proxy.open(server.address)
    async with Harness(tmp_path, nursery, place_at(server, fault_proxy.port)) as harness:
        yield harness


async def hurt(harness: Harness, fault: Callable[[], Awaitable[object]]) -> None:
    """Have the fault happen under load, several times; nobody is started anew."""
    for name in NAMES:
        harness.start(name)
    for name in NAMES:
        await harness.ready(name)
    for _ in range(ROUNDS):
        await harness.under_way(30)
        await fault()
    await harness.under_way(30)
    harness.hush()
    report = await harness.settled()

    print(report)
    harness.assert_running()
    harness.assert_faultless(report)
    assert report.finished_s < FINISHED_S
    assert report.accepted > 20


async def test_a_killed_server_comes_back(harness: Harness, server: Server) -> None:
    async def fault() -> None:
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.start)

    await hurt(harness, fault)


async def test_a_server_is_away_for_long(
    harness: Harness, fault_proxy: FaultProxy, server: Server
) -> None:
    async def fault() -> None:
        await fault_proxy.refuse()
        await asyncio.sleep(AWAY_S)
        await fault_proxy.open(server.address)

    await hurt(harness, fault)


async def test_connections_are_reset(harness: Harness, fault_proxy: FaultProxy) -> None:
    async def fault() -> None:
        for _ in range(10):
            fault_proxy.reset()
            await asyncio.sleep(0.1)

    await hurt(harness, fault)


async def test_connections_hang_and_then_break(harness: Harness, fault_proxy: FaultProxy) -> None:
    async def fault() -> None:
        fault_proxy.blackhole()
        await asyncio.sleep(AWAY_S)
        fault_proxy.reset()
        fault_proxy.forward()

    await hurt(harness, fault)


async def test_connections_hang_and_go_on(harness: Harness, fault_proxy: FaultProxy) -> None:
    async def fault() -> None:
        fault_proxy.blackhole()
        await asyncio.sleep(AWAY_S)
        fault_proxy.forward()

    await hurt(harness, fault)


async def test_the_network_is_slow(harness: Harness, fault_proxy: FaultProxy) -> None:
    async def fault() -> None:
        fault_proxy.delay_s = 0.05
        await harness.under_way(10)
        fault_proxy.forward()

    await hurt(harness, fault)


@pytest.mark.parametrize("hurt_server", ["postgres"], indirect=True)
async def test_postgres_ends_all_connections(harness: Harness, server: Server) -> None:
    assert isinstance(server, PostgresServer)

    async def fault() -> None:
        for _ in range(10):
            await asyncio.to_thread(server.disconnect_clients)
            await asyncio.sleep(0.1)

    await hurt(harness, fault)


async def test_a_server_is_away_at_the_start(
    harness: Harness, fault_proxy: FaultProxy, server: Server
) -> None:
    await fault_proxy.refuse()
    harness.supervise("one")
    await asyncio.sleep(AWAY_S)
    await fault_proxy.open(server.address)
    await harness.under_way(30)
    harness.hush()
    report = await harness.settled()

    harness.assert_faultless(report)
