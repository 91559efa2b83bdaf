# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The project that this runtime lives in, as its files describe it."""

from __future__ import annotations

import hashlib
import platform
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

ANSWERS_FILE = ".copier-answers.yml"
# How an installed project's metadata spells the marker of an extra: alone, or after another.
_EXTRA = re.compile(r"(?:\((.*)\) and |(.*) and )?extra == ['\"]([^'\"]+)['\"]")


Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """`warn` can wait, `fail` cannot; both come with a `fix`, the next thing to do."""

    name: str
    status: Status
    found: str
    fix: str = ""


def some(things: list[str], most: int = 5) -> str:
    """The first few of them, and how many more there are."""
    more = f" and {len(things) - most} more" if len(things) > most else ""
    return ", ".join(things[:most]) + more


@dataclass(frozen=True)
class Project:
    """`folder` holds the package, `root` the project around it: `None` once it is installed."""

    package: str
    folder: Path
    root: Path | None

    @property
    def runtime(self) -> Path:
        return self.folder / "llmgine"

    @cached_property
    def distribution(self) -> str:
        """The name that the project is installed under."""
        if self.root is not None and (name := _project_table(self.root).get("name")):
            return str(name)
        found = metadata.packages_distributions().get(self.package)
        return found[0] if found else self.package.replace("_", "-")

    @cached_property
    def version(self) -> str:
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            declared = _project_table(self.root).get("version") if self.root else None
            return str(declared or "not installed")

    @cached_property
    def requires_python(self) -> str:
        """The range of Python versions that the project asks for; empty where it does not say."""
        if self.root is not None:
            return str(_project_table(self.root).get("requires-python", ""))
        return self._installed("Requires-Python")[0] if self._installed("Requires-Python") else ""

    @cached_property
    def requirements(self) -> Mapping[str, Sequence[str]]:
        """The dependency lines of each extra, those of the project itself under the empty name."""
        if self.root is None:
            return _by_extra(self._installed("Requires-Dist"))
        table = _project_table(self.root)
        return {"": table.get("dependencies", []), **table.get("optional-dependencies", {})}

    def _installed(self, field: str) -> list[str]:
        try:
            return metadata.metadata(self.distribution).get_all(field) or []
        except metadata.PackageNotFoundError:
            return []

    @cached_property
    def answers(self) -> dict[str, str]:
        """Copier's answers, of which we read plain `name: text` lines; empty without a file."""
        if self.root is None or not (self.root / ANSWERS_FILE).is_file():
            return {}
        lines = (self.root / ANSWERS_FILE).read_text("utf-8").splitlines()
        pairs = (line.partition(":") for line in lines if line[:1] not in ("#", " ", "-", ""))
        return {name: value.strip().strip("'\"") for name, _, value in pairs}

    @property
    def template_version(self) -> str | None:
        return self.answers.get("_commit")


def find_project() -> Project:
    """The project of the package that this very file was vendored into."""
    package = __name__.partition(".llmgine.")[0]
    folder = Path(__file__).parents[3]
    near = [folder.parent, folder.parent.parent]
    roots = (path for path in near if (path / "pyproject.toml").is_file())
    return Project(package=package, folder=folder, root=next(roots, None))


def version_line(name: str, project: Project) -> str:
    """`my-agent 0.1.0 (template v0.2.0, Python 3.13.1)`."""
    template = project.template_version or "unknown"
    return f"{name} {project.version} (template {template}, Python {platform.python_version()})"


def _project_table(root: Path) -> dict[str, Any]:
    """The `[project]` table of pyproject.toml; empty where there is none that can be read."""
    try:
        parsed = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    table: dict[str, Any] = parsed.get("project", {})
    return table


def _by_extra(lines: list[str]) -> dict[str, list[str]]:
    """Dependency lines of an installed project: there the marker names the extra."""
    found: dict[str, list[str]] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = _EXTRA.fullmatch(marker.strip())
        rest = (extra[1] or extra[2] or "") if extra else marker.strip()
        kept = f"{requirement.strip()} ; {rest}" if rest else requirement.strip()
        found.setdefault(extra[3] if extra else "", []).append(kept)
    return found


MANIFEST = "MANIFEST"
_LEFT_BEHIND = {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".DS_Store"}


@dataclass(frozen=True, slots=True)
class Changes:
    """Paths below the folder, with `/`, that differ from its manifest."""

    edited: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.edited or self.missing or self.added)


def manifest(folder: Path) -> str:
    """The manifest of the folder as it stands: `<sha256>  <path>` a line, sorted by path."""
    return "".join(f"{_digest(folder / path)}  {path}\n" for path in sorted(_files(folder)))


def changes(folder: Path) -> Changes:
    """What differs from the folder's own `MANIFEST`.

    Raises:
        OSError: there is no manifest, or a file cannot be read.
        ValueError: the manifest is not one.
    """
    lines = (folder / MANIFEST).read_text("utf-8").splitlines()
    listed = {path: digest for digest, path in (line.split("  ", 1) for line in lines if line)}
    present = set(_files(folder))
    return Changes(
        edited=tuple(
            path
            for path, digest in listed.items()
            if path in present and _digest(folder / path) != digest
        ),
        missing=tuple(path for path in listed if path not in present),
        added=tuple(sorted(present - listed.keys())),
    )


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        left_behind = _LEFT_BEHIND.intersection(relative.parts) or path.suffix == ".pyc"
        if path.is_file() and not left_behind and relative.name != MANIFEST:
            yield relative.as_posix()


def _digest(path: Path) -> str:
    """SHA-256 of the text with `\\n` line ends, which is all that git may have changed in it."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
