# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""`doctor`: the project's files: what an update left behind, and whether there is a newer one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .packages import release
from .project import ANSWERS_FILE, MANIFEST, Check, Project, changes, some

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
