"""Every Python block of the documentation runs, and prints what the page says it prints."""

import contextlib
import importlib
import io
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
# The page on workflows needs a library of its own; tests/workflows runs it.
PAGES = [ROOT / "README.md", *(page for page in DOCS if page.name != "workflows.md")]
BLOCK = re.compile(r"```python\n(?P<code>.*?)```(?:\n\n```text\n(?P<output>.*?)```)?", re.DOTALL)


@pytest.fixture(autouse=True)
def my_agent():
    """The unrendered application under the name that the pages use."""
    before = set(sys.modules)
    sys.modules["my_agent"] = importlib.import_module("app")
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "my_agent":
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}

    for block in BLOCK.finditer(page.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block["code"], str(page), "exec"), namespace)
        if block["output"] is not None:
            assert printed.getvalue() == block["output"]


def test_the_pages_that_the_index_lists_are_those_that_exist():
    listed = re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs" / "index.md").read_text())

    existing = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert set(listed) == existing - {"index.md"}
