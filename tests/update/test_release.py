"""The release script tags what is ready, and says everything that is missing otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rendering import commit, git, snapshot

NEXT = "7.0.0"
NOTES = ["CHANGELOG.md", "template/docs/llmgine/UPGRADING.md"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A clone whose notes have a section for the next release."""
    clone = snapshot(tmp_path / "repository")
    for name in NOTES:
        with (clone / name).open("a", encoding="utf-8") as notes:
            notes.write(f"\n## {NEXT}\n\nNothing to do.\n")
    commit(clone, "Prepare the release")
    return clone


def release(repository: Path, version: str) -> subprocess.CompletedProcess[str]:
    somebody = {"GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@example.org"}
    return subprocess.run(
        [sys.executable, "scripts/release.py", version],
        cwd=repository,
        env=os.environ | somebody | {"GIT_CONFIG_GLOBAL": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_release_is_an_annotated_tag_and_a_line_in_the_list(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD").strip()
    done = release(repository, NEXT)
    listed = (repository / "tests/update/versions.txt").read_text("utf-8").splitlines()

    assert done.returncode == 0, done.stderr
    assert git(repository, "cat-file", "-t", f"v{NEXT}").strip() == "tag"
    assert "tagger Ada" in git(repository, "cat-file", "-p", f"v{NEXT}")
    assert git(repository, "rev-parse", f"v{NEXT}^{{commit}}").strip() == head
    assert listed[-1] == f"v{NEXT} {head}"


def test_everything_that_is_missing_is_said_at_once(repository: Path) -> None:
    (repository / "new.txt").write_text("x", encoding="utf-8")
    done = release(repository, "6.0.0")

    assert done.returncode == 1
    assert "the working tree has changes" in done.stderr
    assert all(f"{name} has no section `## 6.0.0`" in done.stderr for name in NOTES)
    assert git(repository, "tag", "--list", "v6.0.0") == ""


@pytest.mark.parametrize("version", ["7", "v7.0.0", "7.0.0rc1", "7.0"])
def test_a_version_is_three_numbers(repository: Path, version: str) -> None:
    assert "write three numbers" in release(repository, version).stderr


def test_a_tag_is_never_moved_and_versions_only_grow(repository: Path) -> None:
    release(repository, NEXT)
    commit(repository, "List the release")
    again, lower = release(repository, NEXT), release(repository, "1.0.0")

    assert "a tag is never moved" in again.stderr
    assert f"{NEXT} came before and is not smaller" in lower.stderr
