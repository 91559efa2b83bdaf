"""The schemas of answers, and which of them vendors enforce."""

import copy
import json
from random import Random
from typing import Annotated, Any, Literal

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from openai.lib._pydantic import _ensure_strict_json_schema as vendors_own
from pydantic import BaseModel, Field

from app.llmgine.llm.providers._examples import make_value
from app.llmgine.llm.schema import OutputType, strict
from runtime import strategies
from runtime.llm.test_offline_laws import broken_schemas
from runtime.llm.test_schema_driven import Cat, Color, Dog, Options, Point, Tree, models

KEYWORDS = {
    *("type", "properties", "required", "additionalProperties", "items", "anyOf"),
    *("enum", "const", "$ref", "$defs", "format", "description"),
}


class Order(BaseModel):
    title: str
    number: int = Field(ge=1, description="as printed")
    color: Color = Color.RED
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Field(description="theirs")
    tags: list[str] = Field(default_factory=list)
    note: str | None = None


def check_strict(node: Any) -> None:
    assert node.keys() <= KEYWORDS, node
    assert node.keys() & {"type", "anyOf", "$ref", "enum", "const"}, node
    if "$ref" in node:
        assert len(node) == 1
    if node.get("type") == "object":
        assert node["additionalProperties"] is False
        assert node["required"] == list(node["properties"])
    children = [*node.get("properties", {}).values(), *node.get("$defs", {}).values()]
    for child in (*children, *node.get("anyOf", ()), *([node["items"]] if "items" in node else ())):
        check_strict(child)


@pytest.mark.parametrize("type_", [Order, Tree, list[Tree], Cat | Dog, Literal["a", 1], Color, int])
def test_types_without_open_ends_are_enforced(type_: Any) -> None:
    schema = OutputType.of(type_).schema

    enforced = strict(schema)

    assert enforced is not None
    assert enforced["type"] == "object"
    check_strict(enforced)
    assert strict(enforced) == enforced
    assert vendors_own(copy.deepcopy(enforced), path=(), root=enforced) == enforced


@pytest.mark.parametrize(
    "type_", [dict[str, int], list[dict[str, int]], Point, Any, list[Any], Options, object]
)
def test_types_that_would_change_their_meaning_are_not_enforced(type_: Any) -> None:
    assert strict(OutputType.of(type_).schema) is None


def test_what_is_not_enforced_stands_in_the_description() -> None:
    enforced = strict(OutputType.of(Order).schema)

    assert enforced is not None
    fields = enforced["properties"]
    assert fields["number"] == {"type": "integer", "description": "as printed | minimum: 1"}
    assert fields["note"]["description"] == "default: null"
    assert fields["pet"]["description"] == "theirs"
    assert fields["title"] == {"type": "string"}


@pytest.mark.parametrize("type_", [Order, Tree, list[Tree], Cat | Dog, list[Color] | int])
def test_what_is_enforced_has_the_shape_of_the_type(type_: Any) -> None:
    output = OutputType[Any].of(type_)
    enforced = strict(output.schema)
    assert enforced is not None

    for seed in range(40):
        value = make_value(enforced, Random(seed))
        # Bounds are beyond what is enforced.
        text = json.dumps(value).replace('"lives": ', '"lives": 5, "": ')
        text = text.replace('"number": ', '"number": 5, "": ')
        output.validate(text)


@pytest.mark.parametrize("type_", [list[int], Literal["a", "b"], int | str, None, Color, Point])
def test_what_is_no_object_is_put_into_one(type_: Any) -> None:
    output = OutputType[Any].of(type_)

    assert output.wrapped
    assert output.schema["type"] == "object"
    assert output.schema["required"] == ["value"]


@pytest.mark.parametrize("type_", [Order, Tree, dict[str, int], Options])
def test_an_object_stays_as_it_is(type_: Any) -> None:
    assert not OutputType[Any].of(type_).wrapped


@given(models)
@settings(max_examples=150, deadline=None)
def test_any_model_is_enforced_in_full_or_not_at_all(model: Any) -> None:
    enforced = strict(OutputType.of(model).schema)

    event("enforced" if enforced else "not enforced")
    if enforced is not None:
        check_strict(enforced)
        assert strict(enforced) == enforced


@given(broken_schemas | st.dictionaries(st.sampled_from(sorted(KEYWORDS)), strategies.json_values))
@settings(max_examples=300, deadline=None)
def test_any_json_as_a_schema_is_enforced_or_not(schema: Any) -> None:
    whole = schema if isinstance(schema, dict) else {"type": "object", "properties": {"a": schema}}

    enforced = strict(whole)

    if enforced is not None:
        assert strict(enforced) == enforced
