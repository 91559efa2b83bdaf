"""Stand before the real journal and transport, and end the process at a call of them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

from app.llmgine.delivery.journal import Entry, Journal
from app.llmgine.delivery.transport import Transport, Verdict

KILLED = 137


@dataclass(frozen=True)
class Point:
    """Before or after the `nth` call of a method of one of the two."""

    part: Literal["journal", "transport"]
    method: str
    when: Literal["before", "after"]
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.part}.{self.method}.{self.when}.{self.nth}"

    @classmethod
    def parse(cls, text: str) -> Point:
        part, method, when, nth = text.split(".")
        return cls(cast(Any, part), method, cast(Any, when), int(nth))


def methods_of(protocol: type) -> set[str]:
    """What an object of that protocol is called with."""
    return {name for name, value in vars(protocol).items() if callable(value) and name[0] != "_"}


class Dying:
    """Passes everything on to the inner object, and dies at the point."""

    def __init__(self, part: str, inner: object, point: Point) -> None:
        self._inner = inner
        self._point = point
        self._mine = part == point.part
        self._calls = 0

    @classmethod
    def journal(cls, inner: Journal, point: Point) -> Journal:
        return cast(Journal, cls("journal", inner, point))

    @classmethod
    def transport(cls, inner: Transport, point: Point) -> Transport:
        return cast(Transport, cls("transport", inner, point))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if self._mine and name == "consume" and self._point.method == "deliver":
            return self._consume
        if not self._mine or name != self._point.method:
            return found
        return self._dying(found)

    def _dying(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def called(*args: Any, **kwargs: Any) -> Any:
            self._calls += 1
            dies = self._calls == self._point.nth
            if dies and self._point.when == "before":
                os._exit(KILLED)
            try:
                return await call(*args, **kwargs)
            finally:
                if dies:
                    os._exit(KILLED)

        return called

    async def _consume(
        self, source: Any, deliver: Callable[[Entry, int], Awaitable[Verdict]]
    ) -> Any:
        """What is received is handled, but not acknowledged yet, when `deliver` returns."""
        return await cast(Transport, self._inner).consume(source, self._dying(deliver))
