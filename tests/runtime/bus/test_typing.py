"""What the type checkers say of handlers and of results: `typing/good.py`, `typing/bad.py`."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "typing"
ROOT = Path(__file__).parents[3]

Complaint = tuple[str, int]


def mypy() -> dict[Complaint, str]:
    package = ["--strict", "--no-pretty", "--follow-imports=silent", "-p", "runtime.bus.typing"]
    printed = check("mypy", "--config-file", str(ROOT / "pyproject.toml"), *package)
    found = re.findall(r"^(.+?):(\d+): error: (.*)$", printed, re.MULTILINE)
    return {(Path(path).name, int(line)): text for path, line, text in found}


def pyright() -> dict[Complaint, str]:
    printed = check("pyright", "--project", str(ROOT), "--outputjson", str(HERE))
    return {
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1): one["message"]
        for one in json.loads(printed)["generalDiagnostics"]
        if one["severity"] == "error"
    }


def check(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return done.stdout


def marked(name: str) -> set[Complaint]:
    lines = (HERE / name).read_text().splitlines()
    return {(name, n) for n, line in enumerate(lines, 1) if line.endswith("# error")}


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_the_type_checkers_know_handlers_and_results(
    checker: Callable[[], dict[Complaint, str]],
) -> None:
    complaints = checker()

    expected = marked("bad.py")
    assert len(expected) > 50
    assert not expected - complaints.keys(), "not found"
    assert {at: complaints[at] for at in complaints.keys() - expected} == {}, "false alarms"
