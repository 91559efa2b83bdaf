# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What model calls cost: the prices in `prices.json`, and your own beside them. No network."""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from collections.abc import Collection, Iterator
from decimal import Decimal
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ..contracts import ChatMessage, Contract, LLMRequest, Money, Usage
from ..errors import ConfigurationError
from ..tokens import estimate_tokens

DEFAULT_OUTPUT_TOKENS = 4_096
"""Expected of an answer whose request sets no `max_output_tokens`: more than most answers have."""

# Many ways to the same vendor.
_VENDOR_OF = {"openai-responses": "openai", "openai-sdk": "openai"}
_SNAPSHOT = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")
# At most so many digits that no sum of a call is ever rounded, which `Decimal` does after 28.
Rate = Annotated[Decimal, Field(ge=0, max_digits=14, decimal_places=6)]


class Rates(Contract):
    """USD per million tokens.

    Tokens read from a cache, or written to one, cost `input` where they have no price of their
    own: who lists no discount gives none. So do reasoning tokens, which are `output`.
    """

    input: Rate
    output: Rate
    cache_read: Rate | None = None
    cache_write: Rate | None = None
    reasoning: Rate | None = None


class Tier(Rates):
    """The rates of all tokens of a call with more than `above` input tokens."""

    above: int = Field(gt=0)


class Price(Rates):
    tiers: tuple[Tier, ...] = ()

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        limits = [tier.above for tier in self.tiers]
        if limits != sorted(set(limits)):
            raise ValueError("tiers must stand in the order of `above`, each with another one")
        return self

    def cost(self, usage: Usage) -> Money:
        """Exact. Every token is charged once, although the sums in `usage` include the others."""
        rates = self._rates(usage.input_tokens)
        read, written = usage.cache_read_tokens, usage.cache_write_tokens
        # A server whose details exceed its sums is charged for the details.
        plain = max(usage.input_tokens - read - written, 0)
        said = max(usage.output_tokens - usage.reasoning_tokens, 0)
        millionths = plain * rates.input + said * rates.output
        if read:
            millionths += read * _or(rates.cache_read, rates.input)
        if written:
            millionths += written * _or(rates.cache_write, rates.input)
        if usage.reasoning_tokens:
            millionths += usage.reasoning_tokens * _or(rates.reasoning, rates.output)
        return _money(millionths)

    def highest(self, usage: Usage) -> Money:
        """The cost if each token were of the dearest kind."""
        rates = self._rates(usage.input_tokens)
        read, written = _or(rates.cache_read, rates.input), _or(rates.cache_write, rates.input)
        dearest_input = max(rates.input, read, written)
        dearest_output = max(rates.output, _or(rates.reasoning, rates.output))
        return _money(usage.input_tokens * dearest_input + usage.output_tokens * dearest_output)

    def _rates(self, input_tokens: int) -> Rates:
        passed = [tier for tier in self.tiers if input_tokens > tier.above]
        return passed[-1] if passed else self


_FREE = dict.fromkeys(("offline", "schema", "scripted"), Price(input=Decimal(0), output=Decimal(0)))


class PriceFile(Contract):
    """The shape of `prices.json`, and of your own file, as JSON or TOML."""

    source: str = ""
    date: datetime.date | None = None
    currency: Literal["USD"] = "USD"
    prices: dict[str, Price]


