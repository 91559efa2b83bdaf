# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Which target answers a call, and what happens after one that failed.

A failed attempt is decided on here and nowhere else: providers never try twice.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf, log
from types import MappingProxyType
from typing import TypeAlias

from ..clock import Clock, sleep
from ..contracts import Attempt, Money, Usage
from ..errors import CassetteError, ConfigurationError, LLMError, LLMErrorKind, ScriptError
from .limits import Breaker, Circuit, Deadline, Limiter

logger = logging.getLogger(__name__)

# How much the newest measurement moves a mean.
_NEWEST = 0.2

Random: TypeAlias = Callable[[], float]
"""A number from 0 up to 1, without 1."""


class Decision(StrEnum):
    """What follows a failed attempt."""

    RETRY = "retry"
    """The same target again, and the next one when its retries are used up."""
    NEXT = "next"
    """The next target."""
    RAISE = "raise"


DECISIONS: Mapping[LLMErrorKind, Decision] = MappingProxyType(
    {
        LLMErrorKind.RATE_LIMIT: Decision.RETRY,
        LLMErrorKind.SERVER: Decision.RETRY,
        LLMErrorKind.NETWORK: Decision.RETRY,
        LLMErrorKind.BAD_RESPONSE: Decision.RETRY,
        # It has had its share of the time; a second one would be taken from the next target.
        LLMErrorKind.TIMEOUT: Decision.NEXT,
        LLMErrorKind.AUTHENTICATION: Decision.NEXT,
        LLMErrorKind.CONTEXT_LENGTH: Decision.NEXT,
        # Nothing was spent, and a cheaper target may still fit.
        LLMErrorKind.BUDGET: Decision.NEXT,
        # The caller's mistake: a fallback would hide it, and pay for it with each call.
        LLMErrorKind.BAD_REQUEST: Decision.RAISE,
        # Asking on would be shopping for the laxest filter. An owner may want that; we do not.
        LLMErrorKind.CONTENT_FILTER: Decision.RAISE,
        # The answer was there; only its reader can tell what it was needed for.
        LLMErrorKind.LENGTH: Decision.RAISE,
    }
)

OUTAGES = frozenset(
    {LLMErrorKind.RATE_LIMIT, LLMErrorKind.SERVER, LLMErrorKind.NETWORK, LLMErrorKind.TIMEOUT}
)
"""Errors that say more about the target than about the call."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What is done about which error.

    Retry n waits as long as the server said, or else a random time up to `base_s * 2 ** (n - 1)`.
    Where that is more than `max_wait_s`, or passes the deadline, the next target's turn comes.
    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter (full jitter)

    Args:
        retries: of each target, in one call.
        decisions: `{**DECISIONS, LLMErrorKind.CONTENT_FILTER: Decision.NEXT}`, to change one.
    """

    retries: int = 2
    base_s: float = 0.5
    max_wait_s: float = 30.0
    decisions: Mapping[LLMErrorKind, Decision] = field(default_factory=lambda: DECISIONS)

    def decide(self, error: LLMError) -> Decision:
        if isinstance(error, (ScriptError, CassetteError)):
            return Decision.RAISE  # The test's mistake, which a second try would bury.
        return self.decisions.get(error.kind, Decision.RAISE)

    def wait_s(self, retry: int, error: LLMError, random: Random) -> float:
        """How long to wait before it, infinite if it is not to be made."""
        if retry > self.retries or self.decide(error) is not Decision.RETRY:
            return inf
        if error.retry_after_s is not None:
            return error.retry_after_s if error.retry_after_s <= self.max_wait_s else inf
        return random() * min(self.max_wait_s, self.base_s * 2.0 ** min(retry - 1, 30))


