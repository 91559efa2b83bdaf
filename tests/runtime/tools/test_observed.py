"""Each call leaves one span, with names of the GenAI conventions and no content unless asked."""

import logging
from typing import Any

import pytest

from app.llmgine.contracts import ToolCall
from app.llmgine.observability import MemorySink, Observer, Record
from app.llmgine.tools import ToolManager


async def double(number: int) -> int:
    return number * 2


def angry(number: int) -> int:
    raise LookupError(f"no {number}")


async def observed(*asked: tuple[str, str], capture_content: bool = False) -> list[Record]:
    sink = MemorySink()
    manager = ToolManager(observer=Observer([sink], capture_content=capture_content))
    manager.register(double)
    manager.register(angry)
    await manager.execute(
        [ToolCall(id=f"call_{name}", name=name, arguments=arguments) for name, arguments in asked]
    )
    await manager.aclose()
    return sink.records


def attributes(record: Record) -> dict[str, Any]:
    found = record.fields["attributes"]
    assert isinstance(found, dict)
    return found


async def test_a_call_is_one_span_without_content() -> None:
    (span,) = await observed(("double", '{"number": 21}'))

    assert (span.kind, span.name) == ("span", "execute_tool double")
    assert (span.fields["kind"], span.fields["status"]) == ("internal", "unset")
    assert attributes(span) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "double",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": "call_double",
        "llmgine.tool.status": "ok",
    }


async def test_arguments_and_result_are_captured_where_content_may_be() -> None:
    (span,) = await observed(("double", '{"number": 21}'), capture_content=True)

    assert attributes(span)["gen_ai.tool.call.arguments"] == '{"number": 21}'
    assert attributes(span)["gen_ai.tool.call.result"] == "42"


@pytest.mark.parametrize(
    ("name", "arguments", "status", "error_type"),
    [
        ("angry", '{"number": 1}', "failed", "LookupError"),
        ("double", "{", "invalid_arguments", "invalid_arguments"),
        ("triple", "{}", "unknown_tool", "unknown_tool"),
    ],
)
async def test_a_call_that_does_not_succeed_is_a_failed_span(
    name: str, arguments: str, status: str, error_type: str
) -> None:
    (span,) = await observed((name, arguments))

    assert (span.name, span.fields["status"]) == (f"execute_tool {name}", "error")
    assert attributes(span)["llmgine.tool.status"] == status
    assert attributes(span)["error.type"] == error_type


async def test_each_of_several_calls_has_its_own_span() -> None:
    spans = await observed(*[("double", '{"number": 1}')] * 3, ("angry", '{"number": 1}'))

    assert (
        sorted(span.name for span in spans) == ["execute_tool angry"] + ["execute_tool double"] * 3
    )


async def test_what_a_thread_logs_belongs_to_its_call() -> None:
    sink = MemorySink()
    observer = Observer([sink])

    def note() -> None:
        observer.record("inside", {})

    manager = ToolManager(observer=observer)
    manager.register(note)
    await manager.execute([ToolCall(id="1", name="note", arguments="{}")])
    await manager.aclose()
    inside, span = sink.records

    assert inside.span_id == span.span_id is not None


async def test_the_log_has_the_traceback_of_a_failed_tool(caplog: pytest.LogCaptureFixture) -> None:
    await observed(("angry", '{"number": 1}'))

    (logged,) = caplog.records
    assert logged.getMessage() == "Tool 'angry' failed."
    assert "raise LookupError" in logging.Formatter().format(logged)
