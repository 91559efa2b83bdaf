"""The schema-driven model calls every tool with arguments that its schema takes."""

import datetime as dt
import decimal
import json
import re
import uuid
from enum import StrEnum
from random import Random
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

import jsonschema
import pytest
from annotated_types import Ge, Le
from hypothesis import event, given, settings
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, Field, IPvAnyAddress, Json, StringConstraints, create_model
from referencing.exceptions import Unresolvable
from typing_extensions import TypedDict

from app.llmgine.contracts import (
    ChatMessage,
    FinishReason,
    LLMRequest,
    OutputSpec,
    ToolCall,
    ToolResult,
    ToolSpec,
    ToolStatus,
    accumulate,
)
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.llm.providers._patterns import PatternError, example
from app.llmgine.llm.providers.schema_driven import SchemaProvider
from app.llmgine.llm.schema import OutputType
from app.llmgine.tools import ToolManager
from runtime.llm.test_offline_laws import broken_schemas, schemas

OBJECT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def tool(parameters: Any, name: str = "save_note") -> ToolSpec:
    return ToolSpec(name=name, description="", parameters=parameters)


def request(*tools: ToolSpec, **options: Any) -> LLMRequest:
    return LLMRequest(model="any", messages=(ChatMessage.user("Go."),), tools=tools, **options)


def with_results(asked: LLMRequest, *calls: ToolCall) -> LLMRequest:
    results = [
        ToolResult(call_id=call.id, name=call.name, status=ToolStatus.OK, content="saved")
        for call in calls
    ]
    said = (ChatMessage.assistant("", *calls), ChatMessage.tool(*results))
    return asked.model_copy(update={"messages": (*asked.messages, *said)})


FORMATS = jsonschema.FormatChecker(["date", "email", "uuid", "ipv4", "ipv6", "regex"])


@FORMATS.checks("date-time", raises=ValueError)
def is_moment(value: object) -> bool:
    return not isinstance(value, str) or bool(dt.datetime.fromisoformat(value))


def check(schema: Any, value: Any) -> None:
    jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(value)


async def test_every_tool_is_called_once_and_then_the_model_speaks() -> None:
    asked = request(tool(OBJECT), tool({}, "current_time"))

    first = await SchemaProvider().complete(asked)
    second = await SchemaProvider().complete(with_results(asked, *first.tool_calls))

    assert [call.name for call in first.tool_calls] == ["save_note", "current_time"]
    assert first.finish_reason is FinishReason.TOOL_CALL
    assert len({call.id for call in first.tool_calls}) == 2
    assert (second.tool_calls, second.finish_reason) == ((), FinishReason.STOP)
    assert second.text == "save_note answered ok: saved\ncurrent_time answered ok: saved"


@pytest.mark.parametrize(("choice", "calls"), [("none", [0, 0]), ("required", [1, 1])])
async def test_the_choice_of_tools_is_obeyed(choice: str, calls: list[int]) -> None:
    asked = request(tool(OBJECT), tool_choice=choice)
    answered = with_results(asked, ToolCall(id="1", name="save_note", arguments="{}"))

    responses = [await SchemaProvider().complete(one) for one in (asked, answered)]

    assert [len(response.tool_calls) for response in responses] == calls


async def test_an_output_that_is_asked_for_is_json_of_its_schema() -> None:
    asked = request(output=OutputSpec(name="note", parameters=OBJECT))

    response = await SchemaProvider().complete(asked)

    check(OBJECT, json.loads(response.text))


@given(st.integers(0, 99), st.integers(1, 12), st.sampled_from(["calls", "output"]))
@settings(max_examples=60, deadline=None)
async def test_a_stream_spells_the_completion_within_its_limit(
    seed: int, limit: int, kind: str
) -> None:
    asked = request(tool(OBJECT), tool(OBJECT, "b"), seed=seed, max_output_tokens=limit)
    if kind == "output":
        asked = request(output=OutputSpec(name="n", parameters=OBJECT), max_output_tokens=limit)
    provider = SchemaProvider()

    whole = await provider.complete(asked)

    assert accumulate([chunk async for chunk in provider.stream(asked)]) == whole
    assert whole.usage is not None
    assert whole.usage.output_tokens <= limit
    for call in whole.tool_calls:
        check(OBJECT, json.loads(call.arguments))


