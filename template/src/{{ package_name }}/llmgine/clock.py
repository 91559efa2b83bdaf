# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What time it is, and being told when it is later: the one seam that tests replace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Timer(Protocol):
    """Something that will happen unless it is cancelled."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Wall time for people, which may jump, and monotonic time for waiting, which does not."""

    def now(self) -> datetime:
        """Wall time, timezone-aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call back on the running event loop at `when`, in seconds of `monotonic()`."""
        ...


class SystemClock:
    """The machine's clock and the running event loop's timers."""

    monotonic = staticmethod(time.monotonic)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        # Not the loop's `call_at`: not every loop counts from the same moment.
        return asyncio.get_running_loop().call_later(max(0.0, when - time.monotonic()), callback)


async def sleep(clock: Clock, seconds: float) -> None:
    """Return after that time on the clock."""
    slept = asyncio.Event()
    timer = clock.call_at(clock.monotonic() + seconds, slept.set)
    try:
        await slept.wait()
    finally:
        timer.cancel()
