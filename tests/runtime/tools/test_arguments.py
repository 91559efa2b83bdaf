"""What the model wrote reaches the function typed, or comes back with what is wrong with it."""

import json
from datetime import datetime
from enum import Enum
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.llmgine.contracts import ToolCall, ToolResult, ToolStatus
from app.llmgine.tools import ToolManager


class Unit(Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


class Address(BaseModel):
    street: str
    number: int


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    known: int


def even(number: int) -> int:
    if number % 2:
        raise ValueError("must be even")
    return number


def breaks(number: int) -> int:
    raise KeyError("the check itself is broken")


async def forecast(city: str, days: int = 3, unit: Unit = Unit.CELSIUS) -> str:
    return f"{city} {days} {unit.value}"


async def send(address: Address, copies: list[Address] = []) -> str:  # noqa: B006
    return address.street


async def ping() -> str:
    return "pong"


async def answer(name: str, arguments: str) -> ToolResult:
    manager = ToolManager()
    for tool in (forecast, send, ping):
        manager.register(tool)
    (result,) = await manager.execute([ToolCall(id="1", name=name, arguments=arguments)])
    assert result.content[:5].lower() != "error"
    return result


async def complaint(name: str, arguments: str) -> str:
    result = await answer(name, arguments)
    assert result.status is ToolStatus.INVALID_ARGUMENTS
    return result.content


async def test_arguments_reach_the_function_with_its_types_and_defaults() -> None:
    result = await answer("forecast", '{"city": "Oslo", "days": "7", "unit": "fahrenheit"}')

    assert (result.status, result.content) == (ToolStatus.OK, "Oslo 7 fahrenheit")
    assert (await answer("forecast", '{"city": "Oslo"}')).content == "Oslo 3 celsius"


@pytest.mark.parametrize("arguments", ["", "  \n", "{}"])
async def test_no_text_is_no_arguments(arguments: str) -> None:
    assert (await answer("ping", arguments)).content == "pong"
    assert "city" in await complaint("forecast", arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ('{"city": "Oslo"', "not valid JSON"),
        ('{"city": "Oslo",}', "not valid JSON"),
        ("{'city': 'Oslo'}", "not valid JSON"),
        ('{"city": "Oslo"} {}', "not valid JSON"),
        ("city=Oslo", "not valid JSON"),
        ('{"days": NaN}', "NaN is not a JSON number"),
        ('{"days": -Infinity}', "-Infinity is not a JSON number"),
        ('{"city": "Oslo", "city": "Rome"}', "stands twice"),
        ('{"address": {"street": "a", "street": "b"}}', "stands twice"),
        ('["Oslo"]', "must be one JSON object"),
        ('"Oslo"', "must be one JSON object"),
        ("null", "must be one JSON object"),
        ('{"city": "\\ud800"}', "JSON"),
        ('{"city": ' + "[" * 100_000, "nested too deeply"),
        ('{"days": ' + "9" * 5_000 + "}", "not valid JSON"),
    ],
)
async def test_what_is_not_one_strict_json_object_is_named(arguments: str, says: str) -> None:
    assert says in await complaint("forecast", arguments)


async def test_every_wrong_field_is_named_with_what_was_expected_and_what_is_allowed() -> None:
    assert await complaint("forecast", '{"days": "soon", "unit": "kelvin", "zip": 1}') == (
        "The arguments do not fit the tool 'forecast':\n"
        "- city: Field required\n"
        "- days: Input should be a valid integer, unable to parse string as an integer\n"
        "- unit: Input should be 'celsius' or 'fahrenheit'\n"
        "- zip: Unknown field\n"
        "Allowed: city (required), days, unit."
    )


async def test_a_tool_without_parameters_says_so() -> None:
    assert "takes no arguments" in await complaint("ping", '{"loud": true}')


async def test_fields_of_nested_models_are_named_by_their_path() -> None:
    text = await complaint(
        "send",
        '{"address": {"street": "a", "number": 1, "zip": 2}, "copies": [{"street": "b"}]}',
    )

    assert "- address.zip: Unknown field" in text
    assert "- copies[0].number: Field required" in text


async def test_a_complaint_does_not_repeat_the_values() -> None:
    text = await complaint("forecast", '{"city": ["hunter2"], "days": "hunter2", "x": "hunter2"}')

    assert "hunter2" not in text


async def test_a_complaint_stays_short_however_much_is_wrong() -> None:
    wrong = {f"{'x' * 1_000}{index}": index for index in range(1_000)}

    text = await complaint("forecast", json.dumps(wrong))

    assert len(text) < 3_000
    assert "and 991 more" in text
    assert "Allowed: city" in text


async def test_a_model_that_allows_unknown_fields_gets_them() -> None:
    received: list[Loose] = []

    async def keep(value: Loose) -> None:
        received.append(value)

    manager = ToolManager()
    manager.register(keep)
    await manager.execute(
        [ToolCall(id="1", name="keep", arguments='{"value": {"known": 1, "more": 2}}')]
    )

    assert received == [Loose(known=1, more=2)]  # type: ignore[call-arg]


async def test_checks_of_the_tools_own_types_speak_to_the_model() -> None:
    async def pair(number: Annotated[int, AfterValidator(even)]) -> None: ...

    manager = ToolManager()
    manager.register(pair)
    (result,) = await manager.execute([ToolCall(id="1", name="pair", arguments='{"number": 3}')])

    assert result.status is ToolStatus.INVALID_ARGUMENTS
    assert "- number: Value error, must be even" in result.content


async def test_a_check_that_breaks_is_a_failure_of_the_tool() -> None:
    async def pair(number: Annotated[int, AfterValidator(breaks)]) -> None: ...

    manager = ToolManager()
    manager.register(pair)
    (result,) = await manager.execute([ToolCall(id="1", name="pair", arguments='{"number": 3}')])

    assert result.status is ToolStatus.FAILED
    assert "KeyError" in result.content


async def test_defaults_are_the_functions_own() -> None:
    received: dict[str, Any] = {}
    marker: Any = object()

    async def keep(
        a: datetime = marker,
        b: int = Field(default=4),
        c: list[int] = Field(default_factory=list),  # noqa: B008
    ) -> None:
        received.update(a=a, b=b, c=c)

    manager = ToolManager()
    manager.register(keep)
    await manager.execute([ToolCall(id="1", name="keep", arguments="{}")])

    assert received == {"a": marker, "b": 4, "c": []}
