# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""A text that a regular expression matches, for the common half of their syntax."""

from __future__ import annotations

import re
import string
from random import Random

_PLAIN = string.ascii_letters + string.digits
_PRINTABLE = _PLAIN + " _-.,:;/+*=@#%&!?()[]{}<>'\"\\^$|~`"
_SETS = {"d": string.digits, "w": _PLAIN + "_", "s": " "}
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_EMPTY = frozenset("AZzbB")
_WIDEST_RANGE = 256
_REPEAT = re.compile(r"([*+?])|\{(\d+)(,?)(\d*)\}")
_GROUP = re.compile(r"\?(:|P?<\w+>)")


class PatternError(ValueError):
    """The pattern uses what is not understood here: lookaround, references, flags."""


def example(pattern: str, random: Random, *, more: int = 2) -> str:
    """A text with a match; what may repeat does so at most `more` times more than it must.

    Raises:
        PatternError: the pattern is not understood.
    """
    reader = _Reader(pattern, random, more)
    text = reader.alternatives()
    if reader.rest:
        raise PatternError(f"{reader.rest[:1]!r} is not understood")
    return text


class _Reader:
    """Writes the text while it reads the pattern."""

    def __init__(self, pattern: str, random: Random, more: int) -> None:
        self.rest = pattern
        self._random = random
        self._more = more

    def _next(self, count: int = 1) -> str:
        taken, self.rest = self.rest[:count], self.rest[count:]
        if not taken:
            raise PatternError("it ends too early")
        return taken

    def alternatives(self) -> str:
        choices = [self._sequence()]
        while self.rest.startswith("|"):
            self._next()
            choices.append(self._sequence())
        return self._random.choice(choices)

    def _sequence(self) -> str:
        said: list[str] = []
        while self.rest and self.rest[0] not in "|)":
            before = self.rest
            atom = self._atom()
            if (repeat := _REPEAT.match(self.rest)) is None:
                said.append(atom)
                continue
            for _ in range(self._times(repeat)):
                # Each time anew, so that `[a-z]{3}` is not three times the same letter.
                self.rest = before
                said.append(self._atom())
            self.rest = before
            self._atom()
            self._next(repeat.end())
            if self.rest[:1] in ("?", "+"):
                self._next()
        return "".join(said)

    def _times(self, repeat: re.Match[str]) -> int:
        sign, least, comma, most = repeat.groups()
        low = int(least or sign == "+")
        high = int(most) if most else 1 if sign == "?" else None if sign or comma else low
        wanted = low + self._random.randint(0, self._more)
        return min(wanted, 1_000) if high is None else min(wanted, high)

    def _atom(self) -> str:
        sign = self._next()
        match sign:
            case "(":
                return self._group()
            case "[":
                return self._random.choice(self._class())
            case "\\":
                return self._random.choice(self._escape() or [""])
            case "^" | "$":
                return ""
            case ".":
                return self._random.choice(_PLAIN)
            case "*" | "+" | "?":
                raise PatternError(f"{sign!r} follows nothing")
            case _:
                return sign

    def _group(self) -> str:
        if self.rest.startswith("?"):
            if (named := _GROUP.match(self.rest)) is None:
                raise PatternError(f"'({self.rest[:2]}' is not understood")
            self._next(named.end())
        said = self.alternatives()
        if self._next() != ")":
            raise PatternError("a group is not closed")
        return said

    def _escape(self) -> list[str]:
        """The characters it stands for; none where it is an anchor."""
        sign = self._next()
        if sign.lower() in _SETS:
            known = _SETS[sign.lower()]
            return list(known) if sign in _SETS else [c for c in _PRINTABLE if c not in known]
        if sign in _EMPTY:
            return []
        if sign in "xu":
            return [chr(int(self._next(2 if sign == "x" else 4), 16))]
        if sign in _CONTROLS:
            return [_CONTROLS[sign]]
        if sign.isalnum():
            raise PatternError(f"'\\{sign}' is not understood")
        return [sign]

    def _class(self) -> list[str]:
        excluded = self.rest.startswith("^")
        if excluded:
            self._next()
        members = self._member()
        while not self.rest.startswith("]"):
            members += self._member()
        self._next()
        chosen = [c for c in _PRINTABLE if c not in members] if excluded else members
        if not chosen:
            raise PatternError("a class of characters has none")
        return chosen

    def _member(self) -> list[str]:
        first = self._class_character()
        if len(first) != 1 or not self.rest.startswith("-") or self.rest[1:2] in ("]", ""):
            return first
        self._next()
        last = self._class_character()
        if len(last) != 1 or last < first:
            raise PatternError("a range of characters is not understood")
        codes = range(ord(first[0]), min(ord(last[0]) + 1, ord(first[0]) + _WIDEST_RANGE))
        return [chr(code) for code in codes]

    def _class_character(self) -> list[str]:
        sign = self._next()
        return self._escape() if sign == "\\" else [sign]
