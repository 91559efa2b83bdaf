# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""One call of a target under way, and the accounts that are settled when it ends."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from ..contracts import (
    Accumulator,
    Attempt,
    Chunk,
    LLMRequest,
    LLMResponse,
    StreamEnd,
    Usage,
)
from ..errors import LLMError, LLMErrorKind
from .budget import Ledger, Reservation
from .limits import Deadline
from .prices import PriceTable, estimated_usage
from .provider import Provider
from .router import Course, Latencies, Turn
from .telemetry import Record


class Running:
    """A block around the call: it is recorded, counted for its target, and settled in the ledger.

    An error leaves the block as an `LLMError` that says whose it is, or as what it was.
    """

    def __init__(
        self,
        course: Course,
        turn: Turn,
        provider: Provider,
        request: LLMRequest,
        record: Record,
        deadline: Deadline,
        *,
        latencies: Latencies,
        prices: PriceTable | None,
        ledger: Ledger | None,
        place: Reservation | None,
    ) -> None:
        """`deadline` is the course's, or a sooner one for the whole answer or its first chunk."""
        self.provider = provider
        self.request = request
        self.record = record
        self.deadline = deadline
        self.answer = Accumulator()
        self._course = course
        self._turn = turn
        self._latencies = latencies
        self._prices = prices
        self._ledger = ledger
        self._place = place

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failure = self._explained(error)
        self._use(self._course.deadline)
        try:
            self.record.end(failure)
        finally:
            self._turn.end(failure, self._usage)
            attempt = self._made(failure)
            self._course.attempts.append(attempt)
            # Who left early says nothing about the target.
            if failure is None or isinstance(failure, LLMError):
                self._latencies.note(attempt, stream=self.record.stream)
            if self._ledger is not None and self._place is not None:
                await self._settle(self._ledger, self._place, failure)
        if failure is not None and failure is not error:
            raise failure from error

    def passes_on(self, chunk: Chunk, asked_at: float) -> bool:
        """Take the chunk that came; the end is kept for `end`, all others are for the reader."""
        waits_s = self.record.waits_s
        if not waits_s:
            self._use(self._course.deadline)  # The target answers: it has what time the call has.
        self.answer.add(chunk)
        if isinstance(chunk, StreamEnd):
            return False
        waits_s.append(self.record.monotonic() - asked_at)
        return True

    def answer_is(self, response: LLMResponse) -> None:
        cost = response.cost
        if cost is None and response.usage is not None and self._prices is not None:
            cost = self._prices.cost(self._turn.target.model, response.usage)
        self.record.answer(response, cost)

    def result(self) -> LLMResponse:
        """The answer, with what only the manager knows."""
        response = self.record.response
        assert response is not None
        attempts = tuple(self._course.attempts)
        return response.model_copy(update={"attempts": attempts, "cost": self.record.cost})

    def end(self) -> StreamEnd:
        """The last chunk, with what only the manager knows."""
        end = self.answer.end
        assert end is not None
        attempts = tuple(self._course.attempts)
        return end.model_copy(update={"attempts": attempts, "cost": self.record.cost})

    @property
    def _usage(self) -> Usage | None:
        return None if self.record.response is None else self.record.response.usage

    def _use(self, deadline: Deadline) -> None:
        if self.deadline is not deadline:
            self.deadline.close()
            self.deadline = deadline

    def _explained(self, error: BaseException | None) -> BaseException | None:
        """The error with whose it is, and a deadline that passed as an error of the call."""
        if error is None:
            return None
        provider, model = self.provider.name, self.request.model
        if isinstance(error, TimeoutError):
            return LLMError(
                f"{self._turn.target.model} did not answer in time. "
                "Try again, or allow more time: LLMGINE_REQUEST_TIMEOUT_S.",
                kind=LLMErrorKind.TIMEOUT,
                provider=provider,
                model=model,
            )
        if isinstance(error, LLMError) and error.provider == "unknown":
            return LLMError(
                f"{provider}/{model}: {error}", kind=error.kind, provider=provider, model=model
            )
        return error

    def _made(self, failure: BaseException | None) -> Attempt:
        error = failure if isinstance(failure, LLMError) else None
        return Attempt(
            target=self._turn.target.model,
            reason=self._turn.reason,
            error=None if error is None else error.kind,
            status=None if error is None else error.status,
            waited_s=self._turn.waited_s,
            duration_s=self.record.duration_s,
            time_to_first_chunk_s=self.record.time_to_first_chunk_s,
        )

    async def _settle(
        self, ledger: Ledger, place: Reservation, failure: BaseException | None
    ) -> None:
        """Book what the call took: as the provider says, or what its model will have read."""
        response = self.record.response
        if response is not None:
            await ledger.settle(place, response.usage, self.record.cost)
            return
        arrived = self.answer.message
        refused = isinstance(failure, LLMError) and failure.kind is not LLMErrorKind.TIMEOUT
        if refused and not arrived.parts:
            await ledger.release(place)
        elif not self.record.stream:
            # The model may have said all that it was allowed.
            await ledger.settle(place, None, None)
        else:
            usage = estimated_usage(place.request, arrived)
            await ledger.settle(place, usage, None, estimated=True)
