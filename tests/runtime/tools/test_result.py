"""What a tool returns becomes text for the model: a string as it is, all else as JSON."""

import dataclasses
import json
from collections import OrderedDict, defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, JsonValue, field_serializer

from app.llmgine.contracts import ToolCall, ToolResult, ToolStatus
from app.llmgine.tools import ToolManager


class Unit(Enum):
    CELSIUS = "celsius"


class Note(BaseModel):
    text: str
    at: datetime = datetime(2026, 11, 20, tzinfo=UTC)


@dataclasses.dataclass
class Point:
    x: int
    y: Decimal


class Pair(NamedTuple):
    left: int
    right: str


async def returned(value: Any, *, max_result_bytes: int = 65_536) -> ToolResult:
    async def tool() -> Any:
        return value

    manager = ToolManager(max_result_bytes=max_result_bytes)
    manager.register(tool)
    (result,) = await manager.execute([ToolCall(id="1", name="tool", arguments="{}")])
    return result


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("plain", "plain"),
        ("", ""),
        ('{"a": 1}', '{"a": 1}'),
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (1.5, "1.5"),
        ([1, "a", None], '[1,"a",null]'),
        ({"a": {"b": (1, 2)}}, '{"a":{"b":[1,2]}}'),
        ({1: "a"}, '{"1":"a"}'),
        ({"ä"}, '["ä"]'),
        (Note(text="hi"), '{"text":"hi","at":"2026-11-20T00:00:00Z"}'),
        ([Note(text="hi")], '[{"text":"hi","at":"2026-11-20T00:00:00Z"}]'),
        (Point(1, Decimal("2.50")), '{"x":1,"y":"2.50"}'),
        (Pair(1, "b"), '[1,"b"]'),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (defaultdict(list, a=[1]), '{"a":[1]}'),
        (date(2026, 11, 20), '"2026-11-20"'),
        (timedelta(hours=1), '"PT1H"'),
        (Decimal("0.10"), '"0.10"'),
        (Unit.CELSIUS, '"celsius"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Path("a/b"), '"a/b"'),
        (b"bytes", '"bytes"'),
        ({"x": float("nan")}, '{"x":"NaN"}'),
    ],
)
async def test_each_value_has_its_text(value: Any, content: str) -> None:
    result = await returned(value)

    assert (result.status, result.content, result.truncated) == (ToolStatus.OK, content, False)


def itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def twice_itself() -> list[Any]:
    value: list[Any] = []
    value += [value, value]
    return value


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def deep_but_small() -> list[Any]:
    value: list[Any] = []
    for _ in range(500):
        value = [value]
    return value


class Sore(BaseModel):
    value: int = 1

    @field_serializer("value")
    def refuse(self, value: int) -> int:
        raise KeyError("sore")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "object"),
        ({"file": Path}, "not JSON serialisable"),
        (b"\xff\xfe", "utf-8"),
        ({"name": "\ud800"}, "surrogates"),
        (itself(), "contains itself"),
        (twice_itself(), "contains itself"),
        (deep(), "nested too deeply"),
        (deep_but_small(), "nested too deeply"),
        (Sore(), "sore"),
        ((n for n in range(3)), "a list of its items"),
        (iter([1]), "a list of its items"),
    ],
)
async def test_what_has_no_json_form_is_a_failure_that_says_so(value: Any, says: str) -> None:
    result = await returned(value)

    assert result.status is ToolStatus.FAILED
    assert result.content.startswith("The tool 'tool' failed: ")
    assert says in result.content


async def test_a_value_too_large_and_too_deep_is_a_failure_too() -> None:
    value: Any = "x" * 100_000
    for _ in range(100_000):
        value = [value]

    result = await returned(value)

    assert result.status is ToolStatus.FAILED
    assert "nested too deeply" in result.content


async def test_text_with_half_a_character_is_repaired() -> None:
    assert (await returned("a\ud800b")).content == "a?b"


@settings(deadline=None)
@given(text=st.text(alphabet="aé€😀", max_size=60), max_bytes=st.integers(1, 100))
async def test_a_longer_text_is_cut_between_characters(text: str, max_bytes: int) -> None:
    result = await returned(text, max_result_bytes=max_bytes)

    if len(text.encode()) <= max_bytes:
        assert (result.content, result.truncated) == (text, False)
        return
    kept, note = result.content.rsplit("\n", 1)
    assert result.truncated
    assert text.startswith(kept)
    assert max_bytes - 4 < len(kept.encode()) <= max_bytes
    assert note == f"[Truncated: only the first {max_bytes} bytes are shown.]"


JSON: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(value=JSON.filter(lambda value: not isinstance(value, str)), max_bytes=st.integers(1, 60))
async def test_a_cut_result_is_the_beginning_of_the_whole(value: JsonValue, max_bytes: int) -> None:
    whole = json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    result = await returned(value, max_result_bytes=max_bytes)

    assert result.truncated == (len(whole.encode()) > max_bytes)
    if result.truncated:
        assert whole.startswith(result.content.rsplit("\n", 1)[0])
    else:
        assert json.loads(result.content) == value


class Counted(BaseModel):
    number: int

    @field_serializer("number")
    def count(self, number: int) -> int:
        serialised.append(number)
        return number


serialised: list[int] = []


async def test_of_a_huge_result_only_what_is_shown_is_serialised() -> None:
    row = Counted(number=7)
    serialised.clear()

    result = await returned({"rows": [row] * 1_000_000}, max_result_bytes=1_000)

    assert result.truncated
    assert len(result.content) < 1_100
    assert 0 < len(serialised) < 5_000


async def test_a_large_value_that_holds_others_is_cut_where_it_stands() -> None:
    value = {"a": [1, {2}], 3: ["b", "x" * 9_000], "never": "shown"}

    result = await returned(value, max_result_bytes=1_000)

    assert result.truncated
    assert result.content.startswith('{"a":[1,[2]],"3":["b","xxx')
    assert result.content.count("x") == 1_000 - len('{"a":[1,[2]],"3":["b","')


@settings(deadline=None)
@given(
    value=st.recursive(
        st.sampled_from([0, None, "short", "ä" * 3_000, [0] * 3_000]),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text("ab"), inner),
        max_leaves=12,
    ).filter(lambda value: not isinstance(value, str))
)
async def test_a_large_result_is_the_same_json_as_a_small_one(value: JsonValue) -> None:
    result = await returned(value, max_result_bytes=1_000_000)

    assert result.content == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


async def test_what_contains_itself_and_more_than_fits_is_a_failure() -> None:
    value: list[Any] = []
    value += [value, "x" * 9_000]

    result = await returned(value, max_result_bytes=1_000)

    assert result.status is ToolStatus.FAILED
    assert "contains itself" in result.content


@pytest.mark.parametrize("value", ["x" * 10_000_000, {"text": "é" * 10_000_000}, [0] * 10_000_000])
async def test_ten_megabytes_arrive_as_the_limit_allows(value: Any) -> None:
    result = await returned(value)

    assert (result.status, result.truncated) == (ToolStatus.OK, True)
    assert 65_000 < len(result.content.encode()) < 65_700


async def test_an_exception_of_ten_megabytes_is_cut_as_well() -> None:
    async def tool() -> None:
        raise ValueError("x" * 10_000_000)

    manager = ToolManager(max_result_bytes=1_000)
    manager.register(tool)
    (result,) = await manager.execute([ToolCall(id="1", name="tool", arguments="{}")])

    assert (result.status, result.truncated) == (ToolStatus.FAILED, True)
    assert len(result.content) < 1_100
