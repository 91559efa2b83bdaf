"""One turn, shown while it happens."""

import dataclasses
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from app.llmgine.application import Application
from app.llmgine.bus import MessageBus
from app.llmgine.contracts import (
    Attempt,
    FinishReason,
    TextPart,
    ToolCall,
    ToolResult,
    ToolStatus,
)
from app.llmgine.engine import PromptResult, TextStreamedEvent, ToolCallEvent
from app.llmgine.errors import LLMErrorKind
from app.llmgine.interfaces.cli.ask import Happening, TextView, status_line, take_turn
from app.llmgine.messages import Command
from app.llmgine.settings import RuntimeSettings

from . import sample

CALL = ToolCall(id="1", name="add", arguments='{"first": 1, "text": "é"}')


class Count(Command[PromptResult]):
    """Tell the numbers below `words`, then fail."""

    words: int


class Shown:
    """Keeps what is shown, and fails when it is full."""

    def __init__(self, most: int = 10_000) -> None:
        self.happened: list[Happening] = []
        self._most = most

    def show(self, happening: Happening) -> None:
        if len(self.happened) == self._most:
            raise BrokenPipeError
        self.happened.append(happening)

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.happened if isinstance(part, TextPart))


@pytest.fixture
async def app(tmp_path: Path, logging_restored: None) -> AsyncIterator[Application]:
    settings = RuntimeSettings(
        context_store="memory", data_dir=tmp_path, log_dir=tmp_path, model="echo"
    )
    built = sample.bootstrap(settings)
    built.bus.register_command_handler(Count, _counter(built.bus))
    async with built:
        yield dataclasses.replace(built, ask=lambda prompt, _: Count(words=int(prompt)))


def _counter(bus: MessageBus) -> Callable[[Count], Awaitable[PromptResult]]:
    async def count(command: Count) -> PromptResult:
        for number in range(command.words):
            await bus.publish(TextStreamedEvent(conversation_id="c", text=f"{number} "))
            if number == 2:
                await bus.publish(ToolCallEvent(conversation_id="c", call=CALL))
        raise ValueError("done")

    return count


async def test_all_that_was_said_before_a_failure_is_shown(app: Application) -> None:
    shown = Shown()

    with pytest.raises(ValueError, match="done"):
        await take_turn(app, "100", "c", shown)

    assert shown.text.split() == [str(number) for number in range(100)]


async def test_text_and_tool_calls_are_shown_in_the_order_in_which_they_came(
    app: Application,
) -> None:
    shown = Shown()

    with pytest.raises(ValueError, match="done"):
        await take_turn(app, "5", "c", shown)

    assert shown.happened.index(CALL) == 3


async def test_a_turn_that_nobody_can_see_is_stopped(app: Application) -> None:
    shown = Shown(most=3)

    with pytest.raises(BrokenPipeError):
        await take_turn(app, "1000000", "c", shown)

    assert len(shown.happened) == 3


def test_a_tool_call_never_stands_in_the_middle_of_a_line() -> None:
    out = io.StringIO()
    view = TextView(out, out)

    view.show(TextPart(text="Let me see"))
    view.show(CALL)
    view.show(ToolResult(call_id="1", name="add", status=ToolStatus.FAILED, content="no\nway"))
    view.show(TextPart(text="Sorry.\n"))
    view.end_line()

    assert out.getvalue().splitlines() == [
        "Let me see",
        '→ add(first=1, text="é")',
        "← add failed: no way",
        "Sorry.",
    ]


@pytest.mark.parametrize("arguments", ["not json", "[1, 2]", ""])
def test_arguments_that_are_no_object_are_shown_as_they_are(arguments: str) -> None:
    out = io.StringIO()

    TextView(out, out).show(CALL.model_copy(update={"arguments": arguments}))

    assert out.getvalue() == f"→ add({arguments})\n"


def test_a_status_line_calls_the_unknown_unknown() -> None:
    result = PromptResult(conversation_id="c", text="", finish_reason=FinishReason.STOP, steps=1)

    assert status_line(result, 0.5) == "1 step · tokens unknown · cost unknown · 500 ms"


def test_a_status_line_says_who_answered_if_others_had_failed() -> None:
    failed = Attempt(target="a/one", reason="in order", error=LLMErrorKind.AUTHENTICATION)
    answered = Attempt(target="b/two", reason="fallback after authentication")
    result = PromptResult(
        conversation_id="c",
        text="Yes.",
        finish_reason=FinishReason.STOP,
        steps=2,
        attempts=(failed, answered, failed, answered),
    )

    assert status_line(result, 0.5).endswith(" · b/two after a/one (authentication)")
