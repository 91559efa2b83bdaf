"""Whatever a server sends, a call ends as a response or as one `LLMError`, with nothing invented.

Good answers of each API are spoilt in every way that was thought of: 2,000 of them here, ten times
as many with `LLMGINE_TEST_LONG=1`.
"""

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from app.llmgine.contracts import (
    ChatMessage,
    Chunk,
    LLMRequest,
    LLMResponse,
    ToolSpec,
    accumulate,
)
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.llm.providers._chat_completions import ChatCompletions
from app.llmgine.llm.providers._direct import DirectProvider, WireFormat, parse_json
from app.llmgine.llm.providers._events import EventReader
from app.llmgine.llm.providers._failures import Origin
from app.llmgine.llm.providers._messages import Messages
from app.llmgine.llm.providers._responses import Responses
from app.llmgine.llm.providers.anthropic import AnthropicProvider
from app.llmgine.llm.providers.openai import OpenAIProvider, OpenAIResponsesProvider
from app.llmgine.llm.structured import parse, stream_parse
from runtime.llm.vendors import (
    Answer,
    Call,
    Raw,
    VendorServer,
    chat_completions,
    messages,
    responses,
)

TIMES = 10 if os.environ.get("LLMGINE_TEST_LONG") else 1


def spoilt(count: int) -> Any:
    return settings(
        max_examples=count * TIMES, deadline=None, suppress_health_check=list(HealthCheck)
    )


class Note(BaseModel):
    text: str
    stars: int


@dataclass(frozen=True)
class Api:
    """One API: how it is spelled, read, and called."""

    form: ModuleType
    wire: WireFormat
    provider: Callable[[VendorServer], DirectProvider]
    cuts_whole: bool = False
    """Whether it may take the rest of a text from a later event that holds the whole."""


APIS = {
    "chat": Api(
        chat_completions,
        ChatCompletions(newer=True),
        lambda server: OpenAIProvider(None, server.url),
    ),
    "responses": Api(
        responses,
        Responses(encrypt=True),
        lambda server: OpenAIResponsesProvider(None, server.url),
        cuts_whole=True,
    ),
    "messages": Api(messages, Messages(), lambda server: AnthropicProvider("key-1", server.root)),
}
every_api = pytest.mark.parametrize("api", APIS.values(), ids=list(APIS))
ORIGIN = Origin("vendor", "m", "server")
REQUEST = LLMRequest(
    model="m",
    messages=(ChatMessage.user("Go."),),
    tools=(ToolSpec(name="save_note", description="", parameters={"type": "object"}),),
)
NOTE = '{"text": "Grüße, 7 of 9", "stars": 5}'
ANSWERS = [
    Answer("Hello, wörld. How are you?"),
    Answer(
        "I will.",
        reasoning="Hm, well.",
        signature="c2ln",
        calls=[Call("c1", "save_note", NOTE), Call("c2", "get_time", '{"zone": "UTC"}')],
        interleaved=True,
    ),
    Answer(calls=[Call("c1", "get_time", "{}"), Call("c2", "save_note", NOTE)]),
    Answer("I am sor", finish_reason="length"),
    Answer(NOTE),
]

# How an answer is spoilt. Each is told a place and a choice, both any number.

Tree = Any
STRANGE: list[Tree] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        0.5,
        10**400,
        float("nan"),
        float("inf"),
        2**63,
        "",
        "x",
        "\ud800",
    ),
    *([], {}, [None], [[]], {"": None}, [{}], {"type": "error"}, {"error": {"code": 7}}, "[DONE]"),
    *("call", "tool_use", "text", "stop", "save_note", "{", "a" * 5_000, "\x00", "NaN"),
    {"index": "0", "id": 7, "function": {"name": None, "arguments": {"deep": [1, None]}}},
    {"type": "tool_use", "id": None, "name": "save_note", "input": [1]},
    {"type": "function_call", "call_id": {}, "name": "save_note", "arguments": {"a": 1}},
]


def deep() -> Tree:
    nested: Tree = "end"
    for _ in range(300):
        nested = [nested]
    return nested


def places(tree: Tree) -> list[tuple[Tree, Any]]:
    """Every item of every container in it, as the container and the key."""
    keys = (
        list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    )
    found = [(tree, key) for key in keys]
    return found + [inner for key in keys for inner in places(tree[key])]


def spoil(tree: Tree, how: str, place: int, choice: int) -> None:
    """Change one place of the tree."""
    if not (all_places := places(tree)):
        return
    inside, key = all_places[place % len(all_places)]
    other, other_key = all_places[choice % len(all_places)]
    match how:
        case "delete":
            del inside[key]
        case "replace":
            inside[key] = json.loads(json.dumps(STRANGE[choice % len(STRANGE)]))
        case "deepen":
            inside[key] = deep()
        case "graft":
            inside[key] = json.loads(json.dumps(other[other_key]))
        case "wrap":
            inside[key] = [inside[key]] if choice % 2 else {"value": inside[key]}
        case "rename" if isinstance(inside, dict):
            inside[str(choice)] = inside.pop(key)
        case "repeat" if isinstance(inside, list):
            inside.insert(choice % (len(inside) + 1), json.loads(json.dumps(inside[key])))
        case _:
            pass


