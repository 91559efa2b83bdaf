"""What is shown when an answer that had begun is void."""

import io
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from app.llmgine.application import Application
from app.llmgine.bus import MessageBus
from app.llmgine.contracts import FinishReason, StreamReset, TextPart
from app.llmgine.engine import PromptResult, TextDiscardedEvent, TextStreamedEvent
from app.llmgine.interfaces.cli.ask import JsonView, TextView, TurnView, take_turn
from app.llmgine.messages import Command
from app.llmgine.settings import RuntimeSettings

from . import sample


class Stumble(Command[PromptResult]):
    """Begin an answer, and give another one."""


async def stumble(_: Stumble, *, bus: MessageBus) -> PromptResult:
    await bus.publish(TextStreamedEvent(conversation_id="c", text="Once up"))
    await bus.publish(TextDiscardedEvent(conversation_id="c", reason="fallback after network"))
    await bus.publish(TextStreamedEvent(conversation_id="c", text="Twice."))
    return PromptResult(
        conversation_id="c", text="Twice.", finish_reason=FinishReason.STOP, steps=1
    )


@pytest.fixture
async def app(tmp_path: Path, logging_restored: None) -> AsyncIterator[Application]:
    settings = RuntimeSettings(context_store="memory", data_dir=tmp_path, log_dir=tmp_path)
    built = sample.bootstrap(settings)
    built.bus.register_command_handler(Stumble, partial(stumble, bus=built.bus))
    built.ask = lambda _, __: Stumble()
    async with built:
        yield built


async def show(app: Application, view: TurnView) -> None:
    await take_turn(app, "Tell me", "c", view)


async def test_the_void_text_ends_its_line_and_a_note_says_so(app: Application) -> None:
    out, err = io.StringIO(), io.StringIO()

    await show(app, TextView(out, err))

    assert out.getvalue() == "Once up\nTwice."
    assert err.getvalue() == (
        "↺ the text above is void (fallback after network); the answer begins anew\n"
    )


async def test_in_json_it_is_a_line_of_its_own(app: Application) -> None:
    out = io.StringIO()

    await show(app, JsonView(out))

    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["type"] for line in lines] == ["text", "stream_reset", "text"]
    assert lines[1]["reason"] == "fallback after network"


def test_after_it_nothing_has_been_said() -> None:
    view = TextView(io.StringIO(), io.StringIO())
    view.show(TextPart(text="Once up"))

    view.show(StreamReset(reason="cut"))

    assert not view.said
