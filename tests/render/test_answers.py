"""What the questions accept, what they refuse, and what an answer becomes."""

from __future__ import annotations

import keyword
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from render.answers import ANSWER_SETS, missing_pairs
from render.conftest import Rendered
from rendering import ROOT, render

QUESTIONS: dict[str, Any] = {
    name: question
    for name, question in yaml.safe_load((ROOT / "copier.yml").read_text("utf-8")).items()
    if not name.startswith("_")
}
ASKED = {name: question for name, question in QUESTIONS.items() if question.get("when", True)}


def test_at_most_eight_questions_are_asked_and_each_has_a_default() -> None:
    assert len(ASKED) <= 8
    assert all("default" in question and "help" in question for question in ASKED.values())


def test_the_template_never_needs_trust() -> None:
    settings = yaml.safe_load((ROOT / "copier.yml").read_text("utf-8"))

    assert not {"_tasks", "_migrations", "_jinja_extensions"} & settings.keys()


def test_the_answer_sets_hold_every_pair_of_choices() -> None:
    assert missing_pairs() == set()


@pytest.mark.parametrize(
    ("answer", "allowed"),
    [
        ({"project_name": ""}, "1 to 80 printable characters on one line"),
        ({"project_name": "two\nlines"}, "1 to 80 printable characters on one line"),
        ({"project_name": "x" * 81}, "1 to 80 printable characters on one line"),
        ({"package_name": "My-Agent"}, "lower-case letters, digits and single underscores"),
        ({"package_name": "1st"}, "beginning with a letter"),
        ({"package_name": "_private"}, "beginning with a letter"),
        ({"package_name": "ends_"}, "single underscores"),
        ({"package_name": "a__b"}, "single underscores"),
        ({"package_name": "größe"}, "lower-case letters"),
        ({"package_name": "agent\n"}, "lower-case letters"),
        ({"package_name": "x" * 51}, "at most 50 characters"),
        ({"package_name": "class"}, "such as class_app"),
        ({"package_name": "asyncio"}, "such as asyncio_app"),
        ({"package_name": "test"}, "such as test_app"),
        ({"package_name": "llmgine"}, "such as llmgine_app"),
        ({"package_name": "pydantic"}, "such as pydantic_app"),
        ({"description": "two\nlines"}, "at most 200 printable characters on one line"),
        ({"description": "x" * 201}, "at most 200 printable characters on one line"),
        ({"user_name": "tab\there"}, "at most 100 printable characters on one line"),
        ({"user_email": "nobody"}, "such as ada@example.org"),
        ({"user_email": "a@b.c\nd@e.f"}, "such as ada@example.org"),
        ({"model": ""}, "Use offline; an OpenAI name such as gpt-5.1"),
        ({"model": "Offline"}, "Use offline"),
        ({"model": "openai/"}, "openai/<name>"),
        ({"model": "claude"}, "anthropic/claude-sonnet-4-5"),
        ({"model": 'openai/x"\ny = "z'}, "openai/<name>"),
        ({"context_store": "redis"}, r"\['sqlite', 'memory'\]"),
        (
            {"extras": ["redis"]},
            r"\['cron', 'faststream', 'litellm', 'nats', 'openai', 'otlp', 'postgres'\]",
        ),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_bad_answer_is_refused_with_what_is_allowed(
    template: Path, tmp_path: Path, answer: dict[str, Any], allowed: str
) -> None:
    with pytest.raises(ValueError, match=allowed):
        render(template, tmp_path / "project", answer)

    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize(
    ("answer", "canonical"),
    [
        ("offline", "offline"),
        ("gpt-5.1", "openai/gpt-5.1"),
        ("o3-mini", "openai/o3-mini"),
        ("openai/llama3.2:1b", "openai/llama3.2:1b"),
        ("anthropic/claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
        ("openai-responses/gpt-5.1", "openai-responses/gpt-5.1"),
        ("openai-sdk/gpt-5.1", "openai-sdk/gpt-5.1"),
        ("gemini/gemini-3-pro", "litellm/gemini/gemini-3-pro"),
        ("litellm/gemini/gemini-3-pro", "litellm/gemini/gemini-3-pro"),
        ("openrouter/meta-llama/llama-4:free", "litellm/openrouter/meta-llama/llama-4:free"),
    ],
)
def test_a_model_is_written_down_as_provider_and_model(
    template: Path, tmp_path: Path, answer: str, canonical: str
) -> None:
    project = render(template, tmp_path / "project", {"model": answer})
    config = tomllib.loads((project / "src/my_agent/config.toml").read_text("utf-8"))

    assert config["model"] == canonical
    assert ("runtime,litellm" in _dependency(project)) == canonical.startswith("litellm/")
    assert ("runtime,openai" in _dependency(project)) == canonical.startswith("openai-sdk/")


@pytest.mark.parametrize(
    ("project_name", "package"),
    [
        ("Invoice Robot", "invoice_robot"),
        ("  --Zoë's (2nd) Größe!  ", "zo_s_2nd_gr_e"),
        ("3 Wishes", "app_3_wishes"),
        ("日本語", "my_agent"),
        ("Test", "test_app"),
        ("Class", "class_app"),
        ("x" * 80, "x" * 40),
    ],
)
def test_the_package_name_follows_from_the_project_name(
    template: Path, tmp_path: Path, project_name: str, package: str
) -> None:
    project = render(template, tmp_path / "project", {"project_name": project_name})

    assert (project / "src" / package / "bootstrap.py").is_file()


@pytest.mark.parametrize("name", ANSWER_SETS)
def test_odd_answers_reach_the_project_unchanged(rendered: Rendered, name: str) -> None:
    answers = ANSWER_SETS[name]
    metadata = tomllib.loads((rendered(name) / "pyproject.toml").read_text("utf-8"))["project"]
    kept = yaml.safe_load((rendered(name) / ".copier-answers.yml").read_text("utf-8"))
    readme = (rendered(name) / "README.md").read_text("utf-8")

    assert answers.items() <= kept.items()
    assert metadata["description"] == kept["description"]
    author = {"name": kept["user_name"], "email": kept["user_email"]}
    assert metadata.get("authors", []) == ([author] if kept["user_name"] else [])
    assert f"\n# {kept['project_name']}\n" in readme


@pytest.mark.parametrize(
    ("answer", "author"),
    [
        ({"user_name": "Ada"}, {"name": "Ada"}),
        ({"user_email": "ada@example.org"}, {"email": "ada@example.org"}),
    ],
)
def test_half_an_author_is_a_valid_author(
    template: Path, tmp_path: Path, answer: dict[str, str], author: dict[str, str]
) -> None:
    project = render(template, tmp_path / "project", answer)
    metadata = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]

    assert metadata["authors"] == [author]


def test_no_word_of_python_and_no_standard_module_can_be_the_package() -> None:
    taken = set(QUESTIONS["taken_names"]["default"].split())
    standard = {name for name in sys.stdlib_module_names if re.fullmatch("[a-z][a-z0-9_]*", name)}

    assert standard | {word for word in keyword.kwlist if word.islower()} <= taken


def _dependency(project: Path) -> str:
    metadata = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
    [dependency] = metadata["project"]["dependencies"]
    return str(dependency)
