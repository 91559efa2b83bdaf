"""Durable delivery over our bus, and over others that keep what they were given."""

from __future__ import annotations

from ..report import Report


def run(rounds: int, *, long: bool = False) -> Report:
    """`long`: look at the memory for a million events."""
    # Not above: the processes that are measured lie here too, and must not load the peers.
    from .comparison import compare

    return compare(rounds, long=long)
