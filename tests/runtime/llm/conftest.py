"""A server of the fake vendors for each test that asks for one."""

from collections.abc import AsyncIterator

import pytest

from runtime.llm.vendors import VendorServer

pytest.register_assert_rewrite("runtime.llm.conformance")


@pytest.fixture
async def server() -> AsyncIterator[VendorServer]:
    async with VendorServer() as fake:
        yield fake
