"""`python -m benchmarks [bus|start|lifecycle ...] [--rounds N]`"""

from __future__ import annotations

import argparse
import importlib
import sys

from .measure import ROOT, machine, progress

PARTS = ["bus", "start", "lifecycle"]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure and compare."
    )
    parser.add_argument(
        "parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all if none"
    )
    parser.add_argument("--rounds", type=int, default=7, help="odd is best: medians are reported")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    # The runtime as it lies in the template, and the scripts that render it.
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]

    print(f"# Benchmarks\n\n{machine()}\n", flush=True)
    figures = []
    for part in arguments.parts or PARTS:
        report = importlib.import_module(f".{part}", __package__).run(max(1, arguments.rounds))
        figures += report.figures
        print(report.markdown(), flush=True)
    reached = sum(figure.goal.verdict(figure.value) != "**miss**" for figure in figures)
    progress(f"{reached} of {len(figures)} goals reached")


if __name__ == "__main__":
    main()
