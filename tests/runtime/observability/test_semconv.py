"""The names we record under are OpenTelemetry's, or are ours and say so."""

import warnings

import pytest

from app.llmgine.observability import semconv

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
    from opentelemetry.semconv.attributes import (
        error_attributes,
        exception_attributes,
        server_attributes,
    )

OURS = {name: value for name, value in vars(semconv).items() if name.isupper()}
ATTRIBUTES = {value for value in OURS.values() if isinstance(value, str) and "." in value}
KNOWN = {
    value
    for module in (gen_ai_attributes, error_attributes, exception_attributes, server_attributes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}
# In the released opentelemetry-util-genai, and not yet in the package of the conventions.
AHEAD = {"gen_ai.usage.cache_write.input_tokens"}
RETIRED = {"gen_ai.system", "gen_ai.prompt", "gen_ai.completion", "gen_ai.usage.prompt_tokens"}


def test_each_attribute_is_of_the_conventions_or_ours() -> None:
    strange = {a for a in ATTRIBUTES - KNOWN - AHEAD if not a.startswith("llmgine.")}

    assert strange == set()
    assert set() == ATTRIBUTES & RETIRED


def test_what_is_ahead_of_the_conventions_is_still_ahead() -> None:
    assert set() == AHEAD & KNOWN


def test_the_operations_are_those_of_the_conventions() -> None:
    operations = gen_ai_attributes.GenAiOperationNameValues

    assert operations.CHAT.value == semconv.CHAT
    assert operations.EXECUTE_TOOL.value == semconv.EXECUTE_TOOL
    assert operations.INVOKE_AGENT.value == semconv.INVOKE_AGENT


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (semconv.chat_span("gpt-5"), "chat gpt-5"),
        (semconv.tool_span("add"), "execute_tool add"),
        (semconv.agent_span(), "invoke_agent"),
        (semconv.agent_span("helper"), "invoke_agent helper"),
    ],
)
def test_spans_are_named_by_operation_and_target(name: str, expected: str) -> None:
    assert name == expected


def test_what_people_and_models_say_is_content() -> None:
    assert {semconv.INPUT_MESSAGES, semconv.OUTPUT_MESSAGES} < semconv.CONTENT
    assert {semconv.TOOL_CALL_ARGUMENTS, semconv.TOOL_CALL_RESULT} < semconv.CONTENT
    assert semconv.CONTENT < KNOWN
