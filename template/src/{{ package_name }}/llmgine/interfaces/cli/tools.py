# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""`tools`: what the model may call, and a way to call it by hand, through the same manager."""

from __future__ import annotations

import difflib
import json
import sys
import textwrap
from collections.abc import Sequence
from contextlib import redirect_stdout
from uuid import uuid4

import typer
from pydantic import JsonValue

from ...contracts import ToolCall, ToolSpec
from .entry import Entry, ExitCode
from .render import bold, pad, red, shorten, width_columns


async def list_tools(entry: Entry) -> None:
    """Each tool's name and the first line of its description."""
    async with entry.application_without_model() as app:
        specs = app.tools.specs()
    print("\n".join(tool_lines(specs, width_columns())))


def tool_lines(specs: Sequence[ToolSpec], width: int) -> list[str]:
    """One line for each tool, no wider than `width`."""
    if not specs:
        return ["No tools. Register one in bootstrap.py: tools.register(my_function)"]
    name_width = max(len(spec.name) for spec in specs)
    rows = [(spec.name, (spec.description.splitlines() or [""])[0]) for spec in specs]
    return [shorten_row(pad(name, name_width), text, width) for name, text in rows]


def shorten_row(first: str, second: str, width: int) -> str:
    return f"{first}  {shorten(second, max(width - len(first) - 2, 8))}"


async def describe_tool(entry: Entry, name: str) -> None:
    """The tool's description and its parameters."""
    async with entry.application_without_model() as app:
        spec = find_tool(app.tools.specs(), name)
    print(bold(spec.name, sys.stdout))
    for paragraph in spec.description.splitlines():
        print(textwrap.fill(paragraph, width_columns()))
    print()
    print("\n".join(parameter_lines(spec, width_columns())))
    if "$defs" in spec.parameters:
        print()
        print(json.dumps(spec.parameters, indent=2, ensure_ascii=False))


async def call_tool(entry: Entry, name: str, pairs: Sequence[str], as_json: str | None) -> None:
    """Run the tool; its result on stdout.

    Raises:
        Exit: the tool did not answer, `ExitCode.TOOL`.
    """
    async with entry.application_without_model() as app:
        spec = find_tool(app.tools.specs(), name)
        arguments = read_arguments(spec, pairs, as_json)
        call = ToolCall(id=uuid4().hex, name=spec.name, arguments=arguments)
        with redirect_stdout(sys.stderr):  # What the tool prints is not its result.
            (result,) = await app.tools.execute([call])
    if result.ok:
        print(result.content)
        return
    print(red(f"error: {name} {result.status}: {result.content}", sys.stderr), file=sys.stderr)
    raise typer.Exit(ExitCode.TOOL)


def find_tool(specs: Sequence[ToolSpec], name: str) -> ToolSpec:
    """The tool of that name.

    Raises:
        BadParameter: there is none; close names are listed.
    """
    known = {spec.name: spec for spec in specs}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known) or list(known)
    raise typer.BadParameter(f"no tool is called {name!r}; there is {', '.join(close) or 'none'}")


def read_arguments(spec: ToolSpec, pairs: Sequence[str], as_json: str | None) -> str:
    """The arguments as JSON text, from `--json` as given or from `key=value` pairs.

    Raises:
        BadParameter: both ways at once, or a pair without its `=`.
    """
    if as_json is not None:
        if pairs:
            raise typer.BadParameter("give the arguments as key=value or by --json, not both")
        return as_json
    values: dict[str, JsonValue] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is not of the form key=value")
        values[name] = _value(_schema_of(spec, name), text)
    return json.dumps(values, ensure_ascii=False)


def _value(schema: dict[str, JsonValue], text: str) -> JsonValue:
    """The text itself where the parameter is text, or else the JSON value it spells, if any."""
    if schema.get("type") == "string":
        return text
    try:
        value: JsonValue = json.loads(text)
    except ValueError:
        return text
    return value


def parameter_lines(spec: ToolSpec, width: int) -> list[str]:
    """What each parameter takes: its type, whether it must be given, and what it means."""
    required = spec.parameters.get("required")
    names = list(_properties(spec))
    if not names:
        return ["Takes no parameters."]
    indent = " " * (max(map(len, names)) + 4)
    lines: list[str] = []
    for name in names:
        schema = _schema_of(spec, name)
        must = isinstance(required, list) and name in required
        default = json.dumps(schema.get("default"), ensure_ascii=False)
        kind = f"{type_name(schema)}, {'required' if must else f'default {default}'}"
        described = schema.get("description")
        first = pad(f"  {name}", len(indent))
        for text in [kind, described] if isinstance(described, str) else [kind]:
            lines += textwrap.wrap(
                text, max(width, len(indent) + 20), initial_indent=first, subsequent_indent=indent
            )
            first = indent
    return lines


def type_name(schema: JsonValue) -> str:
    """A JSON schema in a few words: `integer`, `list of string`, `"a" | "b"`, `Address`."""
    match schema:
        case {"enum": list(values)}:
            return " | ".join(json.dumps(value, ensure_ascii=False) for value in values)
        case {"const": value}:
            return json.dumps(value, ensure_ascii=False)
        case {"anyOf": list(options)} | {"oneOf": list(options)}:
            return " | ".join(type_name(option) for option in options)
        case {"type": "array", "items": items}:
            return f"list of {type_name(items)}"
        case {"$ref": str(reference)}:
            return reference.rpartition("/")[2]
        case {"type": str(name)}:
            return name
        case _:
            return "anything"


def _properties(spec: ToolSpec) -> dict[str, JsonValue]:
    properties = spec.parameters.get("properties")
    return properties if isinstance(properties, dict) else {}


def _schema_of(spec: ToolSpec, parameter: str) -> dict[str, JsonValue]:
    schema = _properties(spec).get(parameter)
    return schema if isinstance(schema, dict) else {}
