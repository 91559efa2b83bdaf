"""Each model call leaves one span, with the names of the GenAI conventions."""

import asyncio
import contextvars
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

from app.llmgine.contracts import (
    ChatMessage,
    LLMRequest,
    ToolCall,
    ToolResult,
    ToolSpec,
    ToolStatus,
    Usage,
)
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.llm import LLMManager, RetryPolicy, Route, Target, default_providers
from app.llmgine.llm.providers.scripted import ScriptedProvider
from app.llmgine.observability import MemorySink, Observer, Record, semconv
from runtime.llm.actors import Act, Stage, fails
from runtime.llm.fake_openai import Answer, FakeOpenAI, refusal, stream

SECRET_TEXT = "the-prompt-itself"


def ask(model: str, **fields: Any) -> LLMRequest:
    return LLMRequest(model=model, messages=(ChatMessage.user(SECRET_TEXT),), **fields)


def scripted(*steps: Any, observer: Observer | None = None) -> LLMManager:
    return LLMManager({"scripted": lambda: ScriptedProvider(steps)}, observer=observer)


def attributes(span: Record) -> dict[str, Any]:
    found = span.fields["attributes"]
    assert isinstance(found, dict)
    return found


async def spans(
    manager: Callable[[Observer], LLMManager],
    request: LLMRequest,
    *,
    streaming: bool,
    capture_content: bool = False,
) -> list[Record]:
    sink = MemorySink()
    llm = manager(Observer([sink], capture_content=capture_content))
    try:
        if streaming:
            _ = [chunk async for chunk in llm.stream(request)]
        else:
            await llm.complete(request)
    except LLMError:
        pass
    await llm.aclose()
    return sink.records


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_call_leaves_one_span_with_the_conventions_names(
    server: FakeOpenAI, streaming: bool
) -> None:
    server.will(Answer("Hello", finish_reason="length", id="chatcmpl-7"))
    request = ask(
        "openai/gpt-x",
        conversation_id="c1",
        max_output_tokens=9,
        temperature=0.5,
        seed=3,
        stop=("END",),
    )

    (span,) = await spans(
        lambda observer: LLMManager(
            default_providers(openai_base_url=server.url), observer=observer
        ),
        request,
        streaming=streaming,
    )

    fields = dict(attributes(span))
    time_to_first_chunk = fields.pop("gen_ai.response.time_to_first_chunk", None)
    assert (time_to_first_chunk is not None) is streaming
    fields.pop("llmgine.llm.longest_gap_s", None)
    assert fields.pop("gen_ai.request.stream", False) is streaming
    assert span.name == "chat gpt-x"
    assert fields == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.conversation.id": "c1",
        "gen_ai.request.model": "gpt-x",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 3,
        "gen_ai.request.stop_sequences": ["END"],
        "gen_ai.response.id": "chatcmpl-7",
        "gen_ai.response.model": "gpt-x",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": 21,
        "gen_ai.usage.output_tokens": 9,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "server.address": "127.0.0.1",
        "server.port": int(server.url.split(":")[2].split("/")[0]),
    }
    assert span.fields["kind"] == "client"


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_failed_call_says_its_kind(server: FakeOpenAI, streaming: bool) -> None:
    server.will(refusal(400, "What?"))

    (span,) = await spans(
        lambda observer: LLMManager(
            default_providers(openai_base_url=server.url), observer=observer
        ),
        ask("openai/gpt-x"),
        streaming=streaming,
    )

    assert attributes(span)["error.type"] == "bad_request"
    assert span.fields["status"] == "error"


async def test_usage_that_nobody_told_is_not_recorded_as_zero() -> None:
    (span,) = await spans(
        lambda observer: scripted("Hello", observer=observer), ask("scripted"), streaming=False
    )

    assert not [name for name in attributes(span) if "usage" in name or "cost" in name]


