"""What an owner does to a project in a day, as a script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from generated import Project
from rendering import commit, git
from tree import owner

TOOLS = Path(sys.executable).parent
DELETED = ["src/invoice_robot/tools/clock.py", "tests/handlers/test_chat.py", "docs/mine.md"]
WRITTEN = {
    "docs/billing.md": "# Billing\n\nHow we bill.\n",
    "src/invoice_robot/commands/billing.py": '"""Orders of billing."""\n',
    "src/invoice_robot/reports/monthly.py": '"""Reports."""\n\nTITLE = "Monthly"\n',
    "tests/handlers/test_billing.py": "def test_a_bill_is_paid() -> None:\n    assert True\n",
    "LICENSE": "All rights reserved.\n",
}
MERGED_LINES = {
    ".env.example": "\n#BILLING_KEY=\n",
    ".gitattributes": "*.pdf binary\n",
    ".github/workflows/ci.yml": "      - run: uv run invoice-robot doctor\n",
    ".gitignore": "/invoices/\n",
    ".pre-commit-config.yaml": (
        "      - id: mine\n        name: mine\n        entry: 'true'\n        language: system\n"
    ),
    "AGENTS.md": "\n## Billing\n\nAn invoice is never deleted.\n",
}


def work_a_day(project: Project) -> None:
    """Edit every file that is the owner's or merged, delete, add, depend, format, commit."""
    folder = project.folder
    for path in filter(None, git(folder, "ls-files", "-z").split("\0")):
        if owner(path) == "yours":
            mine = "\n<!-- Mine. -->\n" if path.endswith(".md") else "\n# Mine.\n"
            _append(folder / path, mine)
    for path, text in WRITTEN.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        _append(folder / path, text)
    for path, text in MERGED_LINES.items():
        _append(folder / path, text)
    for path in DELETED:
        (folder / path).unlink(missing_ok=True)
    project.uv("add", "--quiet", "--frozen", "httpx>=0.28")
    project.uv("add", "--quiet", "--frozen", "--dev", "polars>=1")
    project.uv("add", "--quiet", "--frozen", "--optional", "reports", "openpyxl>=3")
    _write(folder / "pyproject.toml", "line-length = 100", "line-length = 79")
    subprocess.run([TOOLS / "ruff", "format", "--quiet", "."], cwd=folder, check=True)
    commit(folder, "A day's work")


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(text)


def _write(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8", newline="\n")
