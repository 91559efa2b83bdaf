"""Writes the table of providers and cases into docs/models.md; the tests hold both to it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "models.md"
TABLE = re.compile(r"(?<=<!-- conformance -->\n).*?(?=<!-- /conformance -->)", re.DOTALL)


def main() -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from runtime.llm.conformance.table import page

    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda _: page(), text), encoding="utf-8")


if __name__ == "__main__":
    main()