@pytest.mark.parametrize("streaming", [False, True])
async def test_content_is_recorded_only_when_asked_for(streaming: bool) -> None:
    call = ToolCall(id="c1", name="find", arguments='{"q": "tea"}')
    request = LLMRequest(
        model="scripted",
        messages=(
            ChatMessage.user(SECRET_TEXT),
            ChatMessage.assistant("", call),
            ChatMessage.tool(
                ToolResult(call_id="c1", name="find", status=ToolStatus.OK, content="shelf")
            ),
        ),
        tools=(ToolSpec(name="find", description="Find.", parameters={}),),
    )

    found = [
        await spans(
            lambda observer: scripted("It is there.", observer=observer),
            request,
            streaming=streaming,
            capture_content=capture,
        )
        for capture in (False, True)
    ]

    (silent,), (telling,) = found
    assert SECRET_TEXT not in silent.to_json()
    assert json.loads(str(attributes(telling)["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": SECRET_TEXT}]},
        {
            "role": "assistant",
            "parts": [
                {"type": "tool_call", "id": "c1", "name": "find", "arguments": '{"q": "tea"}'}
            ],
        },
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "c1", "response": "shelf"}],
        },
    ]
    assert json.loads(str(attributes(telling)["gen_ai.output.messages"])) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "It is there."}],
            "finish_reason": "stop",
        }
    ]
    assert json.loads(str(attributes(telling)["gen_ai.tool.definitions"]))[0]["name"] == "find"


async def test_a_streams_span_is_not_the_parent_of_what_its_reader_does() -> None:
    sink = MemorySink()
    observer = Observer([sink])
    manager = scripted("one two", observer=observer)

    with observer.span("turn"):
        async for _ in manager.stream(ask("scripted")):
            with observer.span("reading"):
                pass

    ids = {record.name: record.span_id for record in sink.records}
    parents = {record.name: record.parent_id for record in sink.records}
    assert parents == {"reading": ids["turn"], "chat scripted": ids["turn"], "turn": None}


async def test_a_stream_may_be_closed_by_another_task_than_began_it() -> None:
    sink = MemorySink()
    chunks = scripted("one two", observer=Observer([sink])).stream(ask("scripted"))

    async def begin() -> None:
        await anext(chunks)

    await asyncio.create_task(begin(), context=contextvars.Context())
    await asyncio.create_task(chunks.aclose(), context=contextvars.Context())

    (span,) = sink.records
    assert "error.type" not in attributes(span)


async def test_a_cancelled_stream_ends_its_span(server: FakeOpenAI) -> None:
    server.will(stream(*Answer("Hello, wörld.").events("m")[:3], then="hang"))
    sink = MemorySink()
    manager = LLMManager(default_providers(openai_base_url=server.url), observer=Observer([sink]))
    heard = asyncio.Event()

    async def read() -> None:
        async for _ in manager.stream(ask("openai/m")):
            heard.set()

    task = asyncio.create_task(read())
    await heard.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await manager.aclose()

    (span,) = sink.records
    assert attributes(span)["error.type"] == "CancelledError"


# Attempts.


async def test_each_attempt_leaves_a_span_that_says_why_it_was_made() -> None:
    sink = MemorySink()
    route = Route((Target("actors/a"), Target("actors/b")), retry=RetryPolicy(retries=1))
    acts = {"a": [fails(LLMErrorKind.SERVER)], "b": [Act()]}
    stage = Stage(acts, models={"fast": route}, observer=Observer([sink]))

    await stage.complete("fast")

    assert [
        (
            span.name,
            attributes(span)["llmgine.llm.route"],
            attributes(span)["llmgine.llm.attempt"],
            attributes(span)["llmgine.llm.reason"],
            attributes(span).get("error.type"),
        )
        for span in sink.records
    ] == [
        ("chat a", "fast", 1, "in order", "server"),
        ("chat a", "fast", 2, "retry after server", "server"),
        ("chat b", "fast", 3, "fallback after server", None),
    ]


async def test_the_span_of_a_stream_has_its_longest_gap() -> None:
    sink = MemorySink()
    stage = Stage({"a": [Act(words=["one", "two", "three"], gap_s=2)]}, observer=Observer([sink]))

    await stage.stream("actors/a")

    (span,) = sink.records
    assert attributes(span)["gen_ai.response.time_to_first_chunk"] == 2.0
    assert attributes(span)["llmgine.llm.longest_gap_s"] == 2.0


# Metrics.