def shuffle(events: list[Tree], how: str, place: int, choice: int) -> None:
    """Change the order of the events."""
    if not events:
        return
    first, second = place % len(events), choice % len(events)
    match how:
        case "drop event":
            del events[first]
        case "repeat event":
            events.insert(second, json.loads(json.dumps(events[first])))
        case "swap events":
            events[first], events[second] = events[second], events[first]
        case "cut events":
            del events[first:]
        case _:
            pass


GARBAGE = [
    *(b"\xff\xfe", b"\x00", b"\n", b"\n\n", b"\r", b'"', b"}", b"{", b"NaN", b"\\ud83d", b"1e999"),
    *(b'"id": null, ', b'"index": 0, "index": 1, ', b"data: {", b"data: [DONE]\n\n", b": hi\n\n"),
    *(b"event: error\n", b"data: null\n\n", b"data: 7\n\n", b'data: "x"\n\n', b"<html>", b"\xc3"),
]


def corrupt(data: bytes, how: str, place: int, choice: int) -> bytes:
    """Change the bytes."""
    at = place % (len(data) + 1)
    match how:
        case "insert bytes":
            return data[:at] + GARBAGE[choice % len(GARBAGE)] + data[at:]
        case "lose bytes":
            return data[:at] + data[at + 1 + choice % 20 :]
        case "truncate":
            return data[:at]
        case "flip byte":
            return data[:at] + bytes([choice % 256]) + data[at + 1 :]
        case _:
            return data


HOW = {
    spoil: ["delete", "replace", "replace", "deepen", "graft", "wrap", "rename", "repeat"],
    shuffle: ["drop event", "repeat event", "swap events", "cut events"],
    corrupt: ["insert bytes", "lose bytes", "truncate", "flip byte"],
}
Change = tuple[str, int, int]
numbers = st.integers(0, 9_999)
changes = st.lists(
    st.tuples(st.sampled_from([how for some in HOW.values() for how in some]), numbers, numbers),
    min_size=1,
    max_size=4,
)
answers = st.sampled_from(ANSWERS)


def whole_body(api: Api, answer: Answer, spoiling: list[Change]) -> bytes:
    body = [api.form.body(answer, {"model": "m"})]
    for change in spoiling:
        spoil(body, *change)
    data = b"".join(json.dumps(one).encode() for one in body)
    for change in spoiling:
        data = corrupt(data, *change)
    return data


def streamed(api: Api, answer: Answer, spoiling: list[Change]) -> bytes:
    asked = {"model": "m", "stream": True, "stream_options": {"include_usage": True}}
    events = [_parsed(line) for line in b"".join(api.form.events(answer, asked)).split(b"\n")]
    events = [one for one in events if one is not None]
    for change in spoiling:
        spoil(events, *change)
        shuffle(events, *change)
    data = b"".join(_as_event(one) for one in events)
    for change in spoiling:
        data = corrupt(data, *change)
    return data


def _parsed(line: bytes) -> Tree:
    name, _, value = line.partition(b": ")
    if name != b"data":
        return None
    return value.decode() if value == b"[DONE]" else json.loads(value)


def _as_event(one: Tree) -> bytes:
    said = one if one == "[DONE]" else json.dumps(one)
    return f"data: {said}\n\n".encode()


# How it is read, as the provider does.


def read_whole(api: Api, data: bytes, seen: list[Tree]) -> Iterator[Chunk]:
    seen.append(parse_json(data.decode("utf-8", "replace"), ORIGIN))
    yield from api.wire.decode(seen[0], REQUEST, ORIGIN)


def read_stream(api: Api, data: bytes, size: int, seen: list[Tree]) -> Iterator[Chunk]:
    reader, decoder = EventReader(2**25), api.wire.decoder(REQUEST, ORIGIN)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]

    def events() -> Iterator[str]:
        for piece in pieces:
            yield from reader.feed(piece)
        yield from reader.finish()

    said_done = False
    for one in events():
        said_done = one.strip() == "[DONE]"
        if said_done:
            break
        seen.append(parse_json(one, ORIGIN))
        yield from decoder.feed(seen[-1])
    yield from decoder.end(said_done=said_done)


def check(chunks: Iterator[Chunk], seen: list[Tree], *, suffixes: bool) -> str:
    """The law: the end is a response or an error with a kind; what is in it stood in the input."""
    try:
        response = accumulate(chunks)
    except LLMError as error:
        assert isinstance(error.kind, LLMErrorKind)
        return error.kind
    LLMResponse.model_validate_json(response.model_dump_json())
    texts, others = set[str](), list[Tree]()
    for one in seen:
        collect(one, texts, others)
    written = texts | {json.dumps(one, ensure_ascii=False) for one in others}
    for call in response.tool_calls:
        assert call.name in texts
        assert is_made_of(call.arguments, written, suffixes=suffixes), call.arguments
    return "response"


def collect(tree: Tree, texts: set[str], others: list[Tree]) -> None:
    if isinstance(tree, str):
        texts.add(tree)
        return
    others.append(tree)
    for one in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        collect(one, texts, others)


