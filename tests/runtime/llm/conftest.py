"""A fake OpenAI for each test that asks for one."""

from collections.abc import AsyncIterator

import pytest

from runtime.llm.fake_openai import FakeOpenAI


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as fake:
        yield fake
