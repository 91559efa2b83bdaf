# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""One turn of a conversation: from the prompt to the answer, with as many tools as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from .bus import MessageBus
from .context import ContextStore, compile_context
from .contracts import (
    Accumulator,
    Attempt,
    BlobPart,
    ChatMessage,
    Chunk,
    Contract,
    FinishReason,
    LLMRequest,
    LLMResponse,
    Money,
    StreamReset,
    TextDelta,
    ToolCall,
    ToolResult,
    ToolStatus,
    UriPart,
    Usage,
)
from .errors import TurnLimitError
from .llm import LLMManager
from .messages import Command, Event
from .observability import Observer, semconv
from .tools import ToolManager

if TYPE_CHECKING:
    from .settings import RuntimeSettings

_Sum = TypeVar("_Sum", Usage, Money)


class PromptResult(Contract):
    """The answer of a turn. `usage` and `cost` are `None` where a model call did not say.

    `attempts` are those of all its model calls, in order; the last one gave the answer.
    """

    conversation_id: str
    text: str
    finish_reason: FinishReason
    steps: int
    usage: Usage | None = None
    cost: Money | None = None
    attempts: tuple[Attempt, ...] = ()
    trace_id: str | None = None


class PromptCommand(Command[PromptResult]):
    """Take one turn: the user says `prompt` in the conversation, and shows the `files`."""

    conversation_id: str
    prompt: str
    files: tuple[BlobPart | UriPart, ...] = ()
    user_id: str | None = None
    """Whose budget it counts against."""


class TextStreamedEvent(Event):
    """The model said a few more characters of its answer."""

    logged = True

    conversation_id: str
    text: str


class TextDiscardedEvent(Event):
    """What the model call had streamed is void; the text that follows takes its place."""

    logged = True

    conversation_id: str
    reason: str


class LLMResponseEvent(Event):
    """A model call returned."""

    logged = True

    conversation_id: str
    response: LLMResponse


class ToolCallEvent(Event):
    """The model asked for a tool; it runs next."""

    logged = True

    conversation_id: str
    call: ToolCall


class ToolResultEvent(Event):
    """A tool call ended, one way or the other."""

    logged = True

    conversation_id: str
    result: ToolResult


class LLMEngine:
    """Takes turns. Whatever happens in one stands in the context store before it is acted on."""

    def __init__(
        self,
        *,
        bus: MessageBus,
        llm: LLMManager,
        tools: ToolManager,
        store: ContextStore,
        settings: RuntimeSettings,
        observer: Observer | None = None,
    ) -> None:
        self._bus = bus
        self._llm = llm
        self._tools = tools
        self._store = store
        self._settings = settings
        self._observer = observer or Observer()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def prompt(self, command: PromptCommand) -> PromptResult:
        """Take the turn; turns of one conversation wait for each other.

        A cancelled or failed turn keeps what the model had said so far.

        Raises:
            LLMError: a model call failed.
            TurnLimitError: the turn used up its steps or its time.
            ContextError: the conversation cannot be read, written or made to fit.
        """
        conversation_id = command.conversation_id
        attributes = {
            semconv.OPERATION_NAME: semconv.INVOKE_AGENT,
            semconv.CONVERSATION_ID: conversation_id,
        }
        lock = self._turns.setdefault(conversation_id, asyncio.Lock())
        with self._observer.span(semconv.agent_span(), attributes=attributes):
            limit = asyncio.timeout(self._settings.turn_timeout_s)
            try:
                async with limit, lock:
                    return await self._take_turn(command)
            except TimeoutError as timeout:
                if not limit.expired():
                    raise
                raise TurnLimitError(
                    f"The turn took longer than {self._settings.turn_timeout_s:g} s. "
                    "Raise LLMGINE_TURN_TIMEOUT_S, or ask for less."
                ) from timeout

    async def _take_turn(self, command: PromptCommand) -> PromptResult:
        turn = _Turn(self._store, command.conversation_id, command.user_id)
        await turn.begin(ChatMessage.user(command.prompt, *command.files))
        for step in range(1, self._settings.max_steps + 1):
            response = await self._call_model(turn)
            if not response.tool_calls:
                return turn.result(response, steps=step, trace_id=self._trace_id())
            await self._run_tools(turn, response)
        raise TurnLimitError(
            f"No answer after {self._settings.max_steps} model calls: the last one asked for a "
            "tool again. Raise LLMGINE_MAX_STEPS, or ask for less."
        )

    def _trace_id(self) -> str | None:
        traceparent = self._observer.traceparent()
        return traceparent.split("-")[1] if traceparent else None

    async def _call_model(self, turn: _Turn) -> LLMResponse:
        specs = self._tools.specs()
        request = LLMRequest(
            model=self._settings.model,
            messages=compile_context(
                turn.history,
                system=self._settings.system_prompt,
                budget_tokens=self._settings.context_budget_tokens,
                tools=specs,
            ),
            tools=specs,
            max_output_tokens=self._settings.max_output_tokens,
            timeout_s=self._settings.request_timeout_s,
            conversation_id=turn.conversation_id,
            user_id=turn.user_id,
        )
        async with self._keeping_partial_answer(turn) as answer:
            async with aclosing(self._llm.stream(request)) as chunks:
                async for chunk in chunks:
                    answer.add(chunk)
                    if event := _shown(chunk, turn.conversation_id):
                        await self._tell(event, turn)
            response = answer.response()
        await turn.append(response.message)
        turn.count(response)
        await self._tell(
            LLMResponseEvent(conversation_id=turn.conversation_id, response=response), turn
        )
        return response

    @asynccontextmanager
    async def _keeping_partial_answer(self, turn: _Turn) -> AsyncIterator[Accumulator]:
        answer = Accumulator()
        try:
            yield answer
        except BaseException:
            # Calls that had not arrived whole are left out: nobody will answer them.
            if said := answer.message.text:
                await asyncio.shield(turn.append(ChatMessage.assistant(said)))
            raise

    async def _run_tools(self, turn: _Turn, response: LLMResponse) -> None:
        calls = response.tool_calls
        for call in calls:
            await self._tell(ToolCallEvent(conversation_id=turn.conversation_id, call=call), turn)
        if response.finish_reason is FinishReason.LENGTH:
            results = tuple(map(_not_run, calls))
        else:
            results = await self._tools.execute(calls)
        await turn.append(ChatMessage.tool(*results))
        for result in results:
            await self._tell(
                ToolResultEvent(conversation_id=turn.conversation_id, result=result), turn
            )

    async def _tell(self, event: Event, turn: _Turn) -> None:
        await self._bus.publish(event, key=turn.conversation_id)


