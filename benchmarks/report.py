"""Figures beside their goals, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound that must hold, and a tighter one that we aim for."""

    bound: float
    aim: float | None = None
    at_most: bool = True

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        aim = "" if self.aim is None else f", aim {sign} {self.aim:g}"
        return f"{sign} {self.bound:g}{aim}"

    def verdict(self, value: float) -> str:
        if not self._holds(value, self.bound):
            return "**miss**"
        if self.aim is not None and not self._holds(value, self.aim):
            return "ok, short of the aim"
        return "ok"

    def _holds(self, value: float, bound: float) -> bool:
        return value <= bound if self.at_most else value >= bound


def at_most(bound: float, aim: float | None = None) -> Goal:
    return Goal(bound, aim)


def at_least(bound: float, aim: float | None = None) -> Goal:
    return Goal(bound, aim, at_most=False)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; `unit` is `x` for a ratio."""

    what: str
    value: float
    unit: str
    goal: Goal

    def row(self) -> list[str]:
        return [
            self.what,
            f"{self.value:.3g} {self.unit}",
            str(self.goal),
            self.goal.verdict(self.value),
        ]


@dataclass(slots=True)
class Report:
    """What one part of the benchmarks found."""

    title: str
    note: str
    headers: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def markdown(self) -> str:
        goals = table(["figure", "measured", "goal", ""], [figure.row() for figure in self.figures])
        return f"## {self.title}\n\n{self.note}\n\n{table(self.headers, self.rows)}\n\n{goals}\n"


BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"


def check_page(page: Path) -> None:
    """Raises: ValueError: the page is not there, or has no place for the tables."""
    if not page.is_file():
        raise ValueError(f"{str(page)!r} is no file")
    text = page.read_text(encoding="utf-8")
    if not 0 <= text.find(BEGIN) < text.find(END):
        raise ValueError(f"{str(page)!r} has no lines {BEGIN} and {END}; the tables go in between")


def write_into(page: Path, tables: str) -> None:
    """Put the tables where the page's others are; everything around them stays."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{tables.strip()}\n\n{END}{after}", encoding="utf-8")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every column but the first is right-aligned."""
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first, *others = cells
        padded = [first.ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(headers), line(rule), *map(line, rows)])
