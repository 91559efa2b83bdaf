# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""`budget`: what was spent today, what is reserved, and what caps there are."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, TextIO

from ...application import default_ledger
from ...errors import ConfigurationError
from ...llm.budget import Balance, Balances, Budget, Cap, usd_text
from .entry import Entry
from .render import bold, cells, count, dim, pad, printable, red, shorten, width_columns, yellow

IN_MEMORY = (
    "There is no ledger to read: with LLMGINE_CONTEXT_STORE=memory each process keeps its own, "
    "while it runs. Set it to sqlite."
)
NO_CAPS = (
    "No budget is set. LLMGINE_BUDGET_DAY_USD=5 in the environment or .env, or budget_day_usd = 5 "
    "in config.toml, ends the day at 5 USD. `call`, `session` and `user` in place of `day`, and "
    "`tokens` in place of `usd`, set the other caps."
)
# From this share of a cap on, it is worth a warning.
_NEARLY = Decimal("0.8")


async def show_budget(entry: Entry, *, top: int, as_json: bool) -> None:
    """Print the ledger of today.

    Raises:
        ConfigurationError: it is kept in memory, where no other process sees it.
        StoreError: its file cannot be read.
    """
    settings = entry.settings()
    ledger = default_ledger(settings)
    if ledger.path is None:
        raise ConfigurationError(IN_MEMORY)
    try:
        balances = await ledger.balances(top=top)
    finally:
        await ledger.aclose()
    if as_json:
        print(json.dumps(budget_data(balances, ledger.budget), ensure_ascii=False))
    else:
        width = width_columns() if sys.stdout.isatty() else 10_000
        print("\n".join(budget_lines(balances, ledger.budget, width)))


def budget_lines(balances: Balances, budget: Budget, width: int) -> list[str]:
    """The day, those who spent the most, and the caps, no wider than `width`."""
    today = f"{balances.day} (UTC): {_standing(balances.total)}"
    paint = _paint(balances.total)
    lines = [paint(part, sys.stdout) for part in textwrap.wrap(today, width)]
    groups = {
        "Sessions": balances.sessions,
        "Users": balances.users,
        "Models": balances.models,
    }
    for title, found in groups.items():
        if found:
            lines += ["", bold(title, sys.stdout), *_table(found, width)]
    lines.append("")
    if caps := {scope: cap for scope, cap in budget if cap is not None}:
        told = " · ".join(f"{scope} {_cap(cap)}" for scope, cap in caps.items())
        return lines + [dim(part, sys.stdout) for part in textwrap.wrap(f"Caps: {told}", width)]
    return lines + [dim(part, sys.stdout) for part in textwrap.wrap(NO_CAPS, width)]


def _table(found: Sequence[Balance], width: int) -> list[str]:
    """A line for each; in a window too narrow for that, the name with its figures below it."""
    rows = [(printable(one.key), _standing(one), _paint(one)) for one in found]
    first = max(cells(name) for name, _, _ in rows)
    if all(first + 2 + cells(standing) <= width for _, standing, _ in rows):
        return [
            f"{pad(name, first)}  {paint(standing, sys.stdout)}" for name, standing, paint in rows
        ]
    lines: list[str] = []
    for name, standing, paint in rows:
        lines.append(shorten(name, width))
        lines += ["  " + paint(part, sys.stdout) for part in textwrap.wrap(standing, width - 2)]
    return lines


def _standing(one: Balance) -> str:
    """`3.20 USD of 5.00 USD, 0.10 USD reserved by 1 open call, …`: what is zero is left out."""
    usd = usd_text(one.spent_usd)
    tokens = f"{one.spent_tokens:,} tokens"
    if one.cap is not None and one.cap.usd is not None:
        usd += f" of {usd_text(one.cap.usd)}"
    if one.cap is not None and one.cap.tokens is not None:
        tokens = f"{one.spent_tokens:,} of {one.cap.tokens:,} tokens"
    parts = [usd]
    if one.open_calls:
        reserved = f"{usd_text(one.reserved_usd)} and {one.reserved_tokens:,} tokens"
        parts.append(f"{reserved} reserved by {count(one.open_calls, 'open call')}")
    if one.estimated_usd:
        parts.append(f"{one.estimated_usd / one.spent_usd:.0%} estimated")
    parts += [tokens, count(one.calls, "call")]
    if one.unpriced:
        parts.append(f"{one.unpriced:,} of unknown price")
    return ", ".join(parts)


def _cap(cap: Cap) -> str:
    usd = [] if cap.usd is None else [usd_text(cap.usd)]
    tokens = [] if cap.tokens is None else [f"{cap.tokens:,} tokens"]
    return " and ".join([*usd, *tokens])


def _paint(one: Balance) -> Callable[[str, TextIO], str]:
    """By how much of the nearest cap is gone, what is reserved included."""
    cap = one.cap or Cap()
    gone = [
        (one.spent_usd + one.reserved_usd, cap.usd),
        (Decimal(one.spent_tokens + one.reserved_tokens), cap.tokens),
    ]
    if any(limit is not None and used >= limit for used, limit in gone):
        return red
    if any(limit is not None and used >= _NEARLY * limit for used, limit in gone):
        return yellow
    return lambda text, stream: text


def budget_data(balances: Balances, budget: Budget) -> dict[str, Any]:
    """The same for programs; amounts are text, for they are exact."""
    return {
        "date": balances.day.isoformat(),
        "caps": budget.model_dump(mode="json", exclude_none=True),
        "day": _data(balances.total),
        "sessions": [{"session": one.key, **_data(one)} for one in balances.sessions],
        "users": [{"user": one.key, **_data(one)} for one in balances.users],
        "models": [{"model": one.key, **_data(one)} for one in balances.models],
    }


def _data(one: Balance) -> dict[str, Any]:
    return {
        "calls": one.calls,
        "spent_usd": _plain(one.spent_usd),
        "spent_tokens": one.spent_tokens,
        "estimated_usd": _plain(one.estimated_usd),
        "calls_of_unknown_price": one.unpriced,
        "open_calls": one.open_calls,
        "reserved_usd": _plain(one.reserved_usd),
        "reserved_tokens": one.reserved_tokens,
    }


def _plain(amount: Decimal) -> str:
    """All of its digits, without zeros at the end."""
    return f"{amount.normalize():f}"
