"""The price table: what a call costs, exactly, and what nobody knows."""

import json
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.application import default_prices
from app.llmgine.contracts import (
    ChatMessage,
    LLMRequest,
    Money,
    OutputSpec,
    ToolSpec,
    Usage,
)
from app.llmgine.errors import ConfigurationError
from app.llmgine.llm.prices import (
    DEFAULT_OUTPUT_TOKENS,
    Price,
    PriceFile,
    PriceTable,
    Tier,
    estimated_usage,
)
from app.llmgine.settings import RuntimeSettings
from prices import table_of

RUNTIME = Path(__file__).parents[2] / "app" / "llmgine"
SHIPPED = RUNTIME / "llm" / "prices.json"
KINDS = ("plain", "read", "written", "said", "thought")
counts = st.integers(0, 10**9)
rates = st.decimals(0, 1000, places=4)


@st.composite
def flat_prices(draw: st.DrawFn) -> Price:
    optional = st.none() | rates
    return Price(
        input=draw(rates),
        output=draw(rates),
        cache_read=draw(optional),
        cache_write=draw(optional),
        reasoning=draw(optional),
    )


@st.composite
def tiered_prices(draw: st.DrawFn) -> Price:
    """Each tier as dear as the one before or dearer, as all that are known are."""
    price = draw(flat_prices())
    factor, tiers = Decimal(1), []
    for above in sorted(draw(st.sets(st.integers(1, 10**6), max_size=3))):
        factor *= draw(st.integers(1, 4))
        fields = price.model_dump(exclude={"tiers"}, exclude_none=True)
        tiers.append(Tier(above=above, **{name: rate * factor for name, rate in fields.items()}))
    return price.model_copy(update={"tiers": tuple(tiers)})


def used(plain: int, read: int, written: int, said: int, thought: int) -> Usage:
    return Usage(
        input_tokens=plain + read + written,
        output_tokens=said + thought,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=thought,
    )


usages = st.builds(used, counts, counts, counts, counts, counts)


def request(text: str = "Hello", **fields: object) -> LLMRequest:
    return LLMRequest.model_validate(
        {"model": "m", "messages": (ChatMessage.user(text),), **fields}
    )


@given(flat_prices(), usages, usages)
def test_two_calls_cost_what_their_sum_does(price: Price, one: Usage, other: Usage) -> None:
    assert price.cost(one) + price.cost(other) == price.cost(one + other)


@given(tiered_prices(), st.tuples(*[counts] * 5), st.sampled_from(range(5)), counts)
def test_more_tokens_of_any_kind_never_cost_less(
    price: Price, tokens: tuple[int, ...], kind: int, more: int
) -> None:
    added = [number + (more if index == kind else 0) for index, number in enumerate(tokens)]

    assert 0 <= price.cost(used(*tokens)).amount <= price.cost(used(*added)).amount


@given(tiered_prices(), usages)
def test_no_mix_of_kinds_costs_more_than_the_estimate(price: Price, usage: Usage) -> None:
    assert price.cost(usage).amount <= price.highest(usage).amount


@given(tiered_prices(), st.builds(Usage, **dict.fromkeys(Usage.model_fields, counts)))
def test_a_usage_that_contradicts_itself_never_costs_less_than_nothing(
    price: Price, usage: Usage
) -> None:
    assert price.cost(usage).amount >= 0


def test_every_token_is_charged_once_at_its_own_rate() -> None:
    price = Price(
        input=Decimal(3),
        output=Decimal(15),
        cache_read=Decimal("0.3"),
        cache_write=Decimal("3.75"),
        reasoning=Decimal(20),
    )

    cost = price.cost(used(plain=1_000, read=8_000, written=2_000, said=300, thought=200))

    assert cost == Money(
        amount=Decimal("0.0030")
        + Decimal("0.0024")
        + Decimal("0.0075")
        + Decimal("0.0045")
        + Decimal("0.0040")
    )


def test_cached_tokens_without_a_rate_cost_what_input_does_and_reasoning_what_output_does() -> None:
    price = Price(input=Decimal(2), output=Decimal(8))

    assert price.cost(used(0, 500_000, 500_000, 0, 1_000_000)) == Money(amount=Decimal(10))


def test_a_tier_holds_for_all_tokens_of_a_call_that_passes_it() -> None:
    price = Price(
        input=Decimal(1),
        output=Decimal(2),
        tiers=(Tier(above=200_000, input=Decimal(10), output=Decimal(20)),),
    )

    at, above = (price.cost(used(n, 0, 0, 1_000_000, 0)).amount for n in (200_000, 200_001))

    assert (at, above) == (Decimal("2.2"), Decimal("22.00001"))


