# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""`doctor`: Python itself and the packages that the project asks for."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module, metadata

from .project import Check, Project, some

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
