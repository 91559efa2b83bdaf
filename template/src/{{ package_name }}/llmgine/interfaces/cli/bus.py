# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""`bus`: what the application's bus handles, and how."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import takewhile

import typer

from ...bus.describe import BusDescription, HandlerDescription
from .entry import Entry
from .project import find_project
from .render import bold, cells, dim, pad, shorten, width_columns


async def show_bus(entry: Entry, *, mermaid: bool, asyncapi: bool, as_json: bool) -> None:
    """Print what the bus handles.

    Raises:
        BadParameter: more than one form is asked for.
    """
    if mermaid + asyncapi + as_json > 1:
        raise typer.BadParameter("One of --mermaid, --asyncapi and --json at a time.")
    async with entry.application_without_model() as app:
        bus = app.bus.describe()
    if mermaid:
        print(bus.mermaid())
    elif asyncapi:
        print(json.dumps(bus.asyncapi(entry.name, find_project().version), indent=2))
    elif as_json:
        print(json.dumps(bus.as_data(), indent=2))
    else:
        print("\n".join(table_lines(bus, width_columns())))


def table_lines(bus: BusDescription, width: int) -> list[str]:
    """Each message with what handles it, no wider than `width`."""
    modules = [one.handler.split(".")[:-1] for one in bus.handlers]
    shared = takewhile(lambda level: len(set(level)) == 1, zip(*modules, strict=False))
    package = "".join(f"{level[0]}." for level in shared)
    results = {one.name: one.result for one in bus.messages}
    lines: list[str] = []
    for title, kind in (("Commands", "command"), ("Streams", "stream"), ("Events", "event")):
        names = {one.name for one in bus.messages if one.kind == kind} | (
            {"Event"} if kind == "event" else set()
        )
        handlers = [one for one in bus.handlers if one.message in names]
        if handlers:
            lines += ["", bold(title, sys.stdout)] if lines else [bold(title, sys.stdout)]
            rows = [(_message(one, results), _handler(one, package)) for one in handlers]
            lines += _columns(rows, width)
    if bus.policies:
        around = ", ".join(policy.removeprefix(package) for policy in bus.policies)
        lines += ["", dim(shorten(f"Around every handler: {around}", width), sys.stdout)]
    return lines or ["Nothing is registered. Register handlers in bootstrap.py."]


def _message(one: HandlerDescription, results: dict[str, str | None]) -> str:
    result = results.get(one.message)
    return one.message if result in {None, "None"} else f"{one.message} → {result}"


def _handler(one: HandlerDescription, package: str) -> str:
    """The handler's name, how its events wait where that is not as usual, and its policies."""
    parts = [", ".join(name.removeprefix(package) for name in one.handler.split(", "))]
    if lane := one.lane:
        if lane.batch:
            parts.append(f"in batches of {lane.batch.size} within {lane.batch.within_s:g} s")
        else:
            parts.append(f"{lane.concurrency} at once")
        parts.append(f"{lane.overflow} at {lane.capacity:,}")
        if lane.filtered:
            parts.append("some of them")
        if lane.queued or lane.dropped:
            parts.append(f"{lane.queued:,} waiting, {lane.dropped:,} dropped")
    if one.handled or one.failed:
        parts.append(f"{one.handled:,} handled, {one.failed:,} failed")
    return " · ".join([*parts, *(policy.removeprefix(package) for policy in one.policies)])


def _columns(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    first = min(max(cells(left) for left, _ in rows), width // 2 - 2)
    return [
        f"  {pad(shorten(left, first), first)}  {shorten(right, max(width - first - 4, 8))}"
        for left, right in rows
    ]
