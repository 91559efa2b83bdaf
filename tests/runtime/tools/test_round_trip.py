"""What fits a tool's types fits its schema, and reaches the function unchanged."""

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NotRequired
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, JsonValue, TypeAdapter
from typing_extensions import TypedDict

from app.llmgine.contracts import ToolCall, ToolStatus
from app.llmgine.tools import ToolManager


class Unit(Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


class Address(BaseModel):
    title: str
    number: int | None = None


class Tree(BaseModel):
    value: int
    children: list["Tree"] = []


class Filter(TypedDict):
    field: str
    limit: NotRequired[int]


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


text = st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.integers(-(10**12), 10**12)
floats = st.floats(allow_nan=False, allow_infinity=False)
addresses = st.builds(Address, title=text, number=st.none() | numbers)
trees = st.recursive(
    st.builds(Tree, value=numbers),
    lambda inner: st.builds(Tree, value=numbers, children=st.lists(inner, max_size=3)),
    max_leaves=5,
)
json_values: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | numbers | text, lambda inner: st.lists(inner, max_size=3)
)

FAMILY: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "str": (str, text),
    "int": (int, numbers),
    "float": (float, floats),
    "bool": (bool, st.booleans()),
    "optional": (int | None, st.none() | numbers),
    "union": (int | str | list[int], numbers | text | st.lists(numbers)),
    "list": (list[str], st.lists(text)),
    "dict": (dict[str, int], st.dictionaries(text, numbers)),
    "set": (set[int], st.sets(numbers)),
    "tuple": (tuple[int, str], st.tuples(numbers, text)),
    "tuple of any length": (tuple[int, ...], st.lists(numbers).map(tuple)),
    "literal": (Literal["a", "b", 3], st.sampled_from(["a", "b", 3])),
    "enum": (Unit, st.sampled_from(Unit)),
    "datetime": (datetime, st.datetimes(timezones=st.just(UTC))),
    "date": (date, st.dates()),
    "uuid": (UUID, st.uuids()),
    "decimal": (Decimal, st.decimals(-(10**6), 10**6, places=2)),
    "path": (Path, st.sampled_from(["a", "a/b", "/etc"]).map(Path)),
    "model": (Address, addresses),
    "list of models": (list[Address], st.lists(addresses, max_size=3)),
    "recursive model": (Tree, trees),
    "dataclass": (Point, st.builds(Point, x=numbers, y=floats)),
    "typed dict": (Filter, st.fixed_dictionaries({"field": text}, optional={"limit": numbers})),
    "json": (JsonValue, json_values),
}


def keeping(annotation: Any, received: list[Any]) -> Callable[..., Any]:
    async def tool(value: Any) -> None:
        received.append(value)

    tool.__annotations__["value"] = annotation
    return tool


@pytest.mark.parametrize("kind", FAMILY)
@settings(deadline=None)
@given(data=st.data())
async def test_what_the_type_allows_is_allowed_and_arrives(kind: str, data: st.DataObject) -> None:
    annotation, values = FAMILY[kind]
    value = data.draw(values)
    received: list[Any] = []
    manager = ToolManager()
    spec = manager.register(keeping(annotation, received))
    arguments = {"value": TypeAdapter(annotation).dump_python(value, mode="json")}

    (result,) = await manager.execute(
        [ToolCall(id="1", name="tool", arguments=json.dumps(arguments))]
    )

    Draft202012Validator(spec.parameters).validate(arguments)
    assert result.status is ToolStatus.OK, result.content
    assert received == [value]
    assert type(received[0]) is type(value) or isinstance(value, Path)


@settings(deadline=None)
@given(
    given_names=st.sets(st.sampled_from(["a", "b", "c", "d"])),
    extra=st.dictionaries(text.filter(lambda name: name not in "abcd"), numbers, max_size=2),
)
async def test_the_tool_takes_an_object_exactly_if_its_schema_does(
    given_names: set[str], extra: dict[str, int]
) -> None:
    async def tool(a: int, b: int, c: int = 3, d: int | None = None) -> None: ...

    manager = ToolManager()
    spec = manager.register(tool)
    arguments = {**dict.fromkeys(given_names, 1), **extra}

    (result,) = await manager.execute(
        [ToolCall(id="1", name="tool", arguments=json.dumps(arguments))]
    )

    fits = Draft202012Validator(spec.parameters).is_valid(arguments)
    assert (result.status is ToolStatus.OK) == fits
