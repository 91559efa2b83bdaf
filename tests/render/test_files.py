"""What a render consists of: its files, whose they are, and that each of them is clean."""

from __future__ import annotations

import hashlib
import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from pathspec import PathSpec

from app.llmgine.settings import RuntimeSettings
from manifest import RUNTIME, manifest_of
from render.answers import ANSWER_SETS, DEFAULT
from render.conftest import Rendered
from rendering import ROOT, files, render
from tree import TREE, owner, tree_of

SOURCE = ROOT / "template"
PLAIN = [name for name in ANSWER_SETS if "-plain-" in name]
MERGED = {
    ".env.example",
    ".gitattributes",
    ".github/workflows/ci.yml",
    ".gitignore",
    ".pre-commit-config.yaml",
    "AGENTS.md",
    "pyproject.toml",
}
HEADERS = {"template": "The template's file", "merged": "Merged:", "yours": "This file is yours"}
UNMARKED = {"MANIFEST", "prices.json"}  # JSON has no comments.
BAD_ON_WINDOWS = re.compile(
    r'[<>:"\\|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.I
)

each_answer_set = pytest.mark.parametrize("name", ANSWER_SETS)


@each_answer_set
def test_the_files_are_the_listed_ones_whatever_the_answers(rendered: Rendered, name: str) -> None:
    package = ANSWER_SETS[name].get("package_name", "my_agent")
    listed = TREE.read_text("utf-8").replace("/my_agent/", f"/{package}/")

    assert tree_of(rendered(name)) == listed, "tests/render/tree.txt is old; if so: make format"


def test_a_fresh_copy_can_still_be_looked_through(rendered: Rendered) -> None:
    assert len(files(rendered(DEFAULT))) <= 165


def test_every_file_is_the_templates_or_merged_or_yours(rendered: Rendered) -> None:
    every = set(files(rendered(DEFAULT)))
    spared = _spared_by_an_update()
    yours = {path for path in every if spared.match_file(path)}
    template = {path for path in every if "llmgine" in path.split("/")} | {".copier-answers.yml"}

    assert yours | template | MERGED == every
    assert len(yours) + len(template) + len(MERGED) == len(every)
    assert all(owner(path) == "yours" for path in yours)
    assert all(owner(path) == "template" for path in template)


def test_every_file_says_at_its_top_whose_it_is(rendered: Rendered) -> None:
    project = rendered(DEFAULT)
    silent = [
        path
        for path in files(project)
        if Path(path).name not in UNMARKED
        and HEADERS[owner(path)] not in _text(project / path).split("\n")[0]
    ]

    assert silent == []


@pytest.mark.parametrize("name", PLAIN)
def test_no_jinja_is_left_over(rendered: Rendered, name: str) -> None:
    project = rendered(name)
    templated = [path for path in files(SOURCE) if path.endswith(".jinja")]

    for path in templated:
        text = _text(project / _rendered_path(path))
        assert not re.search(r"\{\{|\{%|\{#|#\}", text), f"{path} has Jinja left in it"
    assert not [path for path in files(project) if re.search(r"[{}]|\.jinja$", path)]


def test_a_file_without_the_suffix_is_copied_as_it_is(rendered: Rendered) -> None:
    project = rendered(DEFAULT)
    plain = [
        path
        for path in files(SOURCE)
        if not path.endswith((".jinja", ".pyc")) and "_cache/" not in path
    ]

    for path in plain:
        assert (project / _rendered_path(path)).read_bytes() == (SOURCE / path).read_bytes(), path


@each_answer_set
def test_whitespace_is_clean(rendered: Rendered, name: str) -> None:
    for path in files(rendered(name)):
        text = (rendered(name) / path).read_bytes().decode("utf-8")
        assert "\r" not in text, path
        assert "\t" not in text, path
        assert not re.search(r"[ ]+$", text, re.M), f"{path} has spaces at the end of a line"
        assert not text or (text.endswith("\n") and not text.endswith("\n\n")), path
        assert not text.startswith(("\n", "\ufeff")), path
        assert "\n\n\n" not in text or path.endswith(".py"), f"{path} has several empty lines"


def test_names_are_safe_on_windows(rendered: Rendered) -> None:
    every = files(rendered(DEFAULT))

    assert not [path for path in every for part in path.split("/") if BAD_ON_WINDOWS.search(part)]
    assert len({path.casefold() for path in every}) == len(every)
    assert max(map(len, every)) <= 120


