# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What a model call looks like in telemetry."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import JsonValue

from ..contracts import (
    ChatMessage,
    LLMRequest,
    LLMResponse,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolResult,
)
from ..observability import semconv

Attributes = dict[str, str | bool | int | float | Sequence[str]]

# The conventions' names of the vendors that litellm calls otherwise.
_VENDORS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}


def of_request(provider_name: str, request: LLMRequest, *, stream: bool) -> Attributes:
    """Without content."""
    attributes: Attributes = {
        semconv.OPERATION_NAME: semconv.CHAT,
        semconv.PROVIDER_NAME: _vendor(provider_name, request.model),
        semconv.REQUEST_MODEL: request.model,
    }
    if stream:
        attributes[semconv.REQUEST_STREAM] = True
    if request.stop:
        attributes[semconv.REQUEST_STOP_SEQUENCES] = request.stop
    optional = {
        semconv.CONVERSATION_ID: request.conversation_id,
        semconv.REQUEST_MAX_TOKENS: request.max_output_tokens,
        semconv.REQUEST_TEMPERATURE: request.temperature,
        semconv.REQUEST_SEED: request.seed,
    }
    attributes |= {name: value for name, value in optional.items() if value is not None}
    return attributes


def of_server(provider: object) -> Attributes:
    """The address and port, where the provider has them: it then calls one server."""
    address = getattr(provider, "server_address", None)
    port = getattr(provider, "server_port", None)
    if not isinstance(address, str) or not isinstance(port, int):
        return {}
    return {semconv.SERVER_ADDRESS: address, semconv.SERVER_PORT: port}


def of_response(response: LLMResponse) -> Attributes:
    """Without content. What nobody said is left out: it is unknown, not zero."""
    attributes: Attributes = {
        semconv.RESPONSE_MODEL: response.model,
        semconv.RESPONSE_FINISH_REASONS: (response.finish_reason.value,),
    }
    if response.id:
        attributes[semconv.RESPONSE_ID] = response.id
    if response.cost is not None and response.cost.currency == "USD":
        attributes[semconv.LLM_COST_USD] = float(response.cost.amount)
    if (usage := response.usage) is not None:
        attributes |= {
            semconv.USAGE_INPUT_TOKENS: usage.input_tokens,
            semconv.USAGE_OUTPUT_TOKENS: usage.output_tokens,
            semconv.USAGE_CACHE_READ_INPUT_TOKENS: usage.cache_read_tokens,
            semconv.USAGE_CACHE_WRITE_INPUT_TOKENS: usage.cache_write_tokens,
            semconv.USAGE_REASONING_OUTPUT_TOKENS: usage.reasoning_tokens,
        }
    return attributes


def of_input(request: LLMRequest) -> Attributes:
    """Content: one JSON text for each list, for a span keeps few attributes."""
    attributes: Attributes = {
        semconv.INPUT_MESSAGES: json.dumps([_message(message) for message in request.messages])
    }
    if request.tools:
        tools = [{"type": "function", **tool.model_dump()} for tool in request.tools]
        attributes[semconv.TOOL_DEFINITIONS] = json.dumps(tools)
    return attributes


def of_output(response: LLMResponse) -> Attributes:
    """Content."""
    message = {**_message(response.message), "finish_reason": response.finish_reason.value}
    return {semconv.OUTPUT_MESSAGES: json.dumps([message])}


def _vendor(provider_name: str, model: str) -> str:
    if provider_name != "litellm":
        return provider_name
    vendor, slash, _ = model.partition("/")
    return _VENDORS.get(vendor, vendor) if slash else provider_name


def _message(message: ChatMessage) -> dict[str, JsonValue]:
    return {"role": message.role, "parts": [_part(part) for part in message.parts]}


def _part(part: Part) -> dict[str, JsonValue]:
    match part:
        case TextPart():
            return {"type": "text", "content": part.text}
        case ReasoningPart():
            return {"type": "reasoning", "content": part.text}
        case ToolCall():
            return {
                "type": "tool_call",
                "id": part.id,
                "name": part.name,
                "arguments": part.arguments,
            }
        case ToolResult():
            return {"type": "tool_call_response", "id": part.call_id, "response": part.content}
