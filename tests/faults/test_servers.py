"""The servers and the proxy that the other tests rely on do what these believe."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nats
import pytest

from faults.proxy import FaultProxy, free_port
from servers import (
    NatsServer,
    PostgresServer,
    RedisServer,
    Server,
    ask,
    reachable,
)

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("kind", [NatsServer, PostgresServer, RedisServer])
def test_a_killed_server_comes_back_on_its_folder_and_port(kind: type[Server]) -> None:
    with kind() as server:
        was = server.pid
        server.kill()
        assert not reachable(server.address)

        server.start()
        assert server.pid != was
        server.restart()
        assert server.identity() == server.expected_identity


def test_what_postgres_has_committed_outlives_its_kill() -> None:
    with PostgresServer() as server:
        server.sql("CREATE TABLE kept AS SELECT 7 AS number")
        server.kill()
        server.start()

        assert server.sql("SELECT number FROM kept") == "7"


def test_a_paused_server_accepts_and_says_nothing(redis_server: RedisServer) -> None:
    redis_server.pause()
    with socket.create_connection(redis_server.address) as connection:
        connection.settimeout(0.3)
        connection.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(10)
        redis_server.resume()
        connection.settimeout(10)

        assert connection.recv(10) == b"+PONG\r\n"


def test_a_server_of_somebody_else_on_the_port_is_noticed() -> None:
    stranger, server = RedisServer(), RedisServer()
    server.port = stranger.port
    with stranger:
        with pytest.raises(RuntimeError):
            server.start()
        server.close()


def test_a_server_ends_with_the_process_that_started_it() -> None:
    script = "import os, servers; s = servers.RedisServer(); s.start(); "
    script += "print(s.port, s.folder, flush=True); os.kill(os.getpid(), 9)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    port = int(done.stdout.split()[0])
    deadline = time.monotonic() + 10
    while reachable(("127.0.0.1", port)):
        assert time.monotonic() < deadline


async def test_a_fresh_place_in_nats_sees_nothing_of_the_others(nats_server: NatsServer) -> None:
    here = await nats.connect(nats_server.fresh_url())
    there = await nats.connect(nats_server.fresh_url())
    await here.jetstream().add_stream(name="mine", subjects=["mine.>"])

    assert [info.config.name for info in await here.jetstream().streams_info()] == ["mine"]
    assert await there.jetstream().streams_info() == []
    await here.close()
    await there.close()


async def test_the_proxy_forwards_holds_back_and_resets(
    redis_server: RedisServer, fault_proxy: FaultProxy
) -> None:
    await fault_proxy.open(redis_server.address)
    reader, writer = await asyncio.open_connection("127.0.0.1", fault_proxy.port)
    writer.write(b"PING\r\n")
    assert await reader.readline() == b"+PONG\r\n"

    fault_proxy.blackhole()
    writer.write(b"PING\r\n")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readline(), 0.2)
    fault_proxy.forward()
    assert await reader.readline() == b"+PONG\r\n"

    assert fault_proxy.reset() == 1
    with pytest.raises(ConnectionResetError):
        await reader.readline()
    writer.close()


async def test_the_proxy_refuses_until_it_is_opened_again(
    redis_server: RedisServer, fault_proxy: FaultProxy
) -> None:
    await fault_proxy.open(redis_server.address)
    await fault_proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", fault_proxy.port)

    await fault_proxy.open(redis_server.address)
    answer = await asyncio.to_thread(ask, ("127.0.0.1", fault_proxy.port), b"PING\r\n")
    assert answer == "+PONG\r\n"


def test_free_ports_are_below_those_of_clients() -> None:
    assert free_port() < 32_768
