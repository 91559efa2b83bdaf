# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""`queue`: what waits, runs or has failed for good. It works on none of it."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, cast, get_args

import typer

from ...bus.queue import DROPPABLE, NOT_DONE, RETRIABLE, Filter, Queue, QueueStats, depth
from ...bus.queue import oldest_age_s as oldest_age
from ...delivery.journal import Entry as QueueEntry
from ...delivery.journal import RouteStats, State, Worker
from ...errors import ConfigurationError, DeliveryError, JournalError, TransportError
from .entry import Entry
from .render import (
    bold,
    cells,
    count,
    dim,
    duration,
    pad,
    printable,
    red,
    shorten,
    width_columns,
    yellow,
)

# What `--all` means where no state is given: a failed one was told to its caller, who may have
# sent it again by now.
LETTERS: tuple[State, ...] = ("dead", "parked")
NO_JOURNAL = "This application keeps no queue. Give its bus a journal in bootstrap.py."


@asynccontextmanager
async def opened(entry: Entry) -> AsyncIterator[Queue]:
    """The queue of the application, of which only the journal is opened.

    Raises:
        ConfigurationError: it has none.
        BadParameter: an entry that was named is not there, or not in a state for that.
    """
    app = entry.bootstrap(entry.settings(work=False))
    if app.bus.delivery is None:
        raise ConfigurationError(NO_JOURNAL)
    journal = app.bus.delivery.journal
    try:
        await journal.open()
        yield Queue(journal, app.bus.clock)
    except (JournalError, TransportError):
        raise
    except DeliveryError as wrong:
        raise typer.BadParameter(str(wrong)) from wrong
    finally:
        await journal.aclose()
        app.observer.close()


async def show_stats(entry: Entry, *, as_json: bool) -> None:
    """How many wait, run and have failed, and who works on them."""
    async with opened(entry) as queue:
        stats = await queue.stats()
    if as_json:
        print(json.dumps(stats_data(stats), ensure_ascii=False))
    else:
        print("\n".join(stats_lines(stats, _width())))


async def list_entries(
    entry: Entry, *, states: Sequence[str], message: str | None, lines: int, as_json: bool
) -> None:
    """A line for each, the oldest first."""
    wanted = read_filter(states, message, NOT_DONE)
    async with opened(entry) as queue:
        # One more than is shown tells whether there are more.
        found = await queue.page(wanted, limit=lines + 1)
    now_ns, width = time.time_ns(), _width()
    for one in found[:lines]:
        line = json.dumps(entry_data(one), ensure_ascii=False) if as_json else None
        print(line or entry_line(one, now_ns, width))
    if not found:
        print("no such entries", file=sys.stderr)
    elif len(found) > lines:
        print(f"there are more; -n shows more than {lines:,}", file=sys.stderr)


async def show_entry(entry: Entry, entry_id: str, *, as_json: bool) -> None:
    """Everything that is kept of it, what it holds included."""
    async with opened(entry) as queue:
        found = await queue.get(entry_id)
    if as_json:
        print(json.dumps(entry_data(found, content=True), ensure_ascii=False))
    else:
        print("\n".join(detail_lines(found, time.time_ns())))


async def retry(
    entry: Entry, ids: Sequence[str], *, every: bool, states: Sequence[str], message: str | None
) -> None:
    """Have them tried again, as if they were new."""
    wanted = _chosen(ids, every, states, message)
    async with opened(entry) as queue:
        if wanted is not None:
            number = await queue.retry_all(wanted)
        else:
            # All are looked at before the first is touched.
            chosen = {(await queue.get(one, RETRIABLE)).id for one in ids}
            number = len([await queue.retry(one) for one in chosen])
    print(f"{_entries(number)} will be tried again")


