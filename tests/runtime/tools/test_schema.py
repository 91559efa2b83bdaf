"""What a model is told of a function."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, Optional, Union
from uuid import UUID

import pytest
from annotated_types import Ge
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from typing_extensions import TypedDict

from app.llmgine.errors import ToolDefinitionError
from app.llmgine.tools import describe

if TYPE_CHECKING:
    from email.message import EmailMessage


class Unit(Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Address(BaseModel):
    """Where something is."""

    title: str
    street: str = Field(description="Without the number.")


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Left(BaseModel):
    right: Right | None = None


class Right(BaseModel):
    left: Left | None = None


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    known: int


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Filter(TypedDict):
    field: str
    limit: NotRequired[int]


ADDRESS = {
    "type": "object",
    "description": "Where something is.",
    "properties": {
        "title": {"type": "string"},
        "street": {"type": "string", "description": "Without the number."},
    },
    "required": ["title", "street"],
    "additionalProperties": False,
}
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": "integer", "default": 0}},
    "required": ["x"],
    "additionalProperties": False,
}
FILTER = {
    "type": "object",
    "properties": {"field": {"type": "string"}, "limit": {"type": "integer"}},
    "required": ["field"],
    "additionalProperties": False,
}
PET = {
    "type": "object",
    "required": ["kind"],
    "additionalProperties": False,
}


def takes(annotation: Any) -> Callable[..., None]:
    def tool(value: Any) -> None: ...

    tool.__annotations__["value"] = annotation
    return tool


def properties(function: Callable[..., Any]) -> Any:
    parameters = describe(function).parameters
    Draft202012Validator.check_schema(parameters)
    return parameters["properties"]


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (None, {"type": "null"}),
        (Any, {}),
        (JsonValue, {}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (
            tuple[int, str],
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "minItems": 2,
                "maxItems": 2,
            },
        ),
        (set[str], {"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
        (frozenset[str], {"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (datetime, {"type": "string", "format": "date-time"}),
        (date, {"type": "string", "format": "date"}),
        (time, {"type": "string", "format": "time"}),
        (timedelta, {"type": "string", "format": "duration"}),
        (UUID, {"type": "string", "format": "uuid"}),
        (Path, {"type": "string", "format": "path"}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a"], {"type": "string", "const": "a"}),
        (Unit, {"type": "string", "enum": ["celsius", "fahrenheit"]}),
        (Level, {"type": "integer", "enum": [1, 2]}),
        (Optional[int], {"anyOf": [{"type": "integer"}, {"type": "null"}]}),  # noqa: UP045
        (Union[int, str], {"anyOf": [{"type": "integer"}, {"type": "string"}]}),  # noqa: UP007
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (Annotated[int, Field(ge=1, le=9)], {"type": "integer", "minimum": 1, "maximum": 9}),
        (Annotated[str, Field(description="Who.")], {"type": "string", "description": "Who."}),
        (Address, ADDRESS),
        (list[Address], {"type": "array", "items": ADDRESS}),
        (Point, POINT),
        (Filter, FILTER),
        (
            Annotated[Cat | Dog, Field(discriminator="kind")],
            {
                "oneOf": [
                    {**PET, "properties": {"kind": {"type": "string", "const": "cat"}}},
                    {**PET, "properties": {"kind": {"type": "string", "const": "dog"}}},
                ]
            },
        ),
    ],
)
def test_each_type_becomes_its_plain_schema(annotation: Any, schema: Any) -> None:
    assert properties(takes(annotation)) == {"value": schema}


def test_a_decimal_is_a_number_or_its_text() -> None:
    (value,) = properties(takes(Decimal)).values()

    assert [option["type"] for option in value["anyOf"]] == ["number", "string"]


def test_a_function_becomes_a_closed_object_with_its_required_parameters() -> None:
    def search(query: str, limit: int = 10) -> list[str]:
        """Search the notes."""
        return []

    spec = describe(search)

    assert spec.name == "search"
    assert spec.description == "Search the notes."
    assert spec.parameters == {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "limit": {"type": "integer", "default": 10},
        },
        "additionalProperties": False,
        "required": ["query"],
    }


def test_a_function_without_parameters_takes_an_empty_object() -> None:
    def now() -> str: ...  # type: ignore[empty-body]

    assert describe(now).parameters == {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }


def test_defaults_are_shown_as_the_model_would_write_them() -> None:
    def tool(
        unit: Unit = Unit.CELSIUS,
        day: date = date(2026, 11, 20),
        at: Address | None = None,
        tags: tuple[str, ...] = (),
        price: Decimal = Decimal("1.50"),
    ) -> None: ...

    shown = {name: schema["default"] for name, schema in properties(tool).items()}

    assert shown == {
        "unit": "celsius",
        "day": "2026-11-20",
        "at": None,
        "tags": [],
        "price": "1.50",
    }


def test_a_default_that_json_cannot_spell_is_left_out() -> None:
    unset: Any = object()

    def tool(limit: int = unset) -> None: ...

    assert describe(tool).parameters["properties"] == {"limit": {"type": "integer"}}
    assert "required" not in describe(tool).parameters


def test_a_pydantic_field_as_default_is_understood() -> None:
    def tool(
        limit: int = Field(default=3, ge=1, description="How many."),
        name: str = Field(min_length=1),
    ) -> None: ...

    assert properties(tool) == {
        "limit": {"type": "integer", "default": 3, "minimum": 1, "description": "How many."},
        "name": {"type": "string", "minLength": 1},
    }
    assert describe(tool).parameters["required"] == ["name"]


def test_an_alias_is_the_name_that_models_see() -> None:
    def tool(kind: Annotated[str, Field(alias="type", description="Which.")] = "a") -> None: ...

    assert properties(tool) == {"type": {"type": "string", "description": "Which."}}


def test_parameters_may_have_any_name() -> None:
    def tool(title: str, json: int, model_config: int, default: int, _hidden: int) -> None: ...

    assert list(properties(tool)) == ["title", "json", "model_config", "default", "_hidden"]


def test_only_recursive_types_are_references() -> None:
    def tool(tree: Tree, here: Address, there: Address) -> None: ...

    parameters: Any = describe(tool).parameters

    assert list(parameters["$defs"]) == ["Tree"]
    assert parameters["properties"]["tree"] == {"$ref": "#/$defs/Tree"}
    assert parameters["$defs"]["Tree"]["properties"]["children"]["items"] == {
        "$ref": "#/$defs/Tree"
    }
    assert parameters["properties"]["there"] == ADDRESS


def test_types_that_refer_to_each_other_stay_references() -> None:
    parameters: Any = describe(takes(Left)).parameters

    Draft202012Validator.check_schema(parameters)
    assert sorted(parameters["$defs"]) == ["Left", "Right"]


def test_objects_stay_open_where_a_model_says_so() -> None:
    parameters: Any = describe(takes(Loose)).parameters

    assert parameters["properties"]["value"]["additionalProperties"] is True


def test_a_description_of_the_parameter_wins_over_that_of_its_type() -> None:
    def tool(address: Address) -> None:
        """Send it.

        Args:
            address: Where to send it.
        """

    assert properties(tool)["address"] == {**ADDRESS, "description": "Where to send it."}


def test_types_local_to_a_running_function_are_found() -> None:
    class Local(BaseModel):
        size: int

    def outer() -> Any:
        def tool(value: list[Local]) -> None: ...

        return properties(tool)["value"]["items"]["properties"]

    assert outer() == {"size": {"type": "integer"}}


def test_methods_of_local_classes_find_local_types() -> None:
    class Size(Enum):
        SMALL = "s"

    class Shop:
        def order(self, size: Size) -> None:
            """Order one."""

    assert properties(Shop().order) == {"size": {"type": "string", "enum": ["s"]}}


class Clock:
    """Tells the time."""

    def __init__(self) -> None:
        self.calls = 0

    def now(self, zone: str) -> str:
        """The time there."""
        return zone

    @staticmethod
    def zones(prefix: str) -> None:
        """The zones."""

    def __call__(self, zone: str) -> str:
        return zone


def test_a_bound_method_is_a_tool_without_self() -> None:
    spec = describe(Clock().now)

    assert (spec.name, spec.description) == ("now", "The time there.")
    assert spec.parameters["properties"] == {"zone": {"type": "string"}}
    assert describe(Clock.zones).name == "zones"


def test_a_callable_object_is_a_tool_named_by_its_class() -> None:
    spec = describe(Clock())

    assert (spec.name, spec.description) == ("Clock", "Tells the time.")
    assert list(properties(Clock())) == ["zone"]


def test_what_partial_binds_is_hidden_from_the_model() -> None:
    def save(text: str, *, store: object, tag: str = "") -> None:
        """Save it."""

    spec = describe(functools.partial(save, store=object()))

    assert (spec.name, spec.description) == ("save", "Save it.")
    assert spec.parameters["properties"] == {
        "text": {"type": "string"},
        "tag": {"type": "string", "default": ""},
    }


def test_partials_of_partials_and_of_methods_are_understood() -> None:
    def save(store: object, text: str, tag: str) -> None: ...

    nested = functools.partial(functools.partial(save, object()), tag="x")

    assert list(properties(nested)) == ["text"]
    assert describe(functools.partial(Clock().now)).name == "now"
    assert describe(functools.partial(Clock())).name == "Clock"


def test_a_decorated_function_keeps_its_own_signature() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @logged
    def greet(name: str) -> str:
        """Greet."""
        return name

    assert describe(greet).name == "greet"
    assert properties(greet) == {"name": {"type": "string"}}


def test_a_generator_that_a_decorator_collects_is_a_tool() -> None:
    def collected(function: Callable[..., Iterator[int]]) -> Callable[..., list[int]]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> list[int]:
            return list(function(*args, **kwargs))

        return wrapper

    @collected
    def count(to: int) -> Iterator[int]:
        yield from range(to)

    assert list(properties(count)) == ["to"]


class Yielding:
    def __call__(self) -> Iterator[int]:
        yield 1


def test_name_and_description_can_be_given() -> None:
    spec = describe(lambda: None, name="Do-It_2", description="Do it.")

    assert (spec.name, spec.description) == ("Do-It_2", "Do it.")


class Unknown:
    pass


def no_annotation(city) -> None: ...  # type: ignore[no-untyped-def]


def many(*cities: str) -> None: ...


def anything(**cities: str) -> None: ...


def positional(city: str, /) -> None: ...


def checked_only(mail: EmailMessage) -> None: ...


def misspelt(city: Strin) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def foreign(thing: Unknown) -> None: ...


def nested_foreign(things: dict[str, list[Unknown]]) -> None: ...


def callback(then: Callable[[int], int]) -> None: ...


unfit: Any = str


def senseless(size: Annotated[str, Ge(unfit)]) -> None: ...


def generates() -> Iterator[int]:
    yield 1


async def generates_async() -> AsyncIterator[int]:
    yield 1


def iterates() -> Iterator[int]:
    return iter([1])


def returns_stream() -> AsyncIterator[str]: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (no_annotation, ("'city'", "no type annotation", "`city: str`")),
        (many, ("'cities'", "any number", "take a list")),
        (anything, ("'cities'", "any number", "dict")),
        (positional, ("'city'", "positional-only", "'/'")),
        (checked_only, ("'mail'", "EmailMessage", "TYPE_CHECKING")),
        (misspelt, ("'city'", "Strin", "not defined")),
        (foreign, ("'thing'", "Unknown", "functools.partial")),
        (nested_foreign, ("'things'", "Unknown", "no JSON Schema")),
        (callback, ("'then'", "Callable", "no JSON Schema")),
        (senseless, ("'size'", "no JSON Schema")),
        (generates, ("generator", "Return a list")),
        (generates_async, ("generator", "Return a list")),
        (iterates, ("iterator", "Return a list")),
        (returns_stream, ("iterator", "Return a list")),
        (functools.partial(generates), ("generator", "Return a list")),
        (Yielding(), ("generator", "Return a list")),
        (Clock.now, ("'self'", "method of an object")),
        (Clock, ("is a class",)),
        (7, ("7", "not a function")),
        (print, ("print", "'args'")),
        (max, ("max", "no signature", "Wrap it")),
        (lambda: None, ("<lambda>", "`name=`")),
    ],
)
def test_what_cannot_be_a_tool_is_refused_with_the_fix(
    function: Any, says: tuple[str, ...]
) -> None:
    with pytest.raises(ToolDefinitionError) as refused:
        describe(function)

    label = getattr(function, "__name__", "")
    for words in (*says, label):
        assert words in str(refused.value)


@pytest.mark.parametrize("name", ["", "a b", "a.b", "ä", "x" * 65, "tool\n"])
def test_a_name_that_models_refuse_is_refused(name: str) -> None:
    with pytest.raises(ToolDefinitionError, match="1 to 64"):
        describe(Clock().now, name=name)


def test_a_local_type_out_of_reach_is_refused_with_its_name() -> None:
    def make() -> Callable[..., None]:
        class Hidden(BaseModel):
            size: int

        def tool(value: Hidden) -> None: ...

        return tool

    with pytest.raises(ToolDefinitionError, match=r"'value'.*'Hidden'.*top of the module"):
        describe(make())
