# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Time limits of one call to a library that has none of its own, or none that can be relied on."""

from __future__ import annotations

import asyncio


class Limits:
    """The end of the whole call, if there is one, and of each wait within it."""

    def __init__(self, total_s: float | None, silence_s: float) -> None:
        self._silence_s = silence_s
        self._end = None if total_s is None else asyncio.get_running_loop().time() + total_s

    def next_wait(self) -> asyncio.Timeout:
        until = asyncio.get_running_loop().time() + self._silence_s
        return asyncio.timeout_at(until if self._end is None else min(until, self._end))
