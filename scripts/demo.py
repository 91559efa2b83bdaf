"""Renders an application into a temporary folder, installs it, and shows what it does."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rendering import ROOT, render, snapshot

UV = str(Path(sys.executable).parent / "uv")
NOT_THEIRS = ("ANTHROPIC_", "LLMGINE_", "OPENAI_", "PYTHON", "VIRTUAL_ENV")
ACTS = [
    ["ask", "What time is it in Tokyo?"],
    ["ask", 'Save the note "Ann likes oat milk"'],
    ["ask", 'Find the notes about "milk"'],
    ["logs", "trace"],
]
END = """
Copied in {copied_s:.1f} s, installed in {installed_s:.1f} s, answered in {answered_s}.
No key, no account: the model was `offline`, which only matches words with tools.

To make your own, with uv (https://docs.astral.sh/uv) at hand:

  uvx copier copy {template} my-agent
  cd my-agent
  uv sync
  uv run my-agent chat

The application above stays in {project} until you delete it.
"""


def main() -> int:
    project = Path(tempfile.mkdtemp(prefix="llmgine-demo-")) / "my-agent"
    print(f"Copying the template to {project}, and installing it there …", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        template = snapshot(Path(scratch) / "template")
        copied_s = _seconds(lambda: render(template, project))
    installed_s = _seconds(lambda: _run(project, UV, "sync", "--quiet", UV_COMPILE_BYTECODE="1"))
    took_s = [_seconds(partial(_act, project, words)) for words in ACTS]
    answered_s = ", ".join(f"{seconds:.1f} s" for seconds in took_s[:-1])
    end = END.format(
        copied_s=copied_s,
        installed_s=installed_s,
        answered_s=answered_s,
        template=ROOT,
        project=project,
    )
    print(end)
    return 0


def _act(project: Path, words: list[str]) -> None:
    shown = " ".join(f"'{word}'" if " " in word else word for word in words)
    print(f"\n$ uv run my-agent {shown}", flush=True)
    _run(project, UV, "run", "--no-sync", "my-agent", *words)


def _run(folder: Path, *command: str, **variables: str) -> None:
    theirs = {k: v for k, v in os.environ.items() if not k.startswith(NOT_THEIRS)}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**theirs, **variables},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        sys.exit(f"`{' '.join(command)}` ended with {done.returncode} in {folder}")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
