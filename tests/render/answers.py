"""The answer sets that the renders are tested with: every pair of choices occurs in one of them."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "model": {
        "offline": {},
        "openai": {"model": "gpt-5.1"},
        "litellm": {"model": "anthropic/claude-sonnet-4-5"},
    },
    "extras": {
        "bare": {},
        "withlitellm": {"extras": ["litellm"]},
        "withotlp": {"extras": ["otlp"]},
        "withall": {"extras": ["cron", "litellm", "otlp"]},
    },
    "store": {"sqlite": {}, "memory": {"context_store": "memory"}},
    "names": {
        "plain": {},
        "odd": {
            "project_name": """Zoë's "Größe" \\ {{ 7 * 7 }} {% raw %} # <b>: 日本語 🦊 & - [x]""",
            "package_name": "a1_b2",
            "description": "' \" \\n \\ ''' \"\"\" ${HOME} `id` %s {# no #} *bold* | > - : # @ ! €",
        },
    },
    "author": {
        "nobody": {},
        "somebody": {
            "user_name": 'Zoë "Zo" O\'Neill, Jr. <x>',
            "user_email": "zoe+llm@mail.example.org",
        },
    },
}

# The first is the default. Together they hold every pair; `missing_pairs` checks it.
_ROWS = """
offline bare        sqlite plain nobody
offline withlitellm memory plain somebody
offline withotlp    sqlite odd   nobody
offline withall    memory odd   somebody
openai  bare        memory odd   nobody
openai  withlitellm sqlite odd   somebody
openai  withotlp    memory plain nobody
openai  withall    sqlite plain somebody
litellm bare        sqlite plain somebody
litellm withlitellm memory plain nobody
litellm withotlp    sqlite odd   somebody
litellm withall    memory odd   nobody
"""

ROWS = [tuple(row.split()) for row in _ROWS.strip().splitlines()]
DEFAULT = "-".join(ROWS[0])


def _answers(row: tuple[str, ...]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for question, choice in zip(CHOICES, row, strict=True):
        merged |= CHOICES[question][choice]
    return merged


ANSWER_SETS = {"-".join(row): _answers(row) for row in ROWS}

# What is slow is done with these: an odd name, each kind of model, both stores.
FULLY_TESTED = [
    DEFAULT,
    "openai-withotlp-memory-plain-nobody",
    "litellm-withotlp-sqlite-odd-somebody",
]


def missing_pairs() -> set[tuple[str, str]]:
    """The pairs of choices that no answer set has; empty is right."""
    columns = [list(choices) for choices in CHOICES.values()]
    wanted = {pair for a, b in combinations(columns, 2) for pair in product(a, b)}
    return wanted - {pair for row in ROWS for pair in combinations(row, 2)}
