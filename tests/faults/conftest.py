"""What the fault tests share: the application, loaded once, and the stores it runs on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from faults.harness import Harness, Place
from faults.nursery import Nursery
from servers import NatsServer, PostgresServer


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


def place_on(backend: str, request: pytest.FixtureRequest, folder: Path) -> Place:
    if backend == "postgres":
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        return Place(journal=postgres.fresh_url())
    if backend == "nats":
        nats: NatsServer = request.getfixturevalue("nats_server")
        return Place(transport=nats.fresh_url())
    return Place(journal=str(folder / "app.db"))


@pytest.fixture(params=["sqlite", "postgres", "nats"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_on(request.param, request, tmp_path)


@pytest.fixture
async def harness(place: Place, nursery: Nursery, tmp_path: Path) -> AsyncIterator[Harness]:
    async with Harness(tmp_path, nursery, place) as harness:
        yield harness
