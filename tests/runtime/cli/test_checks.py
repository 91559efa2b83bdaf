"""`doctor` sees what an update left behind, and whether the next one can work."""

import subprocess
from pathlib import Path

import pytest

from app.llmgine.interfaces.cli.doctor import (
    check_conflicts,
    check_template,
    check_vendored,
    newest_tag,
)
from app.llmgine.interfaces.cli.project import Project, manifest

CONFLICT = "a\n<<<<<<< before updating\nmine\n=======\ntheirs\n>>>>>>> after updating\nb\n"


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "my-agent" / "src" / "my_agent"
    (folder / "llmgine").mkdir(parents=True)
    (folder / "llmgine" / "bus.py").write_text("bus\n")
    (folder / "llmgine" / "MANIFEST").write_text(manifest(folder / "llmgine"))
    root = tmp_path / "my-agent"
    (root / "pyproject.toml").write_text('[project]\nname = "my-agent"\nversion = "1.2.3"\n')
    return Project(package="my_agent", folder=folder, root=root)


def answer(project: Project, **answers: str) -> None:
    lines = ["# Never edit by hand", *(f"{name}: {value}" for name, value in answers.items())]
    assert project.root is not None
    (project.root / ".copier-answers.yml").write_text("\n".join(lines) + "\n")


def root_of(project: Project) -> Path:
    assert project.root is not None
    return project.root


def test_an_untouched_runtime_is_ok(project: Project) -> None:
    assert check_vendored(project).status == "ok"


def test_an_edited_runtime_file_is_named_with_the_fix(project: Project) -> None:
    (project.runtime / "bus.py").write_text("mine\n")

    check = check_vendored(project)

    assert (check.status, check.found) == ("warn", "edited: bus.py")
    assert check.fix


def test_a_missing_manifest_is_a_warning(project: Project) -> None:
    (project.runtime / "MANIFEST").unlink()

    assert check_vendored(project).status == "warn"


def test_a_clean_project_has_no_conflicts(project: Project) -> None:
    assert check_conflicts(root_of(project)).status == "ok"


@pytest.mark.parametrize("with_git", [False, True])
def test_leftover_conflict_markers_are_named(project: Project, with_git: bool) -> None:
    root = root_of(project)
    if with_git:
        git(root, "init")
    (root / "README.md").write_text(CONFLICT)

    check = check_conflicts(root)

    assert check.status == "fail"
    assert check.found == "conflict markers: README.md"


def test_a_text_about_conflict_markers_is_no_conflict(project: Project) -> None:
    (root_of(project) / "UPGRADING.md").write_text("Look for `<<<<<<<` and `>>>>>>>` lines.\n")
    (root_of(project) / "notes.md").write_text("Title\n=======\n<<<<<<< alone\n")

    assert check_conflicts(root_of(project)).status == "ok"


def test_conflict_markers_with_windows_line_ends_are_found(project: Project) -> None:
    (root_of(project) / "README.md").write_bytes(CONFLICT.replace("\n", "\r\n").encode())

    assert check_conflicts(root_of(project)).status == "fail"


def test_a_rejected_patch_is_named(project: Project) -> None:
    (root_of(project) / "pyproject.toml.rej").write_text("--- a\n+++ b\n")

    assert check_conflicts(root_of(project)).found == "rejected patches: pyproject.toml.rej"


def test_a_merge_that_git_has_not_finished_is_named(project: Project) -> None:
    root = root_of(project)
    git(root, "init", "--initial-branch=main")
    git(root, "add", "--all")
    git(root, "commit", "--message=one")
    git(root, "switch", "--create", "other")
    (root / "pyproject.toml").write_text('[project]\nname = "theirs"\n')
    git(root, "commit", "--all", "--message=theirs")
    git(root, "switch", "main")
    (root / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    git(root, "commit", "--all", "--message=mine")
    with pytest.raises(subprocess.CalledProcessError):
        git(root, "merge", "other")
    (root / "pyproject.toml").write_text('[project]\nname = "merged"\n')

    assert check_conflicts(root).found == "unmerged in git: pyproject.toml"


def test_what_git_ignores_is_not_searched(project: Project) -> None:
    root = root_of(project)
    git(root, "init")
    (root / ".gitignore").write_text("data/\n")
    (root / "data").mkdir()
    (root / "data" / "x.txt").write_text(CONFLICT)

    assert check_conflicts(root).status == "ok"


def test_the_template_version_is_shown(project: Project) -> None:
    answer(project, _commit="v0.1.0", _src_path="gh:someone/llmgine")

    check = check_template(project, online=False)

    assert (check.status, check.found) == ("ok", "v0.1.0")


@pytest.mark.parametrize("source", [".", "..", "../llmgine", "templates/llmgine", "'../x y'"])
def test_a_relative_template_path_is_named_with_the_fix(project: Project, source: str) -> None:
    answer(project, _commit="v0.1.0", _src_path=source)

    check = check_template(project, online=False)

    assert check.status == "warn"
    assert "copier update" in check.found
    assert "_src_path" in check.fix


@pytest.mark.parametrize(
    "source",
    [
        "/srv/llmgine",
        "~/llmgine",
        "gh:someone/llmgine",
        "gl:someone/llmgine",
        "git+https://example.org/llmgine",
        "https://example.org/llmgine.git",
        "git@example.org:someone/llmgine.git",
        "C:\\templates\\llmgine",
    ],
)
def test_an_address_or_an_absolute_path_is_ok(project: Project, source: str) -> None:
    answer(project, _commit="v0.1.0", _src_path=source)

    assert check_template(project, online=False).status == "ok"


def test_a_project_without_its_answers_is_a_warning(project: Project) -> None:
    assert check_template(project, online=False).status == "warn"


def test_online_a_newer_version_is_named(project: Project, tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.mkdir()
    git(template, "init")
    git(template, "commit", "--allow-empty", "--message=one")
    for tag in ("v0.1.0", "v0.9.0", "v0.10.0", "v1.0.0rc1", "nightly"):
        git(template, "tag", tag)
    answer(project, _commit="v0.1.0", _src_path=str(template))

    assert newest_tag(str(template)) == "v0.10.0"
    assert check_template(project, online=True).found == "v0.1.0; v0.10.0 is out"


def test_online_the_newest_version_is_ok(project: Project, tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.mkdir()
    git(template, "init")
    git(template, "commit", "--allow-empty", "--message=one")
    git(template, "tag", "v0.2.0")
    answer(project, _commit="v0.2.0", _src_path=str(template))

    assert check_template(project, online=True).status == "ok"


def test_online_an_address_that_does_not_answer_is_a_warning(
    project: Project, tmp_path: Path
) -> None:
    answer(project, _commit="v0.2.0", _src_path=str(tmp_path / "gone"))

    assert check_template(project, online=True).status == "warn"


def test_offline_nobody_is_asked(project: Project, tmp_path: Path) -> None:
    answer(project, _commit="v0.2.0", _src_path=str(tmp_path / "gone"))

    assert check_template(project, online=False).status == "ok"
