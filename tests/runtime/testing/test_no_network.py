"""A test cannot leave this machine, whichever way it tries."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app.llmgine.testing import NetworkReachedError, no_network

TESTS = Path(__file__).parents[2]


def _connect() -> None:
    with socket.socket() as sock:
        sock.connect(("192.0.2.1", 443))


def _connect_without_raising() -> None:
    with socket.socket() as sock:
        sock.connect_ex(("192.0.2.1", 443))


def _connect_by_version_6() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        sock.connect(("2001:db8::1", 443))


def _send_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("192.0.2.1", 53))


def _look_up() -> None:
    socket.getaddrinfo("api.example.com", 443)


def _look_up_the_old_way() -> None:
    socket.gethostbyname("api.example.com")


def _connect_by_asyncio() -> None:
    asyncio.run(_open())


async def _open() -> None:
    await asyncio.open_connection("api.example.com", 443)


async def _sock_connect() -> None:
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("192.0.2.1", 443))


def _connect_by_the_loop() -> None:
    asyncio.run(_sock_connect())


@pytest.mark.parametrize(
    ("reach", "target"),
    [
        (_connect, "192.0.2.1 port 443"),
        (_connect_without_raising, "192.0.2.1 port 443"),
        (_connect_by_version_6, "2001:db8::1 port 443"),
        (_send_datagram, "192.0.2.1 port 53"),
        (_look_up, "'api.example.com'"),
        (_look_up_the_old_way, "'api.example.com'"),
        (_connect_by_asyncio, "'api.example.com'"),
        (_connect_by_the_loop, "192.0.2.1 port 443"),
    ],
)
def test_reaching_out_fails_and_names_the_host_and_the_fix(
    reach: Callable[[], None], target: str
) -> None:
    with pytest.raises(NetworkReachedError) as caught, no_network():
        reach()

    assert target in str(caught.value)
    assert "ScriptedProvider" in str(caught.value)


def test_an_attempt_whose_error_was_swallowed_fails_at_the_end() -> None:
    failed = []

    with pytest.raises(NetworkReachedError, match=r"api\.example\.com"), no_network():
        try:
            _look_up()
        except AssertionError as error:
            failed.append(error)

    assert len(failed) == 1


def test_another_thread_cannot_reach_out_either() -> None:
    def reach() -> None:
        with pytest.raises(NetworkReachedError):
            _connect()

    with pytest.raises(NetworkReachedError), no_network():
        thread = threading.Thread(target=reach)
        thread.start()
        thread.join()


async def test_loopback_is_reached_by_address_and_by_name() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    greetings = []
    with no_network():
        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            for host in ("127.0.0.1", "localhost"):
                reader, writer = await asyncio.open_connection(host, port)
                greetings.append(await reader.read())
                writer.close()

    assert greetings == [b"hello", b"hello"]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the system has no unix sockets")
def test_unix_sockets_are_allowed(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    with no_network(), socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_outside_the_guard_nothing_is_watched() -> None:
    with no_network():
        pass

    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("256.256.256.256", 1, flags=socket.AI_NUMERICHOST)


SUITE = """
import socket


def test_reaching_out():
    socket.getaddrinfo("api.example.com", 443)


def test_staying_here():
    assert socket.getaddrinfo("localhost", 80)


async def test_a_model_whose_script_was_not_played(scripted_model):
    scripted_model.add("never said")
"""


def test_the_plugin_guards_every_test_and_gives_a_scripted_model(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(
        'pytest_plugins = ["app.llmgine.testing.plugin"]\n', encoding="utf-8"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n", encoding="utf-8")

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "1 failed, 2 passed, 2 errors" in run.stdout, run.stdout
    assert "a look-up of 'api.example.com'" in run.stdout
    assert "1 steps were never played" in run.stdout
