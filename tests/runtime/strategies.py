"""Arbitrary contracts, for the tests of laws."""

from hypothesis import strategies as st

from app.llmgine.contracts import (
    Attempt,
    BlobPart,
    ChatMessage,
    FinishReason,
    LLMRequest,
    LLMResponse,
    Money,
    OutputSpec,
    ReasoningDelta,
    ReasoningPart,
    StreamEnd,
    StreamReset,
    TextDelta,
    TextPart,
    ToolCall,
    ToolCallArgumentsDelta,
    ToolCallStart,
    ToolResult,
    ToolSpec,
    ToolStatus,
    UriPart,
    Usage,
)
from app.llmgine.engine import PromptResult
from app.llmgine.errors import LLMErrorKind

# Short, so that the same text and the same id turn up twice.
texts = st.text(max_size=12)
call_ids = st.sampled_from(["a", "b", "c", "d"])
names = st.sampled_from(["current_time", "save_note"])
counts = st.integers(min_value=0, max_value=10**9)

text_parts = st.builds(TextPart, text=texts)
signatures = {"signature": st.none() | texts, "signed_by": st.none() | names}
reasoning_parts = st.builds(ReasoningPart, text=texts, **signatures)
blob_parts = st.builds(
    BlobPart, media_type=texts, data=st.binary(max_size=9), name=st.none() | names
)
uri_parts = st.builds(UriPart, media_type=texts, uri=texts, name=st.none() | names)
tool_calls = st.builds(ToolCall, id=call_ids, name=names, arguments=texts, **signatures)
tool_results = st.builds(
    ToolResult,
    call_id=call_ids,
    name=names,
    status=st.sampled_from(ToolStatus),
    content=texts,
    truncated=st.booleans(),
)
parts = text_parts | reasoning_parts | blob_parts | uri_parts | tool_calls | tool_results
chat_messages = st.builds(
    ChatMessage,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    parts=st.lists(parts, max_size=4).map(tuple),
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(texts, values, max_size=3),
    max_leaves=6,
)
tool_specs = st.builds(
    ToolSpec,
    name=names,
    description=texts,
    parameters=st.dictionaries(texts, json_values, max_size=3),
)
output_specs = st.builds(
    OutputSpec,
    name=names,
    parameters=st.dictionaries(texts, json_values, max_size=3),
)
usages = st.builds(
    Usage,
    input_tokens=counts,
    output_tokens=counts,
    cache_read_tokens=counts,
    cache_write_tokens=counts,
    reasoning_tokens=counts,
)
moneys = st.builds(
    Money,
    amount=st.decimals(allow_nan=False, allow_infinity=False),
    currency=st.sampled_from(["USD", "EUR"]),
)
llm_requests = st.builds(
    LLMRequest,
    model=texts,
    messages=st.lists(chat_messages, max_size=3).map(tuple),
    tools=st.lists(tool_specs, max_size=2).map(tuple),
    tool_choice=st.sampled_from(["auto", "none", "required"]),
    max_output_tokens=st.none() | st.integers(min_value=1),
    temperature=st.none() | st.floats(min_value=0, allow_infinity=False),
    seed=st.none() | st.integers(),
    stop=st.lists(texts, max_size=2).map(tuple),
    timeout_s=st.none() | st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    conversation_id=st.none() | texts,
    output=st.none() | output_specs,
    user_id=st.none() | texts,
    extra_body=st.dictionaries(texts, json_values, max_size=2),
)
durations = st.floats(min_value=0, max_value=1e6)
attempts = st.builds(
    Attempt,
    target=texts,
    reason=texts,
    error=st.none() | st.sampled_from(LLMErrorKind),
    status=st.none() | st.integers(100, 599),
    waited_s=durations,
    duration_s=durations,
    time_to_first_chunk_s=st.none() | durations,
)
llm_responses = st.builds(
    LLMResponse,
    id=texts,
    model=texts,
    provider=names,
    message=chat_messages,
    finish_reason=st.sampled_from(FinishReason),
    usage=st.none() | usages,
    cost=st.none() | moneys,
    attempts=st.lists(attempts, max_size=2).map(tuple),
)
stream_ends = st.builds(
    StreamEnd,
    id=texts,
    model=texts,
    provider=names,
    finish_reason=st.sampled_from(FinishReason),
    usage=st.none() | usages,
    cost=st.none() | moneys,
    attempts=st.lists(attempts, max_size=2).map(tuple),
)
stream_resets = st.builds(StreamReset, reason=texts)
indexes = st.integers(min_value=0, max_value=3)
text_deltas = st.builds(TextDelta, text=texts)
reasoning_deltas = st.builds(ReasoningDelta, text=texts, **signatures)
call_starts = st.builds(ToolCallStart, index=indexes, id=call_ids, name=names, **signatures)
arguments_deltas = st.builds(ToolCallArgumentsDelta, index=indexes, text=texts)
chunks = (
    text_deltas | reasoning_deltas | call_starts | arguments_deltas | stream_resets | stream_ends
)

prompt_results = st.builds(
    PromptResult,
    conversation_id=texts,
    text=texts,
    finish_reason=st.sampled_from(FinishReason),
    steps=counts,
    usage=st.none() | usages,
    cost=st.none() | moneys,
    attempts=st.lists(attempts, max_size=2).map(tuple),
    trace_id=st.none() | texts,
)
