"""What a process says of itself over HTTP, on loopback."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from app.llmgine.bus.upkeep import Health
from app.llmgine.errors import ConfigurationError
from app.llmgine.interfaces.health import HealthServer, ask

WELL = Health(ready=True, depth=12, lag_s=3.5, in_hand=2)
ILL = replace(WELL, ready=False, problems=("The journal is gone.",))


class Process:
    """Something whose health is `health`, or which does not answer if that is `None`."""

    def __init__(self) -> None:
        self.health: Health | None = WELL
        self.server = HealthServer(self.report, 0, 0.2)

    async def report(self) -> Health:
        if self.health is None:
            await asyncio.Event().wait()
        assert self.health is not None
        return self.health

    async def get(self, path: str, host: str | None = None) -> tuple[int, Any]:
        headers = {} if host is None else {"Host": host}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(self.server.address + path) as response,
        ):
            return response.status, await response.json()


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    process = Process()
    await process.server.start()
    yield process
    await process.server.stop()


async def test_a_process_that_is_well_is_live_and_ready(process: Process) -> None:
    assert await process.get("/livez") == (200, {"live": True})
    assert await process.get("/readyz") == (200, {"ready": True, "problems": []})


async def test_a_process_with_problems_is_live_but_not_ready(process: Process) -> None:
    process.health = ILL

    assert (await process.get("/livez"))[0] == 200
    assert await process.get("/readyz") == (
        503,
        {"ready": False, "problems": ["The journal is gone."]},
    )


async def test_the_figures_come_with_the_same_status(process: Process) -> None:
    figures = {"depth": 12, "lag_s": 3.5, "in_hand": 2}

    assert await process.get("/healthz") == (200, {"ready": True, "problems": [], **figures})
    process.health = ILL
    status, told = await process.get("/healthz")
    assert (status, told["depth"]) == (503, 12)


async def test_a_process_that_cannot_say_how_it_is_is_not_ready(process: Process) -> None:
    process.health = None

    status, told = await process.get("/readyz")

    assert status == 503
    assert "did not answer" in told["problems"][0]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]:8123"])
async def test_names_of_this_machine_are_answered(process: Process, host: str) -> None:
    assert (await process.get("/livez", host))[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost:evil", "evil@localhost", ""]
)
async def test_another_name_is_refused_on_every_path(process: Process, host: str) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/nothing"):
        status, told = await process.get(path, host)
        assert status == 421
        assert told.keys() == {"error"}


async def test_only_loopback_is_listened_on(process: Process) -> None:
    assert process.server.address.startswith("http://127.0.0.1:")


async def test_a_port_that_is_taken_is_a_clear_error(process: Process) -> None:
    port = int(process.server.address.rpartition(":")[2])

    with pytest.raises(ConfigurationError, match=f"{port} cannot be had.*--health-port"):
        await HealthServer(process.report, port, 0.2).start()


async def test_another_process_can_ask(process: Process) -> None:
    process.health = ILL

    assert await ask(process.server.address, 5.0) == ILL


async def test_another_process_hears_that_one_cannot_say_how_it_is(process: Process) -> None:
    process.health = None

    told = await ask(process.server.address, 5.0)

    assert told is not None
    assert "did not answer" in told.problems[0]


async def test_who_does_not_listen_has_no_health(process: Process) -> None:
    await process.server.stop()

    assert await ask(process.server.address, 5.0) is None
