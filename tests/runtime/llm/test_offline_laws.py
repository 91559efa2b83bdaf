"""Laws of the stand-in: whatever the prompt and the tools, it neither breaks nor lies."""

import json
import time
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from app.llmgine.contracts import (
    ChatMessage,
    FinishReason,
    LLMRequest,
    Money,
    StreamEnd,
    ToolSpec,
    accumulate,
)
from runtime import strategies
from runtime.llm import offline_cases as tools
from runtime.llm.offline_cases import EVERY_TOOL, SAMPLE, ask, calls, offline, request, specs

WORDS = (
    "save note find show create send convert time weather user order city amount text query to in "
    "on at from about that and with is for of the a please what which remember translate 'quoted "
    'text\' "said" Tokyo Paris French Ann Smith USD eur open shipped on off true no 5 -3.5 1,000 '
    "two twenty-one 12 March 2026 tomorrow 9am 2026-12-24T10:00:00Z noon in 3 days 10 minutes "
    "ann@example.com https://x.org/a?b=1 A-1001 a.txt RR123456789 red, green and blue x=4 title: "
    "Lunch limit 3 ? ! . , : ; \n"
).split(" ")
prompts = st.lists(st.sampled_from(WORDS) | st.text(max_size=6), max_size=25).map(" ".join)

names = st.sampled_from(
    ["text", "query", "city", "amount", "to", "from_date", "user_id", "limit", "on", "timezone"]
    + ["title", "tags", "time", "colour", "url", "user", "note", "x", "größe", "", "$ref"]
)
bounds = st.none() | st.integers(-5, 30)


def _without_none(**keywords: object) -> dict[str, object]:
    return {key: value for key, value in keywords.items() if value is not None}


plain_schemas = st.one_of(
    st.builds(
        lambda form, least, most: _without_none(
            type="string", format=form, minLength=least, maxLength=most
        ),
        st.sampled_from([None, "date", "date-time", "time", "email", "uri", "uuid", "duration"]),
        st.none() | st.integers(0, 4),
        st.none() | st.integers(0, 12),
    ),
    st.builds(
        lambda kind, least, most, above, step: _without_none(
            type=kind, minimum=least, maximum=most, exclusiveMinimum=above, multipleOf=step
        ),
        st.sampled_from(["integer", "number"]),
        bounds,
        bounds,
        bounds,
        st.none() | st.sampled_from([1, 2, 0.5, 0.1]),
    ),
    st.builds(
        lambda values: {"enum": values},
        st.lists(st.sampled_from(["open", "shipped", "USD", "in", "a", 5, 2.0, True, None, ""])),
    ),
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "string", "pattern": "^[A-Z]{2}[0-9]{9}$"},
            {"const": "fixed"},
            {"type": "null"},
            {"type": ["integer", "null"]},
            {"$ref": "#/$defs/Leaf"},
            {},
            True,
        ]
    ),
)


def _object(properties: dict[str, Any], required: set[str], closed: bool) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = sorted(required)
    return schema | ({"additionalProperties": False} if closed else {})


