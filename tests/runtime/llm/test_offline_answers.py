"""What the stand-in says once the tools have answered."""

import json

import pytest

from app.llmgine.contracts import (
    ChatMessage,
    LLMRequest,
    ToolCall,
    ToolResult,
    ToolStatus,
)
from runtime.llm.offline_cases import SAMPLE, offline, request, specs


def answered(*results: tuple[str, ToolStatus, str], truncated: bool = False) -> LLMRequest:
    """The request that follows the tools' results."""
    made = [
        ToolCall(id=str(index), name=name, arguments="{}")
        for index, (name, _, _) in enumerate(results)
    ]
    given = [
        ToolResult(call_id=call.id, name=name, status=status, content=content, truncated=truncated)
        for call, (name, status, content) in zip(made, results, strict=True)
    ]
    asked = request("What time is it in Tokyo?", *specs(*SAMPLE))
    messages = (*asked.messages, ChatMessage.assistant("", *made), ChatMessage.tool(*given))
    return asked.model_copy(update={"messages": messages})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Saturday, 21 November 2026, 19:00 (Asia/Tokyo)",) * 2,
        ('"quoted"', "quoted"),
        ("42", "42"),
        ("true", "yes"),
        ("false", "no"),
        ("null", "Current time: done."),
        ("", "Current time: done."),
        ("[]", "Nothing found."),
        ('["buy milk", "call Ann"]', "- buy milk\n- call Ann"),
        ('{"city": "Paris", "wind_speed": 3.5, "rain": false}',
         "city: Paris\nwind speed: 3.5\nrain: no"),
        ('[{"id": 1, "name": "Ann"}, {"id": 2, "name": null}]',
         "- id: 1, name: Ann\n- id: 2, name: -"),
        ('{"user": {"name": "Ann", "tags": ["a", "b"]}, "notes": []}',
         "user:\n  name: Ann\n  tags:\n    - a\n    - b\nnotes: none"),
        ("{not json", "{not json"),
        ("[" * 100_000, "[" * 100_000),
    ],
)  # fmt: skip
async def test_a_result_is_said_in_words(content: str, text: str) -> None:
    response = await offline().complete(answered(("current_time", ToolStatus.OK, content)))

    assert response.tool_calls == ()
    assert response.text == text


async def test_deeply_nested_results_are_said_whole() -> None:
    value: object = "the bottom"
    for level in range(200):
        value = {"level": value} if level % 2 else [value]

    response = await offline().complete(
        answered(("current_time", ToolStatus.OK, json.dumps(value)))
    )

    assert "the bottom" in response.text


@pytest.mark.parametrize("status", [status for status in ToolStatus if status is not ToolStatus.OK])
async def test_a_failure_is_said_as_a_failure(status: ToolStatus) -> None:
    response = await offline().complete(
        answered(("current_time", status, "no time zone is called 'Mars'"))
    )

    assert response.text.startswith("The tool current_time ")
    assert response.text.endswith(": no time zone is called 'Mars'")


async def test_several_results_are_told_apart() -> None:
    response = await offline().complete(
        answered(
            ("current_time", ToolStatus.OK, "12:00"),
            ("find_notes", ToolStatus.OK, '["a", "b"]'),
            ("save_note", ToolStatus.TIMEOUT, ""),
        )
    )

    assert response.text == (
        "Current time: 12:00\nFind notes:\n- a\n- b\nThe tool save_note did not finish in time."
    )


async def test_a_result_that_was_cut_is_said_to_be_cut() -> None:
    response = await offline().complete(
        answered(("find_notes", ToolStatus.OK, '["mil'), truncated=True)
    )

    assert response.text == '["mil\n(The result was longer and was cut.)'


async def test_results_of_an_earlier_turn_answer_nothing() -> None:
    earlier = answered(("current_time", ToolStatus.OK, "12:00"))
    messages = (*earlier.messages, ChatMessage.assistant("12:00"), ChatMessage.user("hello"))

    response = await offline().complete(earlier.model_copy(update={"messages": messages}))

    assert "no language model" in response.text


async def test_it_never_calls_again_what_has_answered_even_if_the_caller_insists() -> None:
    again = answered(("current_time", ToolStatus.FAILED, "broken")).model_copy(
        update={"tool_choice": "required"}
    )

    response = await offline().complete(again)

    assert response.tool_calls == ()
