# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The project that this runtime lives in, as its files describe it."""

from __future__ import annotations

import hashlib
import platform
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal

RUNTIME_EXTRA = "runtime"
SYNC = "uv sync"


def check_python(project: Project) -> Check:
    version, wanted = platform.python_version(), project.requires_python
    if satisfies(version, wanted):
        return Check("python", "ok", version)
    return Check(
        "python", "fail", f"{version}, where the project asks for {wanted}", "uv sync --python 3.13"
    )


def check_dependencies(project: Project) -> Check:
    """Whether everything asked for is there, in range, and loads where the runtime needs it."""
    asked_for = list(wanted(project))
    if not asked_for:
        return Check("dependencies", "warn", "the project's metadata lists none", SYNC)
    modules = _modules_by_distribution()
    troubles = [
        trouble
        for requirement, is_runtime in asked_for
        # Only what the runtime needs is really imported: others may act when they are.
        if (trouble := _trouble(requirement, modules if is_runtime else {})) is not None
    ]
    if troubles:
        return Check("dependencies", "fail", some(troubles), SYNC)
    return Check("dependencies", "ok", f"{len(asked_for)} present and in range")


def wanted(project: Project) -> Iterator[tuple[Requirement, bool]]:
    """What has to be installed, and whether it is the runtime that needs it."""
    chosen = _chosen_extras(project)
    for extra, lines in project.requirements.items():
        if extra in chosen:
            for requirement in _parsed(lines):
                if requirement.name != canonical(project.distribution):
                    yield requirement, extra == RUNTIME_EXTRA


def _chosen_extras(project: Project) -> set[str]:
    """The extras that the project's own dependencies name: `my-agent[runtime,litellm]`."""
    own = canonical(project.distribution)
    chosen = {""}
    for requirement in _parsed(project.requirements.get("", ())):
        if requirement.name == own:
            chosen |= requirement.extras
    return chosen


def _parsed(lines: Iterable[str]) -> Iterator[Requirement]:
    return (found for line in lines if (found := parse_requirement(line)) is not None)


def _trouble(requirement: Requirement, to_import: Mapping[str, list[str]]) -> str | None:
    name = requirement.name
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        # A marker may leave it out on this machine; we do not evaluate markers.
        return None if requirement.marker else f"{name} is missing"
    if not satisfies(installed, requirement.versions):
        return f"{name} {installed} is not {requirement.versions}"
    for module in to_import.get(name, ()):
        try:
            import_module(module)
        except ImportError as error:
            return f"{name} cannot be imported ({error})"
    return None


def _modules_by_distribution() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for module, distributions in metadata.packages_distributions().items():
        if module.isidentifier() and not module.startswith("_"):
            for distribution in distributions:
                found.setdefault(canonical(distribution), []).append(module)
    return found


_REQUIREMENT = re.compile(
    r"\s*(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[(?P<extras>[^\]]*)\])?"
    r"\s*\(?(?P<versions>(?:[<>=!~][^;()@]*)?)\)?\s*(?:@[^;]*)?(?:;(?P<marker>.*))?"
)
_CLAUSE = re.compile(r"\s*(~=|===?|!=|<=|>=|<|>)\s*v?(\d+(?:\.\d+)*)(\.\*)?")
_RELEASE = re.compile(r"v?(?:\d+!)?(\d+(?:\.\d+)*)")

Release = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One line of a project's dependencies."""

    name: str
    extras: frozenset[str] = frozenset()
    versions: str = ""
    marker: str = ""


def parse_requirement(line: str) -> Requirement | None:
    """The parts of a requirement, or `None` where it is not one that we can read."""
    found = _REQUIREMENT.fullmatch(line)
    if found is None:
        return None
    extras = (extra.strip() for extra in (found["extras"] or "").split(","))
    return Requirement(
        name=canonical(found["name"]),
        extras=frozenset(extra for extra in extras if extra),
        versions=found["versions"].strip(),
        marker=(found["marker"] or "").strip(),
    )


def canonical(name: str) -> str:
    """A distribution's name as it compares. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def release(version: str) -> Release | None:
    """`(1, 2, 3)` of `v1.2.3rc1`, or `None` where it does not begin with a version."""
    found = _RELEASE.match(version)
    return None if found is None else _numbers(found[1])


def satisfies(version: str, wanted: str) -> bool:
    """Whether the version is in a range such as `>=1.2,<2`; what is not understood passes."""
    have = release(version)
    clauses = [_CLAUSE.fullmatch(clause) for clause in wanted.split(",")]
    if have is None:
        return True
    return all(
        _holds(have, clause[1], _numbers(clause[2]), any_patch=clause[3] is not None)
        for clause in clauses
        if clause is not None
    )


def _holds(have: Release, operator: str, wanted: Release, *, any_patch: bool) -> bool:
    length = max(len(have), len(wanted))
    left, right = _filled(have, length), _filled(wanted, length)
    same = left[: len(wanted)] == wanted if any_patch else left == right
    match operator:
        case ">=":
            return left >= right
        case ">":
            return left > right
        case "<=":
            return left <= right
        case "<":
            return left < right
        case "!=":
            return not same
        case "~=":
            return left >= right and left[: len(wanted) - 1] == wanted[:-1]
        case _:
            return same


def _numbers(text: str) -> Release:
    return tuple(int(number) for number in text.split("."))


def _filled(numbers: Release, length: int) -> Release:
    return numbers + (0,) * (length - len(numbers))


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
