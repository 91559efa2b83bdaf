# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""`doctor`: what is wrong with this installation, each line with the fix."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import asdict
from pathlib import Path

import typer

from ...application import Application
from ...bus.queue import Queue, depth
from ...context import SQLiteStore
from ...errors import JournalError, LlmgineError, TransportError
from ...settings import RuntimeSettings
from .entry import Entry, ExitCode, one_line
from .project import (
    ANSWERS_FILE,
    MANIFEST,
    Check,
    Project,
    Status,
    changes,
    check_dependencies,
    check_python,
    find_project,
    release,
    some,
)
from .render import green, pad, red, width_columns, yellow

GIT_TIMEOUT_S = 5.0
UPDATE = "uvx copier update --defaults"
_LARGEST_SEARCHED_BYTES = 1_000_000
_NOT_OURS = {".git", ".venv", "node_modules", "__pycache__"}
_CONFLICT = re.compile(rb"^<{7} .*?^={7}\r?$.*?^>{7} ", re.MULTILINE | re.DOTALL)
_SHORTHANDS = {"gh:": "https://github.com/", "gl:": "https://gitlab.com/"}


def check_vendored(project: Project) -> Check:
    """Whether the runtime is as the template made it."""
    name = "vendored files"
    try:
        found = changes(project.runtime)
    except (OSError, ValueError) as error:
        return Check(name, "warn", f"llmgine/{MANIFEST} cannot be read: {error}", UPDATE)
    if not found:
        return Check(name, "ok", "as the template made them")
    parts = {"edited": found.edited, "missing": found.missing, "added": found.added}
    return Check(
        name,
        "warn",
        "; ".join(f"{what}: {some(list(paths))}" for what, paths in parts.items() if paths),
        "an update will conflict there or lose the change: keep yours outside llmgine/, "
        "and bring the template's file back with git",
    )


def check_conflicts(root: Path) -> Check:
    """Whether an update's conflicts are all resolved."""
    files = list(_files(root))
    rejected = [file for file in files if file.endswith(".rej")]
    marked = [file for file in files if _has_conflict(root / file)]
    unmerged = _git(root, "diff", "--name-only", "--diff-filter=U", "-z")
    troubles = {
        "unmerged in git": [file for file in (unmerged or "").split("\0") if file],
        "conflict markers": marked,
        "rejected patches": rejected,
    }
    found = "; ".join(f"{what}: {some(paths)}" for what, paths in troubles.items() if paths)
    if not found:
        return Check("conflicts", "ok", "none left")
    return Check(
        "conflicts",
        "fail",
        found,
        "take the template's side under llmgine/, merge by hand elsewhere, delete the .rej files, "
        "then: git add --all",
    )


def check_template(project: Project, *, online: bool) -> Check:
    """Which version of the template this is, and whether an update could find the next one."""
    name, source = "template", project.answers.get("_src_path", "")
    version = project.template_version
    if not source:
        return Check(name, "warn", f"no {ANSWERS_FILE}", "copy it back from git: updates need it")
    if _is_relative(source):
        return Check(
            name,
            "warn",
            f"{version}, from the relative path {source!r}, which `copier update` cannot find",
            f"set _src_path in {ANSWERS_FILE} to the repository's address or absolute path, "
            "and commit it",
        )
    if version is None:
        return Check(name, "warn", f"unknown version of {source}", UPDATE)
    if not online:
        return Check(name, "ok", version)
    return _check_newer(version, source)


def _check_newer(version: str, source: str) -> Check:
    newest = newest_tag(source)
    if newest is None:
        return Check(
            "template",
            "warn",
            f"{version}; {source} did not say within {GIT_TIMEOUT_S:g} s whether there is a newer",
            "check the network and the address, then run it again",
        )
    if (release(newest) or ()) > (release(version) or ()):
        return Check("template", "warn", f"{version}; {newest} is out", UPDATE)
    return Check("template", "ok", f"{version}, the newest")


def newest_tag(source: str) -> str | None:
    """The newest version among the template's tags, or `None` if nobody answers."""
    for short, address in _SHORTHANDS.items():
        if source.startswith(short):
            source = address + source.removeprefix(short)
    listed = _git(Path.cwd(), "ls-remote", "--tags", "--refs", "--", source)
    if listed is None:
        return None
    tags = re.findall(r"refs/tags/(v?\d+(?:\.\d+)*)$", listed, re.MULTILINE)
    return max(tags, key=lambda tag: release(tag) or (), default=None)


