# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""`logs`: what happened, from the log on disk; it needs no running application."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import typer
from pydantic import JsonValue

from ...observability import LogReader, Record, SpanNode, Trace, last_trace_id, semconv, trace_tree
from .entry import Entry
from .render import cells, dim, duration, pad, printable, red, shorten, width_columns, yellow

POLL_S = 0.2
# Which message it was: for programs, by --json.
IDENTITY = "llmgine.message."
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def tail(entry: Entry, *, lines: int, follow: bool, level: str | None, as_json: bool) -> None:
    """The newest records, a line each; with `follow`, then those that come, until Ctrl-C."""
    reader = LogReader(_log_file(entry))
    wanted = _filter(level)
    show = Record.to_json if as_json else as_text
    newest: deque[str] = deque(maxlen=lines)
    caught_up = False

    def at_end() -> bool:
        nonlocal caught_up
        if not caught_up:
            caught_up = True
            _print(newest, reader)
        if follow:
            time.sleep(POLL_S)
        return follow

    for record in reader.follow(at_end):
        if not wanted(record):
            continue
        if caught_up:
            print(show(record), flush=True)
        else:
            newest.append(show(record))


def _print(lines: deque[str], reader: LogReader) -> None:
    if not lines and lines.maxlen:
        print(f"nothing yet in {reader.path}", file=sys.stderr)
    for line in lines:
        print(line, flush=True)
    if reader.junk:
        print(f"{reader.junk} lines of {reader.path} are no records", file=sys.stderr)


def trace(entry: Entry, wanted: str) -> None:
    """The trace as a waterfall.

    Raises:
        BadParameter: there is no such trace, or more than one.
    """
    reader = LogReader(_log_file(entry))
    trace_id = last_trace_id(reader) if wanted == "last" else _find(reader, wanted)
    if trace_id is None:
        print(f"nothing has been traced yet in {reader.path}", file=sys.stderr)
        return
    for line in draw(trace_tree(reader, trace_id), width_columns()):
        print(line)


def _log_file(entry: Entry) -> Path:
    entry.settings()
    assert entry.log_file is not None
    return entry.log_file


def _find(reader: LogReader, wanted: str) -> str:
    ids = {record.trace_id for record in reader if record.trace_id is not None}
    found = sorted(trace_id for trace_id in ids if trace_id.startswith(wanted.lower()))
    if not found:
        raise typer.BadParameter(f"no trace in {reader.path} begins with {wanted!r}")
    if len(found) > 1:
        raise typer.BadParameter(f"{len(found)} traces begin with {wanted!r}; give more of the id")
    return found[0]


def _filter(level: str | None) -> Callable[[Record], bool]:
    if level is None:
        return lambda record: True
    if level.upper() not in LEVELS:
        raise typer.BadParameter(f"{level!r} is no level; use {', '.join(LEVELS)}")
    numbers = logging.getLevelNamesMapping()
    least = numbers[level.upper()]
    return lambda record: (
        record.kind == "log" and numbers.get(str(record.fields.get("level")).upper(), 0) >= least
    )


def as_text(record: Record) -> str:
    """One line, cut where the window ends; a pipe gets all of it."""
    label: str = record.kind
    paint = dim
    if record.kind == "log":
        label = str(record.fields.get("level", "log"))
        paint = {"warning": yellow, "error": red, "critical": red}.get(label, dim)
    time_of_day = record.time.astimezone().strftime("%H:%M:%S")
    head = f"{time_of_day} {pad(label, 7)} "
    rest = " ".join(printable(f"{record.name} {_details(record)}").split())
    if sys.stdout.isatty():
        rest = shorten(rest, max(width_columns() - len(head), 1))
    return f"{time_of_day} {paint(pad(label, 7), sys.stdout)} {rest}"


def _details(record: Record) -> str:
    fields = dict(record.fields)
    match record.kind:
        case "span":
            took = fields.get("duration_s")
            status = fields.get("status_message") if fields.get("status") == "error" else ""
            shown = duration(took) if isinstance(took, float) else ""
            return f"{shown} {f'failed: {status}' if status else ''}"
        case "log":
            fields.pop("level", None)
            message = fields.pop("message", "")
            exception = fields.pop("exception", None)
            if isinstance(exception, dict):
                fields[str(exception.get("type"))] = exception.get("message")
            return f"{message} {_pairs(fields)}"
        case "metric":
            return f"{fields.get('value')} {fields.get('unit', '')}"
        case _:
            return _pairs(fields)


def _pairs(fields: Mapping[str, object]) -> str:
    return " ".join(
        f"{key}={value}"
        for key, value in fields.items()
        if value is not None and not key.startswith(IDENTITY)
    )


