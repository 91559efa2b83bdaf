"""One turn, from the prompt to the answer, against a scripted model and the real other parts."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.llmgine.bus import CommandResultEvent, MessageBus
from app.llmgine.context import MemoryStore
from app.llmgine.contracts import (
    BlobPart,
    ChatMessage,
    Chunk,
    FinishReason,
    LLMRequest,
    LLMResponse,
    StreamEnd,
    TextDelta,
    ToolCall,
    ToolStatus,
    Usage,
    accumulate,
)
from app.llmgine.engine import (
    LLMEngine,
    LLMResponseEvent,
    PromptCommand,
    PromptResult,
    TextDiscardedEvent,
    TextStreamedEvent,
    ToolCallEvent,
    ToolResultEvent,
)
from app.llmgine.errors import LLMError, LLMErrorKind, TurnLimitError
from app.llmgine.llm import LLMManager, RetryPolicy, Route, Target
from app.llmgine.messages import Event
from app.llmgine.settings import RuntimeSettings
from app.llmgine.testing import ScriptedProvider
from app.llmgine.tools import ToolManager


class Stage:
    """An engine on a bus, with a model that follows a script."""

    def __init__(self, *steps: object, route: Route | None = None, **settings: object) -> None:
        self.model = ScriptedProvider(steps)
        self.store = MemoryStore()
        self.tools = ToolManager()
        self.bus = MessageBus()
        self.events: list[Event] = []
        engine = LLMEngine(
            bus=self.bus,
            llm=LLMManager(
                {"scripted": lambda: self.model}, models={"route": route} if route else {}
            ),
            tools=self.tools,
            store=self.store,
            settings=RuntimeSettings(model="route" if route else "scripted", **settings),
        )
        self.bus.register_command_handler(PromptCommand, engine.prompt)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Stage"]:
        async with self.bus:
            yield self
        await self.tools.aclose()

    async def ask(self, prompt: str, conversation_id: str = "c1") -> PromptResult:
        async def record(event: Event) -> None:
            self.events.append(event)

        async with self.bus.session() as session:
            session.register_event_handler(Event, record)
            return await session.execute(
                PromptCommand(conversation_id=conversation_id, prompt=prompt)
            )

    async def conversation(self, conversation_id: str = "c1") -> list[tuple[str, str]]:
        return [(m.role, m.text) for m in await self.store.read(conversation_id)]


def call(name: str, call_id: str = "1", **arguments: object) -> ToolCall:
    return ToolCall(id=call_id, name=name, arguments=json.dumps(arguments))


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def test_a_prompt_is_answered_and_both_stand_in_the_conversation():
    async with Stage("Hello!").open() as stage:
        result = await stage.ask("Hi")

        assert (result.text, result.steps, result.conversation_id) == ("Hello!", 1, "c1")
        assert await stage.conversation() == [("user", "Hi"), ("assistant", "Hello!")]


async def test_tools_run_and_their_results_go_back_to_the_model():
    stage = Stage((call("add", "1", a=1, b=2), call("add", "2", a=3, b=4)), "3 and 7.")
    stage.tools.register(add)

    async with stage.open():
        result = await stage.ask("Add them")

    results = stage.model.requests[1].messages[-1].tool_results
    assert [(r.call_id, r.content) for r in results] == [("1", "3"), ("2", "7")]
    assert (result.text, result.steps) == ("3 and 7.", 2)


async def test_the_turn_is_told_in_events_in_order():
    stage = Stage(call("add", a=1, b=2), "It is three.")
    stage.tools.register(add)

    async with stage.open():
        await stage.ask("Add")

    kinds = [type(e) for e in stage.events if not isinstance(e, TextStreamedEvent)]
    assert kinds == [
        LLMResponseEvent,
        ToolCallEvent,
        ToolResultEvent,
        LLMResponseEvent,
        CommandResultEvent,
    ]
    streamed = [e.text for e in stage.events if isinstance(e, TextStreamedEvent)]
    assert "".join(streamed) == "It is three."


async def test_the_model_is_given_the_system_prompt_the_history_and_the_tools():
    stage = Stage("One.", "Two.", system_prompt="Be short.")
    stage.tools.register(add)

    async with stage.open():
        await stage.ask("First")
        await stage.ask("Second")

    request = stage.model.requests[1]
    assert [m.text for m in request.messages] == ["Be short.", "First", "One.", "Second"]
    assert [tool.name for tool in request.tools] == ["add"]
    assert request.conversation_id == "c1"


@pytest.mark.parametrize(
    ("bad_call", "status"),
    [
        (ToolCall(id="1", name="add", arguments='{"a": 1,'), ToolStatus.INVALID_ARGUMENTS),
        (call("add", a=1, b=2, c=3), ToolStatus.INVALID_ARGUMENTS),
        (call("subtract", a=1, b=2), ToolStatus.UNKNOWN_TOOL),
    ],
)
async def test_a_bad_call_is_answered_with_a_result_and_the_turn_goes_on(bad_call, status):
    stage = Stage(bad_call, "Sorry.")
    stage.tools.register(add)

    async with stage.open():
        result = await stage.ask("Add")

    assert stage.model.requests[1].messages[-1].tool_results[0].status is status
    assert result.text == "Sorry."


async def test_usage_is_summed_and_unknown_where_one_call_did_not_say():
    def response(text: str, usage: Usage | None) -> LLMResponse:
        end = StreamEnd(
            id="r",
            model="m",
            provider="scripted",
            finish_reason=FinishReason.STOP,
            usage=usage,
        )
        return accumulate([TextDelta(text=text), end])

    known = Usage(input_tokens=10, output_tokens=2)
    async with Stage(response("a", known), response("b", None)).open() as stage:
        first = await stage.ask("1")
        second = await stage.ask("2")

    assert first.usage == known
    assert second.usage is None
    assert first.cost is None


async def test_a_turn_that_never_stops_calling_tools_ends_with_an_error():
    stage = Stage(*[call("add", str(n), a=n, b=n) for n in range(3)], max_steps=3)
    stage.tools.register(add)

    async with stage.open():
        with pytest.raises(TurnLimitError, match="LLMGINE_MAX_STEPS"):
            await stage.ask("Add for ever")


async def test_a_turn_that_takes_too_long_ends_with_an_error():
    async def hang() -> None:
        """Hang."""
        await asyncio.Event().wait()

    stage = Stage(call("hang"), turn_timeout_s=0.05)
    stage.tools.register(hang)

    async with stage.open():
        with pytest.raises(TurnLimitError, match="LLMGINE_TURN_TIMEOUT_S"):
            await stage.ask("Hang")


async def test_files_and_the_limit_of_an_answer_reach_the_model():
    image = BlobPart(media_type="image/png", data=b"...")
    stage = Stage("A cat.", max_output_tokens=50)

    async with stage.open():
        command = PromptCommand(conversation_id="c1", prompt="What is this?", files=(image,))
        result = await stage.bus.execute(command)

    (asked,) = stage.model.requests
    assert asked.messages[-1] == ChatMessage.user("What is this?", image)
    assert asked.max_output_tokens == 50
    assert [one.error for one in result.attempts] == [None]


async def test_the_calls_of_an_answer_that_was_cut_off_are_not_run():
    cut = LLMResponse(
        id="1",
        model="m",
        provider="scripted",
        message=ChatMessage.assistant("", ToolCall(id="a", name="current_time", arguments="")),
        finish_reason=FinishReason.LENGTH,
    )
    async with Stage(cut, "Shorter.").open() as stage:
        result = await stage.ask("What time is it?")

    (told,) = [event.result for event in stage.events if isinstance(event, ToolResultEvent)]
    assert (told.status, result.text) == (ToolStatus.INVALID_ARGUMENTS, "Shorter.")


async def test_a_failed_call_reaches_the_caller_and_keeps_the_question():
    error = LLMError("No.", kind=LLMErrorKind.BAD_REQUEST, provider="scripted")
    async with Stage(error, "Now.").open() as stage:
        with pytest.raises(LLMError, match="No"):
            await stage.ask("First")
        result = await stage.ask("Second")

        assert result.text == "Now."
        assert (await stage.conversation())[0] == ("user", "First")


CUT = LLMError("Cut.", kind=LLMErrorKind.NETWORK, provider="scripted")
AGAIN = Route(
    [Target("scripted"), Target("scripted/other")],
    retry=RetryPolicy(retries=0),
    restart_streams=True,
)


async def test_what_a_broken_stream_had_said_is_void_where_another_model_answers():
    stage = Stage([TextDelta(text="Once up"), CUT], "Twice.", route=AGAIN)

    async with stage.open():
        result = await stage.ask("Tell me")

    told = [e for e in stage.events if isinstance(e, TextStreamedEvent | TextDiscardedEvent)]
    assert told == [
        TextStreamedEvent(conversation_id="c1", text="Once up"),
        TextDiscardedEvent(conversation_id="c1", reason="fallback after network"),
        TextStreamedEvent(conversation_id="c1", text="Twice."),
    ]
    assert result.text == "Twice."
    assert await stage.conversation() == [("user", "Tell me"), ("assistant", "Twice.")]


async def test_a_turn_that_fails_after_a_restart_keeps_only_what_was_said_last():
    cut_twice = [[TextDelta(text=text), CUT] for text in ("Once up", "Twice ")]
    stage = Stage(*cut_twice, route=AGAIN)

    async with stage.open():
        with pytest.raises(LLMError, match="Cut"):
            await stage.ask("Tell me")

    assert await stage.conversation() == [("user", "Tell me"), ("assistant", "Twice ")]


async def test_the_call_counts_against_the_budget_of_the_commands_user():
    async with Stage("Hello!").open() as stage:
        await stage.bus.execute(PromptCommand(conversation_id="c", prompt="Hi", user_id="ada"))

    assert stage.model.requests[0].user_id == "ada"


class Endless:
    """A model that says a few words and then nothing, until its stream is closed."""

    name = "endless"

    def __init__(self) -> None:
        self.speaking, self.closed = asyncio.Event(), asyncio.Event()

    async def complete(self, request: LLMRequest) -> LLMResponse:
        raise AssertionError("the engine streams")

    async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        try:
            yield TextDelta(text="Once upon ")
            yield TextDelta(text="a time")
            self.speaking.set()
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    async def aclose(self) -> None: ...


async def test_a_cancelled_turn_closes_the_stream_and_keeps_the_partial_answer():
    stage, model = Stage(), Endless()
    stage.model = model  # type: ignore[assignment]

    async with stage.open():
        turn = asyncio.create_task(stage.ask("Tell me a story"))
        await model.speaking.wait()
        turn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await turn

        assert model.closed.is_set()
        assert await stage.conversation() == [
            ("user", "Tell me a story"),
            ("assistant", "Once upon a time"),
        ]


async def test_a_turn_cancelled_inside_a_tool_leaves_a_conversation_that_goes_on():
    entered = asyncio.Event()

    async def hang() -> None:
        """Hang."""
        entered.set()
        await asyncio.Event().wait()

    stage = Stage(call("hang"), "Back again.")
    stage.tools.register(hang)

    async with stage.open():
        turn = asyncio.create_task(stage.ask("Hang"))
        await entered.wait()
        turn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await turn
        result = await stage.ask("Still there?")

    assert result.text == "Back again."
    sent = stage.model.requests[1].messages
    asked = {c.id for m in sent for c in m.tool_calls}
    answered = {r.call_id for m in sent for r in m.tool_results}
    assert asked == answered


async def test_turns_of_one_conversation_wait_for_each_other():
    async with Stage("One.", "Two.").open() as stage:
        await asyncio.gather(stage.ask("First"), stage.ask("Second"))

        roles = [role for role, _ in await stage.conversation()]
        assert roles == ["user", "assistant", "user", "assistant"]