def _is_relative(source: str) -> bool:
    has_scheme = "://" in source or re.match(r"[\w.-]+@[\w.-]+:|[a-z+]+:", source, re.IGNORECASE)
    return not has_scheme and not source.startswith(("/", "~"))


def _has_conflict(path: Path) -> bool:
    try:
        if path.stat().st_size > _LARGEST_SEARCHED_BYTES:
            return False
        content = path.read_bytes()
    except OSError:
        return False
    return b"<<<<<<<" in content and _CONFLICT.search(content) is not None


def _files(root: Path) -> Iterator[str]:
    """What belongs to the project: what git would commit, or all there is without git."""
    listed = _git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    if listed is not None:
        yield from {file for file in listed.split("\0") if file}
        return
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _NOT_OURS]
        for file in files:
            yield Path(folder, file).relative_to(root).as_posix()


def _git(folder: Path, *arguments: str) -> str | None:
    """What git printed, or `None` where there is no git, no repository, or no answer in time."""
    git = shutil.which("git")
    if git is None:
        return None
    never_ask = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -oBatchMode=yes"}
    try:
        done = subprocess.run(  # noqa: S603  a fixed command; the address stands behind `--`
            [git, *arguments],
            cwd=folder,
            env={**os.environ, **never_ask},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace")


COLOURS = {"ok": green, "warn": yellow, "fail": red}


async def doctor(entry: Entry, *, online: bool, as_json: bool) -> None:
    """Print each check as it is made.

    Raises:
        Exit: one of them failed.
    """
    failed = False
    async for check in run_checks(entry, find_project(), online=online):
        print(json.dumps(asdict(check)) if as_json else as_text(check), flush=True)
        failed = failed or check.status == "fail"
    if failed:
        raise typer.Exit(ExitCode.UNEXPECTED)


async def run_checks(entry: Entry, project: Project, *, online: bool) -> AsyncIterator[Check]:
    """All checks; those that run the owner's code come last. Only `online` reaches the network."""
    yield check_python(project)
    yield check_dependencies(project)
    yield check_vendored(project)
    if project.root is not None:
        yield check_conflicts(project.root)
        yield check_template(project, online=online)
    async for check in check_running(entry):
        yield check


def as_text(check: Check) -> str:
    """One line; on a terminal that is too narrow for it, indented ones below."""
    head = COLOURS[check.status](pad(check.status, 4), sys.stdout) + "  "
    fix = f". Fix: {check.fix}" if check.fix else ""
    text = f"{check.name}: {check.found}{fix}"
    if not sys.stdout.isatty():
        return head + text
    indent = " " * 6
    lines = textwrap.wrap(
        text,
        width_columns(),
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    return head + "\n".join(lines).removeprefix(indent)


ENOUGH_MB = 200
LITTLE_MB = 20


async def check_running(entry: Entry) -> AsyncIterator[Check]:
    """Every check that needs the settings; without them, why they cannot be read."""
    try:
        settings = entry.settings(work=False)
    except LlmgineError as error:
        yield Check("settings", "fail", one_line(error))
        return
    yield Check("settings", "ok", f"model {settings.model}, store {settings.context_store}")
    yield check_keys(settings)
    yield check_disk(settings.data_dir)
    yield check_clock(time.time())
    folders = [
        check_folder("log folder", settings.log_dir, "LLMGINE_LOG_DIR"),
        check_folder("data folder", settings.data_dir, "LLMGINE_DATA_DIR"),
    ]
    for check in folders:
        yield check
    # Without its folders, building the application would only say the same again.
    if all(check.status == "ok" for check in folders):
        async for check in check_application(entry, settings):
            yield check


async def check_application(entry: Entry, settings: RuntimeSettings) -> AsyncIterator[Check]:
    """Whether `bootstrap()` builds it, the model could be called, and what it keeps is in order."""
    try:
        app = entry.bootstrap(settings)
    except LlmgineError as error:
        yield Check("bootstrap", "fail", one_line(error))
        return
    yield check_model(app)
    for check in check_names(app):
        yield check
    async with AsyncExitStack() as stack:
        # An application that was not started does not close what the checks open.
        stack.push_async_callback(app.store.aclose)
        if app.bus.delivery is not None:
            stack.push_async_callback(app.bus.delivery.journal.aclose)
        if app.bus.transport is not None:
            stack.push_async_callback(app.bus.transport.aclose)
        yield await check_store(app)
        journal, transport = await check_journal(app), await check_transport(app)
        yield journal
        yield transport
        # Without them it cannot start, and would only say the same again.
        with suppress(JournalError, TransportError):
            async with app:
                yield await check_queue(app, entry.name)


def check_model(app: Application) -> Check:
    model = app.settings.model
    try:
        app.llm.check(model)
    except LlmgineError as error:
        return Check("model", "fail", one_line(error))
    return Check("model", "ok", f"{model}: known, with what it needs")


def check_names(app: Application) -> Iterator[Check]:
    """Those of `[models]` that could not be used if somebody chose them."""
    settings = app.settings
    for name in sorted(settings.models.keys() - {settings.model}):
        try:
            app.llm.check(name)
        except LlmgineError as error:
            yield Check("models", "warn", one_line(error))


async def check_store(app: Application) -> Check:
    store = app.store
    if not isinstance(store, SQLiteStore):
        return Check("store", "ok", f"{type(store).__name__}, nothing on disk to check")
    try:
        await store.check()
    except LlmgineError as error:
        return Check("store", "fail", one_line(error))
    with closing(sqlite3.connect(store.path)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        return Check(
            "store", "warn", f"{store.path}: journal {mode}, not WAL", "keep it on a local disk"
        )
    return Check("store", "ok", f"{store.path}: whole, writable, WAL")


async def check_journal(app: Application) -> Check:
    if app.bus.delivery is None:
        return Check("journal", "ok", "none: what is sent is not kept")
    journal = app.bus.delivery.journal
    try:
        await journal.open()
        return Check("journal", "ok", await journal.check())
    except LlmgineError as error:
        return Check("journal", "fail", one_line(error))


async def check_transport(app: Application) -> Check:
    transport = app.bus.transport
    if transport is None:
        return Check("transport", "ok", "none: all handlers are here")
    try:
        await transport.open()
        return Check("transport", "ok", await transport.check())
    except LlmgineError as error:
        return Check("transport", "fail", one_line(error))


async def check_queue(app: Application, name: str) -> Check:
    """Whether there is something that nobody will do unless somebody acts."""
    delivery = app.bus.delivery
    if delivery is None:
        return Check("queue", "ok", "none")
    stats = await Queue(delivery.journal, app.bus.clock).stats()
    handled = {*delivery.routes, *(route for one in stats.workers for route in one.routes)}
    orphans = sorted({one.route for one in stats.routes if depth(one)} - handled)
    dead, parked = stats.count("dead"), stats.count("parked")
    if orphans:
        return Check(
            "queue",
            "warn",
            f"{some(orphans)}: waits, and nobody handles it",
            f"register the handler in bootstrap.py, or drop what waits: {name} queue list",
        )
    if dead or parked:
        return Check(
            "queue",
            "warn",
            f"{dead:,} dead, {parked:,} parked",
            f"see why: {name} queue list --state dead --state parked; "
            f"then: {name} queue retry --all, or drop",
        )
    return Check("queue", "ok", f"depth {stats.depth:,}, nothing dead or parked")


def check_keys(settings: RuntimeSettings) -> Check:
    """Which vendors' keys are set; never what they are."""
    set_here = {**type(settings).dotenv(), **os.environ}
    names = sorted(name for name, value in set_here.items() if _is_key(name) and value.strip())
    return Check("keys", "ok", f"set: {', '.join(names)}" if names else "none set")


def _is_key(name: str) -> bool:
    return name.endswith("_API_KEY")


def check_folder(name: str, folder: Path, setting: str) -> Check:
    """Whether files can be made there; the folder itself too, if it is not there yet."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check(
            name,
            "fail",
            f"{folder} cannot be written: {error.strerror}",
            f"let this user write there, or set {setting} to another folder",
        )
    return Check(name, "ok", f"{folder} is writable")


def check_disk(folder: Path) -> Check:
    nearest = next(_existing(folder.absolute()))
    free_mb = shutil.disk_usage(nearest).free // 1_000_000
    if free_mb >= ENOUGH_MB:
        return Check("disk", "ok", f"{free_mb / 1000:,.1f} GB free")
    status: Status = "fail" if free_mb < LITTLE_MB else "warn"
    return Check("disk", status, f"only {free_mb} MB free for {folder}", "free some space")


def _existing(path: Path) -> Iterator[Path]:
    return (folder for folder in (path, *path.parents) if folder.exists())


def check_clock(now_s: float) -> Check:
    """A clock behind the files on this disk breaks TLS, and the order of conversations."""
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_s))
    if now_s < Path(__file__).stat().st_mtime:
        return Check(
            "clock", "warn", f"{shown} is before this program was installed", "set the clock"
        )
    return Check("clock", "ok", shown)
