"""An invented previous version: today's template with runtime files changed, added and removed.

So every kind of difference is in the tests, whatever the released versions happen to hold.
"""

from __future__ import annotations

from pathlib import Path

from manifest import manifest_of

PREVIOUS = "v98.0.0"
CHANGED = ["errors.py", "ruff.toml", "bus/bus.py"]
ADDED_LATER = "messages.py"
REMOVED_LATER = "retired.py"
REMOVED_SAMPLE = "tools/dice.py"
LATER_SAMPLE = "tests/tools/test_clock.py"
OLD_LINE = "# This line was here before.\n"


def become_previous(template: Path) -> None:
    """Turn today's template folder into the invented one."""
    project = template / "src" / "{{ package_name }}"
    runtime = project / "llmgine"
    for name in CHANGED:
        first, rest = (runtime / name).read_text("utf-8").split("\n", 1)
        _write(runtime / name, f"{first}\n{OLD_LINE}{rest}")
    (runtime / ADDED_LATER).unlink()
    _write(runtime / REMOVED_LATER, OLD_LINE)
    _write(runtime / "MANIFEST", manifest_of(runtime))
    _replace(template / "docs/llmgine/UPGRADING.md", "# Upgrading", "# How to upgrade")
    _replace(template / "tests/llmgine/test_boundaries.py", "stands on its own", "stands alone")

    # What is merged was a little different, too.
    pyproject = template / "pyproject.toml.jinja"
    _replace(pyproject, '"structlog>=', '"structlog>=24,!=')
    _replace(pyproject, '    "tzdata>=2025.2",\n', "")
    _replace(pyproject, '    "ruff>=', '    "pytest-timeout>=2",\n    "ruff>=')
    _replace(template / "AGENTS.md.jinja", "## Rules", "## The rules")
    _replace(template / ".github/workflows/ci.yml", "timeout-minutes: 15", "timeout-minutes: 10")
    _replace(template / ".gitignore", "/logs/\n", "")

    # So were the samples, which are their owner's by now: none of this may reach them.
    _replace(project / "bootstrap.py", '"""', '"""Older. ')
    _replace(project / "services/notes.py", '"""', '"""Older. ')
    _write(project / REMOVED_SAMPLE, OLD_LINE)
    (template / f"{LATER_SAMPLE}.jinja").unlink()


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text, f"{path} no longer holds {old!r}: choose another difference"
    _write(path, text.replace(old, new, 1))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
