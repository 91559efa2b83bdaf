"""The way in: `python -m` and the console script end here. This file is yours."""

from .llmgine.interfaces.cli import run_cli


def main() -> None:
    run_cli(__package__ or "")


if __name__ == "__main__":
    main()
