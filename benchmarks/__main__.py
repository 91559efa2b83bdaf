"""`python -m benchmarks [PART ...] [--rounds N] [--long] [--write PAGE]`"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import pythons
from .measure import ROOT, machine, progress
from .report import BEGIN, END, Report, check_page, write_into

PARTS = ["bus", "durable", "llm", "start", "lifecycle"]


def main() -> None:
    arguments = _arguments()
    # The runtime as it lies in the template, and the scripts that render it.
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]

    print(f"# Benchmarks\n\n{machine()}\n", flush=True)
    texts, figures = [f"{machine()}\n"], []
    for result in _results(arguments.parts or PARTS, max(1, arguments.rounds), arguments.long):
        if isinstance(result, Report):
            figures += result.figures
            texts.append(result.markdown())
        else:
            texts.append(f"{result}\n")
        print(texts[-1], flush=True)
    if arguments.write:
        # In the page they stand below one of its own headings.
        write_into(arguments.write, "\n".join(texts).replace("\n## ", "\n### "))
    reached = sum(figure.goal.verdict(figure.value) != "**miss**" for figure in figures)
    progress(f"{reached} of {len(figures)} goals reached")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure and compare."
    )
    parser.add_argument(
        "parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all if none"
    )
    parser.add_argument("--rounds", type=int, default=7, help="odd is best: medians are reported")
    parser.add_argument(
        "--long", action="store_true", help="look at the memory of durable for a million events"
    )
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help=f"also write it there, between {BEGIN} and {END}"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if arguments.write:
        try:
            check_page(arguments.write)
        except ValueError as wrong:
            parser.error(str(wrong))
    return arguments


def _results(parts: Sequence[str], rounds: int, long: bool) -> Iterator[Report | str]:
    """Reports, and a line for each that cannot be made."""
    for part in parts:
        options = {"long": long} if part == "durable" else {}
        yield importlib.import_module(f".{part}", __package__).run(rounds, **options)
        if part == "bus":
            for version in pythons.others():
                report = pythons.run_bus(version, rounds)
                yield report or f"The bus with Python {version} is left out: it is not installed."


if __name__ == "__main__":
    main()
