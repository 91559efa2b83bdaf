# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What a process says of itself over HTTP, to this machine only.

`GET /livez` answers while the event loop does; `/readyz` is 200 or 503, with the problems;
`/healthz` the same with how much there is to do. Import it when it is needed: aiohttp is slow to.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler

from ..bus.upkeep import Health
from ..errors import ConfigurationError

HOST = "127.0.0.1"
# A page of another site may have its own name lead here; it cannot choose what Host says then.
_OURS = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)


class HealthServer:
    """Answers from `start` to `stop`; `report` says how the process is, within `patience_s`."""

    def __init__(
        self,
        report: Callable[[], Awaitable[Health]],
        port: int,
        patience_s: float,
    ) -> None:
        self.address = ""
        self._patience_s = patience_s
        self._report = report
        self._port = port
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        """The address, `http://127.0.0.1:8123`; port 0 takes a free one.

        Raises:
            ConfigurationError: the port is taken, or not ours to take.
        """
        app = web.Application(middlewares=[_only_this_machine])
        for path, handler in {
            "/livez": self._live,
            "/readyz": self._ready,
            "/healthz": self._health,
        }.items():
            app.router.add_get(path, handler)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, self._port)
        try:
            await site.start()
        except OSError as error:
            await self.stop()
            raise ConfigurationError(
                f"The health port {self._port} cannot be had: {error.strerror}. Give another "
                "--health-port, 0 for any that is free, or --no-health."
            ) from error
        _, port = self._runner.addresses[0][:2]
        self.address = f"http://{HOST}:{port}"
        return self.address

    async def stop(self) -> None:
        """Answer no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _live(self, request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _ready(self, request: web.Request) -> web.Response:
        health = await self._ask()
        return _answer(health, {"ready": health.ready, "problems": health.problems})

    async def _health(self, request: web.Request) -> web.Response:
        health = await self._ask()
        return _answer(health, asdict(health))

    async def _ask(self) -> Health:
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._report()
        except TimeoutError:
            waited = f"within {self._patience_s:g} s"
            problem = f"The journal, or the message server, did not answer {waited}."
            return Health(ready=False, problems=(problem,))


async def ask(address: str, patience_s: float) -> Health | None:
    """What the process at that address says of itself, or `None` if it does not in time."""
    timeout = aiohttp.ClientTimeout(total=patience_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{address}/healthz") as response,
        ):
            told = await response.json()
            return Health(**{**told, "problems": tuple(told["problems"])})
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None


def _answer(health: Health, data: dict[str, object]) -> web.Response:
    return web.json_response(data, status=200 if health.ready else 503)


@web.middleware
async def _only_this_machine(request: web.Request, handler: Handler) -> web.StreamResponse:
    if not _OURS.fullmatch(request.headers.get("Host", "")):
        return web.json_response({"error": "ask for 127.0.0.1 or localhost"}, status=421)
    return await handler(request)
