# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What is recorded of a model call: a span for each attempt, and metrics beside it."""

from __future__ import annotations

import contextvars
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

from pydantic import JsonValue

from ..clock import Clock
from ..contracts import (
    BlobPart,
    ChatMessage,
    LLMRequest,
    LLMResponse,
    Money,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolResult,
    UriPart,
)
from ..errors import LLMError
from ..observability import Observer, Span, semconv

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram, Meter

    from .provider import Provider

_T = TypeVar("_T")
Attributes = dict[str, str | bool | int | float | Sequence[str]]

# The conventions' names of the vendors that go by another one here.
_VENDORS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "openai-responses": "openai",
    "openai-sdk": "openai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
_DURATION = semconv.CLIENT_OPERATION_DURATION.name
_USAGE = semconv.CLIENT_TOKEN_USAGE.name
_FIRST_CHUNK = semconv.CLIENT_TIME_TO_FIRST_CHUNK.name
_PER_CHUNK = semconv.CLIENT_TIME_PER_OUTPUT_CHUNK.name
# On the span as on the metrics, which must have few values each.
_OF_METRICS = (semconv.OPERATION_NAME, semconv.PROVIDER_NAME, semconv.REQUEST_MODEL)


class Telemetry:
    """Records attempts by the observer and, where a meter provider is set, as metrics."""

    def __init__(self, observer: Observer, clock: Clock, meter: Meter | None = None) -> None:
        self._observer = observer
        self._clock = clock
        self._meter = meter
        self._histograms: dict[str, Histogram] | None = None

    def begin(
        self, provider: Provider, request: LLMRequest, decision: Attributes, *, stream: bool
    ) -> Record:
        """Begin to record one call of the provider; `decision` is why it is made."""
        attributes = _request_attributes(provider, request, stream=stream)
        measured = {key: attributes[key] for key in _OF_METRICS}
        attributes |= decision
        if self._observer.capture_content:
            attributes |= _input_attributes(request)
        span = self._observer.span(
            semconv.chat_span(request.model), kind="client", attributes=attributes
        )
        return Record(
            span,
            self._clock,
            measured,
            self._histograms or self._make_histograms(),
            capture_content=self._observer.capture_content,
            stream=stream,
        )

    def _make_histograms(self) -> dict[str, Histogram] | None:
        # Nobody can have set a meter provider without this module; then it need not be paid for.
        api = sys.modules.get("opentelemetry.metrics")
        if api is None:
            return None
        meter = self._meter or api.get_meter("llmgine")
        self._histograms = {
            one.name: meter.create_histogram(
                one.name,
                one.unit,
                one.description,
                explicit_bucket_boundaries_advisory=one.buckets,
            )
            for one in (
                semconv.CLIENT_OPERATION_DURATION,
                semconv.CLIENT_TOKEN_USAGE,
                semconv.CLIENT_TIME_TO_FIRST_CHUNK,
                semconv.CLIENT_TIME_PER_OUTPUT_CHUNK,
            )
        }
        return self._histograms


class Record:
    """What is seen of one call, from when this is made to `end`. Times are the clock's.

    `waits_s` is how long the provider was waited for before each chunk; what its reader does with
    a chunk does not count.
    """

    def __init__(
        self,
        span: AbstractContextManager[Span],
        clock: Clock,
        measured: Attributes,
        histograms: Mapping[str, Histogram] | None,
        *,
        capture_content: bool,
        stream: bool,
    ) -> None:
        """`measured` are the attributes of its metrics."""
        self.stream = stream
        self.response: LLMResponse | None = None
        self.cost: Money | None = None
        self.waits_s: list[float] = []
        self.duration_s = 0.0
        self.monotonic = clock.monotonic
        self._measured = measured
        self._histograms = histograms
        self._capture_content = capture_content
        # A generator runs in the context of whoever asks for its next item. A span that is current
        # there would become the parent of the consumer's own work, and could be closed in another
        # context than it was opened in.
        self._run = contextvars.copy_context().run if stream else _at_once
        self._around = span
        self._span = self._run(span.__enter__)
        self._began = clock.monotonic()

    @property
    def time_to_first_chunk_s(self) -> float | None:
        return self.waits_s[0] if self.waits_s else None

    def answer(self, response: LLMResponse, cost: Money | None) -> None:
        self.response, self.cost = response, cost

    def end(self, failure: BaseException | None) -> None:
        self.duration_s = self.monotonic() - self._began
        try:
            self._tell(failure)
            if self._histograms is not None:
                # Inside the span, which the exemplars of these times then lead to. Nobody follows
                # a mean or a count to its call, and outside of all spans they are cheaper to take.
                self._run(self._measure_times, self._histograms)
                contextvars.Context().run(self._measure_rest, self._histograms)
        finally:
            traceback = None if failure is None else failure.__traceback__
            kind = None if failure is None else type(failure)
            self._run(self._around.__exit__, kind, failure, traceback)

    def _tell(self, failure: BaseException | None) -> None:
        if isinstance(failure, LLMError):
            self._measured[semconv.ERROR_TYPE] = failure.kind.value
            self._span.fail(failure.kind.value, str(failure))
        elif failure is not None and not isinstance(failure, GeneratorExit):
            self._measured[semconv.ERROR_TYPE] = type(failure).__qualname__
        self._span.set_all(self._result_attributes())

    def _result_attributes(self) -> Attributes:
        attributes: Attributes = {}
        if self.response is not None:
            attributes = _response_attributes(self.response, self.cost)
            if self._capture_content:
                attributes |= _output_attributes(self.response)
        if self.waits_s:
            attributes[semconv.RESPONSE_TIME_TO_FIRST_CHUNK] = self.waits_s[0]
        if self.waits_s[1:]:
            attributes[semconv.LLM_LONGEST_GAP_S] = max(self.waits_s[1:])
        return attributes

    def _measure_times(self, histograms: Mapping[str, Histogram]) -> None:
        attributes, response = self._measured, self.response
        if response is not None:
            attributes[semconv.RESPONSE_MODEL] = response.model
        histograms[_DURATION].record(self.duration_s, attributes)
        if self.waits_s:
            histograms[_FIRST_CHUNK].record(self.waits_s[0], attributes)

    def _measure_rest(self, histograms: Mapping[str, Histogram]) -> None:
        attributes, response = self._measured, self.response
        if gaps_s := self.waits_s[1:]:
            # One value for a stream: to record each would be a quarter of all its cost.
            histograms[_PER_CHUNK].record(sum(gaps_s) / len(gaps_s), attributes)
        if response is not None and (usage := response.usage) is not None:
            for kind, tokens in ("input", usage.input_tokens), ("output", usage.output_tokens):
                histograms[_USAGE].record(tokens, {**attributes, semconv.TOKEN_TYPE: kind})