@pytest.mark.parametrize(
    ("target", "same_as"),
    [
        ("openai/gpt-5.1", "openai/gpt-5.1"),
        ("openai-responses/gpt-5.1", "openai/gpt-5.1"),
        ("openai-sdk/gpt-5.1", "openai/gpt-5.1"),
        ("litellm/openai/gpt-5.1", "openai/gpt-5.1"),
        ("openai/gpt-5.1-2025-11-13", "openai/gpt-5.1"),
        ("litellm/anthropic/claude-haiku-4-5-20251001", "anthropic/claude-haiku-4-5"),
        ("litellm/groq/openai/gpt-oss-20b", "groq/openai/gpt-oss-20b"),
    ],
)
def test_a_model_has_its_vendors_price_whichever_way_it_is_reached(
    target: str, same_as: str
) -> None:
    shipped = PriceFile.model_validate_json(SHIPPED.read_text())

    assert PriceTable.load().price(target) == shipped.prices[same_as]


@pytest.mark.parametrize(
    "target",
    [
        "openai/gpt-5.1-mini",
        "openai/gpt-5.1-2025",
        "openai/gpt-5.1-2025-11-13-mini",
        "openai/GPT-5.1",
        "openai/ft:gpt-4o-2024-08-06:me::1",
        "groq/gpt-5.1",
        "litellm/azure/gpt-5.1",
        "gpt-5.1",
        "openai/",
        "",
    ],
)
def test_a_model_that_only_looks_like_a_known_one_has_no_price(target: str) -> None:
    table = PriceTable.load()

    assert table.price(target) is None
    assert table.cost(target, used(1, 0, 0, 1, 0)) is None
    assert table.estimate(target, request()) is None


def test_a_snapshot_with_a_price_of_its_own_keeps_it() -> None:
    table = PriceTable.load()

    assert table.price("openai/gpt-4o-2024-05-13") != table.price("openai/gpt-4o-2024-08-06")


@pytest.mark.parametrize("target", ["offline/offline", "schema/any", "scripted/any"])
def test_what_runs_in_the_process_costs_nothing_which_is_known(target: str) -> None:
    assert PriceTable.load().cost(target, used(5, 0, 0, 5, 0)) == Money(amount=Decimal(0))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prices.toml", '[prices."openai/gpt-5.1"]\ninput = 0.1\noutput = 0.2'),
        ("prices.json", '{"prices": {"openai/gpt-5.1": {"input": 0.1, "output": 0.2}}}'),
    ],
)
def test_the_users_own_prices_win_and_are_exact(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)

    table = PriceTable.load(tmp_path / name)

    mine = Price(input=Decimal("0.1"), output=Decimal("0.2"))
    assert table.price("openai/gpt-5.1") == mine
    assert table.price("openai-sdk/gpt-5.1-2025-11-13") == mine
    assert table.price("openai/gpt-5.2") == PriceTable.load().price("openai/gpt-5.2")


