"""Writes tests/render/tree.txt: every file of a generated project, and whose it is."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rendering import ROOT, files, render, snapshot

TREE = ROOT / "tests" / "render" / "tree.txt"


def owner(path: str) -> str:
    """The rule that the README of every project states; the tests hold copier.yml against it."""
    first, *_ = parts = path.split("/")
    if "llmgine" in parts or path == ".copier-answers.yml":
        return "template"
    return "yours" if first in {"src", "tests", "docs", "README.md", "CHANGELOG.md"} else "merged"


def tree_of(project: Path) -> str:
    """One line for each file: its owner, then its path."""
    return "".join(f"{owner(path):<8}  {path}\n" for path in files(project))


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        template = snapshot(Path(scratch) / "template")
        TREE.write_text(tree_of(render(template, Path(scratch) / "project")), encoding="utf-8")


if __name__ == "__main__":
    main()