def is_made_of(text: str, written: set[str], *, suffixes: bool) -> bool:
    """Whether the text is some of these in a row; also the ends of some, with `suffixes`."""
    reached = {0}
    for end in range(1, len(text) + 1):
        for begin in list(reached):
            piece = text[begin:end]
            if piece in written or (suffixes and any(one.endswith(piece) for one in written)):
                reached.add(end)
                break
    return len(text) in reached


def test_the_check_finds_what_was_invented() -> None:
    assert is_made_of('{"a": 1}', {'{"a"', ": 1}"}, suffixes=False)
    assert not is_made_of('{"a": 1}', {'{"a"', ": 1"}, suffixes=False)
    assert not is_made_of("{}", {"{", "x"}, suffixes=True)


@every_api
@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_not_spoilt_is_a_response(api: Api, answer: Answer) -> None:
    seen: list[Tree] = []
    whole = accumulate(read_whole(api, whole_body(api, answer, []), []))
    chunks = list(read_stream(api, streamed(api, answer, []), 7, seen))

    assert accumulate(chunks).message.text == whole.message.text == answer.text
    assert [call.name for call in whole.tool_calls] == [call.name for call in answer.calls]
    assert check(iter(chunks), seen, suffixes=False) == "response"


@every_api
@given(answers, changes)
@spoilt(250)
def test_a_spoilt_answer_is_a_response_or_an_error(
    api: Api, answer: Answer, spoiling: list[Change]
) -> None:
    seen: list[Tree] = []

    chunks = read_whole(api, whole_body(api, answer, spoiling), seen)

    event(check(chunks, seen, suffixes=api.cuts_whole))


@every_api
@given(answers, changes, st.sampled_from([1, 7, 64, 10_000]))
@spoilt(250)
def test_a_spoilt_stream_is_a_response_or_an_error(
    api: Api, answer: Answer, spoiling: list[Change], size: int
) -> None:
    seen: list[Tree] = []
    chunks = read_stream(api, streamed(api, answer, spoiling), size, seen)

    event(check(chunks, seen, suffixes=api.cuts_whole))


@every_api
@given(answers, changes, st.booleans())
@spoilt(50)
async def test_a_spoilt_reply_over_http_is_a_response_or_an_error(
    api: Api, answer: Answer, spoiling: list[Change], whole: bool
) -> None:
    body = whole_body(api, answer, spoiling) if whole else streamed(api, answer, spoiling)
    type_ = "application/json" if whole else "text/event-stream"
    async with VendorServer(*[Raw([body], headers={"Content-Type": type_})] * 2) as server:
        provider = api.provider(server)
        for ask in (provider.complete, lambda asked: follow(provider.stream(asked))):
            try:
                response = await ask(REQUEST)
            except LLMError as error:
                assert isinstance(error.kind, LLMErrorKind)
            else:
                assert isinstance(response, LLMResponse)
        await provider.aclose()


async def follow(chunks: AsyncIterator[Chunk]) -> LLMResponse:
    return accumulate([chunk async for chunk in chunks])


class Spoilt:
    """A model whose answers are spoilt, each in its own way, on one API."""

    def __init__(self, api: Api, spoilings: list[list[Change]]) -> None:
        self._api = api
        self._spoilings = cycle(spoilings)
        self.calls = 0

    async def complete(self, request: LLMRequest) -> LLMResponse:
        data = whole_body(self._api, self._answer(request), next(self._spoilings))
        return accumulate(read_whole(self._api, data, []))

    async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        data = streamed(self._api, self._answer(request), next(self._spoilings))
        for chunk in read_stream(self._api, data, 64, []):
            yield chunk

    def _answer(self, request: LLMRequest) -> Answer:
        self.calls += 1
        if request.tool_choice == "required":
            return Answer(calls=[Call("c1", request.tools[0].name, NOTE)])
        return Answer(NOTE)


@every_api
@given(st.lists(st.just([]) | changes, min_size=1, max_size=9), st.booleans())
@spoilt(100)
async def test_a_spoilt_answer_is_of_the_type_or_an_error(
    api: Api, spoilings: list[list[Change]], streams: bool
) -> None:
    model = Spoilt(api, spoilings)
    try:
        if streams:
            *_, parsed = [item async for item in stream_parse(model, REQUEST, Note)]
        else:
            parsed = await parse(model, REQUEST, Note)
    except LLMError as error:
        event(f"{error.kind}")
        assert isinstance(error.kind, LLMErrorKind)
    else:
        event("parsed")
        assert isinstance(parsed.value, Note)
    assert model.calls <= 9


@every_api
def test_a_call_that_lacks_its_arguments_is_given_none(api: Api) -> None:
    body = api.form.body(Answer(calls=[Call("c1", "save_note", NOTE)]), {"model": "m"})
    for inside, key in places(body):
        if key in ("arguments", "input"):
            del inside[key]
    data = json.dumps(body).encode()

    (call,) = accumulate(read_whole(api, data, [])).tool_calls

    assert call.arguments == ""
