"""What is measured of each bus: the library's documented simplest path, and nothing around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..measure import CpuTimer


@dataclass(slots=True)
class Handled:
    """How often the handlers ran: every adapter's handler does the same, and only, this."""

    count: int = 0


@dataclass(frozen=True, slots=True)
class Subject:
    """A bus under measurement.

    `commands(count, timer, handled)` sends so many messages one by one and waits for each result.
    `events(count, handlers, timer, handled)` publishes so many and waits until all are handled.
    Both make the message in the library's own type, inside the time; setting up is outside.
    """

    name: str
    commands: Callable[[int, CpuTimer, Handled], Awaitable[None]] | None
    events: Callable[[int, int, CpuTimer, Handled], Awaitable[None]]
    rounds_of: int = 4_000
