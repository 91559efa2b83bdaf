# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The command line: its commands are in `app`. Importing it imports typer only."""

from .app import build_cli, run_async, run_cli
from .entry import ExitCode

__all__ = ["ExitCode", "build_cli", "run_async", "run_cli"]
