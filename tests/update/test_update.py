"""`copier update` from every version brings the template's part and leaves the owner's alone."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from copier import run_update

from generated import Project, own
from rendering import VERSION, commit, files, git, render
from tree import owner
from update.conftest import VERSIONS
from update.owner import DELETED, MERGED_LINES, WRITTEN, work_a_day
from update.previous import (
    ADDED_LATER,
    CHANGED,
    LATER_SAMPLE,
    OLD_LINE,
    PREVIOUS,
    REMOVED_LATER,
    REMOVED_SAMPLE,
)

ANSWERS = {"project_name": "Invoice Robot", "extras": ["otlp"]}
RUNTIME = "src/invoice_robot/llmgine"

pytestmark = pytest.mark.timeout(600)
each_version = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture
def fresh(template: Path, tmp_path: Path) -> Path:
    """What the newest version renders."""
    return render(template, tmp_path / "fresh", ANSWERS)


def rendered_at(version: str, template: Path, tmp_path: Path) -> Project:
    return own(render(template, tmp_path / "old", ANSWERS, version=version), tmp_path / "project")


def update(project: Project) -> None:
    run_update(
        project.folder, vcs_ref=VERSION, defaults=True, overwrite=True, quiet=True, unsafe=False
    )


def contents(folder: Path, whose: str) -> dict[str, bytes]:
    """The files of that owner, but for git's own and the tools' caches."""
    return {
        path: (folder / path).read_bytes()
        for path in files(folder)
        if not path.startswith(".git/") and "_cache/" not in path and owner(path) == whose
    }


@each_version
def test_an_untouched_project_becomes_what_the_new_version_renders(
    version: str, template: Path, tmp_path: Path, fresh: Path
) -> None:
    project = rendered_at(version, template, tmp_path)
    before = contents(project.folder, "yours")
    update(project)

    assert contents(project.folder, "template") == contents(fresh, "template")
    assert contents(project.folder, "merged") == contents(fresh, "merged")
    assert contents(project.folder, "yours") == before


@each_version
def test_after_a_days_work_nothing_conflicts_and_nothing_of_the_owner_changes(
    version: str, template: Path, tmp_path: Path, fresh: Path
) -> None:
    project = rendered_at(version, template, tmp_path)
    work_a_day(project)
    before = contents(project.folder, "yours")
    update(project)
    after = contents(project.folder, "yours")

    assert git(project.folder, "ls-files", "--unmerged") == ""
    assert not [path for path in files(project.folder) if path.endswith((".rej", ".orig"))]
    assert after == before
    assert set(WRITTEN) - {"LICENSE"} <= set(after)
    assert not set(DELETED) & set(after)
    assert contents(project.folder, "template") == contents(fresh, "template")


@each_version
def test_what_is_merged_holds_the_owners_lines_and_the_templates(
    version: str, template: Path, tmp_path: Path, fresh: Path
) -> None:
    project = rendered_at(version, template, tmp_path)
    work_a_day(project)
    update(project)

    for path in MERGED_LINES:
        text = (project.folder / path).read_text("utf-8")
        assert MERGED_LINES[path].strip() in text, path
        assert set((fresh / path).read_text("utf-8").splitlines()) <= set(text.splitlines()), path
    ours, theirs = _pyproject(fresh), _pyproject(project.folder)
    assert theirs["project"]["dependencies"] == ["httpx>=0.28", *ours["project"]["dependencies"]]
    extras = theirs["project"]["optional-dependencies"]
    assert extras == {**ours["project"]["optional-dependencies"], "reports": ["openpyxl>=3"]}
    assert theirs["dependency-groups"]["tools"] == ours["dependency-groups"]["tools"]
    assert theirs["dependency-groups"]["dev"] == [{"include-group": "tools"}, "polars>=1"]
    assert theirs["tool"]["ruff"]["line-length"] == 79


def test_runtime_files_that_changed_came_and_went_do_so_in_the_project(
    template: Path, tmp_path: Path
) -> None:
    project = rendered_at(PREVIOUS, template, tmp_path)
    runtime = project.folder / RUNTIME
    before = [OLD_LINE in (runtime / name).read_text("utf-8") for name in CHANGED]
    came, went = not (runtime / ADDED_LATER).exists(), (runtime / REMOVED_LATER).exists()
    update(project)

    assert all(before)
    assert came
    assert went
    assert not any(OLD_LINE in (runtime / name).read_text("utf-8") for name in CHANGED)
    assert (runtime / ADDED_LATER).is_file()
    assert not (runtime / REMOVED_LATER).exists()


def test_samples_that_came_or_went_in_the_template_do_not_in_the_project(
    template: Path, tmp_path: Path, fresh: Path
) -> None:
    project = rendered_at(PREVIOUS, template, tmp_path)
    update(project)

    assert (fresh / LATER_SAMPLE).exists()
    assert not (project.folder / LATER_SAMPLE).exists()
    assert (project.folder / "src/invoice_robot" / REMOVED_SAMPLE).exists()


def test_the_answers_are_kept_and_the_version_moves_on(template: Path, tmp_path: Path) -> None:
    project = rendered_at(PREVIOUS, template, tmp_path)
    update(project)
    answers = yaml.safe_load((project.folder / ".copier-answers.yml").read_text("utf-8"))

    assert answers["_commit"] == VERSION
    assert answers["package_name"] == "invoice_robot"
    assert ANSWERS.items() <= answers.items()


def test_an_edited_vendored_file_conflicts_and_doctor_names_it(
    template: Path, tmp_path: Path
) -> None:
    project = rendered_at(PREVIOUS, template, tmp_path)
    edited = project.folder / RUNTIME / "ruff.toml"
    text = edited.read_text("utf-8")
    edited.write_text(text.replace(OLD_LINE, "# My own line.\n"), encoding="utf-8")
    commit(project.folder, "Edit what is the template's")
    copier = str(Path(sys.executable).parent / "copier")
    printed = project.run(copier, "update", "--defaults", "--vcs-ref", VERSION)
    unmerged = git(project.folder, "diff", "--name-only", "--diff-filter=U").split()

    assert unmerged == [f"{RUNTIME}/ruff.toml"]
    assert "docs/llmgine/UPGRADING.md" in printed
    project.uv("sync", "--quiet")
    assert "ruff.toml" in project.app("doctor", exit_code=1)

    git(project.folder, "checkout", "--theirs", "--", f"{RUNTIME}/ruff.toml")
    git(project.folder, "add", "--all")
    assert "ruff.toml" not in project.app("doctor")


def test_an_untouched_project_runs_its_tests_after_the_update(
    template: Path, tmp_path: Path
) -> None:
    project = rendered_at(PREVIOUS, template, tmp_path)
    update(project)
    project.uv("sync", "--quiet")
    project.tool("pytest")

    assert "Asia/Tokyo" in project.app("ask", "What time is it in Tokyo?")


def _pyproject(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