async def drop(
    entry: Entry,
    ids: Sequence[str],
    *,
    every: bool,
    states: Sequence[str],
    message: str | None,
    yes: bool,
) -> None:
    """Forget them."""
    wanted = _chosen(ids, every, states, message)
    async with opened(entry) as queue:
        if wanted is not None:
            _confirm(sum([1 async for _ in queue.entries(wanted)]), yes=yes)
            number = await queue.drop_all(wanted)
        else:
            chosen = {(await queue.get(one, DROPPABLE)).id for one in ids}
            _confirm(len(chosen), yes=yes)
            number = len([await queue.drop(one) for one in chosen])
    print(f"{_entries(number)} dropped")


def _chosen(
    ids: Sequence[str], every: bool, states: Sequence[str], message: str | None
) -> Filter | None:
    """What `--all` means, or `None` where entries are named.

    Raises:
        BadParameter: it is not clear which of both is wanted.
    """
    if every == bool(ids):
        raise typer.BadParameter("Give either ids, as `queue list` shows them, or --all.")
    if ids and (states or message):
        raise typer.BadParameter("--state and --message choose among --all, not among ids.")
    return read_filter(states, message, LETTERS) if every else None


def _confirm(number: int, *, yes: bool) -> None:
    """Raises: BadParameter: nobody can be asked. Abort: the answer is no."""
    if yes or number <= 1:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"That drops {_entries(number)}. Add --yes if it is meant so.")
    typer.confirm(f"Drop {_entries(number)} for good?", abort=True, err=True)


def read_filter(states: Sequence[str], message: str | None, default: tuple[State, ...]) -> Filter:
    """Raises: BadParameter: there is no such state."""
    known = get_args(State)
    for state in states:
        if state not in known:
            raise typer.BadParameter(f"{state!r} is no state; use {', '.join(known)}")
    return Filter(states=cast("tuple[State, ...]", tuple(states)) or default, name=message)