def test_the_users_file_can_price_one_way_to_a_model_alone(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[prices."openai-sdk/gpt-5.1"]\ninput = 9\noutput = 9')

    table = PriceTable.load(tmp_path / "p.toml")

    assert table.price("openai-sdk/gpt-5.1") == Price(input=Decimal(9), output=Decimal(9))
    assert table.price("openai/gpt-5.1") == PriceTable.load().price("openai/gpt-5.1")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("p.toml", '[prices."a/b"]\ninput = -1\noutput = 1', "prices a/b input: "),
        ("p.toml", '[prices."a/b"]\ninput = 1', "prices a/b output: Field required"),
        ("p.json", '{"prices": {"a/b": {"input": 1, "output": 1, "cached": 1}}}', "a/b cached: "),
        ("p.json", '{"prices": {}, "currency": "EUR"}', "currency: Input should be 'USD'"),
        ("p.json", "[]", "file: "),
        ("p.json", "{", "are not JSON: "),
        ("p.toml", "{", "are not TOML: "),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_entry(
    tmp_path: Path, name: str, text: str, told: str
) -> None:
    (tmp_path / name).write_text(text)

    with pytest.raises(ConfigurationError) as raised:
        PriceTable.load(tmp_path / name)

    assert str(tmp_path / name) in str(raised.value)
    assert told in str(raised.value)


def test_a_file_that_is_not_there_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no\.toml cannot be read .*LLMGINE_PRICES_FILE"):
        PriceTable.load(tmp_path / "no.toml")


def test_tiers_out_of_order_are_refused(tmp_path: Path) -> None:
    tiers = [{"above": above, "input": 1, "output": 1} for above in (2, 1)]
    entry = {"input": 1, "output": 1, "tiers": tiers}
    (tmp_path / "p.json").write_text(json.dumps({"prices": {"a/b": entry}}))

    with pytest.raises(ConfigurationError, match=r"prices a/b: .*order of `above`"):
        PriceTable.load(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("base_url", "known"),
    [
        (None, True),
        ("https://api.openai.com/v1", True),
        ("https://API.openai.com:443/v1/", True),
        ("http://127.0.0.1:11434/v1", False),
        ("https://openrouter.ai/api/v1", False),
        ("https://api.openai.com.example/v1", False),
        ("http://[", False),
    ],
)
def test_openais_prices_hold_at_openai_only(base_url: str | None, known: bool) -> None:
    table = default_prices(RuntimeSettings(openai_base_url=base_url))

    for provider in ("openai", "openai-responses", "openai-sdk", "litellm/openai"):
        assert (table.price(f"{provider}/gpt-5.1") is not None) == known
    assert table.price("anthropic/claude-haiku-4-5") is not None


def test_anthropics_prices_hold_at_anthropic_only() -> None:
    table = default_prices(RuntimeSettings(anthropic_base_url="http://localhost:1/v1"))

    assert table.price("anthropic/claude-haiku-4-5") is None
    assert table.price("openai/gpt-5.1") is not None


def test_the_users_prices_hold_at_a_server_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[prices."openai/llama3.3"]\ninput = 0\noutput = 0')

    table = default_prices(
        RuntimeSettings(openai_base_url="http://localhost/v1", prices_file=tmp_path / "p.toml")
    )

    assert table.cost("openai/llama3.3", used(9, 0, 0, 9, 0)) == Money(amount=Decimal(0))
    assert table.price("openai/gpt-5.1") is None


def test_the_estimate_counts_all_that_is_sent_and_the_longest_answer() -> None:
    tool = ToolSpec(name="t", description="d" * 400, parameters={})
    output = OutputSpec(name="o", parameters={"description": "d" * 400})
    bare = estimated_usage(request())

    assert bare.output_tokens == DEFAULT_OUTPUT_TOKENS
    assert estimated_usage(request(max_output_tokens=7)).output_tokens == 7
    assert estimated_usage(request("Hello" * 100)).input_tokens >= bare.input_tokens + 100
    assert estimated_usage(request(tools=(tool,))).input_tokens >= bare.input_tokens + 100
    assert estimated_usage(request(output=output)).input_tokens >= bare.input_tokens + 100


def test_what_arrived_of_a_cut_answer_is_counted_instead_of_the_longest() -> None:
    cut = estimated_usage(request(), ChatMessage.assistant("x" * 40))

    assert 10 <= cut.output_tokens < 20
    assert cut.input_tokens == estimated_usage(request()).input_tokens


def test_the_table_says_where_its_prices_are_from_and_when_they_were_true() -> None:
    table = PriceTable.load()

    assert "list prices" in table.source
    assert table.date is not None
    assert date(2026, 1, 1) < table.date


def _entries(price: Price) -> list[Price | Tier]:
    return [price, *price.tiers]


@pytest.mark.parametrize(
    "holds",
    [
        lambda price: all(one.input > 0 and one.output > 0 for one in _entries(price)),
        lambda price: all((one.cache_read or 0) <= one.input for one in _entries(price)),
        lambda price: all(
            before.input <= tier.input and before.output <= tier.output
            for before, tier in zip(_entries(price), price.tiers, strict=False)
        ),
    ],
    ids=["nothing is free", "a cached token costs no more than another", "tiers ascend"],
)
def test_every_shipped_price_is_plausible(holds: Callable[[Price], bool]) -> None:
    shipped = PriceFile.model_validate_json(SHIPPED.read_text()).prices

    assert [name for name, price in shipped.items() if not holds(price)] == []


def test_the_shipped_file_is_sorted_small_and_has_a_line_for_each_model() -> None:
    text = SHIPPED.read_text()
    names = list(json.loads(text)["prices"])

    assert names == sorted(names)
    assert 80 <= len(names) <= 160
    assert len(text) < 20_000
    assert [line.split('"')[1] for line in text.splitlines() if line.startswith('    "')] == names


def test_the_script_takes_current_list_prices_and_leaves_out_what_the_lookup_finds() -> None:
    def facts(**fields: object) -> dict[str, object]:
        per_token = {"input_cost_per_token": Decimal("1e-6"), "output_cost_per_token": Decimal(1)}
        return {"litellm_provider": "openai", "mode": "chat", **per_token, **fields}

    price_map = {
        "b": facts(cache_read_input_token_cost=Decimal("2.5e-8"), max_tokens=1),
        "b-2026-01-01": facts(cache_read_input_token_cost=Decimal("2.5e-8")),
        "b-2025-01-01": facts(deprecation_date="2026-01-01"),
        "a": facts(
            cache_creation_input_token_cost=Decimal(0),
            output_cost_per_reasoning_token=Decimal(1),
            input_cost_per_token_above_200k_tokens=Decimal("2e-6"),
            output_cost_per_token_above_200k_tokens=Decimal(2),
            input_cost_per_token_above_200k_tokens_batches=Decimal(9),
        ),
        "retired": facts(deprecation_date="2026-01-01"),
        "free": facts(input_cost_per_token=Decimal(0)),
        "b-audio-preview": facts(),
        "embedder": facts(mode="embedding"),
        "azure/b": facts(litellm_provider="azure"),
        "xai/c": facts(litellm_provider="xai"),
    }

    table = table_of(price_map, date(2026, 5, 4))

    million = Decimal(10**6)
    flat = {"input": 1, "output": million}
    assert list(table) == ["openai/a", "openai/b", "openai/b-2025-01-01", "xai/c"]
    assert table["openai/b"] == {**flat, "cache_read": Decimal("0.025")}
    tier = {"above": 200_000, "input": 2, "output": 2 * million}
    assert table["openai/a"] == {**flat, "tiers": [tier]}
    assert table["openai/b-2025-01-01"] == flat