async def test_the_seed_decides_the_arguments() -> None:
    wide = {"properties": {"number": {"type": "integer"}}, "required": ["number"]}

    async def arguments(seed: int) -> str:
        return (await SchemaProvider(seed).complete(request(tool(wide)))).tool_calls[0].arguments

    made = [await arguments(seed) for seed in (*range(9), *range(9))]

    assert made[:9] == made[9:]
    assert len(set(made)) > 3


CLEAR = [
    ({"not": {}}, "'not'"),
    ({"type": "string", "format": "tarot"}, "'tarot'"),
    ({"type": "string", "pattern": "(?=a)b"}, "is not understood"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "no value"),
    ({"enum": []}, "no value"),
    ({"$ref": "#/$defs/Nowhere"}, "'not'"),
    ({"$ref": "#anchor"}, "'not'"),
    ({"type": "tuple"}, "'tuple'"),
    ({"type": "array", "minItems": 10**9}, "too large"),
]


@pytest.mark.parametrize(
    "parameters",
    [
        {"required": 5},
        {"properties": 5},
        {"patternProperties": 5},
        {"patternProperties": {"(?=x)": {}}},
        {"properties": {"x": {"enum": 5}}, "required": ["x"]},
        {"properties": {"x": {"format": []}}, "required": ["x"]},
        {"properties": {"x": {"type": "array", "prefixItems": 5}}, "required": ["x"]},
        {"properties": {"x": {"pattern": "\\uZZZZ"}}, "required": ["x"]},
    ],
)
async def test_what_is_no_schema_is_an_error_that_names_the_tool(parameters: Any) -> None:
    with pytest.raises(LLMError, match="'save_note'"):
        await SchemaProvider().complete(request(tool(parameters)))


@pytest.mark.parametrize(("part", "why"), CLEAR)
async def test_what_cannot_be_made_is_an_error_that_names_the_place(part: Any, why: str) -> None:
    schema = {"properties": {"deep": {"properties": {"x": part}, "required": ["x"]}}}
    asked = request(tool({**schema, "required": ["deep"]}))

    with pytest.raises(LLMError, match=r"'save_note': deep\.x") as caught:
        await SchemaProvider().complete(asked)

    assert caught.value.kind is LLMErrorKind.BAD_REQUEST
    assert why in str(caught.value)


MORE: list[Any] = [
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "minItems": 2},
    {"type": "array", "prefixItems": [{"const": 1}], "items": False, "minItems": 1},
    {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 3},
    {"type": "object", "patternProperties": {"^[a-z]{3}$": {"type": "null"}}, "minProperties": 1},
    {"type": "object", "propertyNames": {"enum": ["red", "blue"]}, "minProperties": 2},
    {"type": "object", "maxProperties": 1, "properties": {"a": {"type": "null"}}},
    {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "minItems": 3},
    {"type": "string", "pattern": "^v\\d+\\.\\d+$", "minLength": 12},
    {"type": "string", "minLength": 40, "maxLength": 41},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.01},
    {"type": "number", "multipleOf": 0.05, "minimum": 1.01},
    {"type": "integer", "multipleOf": 7, "minimum": -20, "maximum": -10},
    {"type": "integer", "minimum": 2**60},
    {"type": "string", "contentMediaType": "application/json", "contentSchema": {"type": "null"}},
    {"oneOf": [{"type": "integer"}, {"type": "number", "multipleOf": 0.5}]},
    {"allOf": [{"minimum": 3}, {"type": "integer"}, {"maximum": 3}]},
    {"$ref": "#/$defs/a~1b"},
    {"$ref": "#/$defs/Node"},
]
DEFINITIONS = {
    "a/b": {"const": "slash"},
    "Leaf": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    "Node": {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
        "required": ["next"],
        "additionalProperties": False,
    },
}


def around(part: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"part": part},
        "required": ["part"],
        "$defs": DEFINITIONS,
    }


@pytest.mark.parametrize("part", MORE)
async def test_the_rarer_keywords_are_understood(part: Any) -> None:
    for seed in range(30):
        response = await SchemaProvider(seed).complete(request(tool(around(part))))

        check(around(part), json.loads(response.tool_calls[0].arguments))


