"""Calls that are expected to fail."""

import pytest

from app.llmgine.contracts import ChatMessage, LLMRequest
from app.llmgine.errors import LLMError
from app.llmgine.llm.providers.openai import OpenAIProvider

KEY = "sk-canary-0123456789abcdef"
REQUEST = LLMRequest(model="gpt-x", messages=(ChatMessage.user("hi"),))


async def fail(provider: OpenAIProvider, request: LLMRequest = REQUEST) -> LLMError:
    with pytest.raises(LLMError) as caught:
        await provider.complete(request)
    await provider.aclose()
    return caught.value


async def fail_to_stream(provider: OpenAIProvider, request: LLMRequest = REQUEST) -> LLMError:
    with pytest.raises(LLMError) as caught:
        _ = [chunk async for chunk in provider.stream(request)]
    await provider.aclose()
    return caught.value
