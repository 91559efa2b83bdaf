"""A TCP proxy whose network breaks when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct

HOST = "127.0.0.1"
CHUNK_BYTES = 65_536


def free_port() -> int:
    """A port that nobody has, below those that the system gives to clients.

    A client that calls a port which its server has left may be given that very port, and then
    talks to itself and keeps the server out.
    """
    while True:
        port = random.SystemRandom().randrange(11_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


class FaultProxy:
    """Forwards to one server: `await proxy.open(server.address)`, then connect to `proxy.port`.

    `delay_s` holds every chunk back by that long, each way, from when it is set.
    """

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.port = 0
        self.accepted = 0
        self._target = ("", 0)
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._open: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    async def open(self, target: tuple[str, int]) -> None:
        self._target = target
        self.port = self.port or free_port()
        self._server = await asyncio.start_server(self._connected, HOST, self.port)

    @property
    def connections(self) -> int:
        return len(self._open)

    def blackhole(self) -> None:
        """From now on nothing arrives, nothing is refused, and nothing is closed."""
        self._flowing.clear()

    def forward(self) -> None:
        """Forward again, with what was held back."""
        self.delay_s = 0.0
        self._flowing.set()

    def cut(self) -> int:
        """Close every connection both ways, as a server does that ends; say how many there were."""
        return self._close_all()

    def reset(self) -> int:
        """Break every connection with a TCP reset; say how many there were."""
        for writers in self._open.values():
            for writer in writers:
                self._close_with_reset(writer)
        return self._close_all()

    async def refuse(self) -> None:
        """Close every connection and take no more, until `open` is called again."""
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def close(self) -> None:
        if self._server is not None:
            await self.refuse()

    def _close_all(self) -> int:
        for task in self._open:
            task.cancel()
        return len(self._open)

    @staticmethod
    def _close_with_reset(writer: asyncio.StreamWriter) -> None:
        held: socket.socket | None = writer.get_extra_info("socket")
        if held is not None:
            # To linger for 0 s at the end is to send a reset.
            with contextlib.suppress(OSError):
                held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        writers = self._open[task] = [writer]
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
            writers.append(there_writer)
            await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass  # Either end is gone, or is to go: both are closed below.
        finally:
            del self._open[task]
            for each in writers:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._flowing.wait()
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError("One end closed the connection.")
