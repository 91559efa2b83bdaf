# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The names of what we record: the OpenTelemetry GenAI conventions, and our own beside them.

This is the only place that spells them. They are in development there, and change; `error.type` and
`server.*` are stable. Source: https://github.com/open-telemetry/semantic-conventions-genai, and
where it is ahead of that text, the released package opentelemetry-util-genai.
"""

from __future__ import annotations

from typing import Final, NamedTuple

# Values of OPERATION_NAME.
CHAT: Final = "chat"
EXECUTE_TOOL: Final = "execute_tool"
INVOKE_AGENT: Final = "invoke_agent"

# Every operation.
OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
AGENT_NAME: Final = "gen_ai.agent.name"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

# What was asked of the model.
OUTPUT_TYPE: Final = "gen_ai.output.type"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"

# What came back. Input tokens include the cached ones, output tokens the reasoning ones.
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_WRITE_INPUT_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"

# What the tokens of a measurement are: `input` or `output`.
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105  no password

# Tools.
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
TOOL_DESCRIPTION: Final = "gen_ai.tool.description"
TOOL_TYPE: Final = "gen_ai.tool.type"

# Content: what people and models said. Recorded only where the observer captures content.
SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"
TOOL_CALL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_CALL_RESULT: Final = "gen_ai.tool.call.result"
CONTENT: Final = frozenset(
    {
        SYSTEM_INSTRUCTIONS,
        INPUT_MESSAGES,
        OUTPUT_MESSAGES,
        TOOL_DEFINITIONS,
        TOOL_CALL_ARGUMENTS,
        TOOL_CALL_RESULT,
    }
)

# Exceptions, as an event of the span they left.
EXCEPTION: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

# Ours: what the conventions do not cover.
MESSAGE_ID: Final = "llmgine.message.id"
MESSAGE_CORRELATION_ID: Final = "llmgine.message.correlation_id"
MESSAGE_CAUSATION_ID: Final = "llmgine.message.causation_id"
MESSAGE_KEY: Final = "llmgine.message.key"
MESSAGE_PAYLOAD: Final = "llmgine.message.payload"
SESSION_ID: Final = "llmgine.session.id"
LLM_ATTEMPT: Final = "llmgine.llm.attempt"
LLM_COST_USD: Final = "llmgine.llm.cost_usd"
LLM_LONGEST_GAP_S: Final = "llmgine.llm.longest_gap_s"
LLM_REASON: Final = "llmgine.llm.reason"
LLM_ROUTE: Final = "llmgine.llm.route"
TOOL_STATUS: Final = "llmgine.tool.status"


class Histogram(NamedTuple):
    """A metric of the conventions: each value falls into the first bucket that it does not pass."""

    name: str
    unit: str
    description: str
    buckets: tuple[float, ...]


_SECONDS = tuple(0.01 * 2**power for power in range(14))
_TOKENS = tuple(4**power for power in range(14))

CLIENT_OPERATION_DURATION: Final = Histogram(
    "gen_ai.client.operation.duration", "s", "Of a model call, to its end.", _SECONDS
)
CLIENT_TOKEN_USAGE: Final = Histogram(
    "gen_ai.client.token.usage", "{token}", "Tokens of a model call, by type.", _TOKENS
)
CLIENT_TIME_TO_FIRST_CHUNK: Final = Histogram(
    "gen_ai.client.operation.time_to_first_chunk", "s", "Of a streamed answer.", _SECONDS
)
CLIENT_TIME_PER_OUTPUT_CHUNK: Final = Histogram(
    "gen_ai.client.operation.time_per_output_chunk",
    "s",
    "Between two chunks of a streamed answer, on average.",
    _SECONDS,
)


def chat_span(model: str) -> str:
    """Name of the span around one model call; its kind is `client`."""
    return f"{CHAT} {model}"


def tool_span(name: str) -> str:
    """Name of the span around one tool call; its kind is `internal`."""
    return f"{EXECUTE_TOOL} {name}"


def agent_span(name: str | None = None) -> str:
    """Name of the span around one turn; its kind is `internal`."""
    return f"{INVOKE_AGENT} {name}" if name else INVOKE_AGENT