@dataclass(frozen=True, slots=True)
class Target:
    """A model that may answer, and how much of it may be used.

    Args:
        model: `provider/model`.
        weight: its share of the calls under `weighted`.
        requests_per_minute: those of every route of the manager count together.
        tokens_per_minute: input and output; estimated before a call, corrected after it.
        quality: for `best`; any scale, more is better.
        timeout_s: of one attempt: until the whole answer, of a stream until its first chunk. If
            not given, a stream's first chunk has an equal share of the time left, so that a target
            that hangs leaves some to those after it.
    """

    model: str
    weight: float = 1.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    quality: float | None = None
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("weight", "requests_per_minute", "tokens_per_minute", "timeout_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                raise ConfigurationError(f"{name} of target {self.model!r} must be more than 0.")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A target, and what a strategy may want to know of it."""

    target: Target
    estimate: Callable[[], Money | None]
    """What this call may cost there; `None` if its price is unknown."""
    latency_s: float | None
    """The running mean until the answer, or the first chunk of a stream; `None`: not measured."""


Strategy: TypeAlias = Callable[[Sequence[Candidate], Random], Sequence[Candidate]]
"""Puts the candidates into the order in which they are tried. Its name is the recorded reason."""


def in_order(candidates: Sequence[Candidate], random: Random) -> Sequence[Candidate]:
    """As the route lists them."""
    return candidates


def weighted(candidates: Sequence[Candidate], random: Random) -> Sequence[Candidate]:
    """By chance: each comes first as often as its share of the weights.

    Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006
    """
    # In logarithms: of a small weight, the power itself is 0.
    return sorted(candidates, key=lambda one: -log(1 - random()) / one.target.weight)


def cheapest(candidates: Sequence[Candidate], random: Random) -> Sequence[Candidate]:
    """By the estimated cost of this call; what has no known price comes last."""
    costs = [(one.estimate(), one) for one in candidates]
    known = [(cost.amount, one) for cost, one in costs if cost is not None]
    unknown = [one for cost, one in costs if cost is None]
    return [one for _, one in sorted(known, key=lambda pair: pair[0])] + unknown


def fastest(candidates: Sequence[Candidate], random: Random) -> Sequence[Candidate]:
    """By how long they took lately; what was not measured yet comes first, to be measured."""
    return sorted(candidates, key=lambda one: -1.0 if one.latency_s is None else one.latency_s)


def best(candidates: Sequence[Candidate], random: Random) -> Sequence[Candidate]:
    """By `quality`; what has none comes last."""
    return sorted(
        candidates,
        key=lambda one: -inf if one.target.quality is None else one.target.quality,
        reverse=True,
    )


@dataclass(frozen=True, slots=True)
class Route:
    """The targets behind one name, and how they are chosen.

    Args:
        targets: at least one.
        strategy: `in_order`, `weighted`, `cheapest`, `fastest`, `best`, or a function like them.
        retry: what is done about errors.
        restart_streams: whether another try may follow a stream that broke. The reader then gets a
            `StreamReset`, and what it had is void. Without it, such a stream raises its error.
        breaker: when a target is left alone; `None` for never.
    """

    targets: Sequence[Target]
    strategy: Strategy = in_order
    retry: RetryPolicy = RetryPolicy()
    restart_streams: bool = False
    breaker: Breaker | None = Breaker()  # noqa: RUF009  It is frozen.

    def __post_init__(self) -> None:
        if not self.targets:
            raise ConfigurationError("A route needs at least one target.")

    def order(
        self, candidate: Callable[[Target], Candidate], random: Random
    ) -> tuple[Sequence[Target], str]:
        """Whose turn comes when, and why the first one's is first."""
        if len(self.targets) == 1:
            return self.targets, "only target"
        name = getattr(self.strategy, "__name__", type(self.strategy).__name__)
        order = self.strategy([candidate(target) for target in self.targets], random)
        if not order:
            raise ConfigurationError(f"The strategy {name!r} left no target to call.")
        return [one.target for one in order], name.replace("_", " ")


class Latencies:
    """How long each target took lately: a running mean in which the newest counts for a fifth."""

    def __init__(self) -> None:
        self._means_s: dict[tuple[str, bool], float] = {}

    def mean_s(self, target: str, *, stream: bool) -> float | None:
        return self._means_s.get((target, stream))

    def note(self, attempt: Attempt, *, stream: bool) -> None:
        """Who did not answer in time took at least that time; other failures say nothing."""
        newest_s = attempt.time_to_first_chunk_s if stream else None
        if newest_s is None and attempt.error in (None, LLMErrorKind.TIMEOUT):
            newest_s = attempt.duration_s
        if newest_s is not None:
            mean_s = self._means_s.get((attempt.target, stream), newest_s)
            self._means_s[attempt.target, stream] = mean_s + _NEWEST * (newest_s - mean_s)


@dataclass(slots=True)
class Gate:
    """What stands before a target, for all routes that use it alike."""

    limiter: Limiter | None = None
    circuit: Circuit | None = None


@dataclass(slots=True)
class Turn:
    """Permission for one call of a target, to be used at once."""

    target: Target
    gate: Gate
    number: int
    reason: str
    waited_s: float
    left_s: float
    share_s: float
    """Of the time left; what remains is for the targets after it."""
    tokens: int
    """What the limiter was told that the call takes; 0 if it does not count them."""
    trial: bool
    """Whether a circuit lets just this one through."""

    def leave(self) -> None:
        """The call is not made."""
        if self.gate.limiter is not None:
            self.gate.limiter.leave(self.tokens)
        if self.gate.circuit is not None:
            self.gate.circuit.end(trial=self.trial, failed=None)

    def end(self, failure: BaseException | None, usage: Usage | None) -> None:
        """The call was made."""
        if self.gate.limiter is not None and self.tokens and usage is not None:
            self.gate.limiter.correct(usage.input_tokens + usage.output_tokens - self.tokens)
        if self.gate.circuit is not None:
            self.gate.circuit.end(trial=self.trial, failed=_is_outage(failure))


def _is_outage(failure: BaseException | None) -> bool | None:
    """`None` where it says nothing about the target, as that a caller left."""
    if isinstance(failure, LLMError):
        return failure.kind in OUTAGES
    return False if failure is None else None


class Course:
    """One call's way through the targets of its route; `attempts` is how far it got."""

    def __init__(
        self,
        route: Route,
        order: Sequence[tuple[Target, Gate]],
        *,
        reason: str,
        clock: Clock,
        random: Random,
        deadline: Deadline,
        tokens: Callable[[], int],
    ) -> None:
        """`reason` is why the first in the order is the first."""
        self.attempts: list[Attempt] = []
        self.route = route
        self.deadline = deadline
        self._left = deque(order)
        self._reason = reason
        self._clock = clock
        self._random = random
        self._tokens = tokens
        self._now = clock.monotonic()
        self._failures = 0
        self._wait_s = 0.0
        self._error: LLMError | None = None
        self._not_called: list[str] = []

    async def next(self) -> Turn:
        """The next call to make, after the wait that goes before it.

        Raises:
            LLMError: no target is left; the last error, with all `attempts`.
        """
        began = self._now
        if self._wait_s:
            await sleep(self._clock, self._wait_s)
            self._wait_s, self._now = 0.0, self._clock.monotonic()
        while self._left:
            target, gate = self._left[0]
            tokens = self._tokens() if target.tokens_per_minute else 0
            obstacle = await self._pass(target, gate, tokens)
            if obstacle is None:
                return Turn(
                    target=target,
                    gate=gate,
                    number=len(self.attempts) + 1,
                    reason=self._reason,
                    waited_s=self._now - began,
                    left_s=self.deadline.at - self._now,
                    share_s=(self.deadline.at - self._now) / len(self._left),
                    tokens=tokens,
                    trial=gate.circuit is not None and gate.circuit.begin(),
                )
            self._skip(target, obstacle)
        raise self._last_error()

    def fail(self, error: LLMError, *, final: bool = False) -> None:
        """Decide what follows the error; `final`: nothing may."""
        self._error = error
        self._failures += 1
        self._now = self._clock.monotonic()
        policy = self.route.retry
        if final or policy.decide(error) is Decision.RAISE:
            self._left.clear()
            return
        target, gate = self._left[0]
        if error.kind is LLMErrorKind.BUDGET:
            self._not_called.append(f"{target.model} (budget)")
        wait_s = policy.wait_s(self._failures, error, self._random)
        closed = gate.circuit is None or gate.circuit.open_s() is None
        if closed and self._now + wait_s < self.deadline.at:
            self._wait_s = wait_s
            self._reason = f"retry after {error.kind}"
        else:
            self._advance(f"fallback after {error.kind}")

    def _last_error(self) -> LLMError:
        """The last one, which says what was tried if that was more than one thing."""
        error = self._error
        assert error is not None
        error.attempts, error.tried = tuple(self.attempts), ""
        counts = Counter(f"{one.target} ({one.error})" for one in self.attempts if one.error)
        if counts.total() + len(self._not_called) > 1:
            tried = [
                f"{what} {count} times" if count > 1 else what for what, count in counts.items()
            ]
            lists = {"Tried": tried, "Not called": self._not_called}
            said = [f"{what}: {', '.join(which)}." for what, which in lists.items() if which]
            error.tried = " ".join(said)
        return error

    async def _pass(self, target: Target, gate: Gate, tokens: int) -> LLMError | None:
        """Wait until the target may be called; an error says why that will not be in time."""
        obstacle = self._open_circuit(target, gate) or self._too_late(target)
        if obstacle or gate.limiter is None:
            return obstacle
        wait_s = gate.limiter.wait_s(tokens)
        if self._now + wait_s >= self.deadline.at:
            return _at_its_limit(target, wait_s)
        try:
            with self.deadline:
                await gate.limiter.enter(tokens)
        except TimeoutError:
            return _at_its_limit(target, wait_s)
        self._now = self._clock.monotonic()
        if obstacle := self._open_circuit(target, gate):
            gate.limiter.leave(tokens)  # It opened meanwhile.
        return obstacle

    def _open_circuit(self, target: Target, gate: Gate) -> LLMError | None:
        open_s = None if gate.circuit is None else gate.circuit.open_s()
        if open_s is None:
            return None
        return _error(
            target,
            LLMErrorKind.SERVER,
            f"was not called: its last calls failed. It is tried again in {open_s:.3g} s",
            retry_after_s=open_s,
        )

    def _too_late(self, target: Target) -> LLMError | None:
        if self._now < self.deadline.at:
            return None
        return _error(target, LLMErrorKind.TIMEOUT, "was not called: no time was left for it")

    def _skip(self, target: Target, obstacle: LLMError) -> None:
        why = _OBSTACLES[obstacle.kind]
        self._not_called.append(f"{target.model} ({why})")
        # What a target said is worth more than that another one was not asked.
        self._error = self._error or obstacle
        self._advance(f"fallback: {target.model} {why}")

    def _advance(self, reason: str) -> None:
        given_up, _ = self._left.popleft()
        self._failures = 0
        self._reason = reason
        if self._left:
            next_one, _ = self._left[0]
            logger.warning("%s gives way to %s: %s.", given_up.model, next_one.model, reason)


_OBSTACLES = {
    LLMErrorKind.SERVER: "left alone after failures",
    LLMErrorKind.RATE_LIMIT: "at its limit",
    LLMErrorKind.TIMEOUT: "too late",
}


def _at_its_limit(target: Target, wait_s: float) -> LLMError:
    return _error(
        target,
        LLMErrorKind.RATE_LIMIT,
        f"was not called: its limits would let the call wait for {wait_s:.3g} s",
        retry_after_s=wait_s,
    )


def _error(
    target: Target, kind: LLMErrorKind, what: str, *, retry_after_s: float | None = None
) -> LLMError:
    provider, _, model = target.model.partition("/")
    return LLMError(
        f"{target.model} {what}.",
        kind=kind,
        provider=provider,
        model=model or provider,
        retry_after_s=retry_after_s,
    )
