"""Makes the tag of a release, after checking that everything a release needs is there.

Usage: `python scripts/release.py 0.2.0`, on a clean tree whose last commit is the release.
It tags that commit `v0.2.0` and adds it to tests/update/versions.txt, from which the tests then
update. What is left to do by hand is printed. A tag is never moved: projects were rendered from it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys

from rendering import ROOT, git

VERSIONS = ROOT / "tests" / "update" / "versions.txt"
NOTES = ["CHANGELOG.md", "template/docs/llmgine/UPGRADING.md"]


def problems(version: str) -> list[str]:
    """Everything that stands in the way of this release, each with what to do."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        return [f"{version!r} is no version: write three numbers, such as 0.2.0"]
    found = []
    if git(ROOT, "status", "--porcelain").strip():
        found.append("the working tree has changes: commit them")
    if git(ROOT, "tag", "--list", f"v{version}").strip():
        found.append(f"the tag v{version} exists: a tag is never moved, take the next number")
    later = [name for name in _released() if _numbers(name) >= _numbers(version)]
    if later:
        found.append(f"{', '.join(later)} came before and is not smaller: take a higher number")
    for name in NOTES:
        text = (ROOT / name).read_text(encoding="utf-8")
        if not re.search(rf"^## {re.escape(version)}\b", text, flags=re.MULTILINE):
            found.append(f"{name} has no section `## {version}`: write it")
    return found


def _released() -> list[str]:
    lines = VERSIONS.read_text(encoding="utf-8").splitlines()
    return [line.split()[0].removeprefix("v") for line in lines if line and line[0] != "#"]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def main() -> int:
    parser = argparse.ArgumentParser(description="Tag a release.")
    parser.add_argument("version", help="three numbers, such as 0.2.0")
    version = parser.parse_args().version
    if found := problems(version):
        print("\n".join(["Not released:", *(f"- {problem}" for problem in found)]), file=sys.stderr)
        return 1
    commit = git(ROOT, "rev-parse", "HEAD").strip()
    # Plain git: the tag bears the releaser's own name, and signature.
    tag = ["git", "tag", "--annotate", f"v{version}", "--message", f"v{version}", commit]
    subprocess.run(tag, cwd=ROOT, check=True)
    with VERSIONS.open("a", encoding="utf-8") as versions:
        versions.write(f"v{version} {commit}\n")
    print(f"Tagged {commit[:12]} as v{version}. Now commit {VERSIONS.relative_to(ROOT)}, then:")
    print(f"  git push origin main v{version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
