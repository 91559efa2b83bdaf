"""Cases of good answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.llmgine.contracts import (
    ChatMessage,
    LLMResponse,
    OutputSpec,
    ReasoningPart,
    StreamEnd,
    TextDelta,
    ToolCall,
    ToolResult,
    ToolSpec,
    ToolStatus,
)
from runtime.llm.conformance.cases import case
from runtime.llm.conformance.subjects import ASKED, Subject, expected, subject_of
from runtime.llm.vendors import FORMATS, Answer, Call, Sent, cut, recut

FIND = ToolSpec(
    name="find_notes",
    description="Find notes.",
    parameters={
        "type": "object",
        "properties": {"query": {"type": "string"}},
        "required": ["query"],
        "additionalProperties": False,
    },
)
CALL = ToolCall(id="call_1", name="find_notes", arguments='{"query": "tea"}')
RESULT = ToolResult(call_id=CALL.id, name=CALL.name, status=ToolStatus.OK, content='["tea"]')
CONVERSATIONS = (
    (ChatMessage.user("How are you?"),),
    (ChatMessage.system("Be brief."), ASKED),
    (ASKED, ChatMessage.assistant("", CALL), ChatMessage.tool(RESULT)),
    (ChatMessage.user('ünï 🎉 "quoted" \\ \u2028 </s>'),),
)
CITY = OutputSpec(
    name="city",
    parameters={
        "type": "object",
        "properties": {"name": {"type": "string"}, "people": {"type": "integer"}},
        "required": ["name", "people"],
        "additionalProperties": False,
    },
)
LONG = Answer("Hello, wörld. 🎉 " * 20)


def told(response: LLMResponse) -> Any:
    """What can be compared with the answer that the server was told to give."""
    thoughts = [part.text for part in response.message.parts if isinstance(part, ReasoningPart)]
    thoughts = [text for text in thoughts if text]
    calls = [(call.id, call.name, call.arguments) for call in response.tool_calls]
    return thoughts, response.text, calls, response.finish_reason, response.usage


async def arrives(s: Subject, answer: Answer) -> None:
    whole, streamed = await s.both(answer)

    assert told(whole) == told(expected(answer))
    assert streamed == whole


@case("the chunks of a stream add up to the complete response", "all")
async def law(s: Subject) -> None:
    for messages in CONVERSATIONS:
        request = s.request(*messages, tools=(FIND,))
        answer = Answer("Wörd.", "Hm.", [Call("a", "find_notes", '{"query": "x"}')])

        whole, streamed = await s.both(answer, request)

        assert streamed == whole
        s.answers.clear()


@case("a stream ends with its one end", "all")
async def one_end(s: Subject) -> None:
    chunks = [chunk async for chunk in s.provider().stream(s.request(tools=(FIND,)))]

    assert [type(chunk) for chunk in chunks].index(StreamEnd) == len(chunks) - 1


@case("a response says who gave it, and survives JSON", "all")
async def who(s: Subject) -> None:
    provider = s.provider()

    response = await provider.complete(s.request(tools=(FIND,)))

    assert response.provider == (s.kind.answers_as or provider.name)
    assert LLMResponse.model_validate_json(response.model_dump_json()) == response


@case("closing twice does no harm", "all")
async def closing_twice(s: Subject) -> None:
    provider = s.provider()
    await provider.complete(s.request())
    await provider.aclose()

    await provider.aclose()


@case("structured output: the schema is kept to, or sent in the form of the API", "all")
async def structured(s: Subject) -> None:
    answer = Answer('{"name": "Oslo", "people": 717710}')
    for response in await s.both(answer, s.request(output=CITY)):
        city = json.loads(response.text)
        assert (type(city["name"]), type(city["people"])) == (str, int)
    sent = [_schema_in(recorded.body) for recorded in s.server.requests]
    assert sent == [CITY.parameters] * (2 if s.kind.speaks else 0)


def _schema_in(body: dict[str, Any]) -> Any:
    for at in (
        ("response_format", "json_schema", "schema"),
        ("text", "format", "schema"),
        ("output_config", "format", "schema"),
        ("output_format", "schema"),
    ):
        found: Any = body
        for name in at:
            found = (found or {}).get(name)
        if found:
            return found
    return None


@case("a text arrives exactly, with the tokens it took", "told")
async def text(s: Subject) -> None:
    await arrives(s, LONG)


@case("a response has the id that the vendor gave it", "told")
async def vendor_id(s: Subject) -> None:
    whole, streamed = await s.both(Answer("Hi.", id="answer-7"))

    assert whole.id == streamed.id == "answer-7"


@case("what the model thought arrives", "told")
async def reasoning(s: Subject) -> None:
    await arrives(s, Answer("So it is.", "First I think."))


@case("parallel tool calls arrive, their arguments as the model wrote them", "told")
async def parallel_calls(s: Subject) -> None:
    calls = [
        Call("a", "find_notes", '{"x": [1,\n 2]}'),
        Call("b", "g", "{}"),
        Call("c", "find_notes", "not json at all"),
    ]
    await arrives(s, Answer("Wait.", calls=calls))


@case("calls whose pieces take turns, without ids, come apart again", "server")
async def interleaved(s: Subject) -> None:
    calls = [Call("", "find_notes", '{"query": "tea"}'), Call("", "find_notes", '{"query": "x"}')]

    whole, streamed = await s.both(Answer(calls=calls, interleaved=True))

    assert [(c.name, c.arguments) for c in whole.tool_calls] == [
        (c.name, c.arguments) for c in calls
    ]
    assert len({call.id for call in whole.tool_calls} - {""}) == 2
    assert streamed == whole


@case("an answer that was cut off at its limit says so", "told")
async def length(s: Subject) -> None:
    await arrives(s, Answer("cut off", finish_reason="length"))


@case("arguments that were cut off arrive as far as they came", "told")
async def length_in_arguments(s: Subject) -> None:
    cut_off = [Call("a", "find_notes", '{"query": "te')]
    await arrives(s, Answer(calls=cut_off, finish_reason="length"))


@case("an answer that the vendor filtered says so", "told")
async def filtered(s: Subject) -> None:
    await arrives(s, Answer("So", finish_reason="content_filter"))


@case("an answer may be empty", "told")
async def empty(s: Subject) -> None:
    await arrives(s, Answer())


@case("tokens that nobody counted are unknown, not none", "told")
async def usage_missing(s: Subject) -> None:
    whole, streamed = await s.both(Answer("Hi.", usage=None))

    assert whole.usage is streamed.usage is None


@case("tokens that are counted only at the end of a stream are known", "server")
async def usage_late(s: Subject) -> None:
    await arrives(s, Answer("Hi.", late_usage=True))


@case("signed reasoning comes back to its vendor unchanged", "server")
async def signature(s: Subject) -> None:
    # OpenAI itself is asked for it anyway; another server only by its owner.
    extra: dict[str, Any] = {"include": ["reasoning.encrypted_content"]}
    request = s.request(extra_body=extra if s.kind.speaks == "responses" else {})
    for response in await s.both(Answer("Yes.", "I think.", signature="sig/1=="), request):
        await s.provider().complete(s.request(ASKED, response.message, ASKED))

    for recorded in s.server.requests[2:]:
        assert _signed(s, recorded.body) == ("I think.", "sig/1==")


def _signed(s: Subject, body: Any) -> tuple[str, str]:
    """The thought that was sent back, and its signature."""
    if s.kind.speaks == "chat":
        (detail,) = body["messages"][1]["reasoning_details"]
        return detail["text"], detail["signature"]
    if s.kind.speaks == "messages":
        thought = body["messages"][1]["content"][0]
        return thought["thinking"], thought["signature"]
    item = next(item for item in body["input"] if item["type"] == "reasoning")
    return item["summary"][0]["text"], item["encrypted_content"]


@case("each chunk is there before the next one is sent", "server")
async def drip(s: Subject) -> None:
    answer = Answer("one two three four five six")
    first, *rest = cut(answer.text)
    # Whatever comes before the first words, and they.
    gate = asyncio.Semaphore(_place(s, answer, first))
    s.will(Sent(answer, gate=gate))
    heard: list[str] = []

    async with asyncio.timeout(10):
        async for chunk in s.provider().stream(s.request()):
            if isinstance(chunk, TextDelta):
                heard.append(chunk.text)
            for _ in range(1 if len(heard) <= len(rest) else 20):
                gate.release()

    assert heard == [first, *rest]


def _place(s: Subject, answer: Answer, text: str) -> int:
    """Which event of the stream holds the text first."""
    path = {"chat": "/chat/completions"}.get(s.kind.speaks, f"/{s.kind.speaks}")
    form = next(form for form in FORMATS if form.PATH == path)
    events = form.events(answer, {"model": s.kind.model})
    return next(n for n, event in enumerate(events) if json.dumps(text).encode() in event)


@case("a stream means the same in whatever pieces it arrives", "server")
async def chunking(s: Subject) -> None:
    answer = Answer("Wörd. 🎉", "Hm, äh.", [Call("a", "find_notes", '{"query": "tea"}')])

    async def ask(cuts: list[float]) -> None:
        async with subject_of(s.kind, s.folder) as fresh:
            whole, streamed = await fresh.both(Sent(answer, pieces=recut(cuts)))
            assert streamed == whole
            assert told(whole) == told(expected(answer))

    @settings(max_examples=20 if s.kind.needs == "app" else 3)
    @given(st.lists(st.floats(0, 1), max_size=12))
    def in_any_pieces(cuts: list[float]) -> None:
        asyncio.run_coroutine_threadsafe(ask(cuts), loop).result()

    loop = asyncio.get_running_loop()
    # Hypothesis calls plain functions, which wait for this loop from elsewhere.
    await asyncio.to_thread(in_any_pieces)