def stats_lines(stats: QueueStats, width: int) -> list[str]:
    """A line for each route, then what is true of all, no wider than `width`."""
    lines = []
    if stats.routes:
        labels = [route_label(one) for one in stats.routes]
        first = min(max(map(cells, labels)), max(width // 2 - 2, 1))
        for label, one in zip(labels, stats.routes, strict=True):
            told = shorten(_standing(one, stats.at_ns), max(width - first - 2, 8))
            loud = one.counts.get("dead", 0) or one.counts.get("parked", 0)
            told = red(told, sys.stdout) if loud else told
            lines.append(f"{pad(shorten(label, first), first)}  {told}")
        lines.append("")
    total = (
        f"depth {stats.depth:,} · lag {duration(stats.lag_s)} · in hand {stats.count('running'):,}"
        f" · dead {stats.count('dead'):,} · parked {stats.count('parked'):,}"
    )
    lines += [bold(part, sys.stdout) for part in textwrap.wrap(total, width)]
    workers = [_worker(one, stats.at_ns) for one in stats.workers]
    lines += [dim(shorten(one, width), sys.stdout) for one in workers]
    return lines if workers else [*lines, yellow(shorten("no worker", width), sys.stdout)]


def route_label(stats: RouteStats) -> str:
    named = stats.route.split()[-1:] == [stats.name]
    return stats.route if named else f"{stats.route} ({stats.name})"


def _standing(stats: RouteStats, now_ns: int) -> str:
    """`depth 12, oldest 3.1 s, 2 in hand, 1 dead`: what is zero is left out."""
    age_s = oldest_age(stats, now_ns)
    parts = [f"depth {depth(stats):,}"]
    if age_s:
        parts.append(f"oldest {duration(age_s)}")
    named = {"running": "in hand"}
    parts += [
        f"{stats.counts[state]:,} {named.get(state, state)}"
        for state in NOT_DONE
        if state != "ready" and stats.counts.get(state)
    ]
    return ", ".join(parts)


def _worker(worker: Worker, now_ns: int) -> str:
    since = duration(max(now_ns - worker.started_ns, 0) / 1e9)
    return f"worker {worker.name}, for {since}, {count(len(worker.routes), 'route')}"


def stats_data(stats: QueueStats) -> dict[str, Any]:
    """The same for programs."""
    return {
        "depth": stats.depth,
        "lag_s": stats.lag_s,
        "in_hand": stats.count("running"),
        "dead": stats.count("dead"),
        "parked": stats.count("parked"),
        "routes": [
            {
                "route": one.route,
                "message": one.name,
                "depth": depth(one),
                "oldest_age_s": oldest_age(one, stats.at_ns),
                **{state: one.counts.get(state, 0) for state in NOT_DONE},
            }
            for one in stats.routes
        ],
        "workers": [
            {
                "id": one.id,
                "name": one.name,
                "routes": list(one.routes),
                "started": _time(one.started_ns),
            }
            for one in stats.workers
        ],
    }


def entry_line(entry: QueueEntry, now_ns: int, width: int) -> str:
    """The entry on one line: what it holds is not shown."""
    age = duration(max(now_ns - entry.created_ns, 0) / 1e9)
    parts = [entry.name, entry.route if entry.route.split()[-1] != entry.name else ""]
    if entry.due_ns > now_ns and entry.state == "ready":
        parts.append(f"due in {duration((entry.due_ns - now_ns) / 1e9)}")
    if entry.attempt:
        parts.append(count(entry.attempt, "attempt"))
    parts.append(_error(entry))
    state = pad(entry.state, 7)
    told = f"{pad(age, 9)}  {' · '.join(printable(part) for part in parts if part)}"
    plain = f"{entry.id}  {state}  "
    if cells(plain) + 12 > width:
        return shorten(plain + told, width)
    return f"{entry.id}  {_paint(entry.state)(state, sys.stdout)}  " + _cut(
        told, width - cells(plain)
    )


def _cut(text: str, width: int) -> str:
    """As `shorten`, with the columns kept where nothing has to be cut."""
    return text if cells(text) <= width else shorten(text, width)


def _paint(state: State) -> Callable[..., str]:
    return {"dead": red, "parked": red, "failed": yellow}.get(state, dim)


def detail_lines(entry: QueueEntry, now_ns: int) -> Iterator[str]:
    """All of its fields, then what it holds."""
    data = entry_data(entry, content=True)
    contents = {name: data.pop(name) for name in ("payload", "headers", "result", "error", "note")}
    data["age"] = duration(max(now_ns - entry.created_ns, 0) / 1e9)
    first = max(map(len, data)) + 2
    for name, value in data.items():
        if value is not None:
            yield pad(name, first) + printable(str(value))
    if entry.error is not None:
        yield pad("error", first) + red(printable(_error(entry)), sys.stdout)
    for name, content in contents.items():
        if content is not None:
            shown = json.dumps(content, indent=2, ensure_ascii=False)
            yield from ("", bold(name, sys.stdout), printable(shown))


def entry_data(entry: QueueEntry, *, content: bool = False) -> dict[str, Any]:
    """The entry for programs; what it holds only with `content`."""
    data = asdict(entry)
    for name in ("due_ns", "created_ns", "finished_ns"):
        data[name.removesuffix("_ns")] = _time(data.pop(name))
    del data["wait_ns"]
    for name in ("payload", "headers", "result", "error", "note"):
        text = data.pop(name)
        if content:
            data[name] = _parsed(text)
    if not content and entry.error is not None:
        data["error"] = _error(entry)
    return data


def _error(entry: QueueEntry) -> str:
    error = _parsed(entry.error)
    if isinstance(error, dict) and "type" in error:
        return ": ".join(str(part) for part in (error["type"], error.get("message")) if part)
    return "" if error is None else str(error)


def _parsed(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text


def _time(ns: int | None) -> str | None:
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat() if ns else None


def _entries(number: int) -> str:
    return f"{number:,} entry" if number == 1 else f"{number:,} entries"


def _width() -> int:
    """A pipe gets all of each line."""
    return width_columns() if sys.stdout.isatty() else 10_000
