# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""From a conversation's log to the messages of the next model call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..contracts import (
    BlobPart,
    ChatMessage,
    Part,
    TextPart,
    ToolCall,
    ToolResult,
    ToolSpec,
    ToolStatus,
    UriPart,
)
from ..errors import ContextTooLargeError
from ..tokens import estimate_tokens

TokenCounter = Callable[[ChatMessage], int]

_SAID_BY_USERS = (TextPart, BlobPart, UriPart)

NO_RESULT = "No result was recorded: the turn was cancelled or cut off before the tool answered."


def compile_context(
    history: Sequence[ChatMessage],
    *,
    system: str | None,
    budget_tokens: int,
    tools: Sequence[ToolSpec] = (),
    count: TokenCounter = estimate_tokens,
) -> tuple[ChatMessage, ...]:
    """The system prompt and the newest part of the history, as far as the budget reaches.

    The same arguments give the same messages, and compiling the outcome again changes nothing.

    - An assistant message with tool calls and the one tool message with all of their results, in
      call order, are kept or dropped whole. A result without its call is dropped. A call without
      its result gets one of status `cancelled`: every provider takes that, and the model sees
      that the call was made.
    - What is kept begins with a user message if there is one. The newest user message and what
      came last are always kept; if the turn between them does not fit, its oldest steps go.
    - System messages of the history are left out, for `system` is the only one; so are messages
      that providers refuse: of the user without text, of the assistant without text and calls.

    Args:
        history: oldest first, as the store returns it.
        system: the system prompt.
        budget_tokens: for everything that is sent: system prompt, tools and messages.
        tools: what is offered with the call; only counted here.
        count: tokens of one message.

    Raises:
        ContextTooLargeError: the budget is too small even for what is always kept.
    """
    prompt = () if system is None else (ChatMessage.system(system),)
    specs = [ChatMessage.system(tool.model_dump_json()) for tool in tools]
    budget = _Budget(budget_tokens, _total(prompt, count), _total(specs, count))
    units = (_Unit(messages, _total(messages, count)) for messages in _newest_first(history))
    kept = _fitting_window(units, budget)
    return (*prompt, *(message for unit in reversed(kept) for message in unit.messages))


@dataclass(frozen=True, slots=True)
class _Unit:
    """Messages that are kept or dropped together."""

    messages: tuple[ChatMessage, ...]
    tokens: int

    @property
    def is_user(self) -> bool:
        return self.messages[0].role == "user"


@dataclass(frozen=True, slots=True)
class _Budget:
    tokens: int
    system: int
    tools: int

    def check(self, required: int) -> int:
        """What is left for further messages."""
        left = self.tokens - self.system - self.tools - required
        if left < 0:
            needed = self.tokens - left
            raise ContextTooLargeError(
                f"The context needs {needed} tokens: {self.system} for the system prompt, "
                f"{self.tools} for the tools, {required} for the newest messages. The budget is "
                f"{self.tokens}. Raise LLMGINE_CONTEXT_BUDGET_TOKENS if the model takes more, or "
                "shorten what is sent.",
                needed_tokens=needed,
                budget_tokens=self.tokens,
            )
        return left


def _fitting_window(units: Iterator[_Unit], budget: _Budget) -> list[_Unit]:
    """What is kept of the units; these and the result are newest first."""
    turn = _newest_turn(units)
    answers_user = bool(turn) and turn[-1].is_user
    newest, steps = turn[:1], turn[1:]
    user = [steps.pop()] if steps and answers_user else []
    left = budget.check(_tokens(newest + user))
    kept = _fitting(steps, left)
    window = newest + kept + user
    if answers_user and len(kept) == len(steps):
        older = _fitting(units, left - _tokens(kept))
        while older and not older[-1].is_user:
            older.pop()
        window += older
    return window


def _newest_turn(units: Iterator[_Unit]) -> list[_Unit]:
    """The newest units back to the first that is a user message, or all."""
    turn: list[_Unit] = []
    for unit in units:
        turn.append(unit)
        if unit.is_user:
            break
    return turn


def _fitting(units: Iterable[_Unit], left: int) -> list[_Unit]:
    kept: list[_Unit] = []
    for unit in units:
        left -= unit.tokens
        if left < 0:
            break
        kept.append(unit)
    return kept


def _tokens(units: Iterable[_Unit]) -> int:
    return sum(unit.tokens for unit in units)


def _newest_first(history: Sequence[ChatMessage]) -> Iterator[tuple[ChatMessage, ...]]:
    """The history without orphans: each message that calls tools together with its results.

    Goes back only as far as it is asked to, so a long history costs no more than what is kept.
    """
    # By call id, the results whose call is still to come, the earliest last.
    results: dict[str, list[ToolResult]] = {}
    for message in reversed(history):
        kept = _sendable(message)
        if kept is not None and kept.tool_calls:
            yield kept, ChatMessage.tool(*_take_results(kept.tool_calls, results))
        elif kept is not None:
            yield (kept,)
        for result in reversed(message.tool_results):
            results.setdefault(result.call_id, []).append(result)


def _take_results(
    calls: Sequence[ToolCall], results: dict[str, list[ToolResult]]
) -> list[ToolResult]:
    taken = [results[c.id].pop() if results.get(c.id) else _no_result(c) for c in calls]
    # What is left under these ids is nobody's: a call takes its id over from any call before it.
    for call in calls:
        results.pop(call.id, None)
    return taken


def _sendable(message: ChatMessage) -> ChatMessage | None:
    """What of the message a provider accepts from its role; results are placed separately."""
    kept: tuple[Part, ...]
    match message.role:
        case "user":
            kept = tuple(part for part in message.parts if isinstance(part, _SAID_BY_USERS))
        case "assistant" if message.text or message.tool_calls:
            kept = tuple(part for part in message.parts if not isinstance(part, ToolResult))
        case _:
            return None
    if not kept:
        return None
    return (
        message if len(kept) == len(message.parts) else ChatMessage(role=message.role, parts=kept)
    )


def _no_result(call: ToolCall) -> ToolResult:
    return ToolResult(
        call_id=call.id, name=call.name, status=ToolStatus.CANCELLED, content=NO_RESULT
    )


def _total(messages: Iterable[ChatMessage], count: TokenCounter) -> int:
    return sum(count(message) for message in messages)
