"""Writes the runtime's price table anew, from the price map inside an installed litellm.

    python scripts/prices.py .../site-packages/litellm/model_prices_and_context_window_backup.json

Only facts are taken over: list prices of chat models that are neither retired nor free, for text
at the standard service tier. A dated snapshot is kept if it costs something else than its model,
even a retired one; the others the runtime finds under the model's name. Look at the diff before
you commit it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PRICES = ROOT / "template" / "src" / "{{ package_name }}" / "llmgine" / "llm" / "prices.json"
VENDORS = {
    "anthropic",
    "deepseek",
    "gemini",
    "groq",
    "mistral",
    "moonshot",
    "openai",
    "xai",
    "zai",
}
# Not plain chat (what they do is not charged by text tokens alone), or not for everyone.
SKIPPED = re.compile(
    r"audio|voxtral|realtime|lyria|omni|tts|robotics|search|research|computer-use|container|cyber"
    r"|daybreak|rosalind|guard|vibe|labs-|multi-agent|experimental|-beta|-exp|learnlm|ft:|-gv2"
    r"|gemma-2|moonshot-v1|mistral/(zai|glm)"
)
SNAPSHOT = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")
FIELDS = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "reasoning": "output_cost_per_reasoning_token",
}
TIER = re.compile(r"input_cost_per_token_above_(\d+)k_tokens$")


def table_of(prices: Mapping[str, Mapping[str, Any]], today: date) -> dict[str, dict[str, Any]]:
    """The entries of our table: USD per million tokens by `vendor/model`, sorted."""
    known = {
        _name(name, facts): (_entry(facts), facts.get("deprecation_date", "9999"))
        for name, facts in prices.items()
        if _is_wanted(name, facts)
    }
    table = {name: entry for name, (entry, end) in known.items() if end > today.isoformat()}
    for name, (entry, _) in known.items():
        model = SNAPSHOT.sub("", name)
        if model != name and model in table:
            table[name] = entry
            if entry == table[model]:
                del table[name]
    return dict(sorted(table.items()))


def _is_wanted(name: str, facts: Mapping[str, Any]) -> bool:
    return (
        facts.get("litellm_provider") in VENDORS
        and facts.get("mode") in {"chat", "responses"}
        and not SKIPPED.search(name)
        and bool(facts.get("input_cost_per_token") and facts.get("output_cost_per_token"))
    )


def _name(name: str, facts: Mapping[str, Any]) -> str:
    vendor = facts["litellm_provider"]
    return f"{vendor}/{name.removeprefix(f'{vendor}/')}"


def _entry(facts: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = _fields(facts, "")
    above = sorted(int(found[1]) for field in facts if (found := TIER.match(field)))
    tiers = [{"above": k * 1000, **_fields(facts, f"_above_{k}k_tokens")} for k in above]
    return {**entry, "tiers": tiers} if tiers else entry


def _fields(facts: Mapping[str, Any], suffix: str) -> dict[str, Decimal]:
    # Zero is what the map has for a price that a vendor does not list.
    found = {
        field: (facts[theirs + suffix] * 1_000_000).normalize()
        for field, theirs in FIELDS.items()
        if facts.get(theirs + suffix)
    }
    if found.get("reasoning") == found.get("output"):
        found.pop("reasoning", None)
    return found


def _version(price_map: Path) -> str:
    found = [path.name for path in price_map.parents[1].glob("litellm-*.dist-info")]
    return found[0].removesuffix(".dist-info").replace("-", " ") if found else "litellm"


def _text(source: str, today: date, table: Mapping[str, dict[str, Any]]) -> str:
    """One line for each model, so that a diff shows what changed."""
    lines = [f"    {json.dumps(name)}: {_json(entry)}" for name, entry in table.items()]
    head = {"source": source, "date": today.isoformat(), "currency": "USD"}
    fields = "".join(
        f"  {json.dumps(name)}: {json.dumps(value)},\n" for name, value in head.items()
    )
    return f'{{\n{fields}  "prices": {{\n' + ",\n".join(lines) + "\n  }\n}\n"


def _json(value: object) -> str:
    """As `json.dumps`, with decimals written out digit for digit."""
    match value:
        case dict():
            return "{" + ", ".join(f'"{key}": {_json(one)}' for key, one in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_json, value)) + "]"
        case Decimal():
            return f"{value:f}"
    return json.dumps(value)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the runtime's price table anew.")
    parser.add_argument("price_map", type=Path, help="the JSON file inside an installed litellm")
    price_map = parser.parse_args().price_map
    prices = json.loads(
        price_map.read_text(encoding="utf-8"), parse_float=Decimal, parse_int=Decimal
    )
    today = datetime.now(UTC).date()
    table = table_of(prices, today)
    source = f"the vendors' list prices as gathered in {price_map.name} of {_version(price_map)}"
    PRICES.write_text(_text(source, today, table), encoding="utf-8", newline="\n")
    print(f"{PRICES.name}: {len(table)} models")


if __name__ == "__main__":
    main()