class PriceTable:
    """Finds the price of a target, `provider/model`; one that is not known is `None`, never 0.

    A model is looked up under its vendor's name (`litellm/xai/grok-4.5` as `xai/grok-4.5`,
    `openai-sdk/gpt-5.1` as `openai/gpt-5.1`), a dated snapshot without an entry of its own under
    its model's: `gpt-5.1-2025-11-13` costs what `gpt-5.1` does. Nothing else is guessed.

    These are list prices for text at the vendor's standard tier, without taxes, discounts and
    what tools of theirs cost. Of writing to a cache it is the shortest-lived one's.
    """

    def __init__(self, own: PriceFile | None = None, *, elsewhere: Collection[str] = ()) -> None:
        """Prices of `own` win. See `load` for `elsewhere`."""
        self._own = own.prices if own else {}
        self._elsewhere = frozenset(elsewhere)
        # Targets are few; the same ones are not looked up again and again.
        self._found = lru_cache(maxsize=256)(self._look_up)

    @classmethod
    def load(cls, extra: Path | None = None, *, elsewhere: Collection[str] = ()) -> PriceTable:
        """With the user's own prices, which win over those that come with the runtime.

        Args:
            extra: a TOML or JSON file of the shape of `prices.json`; its names may be targets, as
                in `openai/llama3.3`, or vendors' names.
            elsewhere: vendors (`openai`) whose name stands for another server than their own,
                which has prices of its own: only those in `extra` hold for it.

        Raises:
            ConfigurationError: the file cannot be read, or an entry is wrong.
        """
        return cls(None if extra is None else _read(extra), elsewhere=elsewhere)

    @property
    def source(self) -> str:
        """Where the prices that come with the runtime are from."""
        return _shipped().source

    @property
    def date(self) -> datetime.date | None:
        """When they were true."""
        return _shipped().date

    def price(self, target: str) -> Price | None:
        return self._found(target)

    def _look_up(self, target: str) -> Price | None:
        names = list(_names(target))
        for name in (target, *names):
            if name in self._own:
                return self._own[name]
        provider = target.partition("/")[0]
        if provider in _FREE:
            return _FREE[provider]
        if names[0].partition("/")[0] in self._elsewhere:
            return None
        shipped = _shipped().prices
        return next((shipped[name] for name in names if name in shipped), None)

    def cost(self, target: str, usage: Usage) -> Money | None:
        price = self.price(target)
        return price.cost(usage) if price else None

    def estimate(self, target: str, request: LLMRequest) -> Money | None:
        """What the call may cost: `estimated_usage`, each token at the dearest rate for its side.

        Not a promise. An answer without `max_output_tokens` may be longer, and some input has
        more tokens than it looks; see `estimate_tokens`.
        """
        return self.highest(target, estimated_usage(request))

    def highest(self, target: str, usage: Usage) -> Money | None:
        """The cost of so many tokens, if each were of the dearest kind."""
        price = self.price(target)
        return price.highest(usage) if price else None


def estimated_usage(request: LLMRequest, answer: ChatMessage | None = None) -> Usage:
    """The tokens that a call may take, or, with what has arrived of its `answer`, took so far."""
    offered = [tool.model_dump(mode="json") for tool in request.tools]
    if request.output is not None:
        offered.append(request.output.model_dump(mode="json"))
    shown = ChatMessage.system(json.dumps(offered)) if offered else None
    messages = (*request.messages, shown) if shown else request.messages
    if answer is not None:
        output_tokens = estimate_tokens(answer)
    else:
        output_tokens = request.max_output_tokens or DEFAULT_OUTPUT_TOKENS
    return Usage(input_tokens=sum(map(estimate_tokens, messages)), output_tokens=output_tokens)


def _names(target: str) -> Iterator[str]:
    """What the table may have it under, the exact name first."""
    provider, _, model = target.partition("/")
    name = model if provider == "litellm" else f"{_VENDOR_OF.get(provider, provider)}/{model}"
    yield name
    undated = _SNAPSHOT.sub("", name)
    if undated != name:
        yield undated


def _or(rate: Decimal | None, otherwise: Decimal) -> Decimal:
    return otherwise if rate is None else rate


def _money(millionths: Decimal) -> Money:
    return Money(amount=millionths.scaleb(-6))


@cache
def _shipped() -> PriceFile:
    return _read(Path(__file__).with_name("prices.json"))


def _read(path: Path) -> PriceFile:
    try:
        return PriceFile.model_validate(_parsed(path))
    except OSError as error:
        raise ConfigurationError(
            f"The prices in {path} cannot be read ({error.strerror}). Set LLMGINE_PRICES_FILE to "
            "a file that is there, or leave it out."
        ) from error
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        entry = " ".join(map(str, first["loc"]))
        raise ConfigurationError(
            f"The prices in {path} are wrong. {entry or 'file'}: {first['msg']}. An entry is "
            '`[prices."provider/model"]` with at least `input` and `output`, in USD per million '
            "tokens."
        ) from invalid
    except ValueError as error:
        form = "TOML" if path.suffix == ".toml" else "JSON"
        raise ConfigurationError(f"The prices in {path} are not {form}: {error}.") from error


def _parsed(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return tomllib.loads(text, parse_float=Decimal)
    return json.loads(text, parse_float=Decimal)