class Meters:
    """A meter provider of the test's own, and what it has collected."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.meter = MeterProvider(metric_readers=[self._reader]).get_meter("test")

    def points(self) -> dict[str, list[HistogramDataPoint]]:
        data = self._reader.get_metrics_data()
        assert data is not None
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        found: dict[str, list[HistogramDataPoint]] = {}
        for metric in metrics:
            for point in metric.data.data_points:
                assert isinstance(point, HistogramDataPoint)
                found.setdefault(f"{metric.name} {metric.unit}", []).append(point)
        return found


CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "actors",
    "gen_ai.request.model": "a",
}


async def test_a_streamed_call_is_measured_under_the_conventions_names() -> None:
    meters = Meters()
    usage = Usage(input_tokens=70, output_tokens=5)
    stage = Stage({"a": [Act(words="abc", gap_s=2, usage=usage)]}, meter=meters.meter)

    await stage.stream("actors/a")

    points = meters.points()
    answered = {**CALL, "gen_ai.response.model": "a"}
    sums = {
        name: [(p.count, p.sum, dict(p.attributes or {})) for p in points[name]] for name in points
    }
    assert sums == {
        "gen_ai.client.operation.duration s": [(1, 8.0, answered)],
        "gen_ai.client.operation.time_to_first_chunk s": [(1, 2.0, answered)],
        "gen_ai.client.operation.time_per_output_chunk s": [(1, 2.0, answered)],
        "gen_ai.client.token.usage {token}": [
            (1, 70, {**answered, "gen_ai.token.type": "input"}),
            (1, 5, {**answered, "gen_ai.token.type": "output"}),
        ],
    }


async def test_the_buckets_are_those_of_the_conventions() -> None:
    meters = Meters()
    stage = Stage({"a": [Act(usage=Usage(input_tokens=1, output_tokens=1))]}, meter=meters.meter)

    await stage.complete("actors/a")

    points = meters.points()
    seconds = points["gen_ai.client.operation.duration s"][0].explicit_bounds
    tokens = points["gen_ai.client.token.usage {token}"][0].explicit_bounds
    assert (seconds[0], seconds[-1], len(seconds)) == (0.01, 81.92, 14)
    assert (tokens[0], tokens[-1], len(tokens)) == (1, 67108864, 14)


async def test_a_failed_attempt_is_measured_with_its_kind_and_no_tokens() -> None:
    meters = Meters()
    stage = Stage({"a": [fails(LLMErrorKind.BAD_REQUEST)]}, meter=meters.meter)

    with pytest.raises(LLMError):
        await stage.complete("actors/a")

    ((name, (point,)),) = meters.points().items()
    assert name == f"{semconv.CLIENT_OPERATION_DURATION.name} s"
    assert dict(point.attributes or {}) == {**CALL, "error.type": "bad_request"}


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_exemplar_of_a_metric_leads_to_the_span_of_the_call(streaming: bool) -> None:
    meters, sink = Meters(), MemorySink()
    observer = Observer([sink])
    stage = Stage({"a": [Act()]}, meter=meters.meter, observer=observer)

    with observer.span("caller"):
        await (stage.stream if streaming else stage.complete)("actors/a")

    (point,) = meters.points()["gen_ai.client.operation.duration s"]
    (exemplar,) = point.exemplars
    assert f"{exemplar.span_id:016x}" == sink.records[0].span_id


def test_who_measures_nothing_pays_for_no_opentelemetry() -> None:
    program = """
import asyncio, sys
from app.llmgine.contracts import ChatMessage, LLMRequest
from app.llmgine.llm import LLMManager
from app.llmgine.llm.providers.scripted import ScriptedProvider

request = LLMRequest(model="scripted", messages=(ChatMessage.user("Hello"),))
asyncio.run(LLMManager({"scripted": lambda: ScriptedProvider(["Hi"])}).complete(request))
print(sorted(name for name in sys.modules if name.startswith("opentelemetry")))
"""
    tests = Path(__file__).parents[2]
    command = [sys.executable, "-c", program]

    printed = subprocess.run(command, cwd=tests, capture_output=True, text=True, check=True)

    assert printed.stdout == "[]\n"
