"""A clone of this repository in which every version that the tests update from has its tag."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rendering import ROOT, VERSION, commit, git, snapshot
from update.previous import PREVIOUS, become_previous


def released() -> Iterator[tuple[str, str]]:
    """The versions in versions.txt, each with its commit."""
    for line in (ROOT / "tests/update/versions.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            version, sha = line.split()
            yield version, sha


VERSIONS = [version for version, _ in released()] + [PREVIOUS]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree as the newest version, after an invented one and every released one."""
    clone = snapshot(tmp_path_factory.mktemp("snapshot") / "template")
    for version, sha in released():
        git(clone, "tag", "--annotate", "--force", version, sha, "--message", version)
    become_previous(clone / "template")
    commit(clone, "An invented previous version", tag=PREVIOUS)
    git(clone, "checkout", "--quiet", VERSION, "--", ".")
    gone = git(clone, "diff", "--name-only", "--diff-filter=A", VERSION, PREVIOUS)
    for path in gone.splitlines():
        (clone / path).unlink()
    git(clone, "tag", "--delete", VERSION)
    commit(clone, "The working tree again", tag=VERSION)
    return clone