def _objects(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    properties = st.dictionaries(names, parts, max_size=5)
    return properties.flatmap(
        lambda some: st.builds(
            _object, st.just(some), st.sets(st.sampled_from(sorted(some) or ["x"])), st.booleans()
        )
    )


def _nested(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    listed = st.lists(parts, min_size=1, max_size=3)
    return st.one_of(
        _objects(parts),
        st.builds(
            lambda items, least, unique: _without_none(
                type="array", items=items, minItems=least, uniqueItems=unique
            ),
            parts,
            st.none() | st.integers(0, 2),
            st.none() | st.booleans(),
        ),
        listed.map(lambda choices: {"anyOf": choices}),
        listed.map(lambda choices: {"oneOf": choices}),
        listed.map(lambda choices: {"allOf": choices}),
    )


def _specs(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[ToolSpec, ...]]:
    one = st.builds(
        lambda name, description, schema: ToolSpec(
            name=name, description=description, parameters=schema | {"$defs": DEFINITIONS}
        ),
        st.sampled_from(["save_note", "findUser", "convert", "time", "", "größe", "order-get.v2"]),
        st.sampled_from(["", "Save a note.", "Find the user of an order", "What is it?"]),
        _objects(schemas),
    )
    return st.lists(one, max_size=4, unique_by=lambda spec: spec.name).map(tuple)


DEFINITIONS = {
    "Leaf": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    "Loop": {"anyOf": [{"$ref": "#/$defs/Loop"}, {"type": "integer"}]},
}
schemas = st.recursive(plain_schemas, _nested, max_leaves=5)
broken_schemas = st.recursive(
    plain_schemas
    | st.sampled_from(
        [
            {"$ref": "#/$defs/Loop"},
            {"$ref": "#/$defs/Nowhere"},
            {"$ref": "https://example.com/schema"},
            {"type": "string", "pattern": "("},
            {"type": "integer", "minimum": "low", "multipleOf": 0},
            {"type": "array", "items": False, "minItems": None},
            {"enum": "open"},
            {"properties": [], "required": "all"},
            {"anyOf": {}, "oneOf": None, "allOf": 3},
            {"not": {}},
            {"type": 7, "description": 7},
            {"prefixItems": [{}], "type": "array"},
            False,
        ]
    )
    | strategies.json_values,
    _nested,
    max_leaves=5,
)
orders = st.builds(
    " ".join,
    st.tuples(st.sampled_from(["save note", "find user", "convert", "get order"]), prompts),
)
choices = st.sampled_from(["auto", "auto", "required"])


@given(orders, _specs(schemas), choices)
@settings(max_examples=120, deadline=None)
async def test_what_it_calls_exists_and_takes_the_arguments(
    prompt: str, offered: tuple[ToolSpec, ...], choice: str
) -> None:
    response = await offline().complete(request(prompt, *offered, tool_choice=choice))

    schemas = {spec.name: spec.parameters for spec in offered}
    event("calls" if response.tool_calls else "speaks")
    for name, arguments in calls(response):
        jsonschema.Draft202012Validator(schemas[name]).validate(arguments)


@given(prompts, st.sampled_from(EVERY_TOOL))
@settings(max_examples=150, deadline=None)
async def test_what_it_calls_of_typed_functions_takes_the_arguments(
    prompt: str, function: Callable[..., Any]
) -> None:
    asked = f"{function.__name__.replace('_', ' ')} {prompt}"

    response = await ask(asked, function, tool_choice="required")

    (spec,) = specs(function)
    checker = jsonschema.FormatChecker(["date", "email", "uuid"])
    event("calls" if response.tool_calls else "speaks")
    for _, arguments in calls(response):
        jsonschema.Draft202012Validator(spec.parameters, format_checker=checker).validate(arguments)


@given(strategies.llm_requests | st.builds(request, prompts, max_output_tokens=st.just(3)))
@settings(max_examples=150, deadline=None)
async def test_a_stream_spells_the_completion_whatever_is_asked(asked: LLMRequest) -> None:
    provider = offline()

    chunks = [chunk async for chunk in provider.stream(asked)]

    assert accumulate(chunks) == await provider.complete(asked)
    assert [chunk for chunk in chunks if isinstance(chunk, StreamEnd)] == chunks[-1:]


@given(orders, _specs(broken_schemas), choices)
@settings(max_examples=100, deadline=None)
async def test_the_same_request_gets_the_same_answer_whatever_the_schemas(
    prompt: str, offered: tuple[ToolSpec, ...], choice: str
) -> None:
    asked = request(prompt, *offered, tool_choice=choice)

    assert await offline().complete(asked) == await offline().complete(asked)


@given(prompts, st.lists(st.text(min_size=1, max_size=3), max_size=2), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
async def test_limits_cut_the_answer_where_they_say(
    prompt: str, stop: list[str], limit: int
) -> None:
    whole = (await ask(prompt, *SAMPLE, tool_choice="none")).text

    cut = await ask(prompt, *SAMPLE, tool_choice="none", stop=tuple(stop), max_output_tokens=limit)

    ends = [whole.index(sequence) for sequence in stop if sequence in whole]
    stopped = whole[: min(ends, default=len(whole))]
    assert stopped.startswith(cut.text)
    assert cut.usage is not None
    assert cut.usage.output_tokens == len(cut.text.split()) <= limit
    within = len(stopped.split()) <= limit
    assert cut.finish_reason is (FinishReason.STOP if within else FinishReason.LENGTH)


async def test_a_call_that_exceeds_the_limit_is_not_made_and_never_cut() -> None:
    response = await ask("save a note that the milk is empty", *SAMPLE, max_output_tokens=3)

    assert response.message.parts == ()
    assert response.finish_reason is FinishReason.LENGTH


async def test_its_words_are_counted_and_cost_nothing() -> None:
    response = await ask("What time is it in Tokyo?")

    assert response.usage is not None
    assert response.usage.input_tokens == 6
    assert response.usage.output_tokens == len(response.text.split())
    assert response.cost == Money(amount=0)


async def test_call_ids_differ_within_an_answer_and_between_turns() -> None:
    first = await ask("What time is it in Tokyo and London?", *SAMPLE)
    again = tools.request("What time is it in Tokyo and London?", *specs(*SAMPLE))
    history = (*again.messages, first.message, ChatMessage.tool(), *again.messages)

    second = await offline().complete(again.model_copy(update={"messages": history}))

    ids = [call.id for call in (*first.tool_calls, *second.tool_calls)]
    assert len(set(ids)) == len(ids) == 4


@pytest.mark.parametrize(
    "unit",
    ["a", " ", "\n", "\0", "🎉", '"', "“", "'x ", "1", "1 ", "1,", "a@", "- ", "Aa ", "http://"]
    + ["Tokyo and ", "12 March 2026 at ", "save a note that ", "find notes about milk and ", "x: "]
    + [
        "\ud800",
        "turn on the light in ",
        "in the ",
        "und 3 Äpfel, ",
        "a.b/c ",
        "the, ",
        "city ",
        "amount: ",
    ],
)
async def test_a_huge_prompt_takes_time_in_proportion(unit: str) -> None:
    seconds = {}
    for size in (25_000, 100_000):
        start = time.process_time()
        await ask("convert " + unit * (size // len(unit)), *EVERY_TOOL[:12])
        seconds[size] = time.process_time() - start

    assert seconds[100_000] < 12 * max(seconds[25_000], 0.05)


@pytest.mark.parametrize("prompt", ["\0", "\ud800 save a note: \udfff", "🎉" * 50, " ", "\r\n\t"])
async def test_odd_letters_are_answered(prompt: str) -> None:
    response = await ask(prompt, *SAMPLE)

    assert json.loads(response.model_dump_json())["finish_reason"] in {"stop", "tool_call"}


async def test_a_note_of_100_kilobytes_is_kept_whole() -> None:
    text = "milk and honey " * 7_000

    response = await ask(f"Save a note: {text}", tools.save_note)

    assert calls(response) == [("save_note", {"text": text.strip()})]


async def test_a_request_without_a_prompt_is_answered() -> None:
    response = await offline().complete(LLMRequest(model="offline", messages=()))

    assert "No tool is registered" in response.text