@given(schemas | broken_schemas | st.sampled_from(MORE), st.integers(0, 5))
@settings(max_examples=400, deadline=None)
async def test_arguments_are_valid_or_there_are_none(part: Any, seed: int) -> None:
    schema = around(part)
    try:
        response = await SchemaProvider(seed).complete(request(tool(schema)))
    except LLMError as error:
        event("refused")
        assert "save_note" in str(error)
        return

    event("called")
    arguments = json.loads(response.tool_calls[0].arguments)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        check(schema, arguments)
    except (jsonschema.SchemaError, Unresolvable, RecursionError, re.error):
        event("the validator does not understand the schema")


# Types as an application annotates its tools with.


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    y: float


class Options(TypedDict):
    verbose: bool
    level: NotRequired[Literal[1, 2, 3]]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(default=9, ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str = Field(min_length=3)


class Tree(BaseModel):
    label: str
    children: list["Tree"] = []


TYPES: list[Any] = [
    *(str, int, float, bool, bytes, Color, Point, Options, Tree, None, Any, AnyUrl, IPvAnyAddress),
    *(dt.date, dt.datetime, dt.time, dt.timedelta, decimal.Decimal, uuid.UUID, Json[list[int]]),
    Annotated[Cat | Dog, Field(discriminator="kind")],
    Annotated[int, Ge(3), Le(5)],
    Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}-\d{4}$")],
    Annotated[str, StringConstraints(min_length=5, max_length=9)],
    Literal["a", 1, None],
]


def _containers(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        part.map(lambda one: list[one]),
        part.map(lambda one: dict[str, one]),
        part.map(lambda one: dict[Color, one]),
        part.map(lambda one: one | None if one is not None else int | None),
        st.tuples(part, part).map(lambda two: tuple[two[0], two[1]]),
        part.map(lambda one: Annotated[list[one], Field(min_length=1, max_length=3)]),
    )


types = st.recursive(st.sampled_from(TYPES), _containers, max_leaves=3)
models = st.lists(types, min_size=1, max_size=4).map(
    lambda fields: create_model(
        "Drawn", **{f"field{n}": (type_, ...) for n, type_ in enumerate(fields)}
    )
)


@given(models, st.integers(0, 3))
@settings(max_examples=150, deadline=None)
async def test_any_model_can_be_filled_in(model: Any, seed: int) -> None:
    output = OutputType[Any].of(model)
    asked = request(output=OutputSpec(name=output.name, parameters=output.schema), seed=seed)

    response = await SchemaProvider().complete(asked)

    check(output.schema, json.loads(response.text))
    output.validate(response.text)


async def test_the_tool_manager_runs_every_call_made_for_its_tools() -> None:
    def paint(
        color: Color, at: Point, pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    ) -> str:
        return f"{color}{at}{pet}"

    def plan(tree: Tree, by: dt.date, notes: dict[str, list[int]] | None = None) -> str:
        return f"{tree}{by}{notes}"

    manager = ToolManager()
    asked = request(manager.register(paint), manager.register(plan))

    for seed in range(40):
        response = await SchemaProvider(seed).complete(asked)
        results = await manager.execute(response.tool_calls)
        assert [result.status for result in results] == [ToolStatus.OK, ToolStatus.OK]


PATTERNS = [
    r"^[A-Z]{2}[0-9]{9}$",
    r"^(?:\+\d{1,3})?[ -]?\d{4,}$",
    r"^#[0-9a-fA-F]{6}$",
    r"^\w+@[\w.]+\.(com|org)$",
    r"[^a-z]x.{3}\.json",
    r"^(?P<year>\d{4})-(0[1-9]|1[0-2])$",
    r"\Aab*?c+\Z",
    r"^[\d\-_a-f\]]{3,5}$",
    r"^\S+\s\D$",
    r"\x41B\t",
    "",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_example_matches_its_pattern(pattern: str) -> None:
    for seed in range(50):
        assert re.search(pattern, example(pattern, Random(seed)))


@given(st.text("ab[]()|?*+{}1,2\\d^$.-", max_size=12), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_any_text_as_a_pattern_gives_an_example_or_an_error(pattern: str, seed: int) -> None:
    try:
        example(pattern, Random(seed))
    except PatternError as error:
        assert str(error)
