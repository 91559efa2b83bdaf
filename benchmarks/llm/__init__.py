"""Model calls by our providers, and by the SDKs that others use, to a server on this machine."""

from __future__ import annotations

from ..report import Report


def run(rounds: int) -> Report:
    # Not above: the processes that are measured lie here too, and need none of it.
    from .comparison import compare

    return compare(rounds)
