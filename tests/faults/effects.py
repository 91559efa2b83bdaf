"""The world outside: a service that makes each effect once for its idempotency key, and counts.

It lives in the test's process, which nobody kills, and the application under test talks to it over
TCP. What was done twice is told from what was only asked for twice by the key: a piece of work that
came under two keys has had two effects.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Effects:
    """What was asked for and done, by label; and which workers said that they are ready."""

    attempts: Counter[str] = field(default_factory=Counter)
    keys: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    order: list[str] = field(default_factory=list)
    """The labels, as their first effects were made."""
    ready: Counter[str] = field(default_factory=Counter)
    """How often each worker has begun to work."""
    port: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def until(self, holds: Callable[[], Any], timeout_s: float) -> bool:
        """Whether it came to hold in that time; looked at whenever something was said here."""
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    await self._changed.wait()
        except TimeoutError:
            return bool(holds())
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if line := await reader.readline():
                self._heard(**json.loads(line))
                writer.write(b"done\n")
                await writer.drain()
        except ConnectionError:
            pass  # Who asked was killed; what it asked for is done all the same.
        finally:
            writer.close()

    def _heard(self, what: str, label: str, key: str = "") -> None:
        if what == "ready":
            self.ready[label] += 1
            self._notify()
        else:
            self.make(label, key)

    def make(self, label: str, key: str = "") -> None:
        """Make the effect, unless it was made under that key."""
        self.attempts[label] += 1
        if label not in self.keys:
            self.order.append(label)
        self.keys[label].add(key)
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


async def say(port: int, **words: str) -> None:
    """Tell the service, and wait until it is done."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(json.dumps(words).encode() + b"\n")
        await reader.readline()
    finally:
        writer.close()
