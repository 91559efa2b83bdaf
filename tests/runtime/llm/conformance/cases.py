"""The list of cases; each module of cases adds its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from runtime.llm.conformance.subjects import Kind, Subject

Run: TypeAlias = Callable[[Subject], Awaitable[None]]
For: TypeAlias = Literal["all", "told", "server"]


@dataclass(frozen=True)
class Case:
    """A promise. It is made by all, by those that can be told what to answer, or by those with a
    server behind them."""

    name: str
    promise: str
    for_: For
    run: Run

    def applies_to(self, kind: Kind) -> bool:
        return {"all": True, "told": kind.told, "server": bool(kind.speaks)}[self.for_]


CASES: list[Case] = []


def case(promise: str, for_: For) -> Callable[[Run], Run]:
    """Add this function to the cases, as a row of the table."""

    def add(run: Run) -> Run:
        CASES.append(Case(run.__name__, promise, for_, run))
        return run

    return add