DURATION_COLUMNS = 9
LEAST_DETAIL_COLUMNS = 16
_LOUD = ("warning", "error", "critical")


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns of the parts of a line, and the time that the bars stand for."""

    width: int
    names: int
    bars: int
    start_s: float
    total_s: float

    @property
    def details(self) -> int:
        """What is left beside the rest; too little, and details get lines of their own."""
        return self.width - self.names - self.bars - DURATION_COLUMNS - 4


def draw(trace: Trace, width: int) -> Iterator[str]:
    """The lines of the drawing, none wider than `width`."""
    spans = [node.span for root in trace.roots for _, node in _walk(root, 0)]
    layout = _lay_out(trace, spans, width)
    if spans:
        began = min(span.time for span in spans).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        yield shorten(f"trace {trace.trace_id}", width)
        yield shorten(f"{began}, {duration(layout.total_s)}", width)
    for root in sorted(trace.roots, key=lambda node: node.span.ts):
        for depth, node in _walk(root, 0):
            yield from _span_lines(node, depth, layout)
    for record in trace.records:
        yield from _record_lines(record, 0, width)


def _walk(node: SpanNode, depth: int) -> Iterator[tuple[int, SpanNode]]:
    # Not recursive: a damaged log may hold a tree of any depth.
    waiting = [(depth, node)]
    while waiting:
        depth, node = waiting.pop()
        yield depth, node
        waiting += [(depth + 1, child) for child in reversed(node.children)]


def _lay_out(trace: Trace, spans: list[Record], width: int) -> Layout:
    starts = [span.time.timestamp() for span in spans]
    ends = [start + _seconds(span) for start, span in zip(starts, spans, strict=True)]
    labels = [cells(_label(node, depth)) for root in trace.roots for depth, node in _walk(root, 0)]
    start_s = min(starts, default=0.0)
    return Layout(
        width=width,
        names=min(max(labels, default=0), max(width * 2 // 5, 12)),
        bars=max(min(width // 4, 32), 4),
        start_s=start_s,
        total_s=max(max(ends, default=0.0) - start_s, 1e-6),
    )


def _span_lines(node: SpanNode, depth: int, layout: Layout) -> Iterator[str]:
    span, seconds = node.span, _seconds(node.span)
    name = pad(shorten_left(_label(node, depth), layout.names), layout.names)
    bar = _bar(span.time.timestamp() - layout.start_s, seconds, layout)
    line = f"{name} {bar} {duration(seconds):>{DURATION_COLUMNS}}"
    details = describe(node)
    failed = _failed(span)
    paint = red if failed else dim
    # What went wrong is cut as late as can be.
    needed = cells(details) if failed else LEAST_DETAIL_COLUMNS
    if details and layout.details >= needed:
        yield f"{line}  {paint(shorten(details, layout.details), sys.stdout)}"
    else:
        yield line
        if details:
            yield _below(details, depth, layout.width, loud=failed)
    for record in node.records:
        yield from _record_lines(record, depth, layout.width)


def _record_lines(record: Record, depth: int, width: int) -> Iterator[str]:
    """A warning or an error that was logged there."""
    level = record.fields.get("level")
    if record.kind == "log" and level in _LOUD:
        yield _below(f"{level}: {record.fields.get('message', '')}", depth, width, loud=True)


def _below(text: str, depth: int, width: int, *, loud: bool) -> str:
    indent = " " * min(2 * depth + 2, width // 2)
    shown = shorten(text, width - len(indent))
    return indent + (red(shown, sys.stdout) if loud else dim(shown, sys.stdout))


def _label(node: SpanNode, depth: int) -> str:
    return "  " * depth + " ".join(node.span.name.split())


def shorten_left(label: str, width: int) -> str:
    """The label cut to `width`, with as much of its indent as leaves half for the name."""
    name = label.lstrip(" ")
    indent = min(len(label) - len(name), max(width // 2, width - cells(name)))
    return " " * indent + shorten(name, max(width - indent, 1))


def _bar(offset_s: float, seconds: float, layout: Layout) -> str:
    scale = layout.bars / layout.total_s
    begin = min(int(offset_s * scale), layout.bars - 1)
    length = max(min(round(seconds * scale), layout.bars - begin), 1)
    return pad("·" * begin + "█" * length, layout.bars).replace(" ", "·")


def _seconds(span: Record) -> float:
    seconds = span.fields.get("duration_s")
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def describe(node: SpanNode) -> str:
    """What a reader of a trace asks first: tokens, cost, how the tool ended, what went wrong."""
    span = node.span
    attributes = span.fields.get("attributes")
    values: dict[str, JsonValue] = attributes if isinstance(attributes, dict) else {}
    parts = [_tokens(values)]
    if isinstance(cost := values.get(semconv.LLM_COST_USD), int | float):
        parts.append(f"{cost:g} USD")
    if (status := values.get(semconv.TOOL_STATUS)) is not None:
        parts.append(str(status))
    if _failed(span) and any(_failed(child.span) for child in node.children):
        parts.append("failed inside")
    elif _failed(span):
        parts.append(f"{values.get(semconv.ERROR_TYPE)}: {span.fields.get('status_message', '')}")
    return ", ".join(part for part in parts if part)


def _failed(span: Record) -> bool:
    return span.fields.get("status") == "error"


def _tokens(values: dict[str, JsonValue]) -> str:
    asked, said = (
        values.get(key) for key in (semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS)
    )
    return "" if asked is None and said is None else f"{asked} + {said} tokens"
