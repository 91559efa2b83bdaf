"""`tools`: what the model may call, seen and called by hand."""

import json

import pytest
import typer

from app.llmgine.contracts import ToolSpec
from app.llmgine.interfaces.cli.render import cells
from app.llmgine.interfaces.cli.tools import (
    parameter_lines,
    read_arguments,
    tool_lines,
    type_name,
)

from .conftest import APP, Run

SPEC = ToolSpec(
    name="paint",
    description="Paint a text.\nSlowly.",
    parameters={
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "What to paint, in the words of the user."},
            "size": {"type": "integer", "default": 3},
            "any": {},
        },
        "required": ["text"],
    },
)


def test_the_list_has_a_line_for_each_tool(invoke: Run) -> None:
    done = invoke("tools", "list")

    assert done.stdout.splitlines() == [
        "add         Add two numbers.",
        "paint       Paint a text.",
        "break_down  Always fails.",
    ]


def test_the_tools_need_no_key(run: Run) -> None:
    done = run("tools", "list", app=APP, env={"LLMGINE_MODEL": "openai/gpt-5.1"})

    assert done.returncode == 0
    assert "current_time" in done.stdout


def test_a_description_tells_every_parameter(invoke: Run) -> None:
    done = invoke("tools", "describe", "add")

    assert done.stdout.splitlines()[:2] == ["add", "Add two numbers."]
    assert "  first   integer, required\n          the one" in done.stdout
    assert "  second  integer, default 1\n          the other" in done.stdout


def test_a_tool_is_called_with_pairs(invoke: Run) -> None:
    assert invoke("tools", "call", "add", "first=1", "second=41").stdout == "42\n"
    assert invoke("tools", "call", "add", "first=1").stdout == "2\n"


def test_a_tool_is_called_with_json(invoke: Run) -> None:
    done = invoke("tools", "call", "add", "--json", '{"first": 1, "second": 41}')

    assert done.stdout == "42\n"


def test_text_parameters_take_their_text_as_it_is(invoke: Run) -> None:
    done = invoke("tools", "call", "paint", "colour=red", "text=12", "sizes=[1, 2.5]")

    assert done.stdout == "red 12 [1.0, 2.5]\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["add", "first=one"],
        ["add"],
        ["add", "first=1", "third=3"],
        ["add", "--json", "{not json"],
        ["add", "--json", "[1]"],
        ["break_down"],
    ],
)
def test_a_tool_that_does_not_answer_has_its_own_exit_code(
    invoke: Run, arguments: list[str]
) -> None:
    done = invoke("tools", "call", *arguments)

    assert done.returncode == 7
    assert done.stdout == ""
    assert f"error: {arguments[0]} " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_tool_that_is_not_there_is_a_usage_error_with_those_that_are(invoke: Run) -> None:
    done = invoke("tools", "call", "ad", "first=1")

    assert done.returncode == 2
    assert "no tool is called 'ad'; there is add" in done.stderr


def test_arguments_come_as_pairs_or_as_json_but_not_as_both() -> None:
    with pytest.raises(typer.BadParameter, match="not both"):
        read_arguments(SPEC, ["text=x"], "{}")
    with pytest.raises(typer.BadParameter, match="key=value"):
        read_arguments(SPEC, ["text"], None)


def test_a_value_may_hold_an_equals_sign() -> None:
    assert json.loads(read_arguments(SPEC, ["text=a=b", "size=4"], None)) == {
        "text": "a=b",
        "size": 4,
    }


def test_no_tools_says_how_to_add_one() -> None:
    assert tool_lines((), 80) == [
        "No tools. Register one in bootstrap.py: tools.register(my_function)"
    ]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_lines_fit_the_window(width: int) -> None:
    long = SPEC.model_copy(update={"description": "word " * 50})

    assert all(cells(line) <= max(width, 24) for line in tool_lines((long,), width))
    assert all(cells(line) <= max(width, 28) for line in parameter_lines(SPEC, width))


@pytest.mark.parametrize(
    ("schema", "shown"),
    [
        ({"type": "integer"}, "integer"),
        ({"type": "array", "items": {"type": "string"}}, "list of string"),
        ({"enum": ["a", "b"]}, '"a" | "b"'),
        ({"const": 1}, "1"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer | null"),
        ({"$ref": "#/$defs/Address"}, "Address"),
        ({}, "anything"),
        (True, "anything"),
    ],
)
def test_a_schema_is_told_in_a_few_words(schema: object, shown: str) -> None:
    assert type_name(schema) == shown  # type: ignore[arg-type]
