"""What is measured of each bus: the library's documented simplest path, and nothing around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..measure import CpuTimer


@dataclass(slots=True)
class Handled:
    """How often the handlers ran: every adapter's handler does the same, and only, this."""

    count: int = 0


Commands = Callable[[int, CpuTimer, Handled], Awaitable[None]]
Events = Callable[[int, int, CpuTimer, Handled], Awaitable[None]]

# How many commands run at once where they do.
AT_ONCE = 1_000
# What events are ordered by where they are: the users of a busy minute.
KEYS = [f"user-{number}" for number in range(100)]


@dataclass(frozen=True, slots=True)
class Subject:
    """A bus under measurement.

    `commands(count, timer, handled)` sends so many messages one by one and waits for each result,
    `at_once` sends them by the thousand. `events(count, handlers, timer, handled)` publishes so
    many and waits until all are handled, `keyed` in order for each key. All make the message in
    the library's own type, inside the time; setting up is outside.
    """

    name: str
    commands: Commands | None = None
    events: Events | None = None
    at_once: Commands | None = None
    keyed: Events | None = None
    rounds_of: int = 10_000