def _request_attributes(provider: Provider, request: LLMRequest, *, stream: bool) -> Attributes:
    """Without content."""
    attributes: Attributes = {
        semconv.OPERATION_NAME: semconv.CHAT,
        semconv.PROVIDER_NAME: _vendor(provider.name, request.model),
        semconv.REQUEST_MODEL: request.model,
    }
    # A provider that calls one server has its address.
    address = getattr(provider, "server_address", None)
    port = getattr(provider, "server_port", None)
    if isinstance(address, str) and isinstance(port, int):
        attributes[semconv.SERVER_ADDRESS] = address
        attributes[semconv.SERVER_PORT] = port
    if stream:
        attributes[semconv.REQUEST_STREAM] = True
    if request.stop:
        attributes[semconv.REQUEST_STOP_SEQUENCES] = request.stop
    if request.output is not None:
        attributes[semconv.OUTPUT_TYPE] = "json"
    if request.conversation_id is not None:
        attributes[semconv.CONVERSATION_ID] = request.conversation_id
    if request.max_output_tokens is not None:
        attributes[semconv.REQUEST_MAX_TOKENS] = request.max_output_tokens
    if request.temperature is not None:
        attributes[semconv.REQUEST_TEMPERATURE] = request.temperature
    if request.seed is not None:
        attributes[semconv.REQUEST_SEED] = request.seed
    return attributes


def _response_attributes(response: LLMResponse, cost: Money | None) -> Attributes:
    """Without content. What nobody said is left out: it is unknown, not zero."""
    attributes: Attributes = {
        semconv.RESPONSE_MODEL: response.model,
        semconv.RESPONSE_FINISH_REASONS: (response.finish_reason.value,),
    }
    if response.id:
        attributes[semconv.RESPONSE_ID] = response.id
    if cost is not None and cost.currency == "USD":
        attributes[semconv.LLM_COST_USD] = float(cost.amount)
    if (usage := response.usage) is not None:
        attributes[semconv.USAGE_INPUT_TOKENS] = usage.input_tokens
        attributes[semconv.USAGE_OUTPUT_TOKENS] = usage.output_tokens
        if usage.cache_read_tokens:
            attributes[semconv.USAGE_CACHE_READ_INPUT_TOKENS] = usage.cache_read_tokens
        if usage.cache_write_tokens:
            attributes[semconv.USAGE_CACHE_WRITE_INPUT_TOKENS] = usage.cache_write_tokens
        if usage.reasoning_tokens:
            attributes[semconv.USAGE_REASONING_OUTPUT_TOKENS] = usage.reasoning_tokens
    return attributes


def _input_attributes(request: LLMRequest) -> Attributes:
    """Content: one JSON text for each list, for a span keeps few attributes."""
    attributes: Attributes = {
        semconv.INPUT_MESSAGES: json.dumps([_message(message) for message in request.messages])
    }
    if request.tools:
        tools = [{"type": "function", **tool.model_dump()} for tool in request.tools]
        attributes[semconv.TOOL_DEFINITIONS] = json.dumps(tools)
    return attributes


def _output_attributes(response: LLMResponse) -> Attributes:
    """Content."""
    message = {**_message(response.message), "finish_reason": response.finish_reason.value}
    return {semconv.OUTPUT_MESSAGES: json.dumps([message])}


def _vendor(provider_name: str, model: str) -> str:
    if provider_name != "litellm":
        return _VENDORS.get(provider_name, provider_name)
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
        case BlobPart():
            return {"type": "blob", "mime_type": part.media_type, "size_bytes": len(part.data)}
        case UriPart():
            return {"type": "uri", "mime_type": part.media_type, "uri": part.uri}
        case ToolCall():
            return {
                "type": "tool_call",
                "id": part.id,
                "name": part.name,
                "arguments": part.arguments,
            }
        case ToolResult():
            return {"type": "tool_call_response", "id": part.call_id, "response": part.content}


def _at_once(function: Callable[..., _T], *arguments: object) -> _T:
    """As a context's `run`, in this one."""
    return function(*arguments)