def _not_run(call: ToolCall) -> ToolResult:
    """What the model is told of a call of an answer that was cut off: its arguments may be, too."""
    return ToolResult(
        call_id=call.id,
        name=call.name,
        status=ToolStatus.INVALID_ARGUMENTS,
        content="Not run: the answer was cut off at its limit of output tokens. Say less at once.",
    )


def _shown(chunk: Chunk, conversation_id: str) -> Event | None:
    """What those who watch are told of it."""
    match chunk:
        case TextDelta():
            return TextStreamedEvent(conversation_id=conversation_id, text=chunk.text)
        case StreamReset():
            return TextDiscardedEvent(conversation_id=conversation_id, reason=chunk.reason)
        case _:
            return None


class _Turn:
    """The conversation as this turn sees it, and what the turn has used so far."""

    def __init__(self, store: ContextStore, conversation_id: str, user_id: str | None) -> None:
        self.conversation_id = conversation_id
        self.user_id = user_id
        self.history: list[ChatMessage] = []
        self._store = store
        self._seq = 0
        self._usages: list[Usage | None] = []
        self._costs: list[Money | None] = []
        self._attempts: list[Attempt] = []

    async def begin(self, message: ChatMessage) -> None:
        self._seq = await self._store.last_seq(self.conversation_id)
        self.history = list(await self._store.read(self.conversation_id))
        await self.append(message)

    async def append(self, message: ChatMessage) -> None:
        self._seq = await self._store.append(
            self.conversation_id, [message], expected_seq=self._seq
        )
        self.history.append(message)

    def count(self, response: LLMResponse) -> None:
        self._usages.append(response.usage)
        self._costs.append(response.cost)
        self._attempts += response.attempts

    def result(self, response: LLMResponse, *, steps: int, trace_id: str | None) -> PromptResult:
        return PromptResult(
            conversation_id=self.conversation_id,
            text=response.text,
            finish_reason=response.finish_reason,
            steps=steps,
            usage=_total(self._usages),
            cost=_total(self._costs),
            attempts=tuple(self._attempts),
            trace_id=trace_id,
        )


def _total(parts: list[_Sum | None]) -> _Sum | None:
    """The sum, or `None` where one part is unknown: an unknown share is not zero."""
    total = parts[0]
    for part in parts[1:]:
        total = None if total is None or part is None else total + part
    return total