def test_rendering_twice_gives_the_same_bytes(
    template: Path, rendered: Rendered, tmp_path: Path
) -> None:
    first = rendered(DEFAULT)
    again = render(template, tmp_path / "again", ANSWER_SETS[DEFAULT])

    assert _contents(again) == _contents(first)


def test_rendering_over_a_project_changes_nothing(
    template: Path, rendered: Rendered, tmp_path: Path
) -> None:
    project = render(template, tmp_path / "project", ANSWER_SETS[DEFAULT])
    render(template, project, ANSWER_SETS[DEFAULT])

    assert _contents(project) == _contents(rendered(DEFAULT))


@each_answer_set
def test_toml_and_yaml_can_be_read(rendered: Rendered, name: str) -> None:
    for path in files(rendered(name)):
        if path.endswith(".toml"):
            tomllib.loads(_text(rendered(name) / path))
        elif path.endswith((".yml", ".yaml")):
            assert yaml.safe_load(_text(rendered(name) / path))


@each_answer_set
def test_the_manifest_names_every_vendored_file(rendered: Rendered, name: str) -> None:
    [runtime] = rendered(name).glob("src/*/llmgine")

    assert (runtime / "MANIFEST").read_text("utf-8") == manifest_of(runtime)


def test_the_manifest_does_not_depend_on_line_endings(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"x = 1\r\ny = 2\r\n")
    digest = hashlib.sha256(b"x = 1\ny = 2\n").hexdigest()

    assert manifest_of(tmp_path) == f"{digest}  a.py\n"


def test_the_python_of_the_template_is_free_of_jinja() -> None:
    templated = [path for path in (SOURCE / "src").rglob("*.jinja") if ".py" in path.suffixes]

    assert RUNTIME.is_dir()
    assert templated == []


def test_the_workshop_installs_what_a_project_installs(rendered: Rendered) -> None:
    ours = tomllib.loads(_text(ROOT / "pyproject.toml"))["dependency-groups"]["runtime"]
    project = tomllib.loads(_text(rendered(DEFAULT) / "pyproject.toml"))["project"]

    assert ours == project["optional-dependencies"]["runtime"]


def test_every_requirement_has_a_floor_and_a_bound(rendered: Rendered) -> None:
    pyproject = tomllib.loads(_text(rendered(DEFAULT) / "pyproject.toml"))
    listed = [
        *chain.from_iterable(pyproject["project"]["optional-dependencies"].values()),
        *pyproject["dependency-groups"]["tools"],
        *pyproject["build-system"]["requires"],
    ]
    calendar = {"tzdata"}

    for requirement in listed:
        name = re.split(r"[<>=!]", requirement)[0]
        assert ">=" in requirement, requirement
        assert re.search(r",<\d", requirement) or name in calendar, requirement


def test_the_example_environment_names_settings_that_exist(rendered: Rendered) -> None:
    named = re.findall(r"^#?LLMGINE_(\w+)=", _text(rendered(DEFAULT) / ".env.example"), re.M)

    assert named
    assert {name.lower() for name in named} <= RuntimeSettings.model_fields.keys()


def test_actions_are_pinned_by_commit_and_get_no_right_in_vain(rendered: Rendered) -> None:
    workflow = _text(rendered(DEFAULT) / ".github/workflows/ci.yml")
    uses = re.findall(r"uses: (.*)", workflow)

    assert uses
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", line) for line in uses)
    assert "permissions: {}" in workflow
    assert "persist-credentials: false" in workflow
    assert "timeout-minutes:" in workflow


def _spared_by_an_update() -> PathSpec[Any]:
    """What copier.yml keeps an update away from, read as copier reads it."""
    patterns = yaml.safe_load((ROOT / "copier.yml").read_text("utf-8"))["_exclude"]
    render_pattern = jinja2.Environment(autoescape=False).from_string
    lines = [render_pattern(pattern).render(_copier_operation="update") for pattern in patterns]
    return PathSpec.from_lines("gitignore", filter(None, lines))


def _rendered_path(source: str) -> str:
    answers_file = "{{ _copier_conf.answers_file }}"
    path = source.removesuffix(".jinja").replace(answers_file, ".copier-answers.yml")
    return path.replace("{{ package_name }}", "my_agent")


def _text(path: Path) -> str:
    return path.read_text("utf-8")


def _contents(project: Path) -> dict[str, bytes]:
    return {path: (project / path).read_bytes() for path in files(project)}
