"""Writes the runtime's manifest: the hash of every vendored file, which `doctor` compares with.

`llmgine/MANIFEST` has one line for each file, `<sha256>  <path below llmgine/>`, sorted by path.
Line endings are hashed as `\\n`, so that a checkout on another system has the same manifest.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = ROOT / "template" / "src" / "{{ package_name }}" / "llmgine"
NAME = "MANIFEST"
_LEFTOVERS = {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}


def manifest_of(runtime: Path) -> str:
    """The text that belongs into the runtime's MANIFEST."""
    vendored = [path for path in runtime.rglob("*") if _is_vendored(path, runtime)]
    lines = sorted((path.relative_to(runtime).as_posix(), _hash(path)) for path in vendored)
    return "".join(f"{digest}  {name}\n" for name, digest in lines)


def _is_vendored(path: Path, runtime: Path) -> bool:
    inside = path.relative_to(runtime)
    return path.is_file() and inside != Path(NAME) and not _LEFTOVERS.intersection(inside.parts)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the manifest of the vendored runtime.")
    parser.add_argument("--check", action="store_true", help="fail when it is out of date")
    check = parser.parse_args().check
    text = manifest_of(RUNTIME)
    target = RUNTIME / NAME
    if check and (not target.exists() or target.read_text(encoding="utf-8") != text):
        print("llmgine/MANIFEST is out of date. Write it anew: make format", file=sys.stderr)
        return 1
    if not check:
        target.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
