"""Answers as values of a type: the modes, what is asked again, and what ends the asking."""

import itertools
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from app.llmgine.contracts import (
    ChatMessage,
    FinishReason,
    LLMRequest,
    LLMResponse,
    Money,
    StreamEnd,
    StreamReset,
    TextDelta,
    ToolCall,
    ToolCallArgumentsDelta,
    ToolCallStart,
    ToolSpec,
    ToolStatus,
    Usage,
)
from app.llmgine.errors import (
    CassetteError,
    LLMError,
    LLMErrorKind,
    OutputError,
    OutputTruncatedError,
    ScriptError,
)
from app.llmgine.llm.provider import Capabilities
from app.llmgine.llm.providers.schema_driven import SchemaProvider
from app.llmgine.llm.providers.scripted import ScriptedProvider, Step
from app.llmgine.llm.schema import OutputType
from app.llmgine.llm.structured import Parsed, Partial, parse, stream_parse
from runtime import strategies


class Order(BaseModel):
    number: int
    lines: list[str] = Field(default_factory=list)


REQUEST = LLMRequest(model="m", messages=(ChatMessage.user("Which order?"),))
GOOD, WRONG = '{"number": 7, "lines": ["milk"]}', '{"number": "seven", "extra": "hunter2"}'
ORDER = Order(number=7, lines=["milk"])
SCHEMA = json.dumps(OutputType.of(Order).schema)
USAGE = Usage(input_tokens=3, output_tokens=2)


def error(kind: LLMErrorKind) -> LLMError:
    return LLMError(f"it is {kind}", kind=kind, provider="p", model="m")


def answer(text: str, **options: Any) -> LLMResponse:
    defaults = {"finish_reason": FinishReason.STOP, "message": ChatMessage.assistant(text)}
    return LLMResponse(**{"id": "r", "model": "m", "provider": "p", **defaults, **options})


def call(arguments: str, name: str = "Order") -> ToolCall:
    return ToolCall(id="c", name=name, arguments=arguments)


REFUSED = error(LLMErrorKind.BAD_REQUEST)


class Limited(ScriptedProvider):
    """A script that knows what its model can do."""

    def __init__(self, steps: Sequence[Step], can: Capabilities) -> None:
        super().__init__(steps)
        self.can = can

    def capabilities(self, model: str) -> Capabilities:
        return self.can


def modes(requests: Sequence[LLMRequest]) -> list[str]:
    return [
        "native" if one.output else "tool" if one.tool_choice == "required" else "prompted"
        for one in requests
    ]


async def test_a_model_that_keeps_to_the_schema_is_asked_once() -> None:
    cost = Money(amount=Decimal("0.01"))
    model = ScriptedProvider([answer(GOOD, usage=USAGE, cost=cost)])

    parsed = await parse(model, REQUEST, Order)

    assert parsed.value == ORDER
    assert (parsed.usage, parsed.cost, len(parsed.tries)) == (USAGE, cost, 1)
    (sent,) = model.requests
    assert sent.output is not None
    assert (sent.output.name, sent.output.parameters) == ("Order", OutputType.of(Order).schema)


@pytest.mark.parametrize(
    ("type_", "value"),
    [(list[int], [1, 2]), (Literal["a", "b"], "b"), (int | str, "x"), (None, None)],
)
async def test_what_is_no_object_is_unwrapped_again(type_: Any, value: Any) -> None:
    text = json.dumps({"value": value})
    tool = [REFUSED, lambda asked: call(text, asked.tools[0].name)]
    prompted = [*([REFUSED] * 2), text]

    parsed = [await parse(ScriptedProvider(steps), REQUEST, type_) for steps in ([text], tool)]
    parsed.append(await parse(ScriptedProvider(prompted), REQUEST, type_))

    assert [one.value for one in parsed] == [value] * 3


@pytest.mark.parametrize("native", [REFUSED, "I cannot say.", f"```json\n{GOOD}\n```", SCHEMA, ""])
@pytest.mark.parametrize("tool", [REFUSED, GOOD, call(SCHEMA), call(GOOD, "other"), call("seven")])
async def test_a_mode_that_does_not_work_gives_way_to_the_next(native: Step, tool: Step) -> None:
    model = ScriptedProvider([native, tool, GOOD])

    parsed = await parse(model, REQUEST, Order)

    assert parsed.value == ORDER
    assert [one.mode for one in parsed.tries] == ["native", "tool", "prompted"]
    assert modes(model.requests) == ["native", "tool", "prompted"]
    assert parsed.usage is None


@pytest.mark.parametrize(
    ("can", "first"),
    [
        (Capabilities(), "native"),
        (Capabilities(structured_output=False), "tool"),
        (Capabilities(structured_output=False, tools=False), "prompted"),
    ],
)
async def test_the_first_mode_is_the_best_one_the_model_can_do(
    can: Capabilities, first: str
) -> None:
    model = Limited([call(GOOD) if first == "tool" else GOOD], can)

    await parse(model, REQUEST, Order)

    assert modes(model.requests) == [first]


class Lax(BaseModel):
    number: int = 0


async def test_a_schema_of_its_own_is_no_answer_even_where_everything_is_optional() -> None:
    own = '{"type": "object", "properties": {"number": {"type": "integer"}}}'
    model = ScriptedProvider([own, call('{"number": 3}', "Lax")])

    assert (await parse(model, REQUEST, Lax)).value == Lax(number=3)


async def test_a_schema_is_an_answer_where_any_object_is() -> None:
    own = '{"type": "object", "properties": {}}'

    assert (await parse(ScriptedProvider([own]), REQUEST, dict)).value == json.loads(own)


async def test_a_wrong_answer_is_sent_back_with_what_is_wrong_by_its_place() -> None:
    model = ScriptedProvider([answer(WRONG, usage=USAGE), answer(GOOD, usage=USAGE)])

    parsed = await parse(model, REQUEST, Order)

    bad, feedback = model.requests[1].messages[-2:]
    assert bad == ChatMessage.assistant(WRONG)
    assert (feedback.role, "number: Input should be a valid integer" in feedback.text) == (
        "user",
        True,
    )
    assert modes(model.requests) == ["native", "native"]
    assert parsed.usage == USAGE + USAGE


async def test_a_wrong_call_gets_its_result() -> None:
    model = Limited([call(WRONG), call(GOOD)], Capabilities(structured_output=False))

    parsed = await parse(model, REQUEST, Order)

    (result,) = model.requests[1].messages[-1].tool_results
    assert (result.call_id, result.status) == ("c", ToolStatus.INVALID_ARGUMENTS)
    assert "number: " in result.content
    assert parsed.value == ORDER


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_the_retries_of_one_mode_are_counted(retries: int) -> None:
    model = ScriptedProvider([WRONG] * 9)

    with pytest.raises(OutputError, match="gave no Order") as caught:
        await parse(model, REQUEST, Order, retries=retries)

    assert len(model.requests) == 1 + retries == len(caught.value.tries)
    assert caught.value.kind is LLMErrorKind.BAD_RESPONSE
    assert caught.value.tries[-1].response.text == WRONG


async def test_all_modes_together_make_three_times_the_calls_at_most() -> None:
    wrong_call = call(WRONG)
    steps = [WRONG, WRONG, "no", wrong_call, wrong_call, "no", "no", "no", "no", "one too many"]
    model = ScriptedProvider(steps)

    with pytest.raises(OutputError):
        await parse(model, REQUEST, Order, retries=2)

    assert modes(model.requests) == ["native"] * 3 + ["tool"] * 3 + ["prompted"] * 3


async def test_an_answer_cut_off_at_its_limit_ends_it_at_once() -> None:
    model = ScriptedProvider([answer('{"number": 7', finish_reason=FinishReason.LENGTH)])
    asked = REQUEST.model_copy(update={"max_output_tokens": 5})

    with pytest.raises(OutputTruncatedError, match=r"Raise max_output_tokens \(now 5\)") as caught:
        await parse(model, asked, Order)

    assert caught.value.kind is LLMErrorKind.LENGTH
    assert [one.mode for one in caught.value.tries] == ["native"]


async def test_a_filtered_answer_ends_it_at_once() -> None:
    model = ScriptedProvider([answer("", finish_reason=FinishReason.CONTENT_FILTER)])

    with pytest.raises(OutputError) as caught:
        await parse(model, REQUEST, Order)

    assert caught.value.kind is LLMErrorKind.CONTENT_FILTER


@pytest.mark.parametrize("kind", [LLMErrorKind.RATE_LIMIT, LLMErrorKind.AUTHENTICATION])
async def test_a_call_that_fails_for_another_reason_is_not_repeated(kind: LLMErrorKind) -> None:
    model = ScriptedProvider([error(kind), GOOD])

    with pytest.raises(LLMError) as caught:
        await parse(model, REQUEST, Order)

    assert caught.value.kind is kind


async def test_a_request_that_every_mode_is_refused_for_fails_with_the_refusal() -> None:
    with pytest.raises(LLMError) as caught:
        await parse(ScriptedProvider([REFUSED] * 3), REQUEST, Order)

    assert caught.value is REFUSED


@pytest.mark.parametrize("mistake", [CassetteError("not recorded"), ScriptError("at its end")])
async def test_a_mistake_of_the_test_is_not_taken_for_a_refused_mode(mistake: LLMError) -> None:
    with pytest.raises(LLMError) as caught:
        await parse(ScriptedProvider([mistake, GOOD]), REQUEST, Order)

    assert caught.value is mistake


@pytest.mark.parametrize("streaming", [False, True])
async def test_half_of_a_surrogate_pair_is_a_wrong_answer(streaming: bool) -> None:
    model = ScriptedProvider(['{"number": 7, "lines": ["\ud83d"]}', GOOD])

    if streaming:
        *_, last = [item async for item in stream_parse(model, REQUEST, Order)]
    else:
        last = await parse(model, REQUEST, Order)

    assert isinstance(last, Parsed)
    assert (last.value, len(last.tries)) == (ORDER, 2)


async def test_errors_name_places_and_never_what_the_model_wrote() -> None:
    with pytest.raises(OutputError) as caught:
        await parse(
            ScriptedProvider(['{"hunter2": 1, "number": {"hunter3": 1}, "lines": {"hunter4": 1}}']),
            REQUEST,
            dict[str, list[int]],
            retries=0,
        )

    said = f"{caught.value} {caught.value.tries}"
    assert "*: list_type" in said
    assert "hunter" not in said


PROMPTED = Capabilities(structured_output=False, tools=False)


@pytest.mark.parametrize(
    "said",
    [
        f"```json\n{GOOD}\n```",
        f"Here is {{the}} answer:\n\n{GOOD}\n\nAnything else?",
        f"<think>Seven?</think>{GOOD}",
        f"  {GOOD}\n",
    ],
)
async def test_what_stands_around_one_object_is_left_out(said: str) -> None:
    parsed = await parse(Limited([said], PROMPTED), REQUEST, Order)

    assert parsed.value == ORDER


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (f"{GOOD} or {GOOD}", "several JSON objects"),
        (f"[{GOOD}]", "a JSON array"),
        (f'{{"order": {GOOD}, oops}}', "invalid JSON"),
        (GOOD[:-1], "invalid JSON"),
        ('{"number": NaN}', "invalid JSON"),
        (json.dumps(GOOD), "no JSON object"),
        ("{'number': 7}", "no JSON object"),
        ('{"a":' * 5_000, "invalid JSON"),
        (SCHEMA, "the JSON Schema itself"),
    ],
)
async def test_nothing_is_repaired(said: str, problem: str) -> None:
    with pytest.raises(OutputError, match=problem):
        await parse(Limited([said], PROMPTED), REQUEST, Order, retries=0)


async def test_the_schema_joins_the_system_message() -> None:
    model = Limited([GOOD], PROMPTED)
    asked = REQUEST.model_copy(
        update={"messages": (ChatMessage.system("Be brief."), *REQUEST.messages)}
    )

    await parse(model, asked, Order)

    system, user = model.requests[0].messages
    assert (system.text.startswith("Be brief."), SCHEMA in system.text) == (True, True)
    assert user == REQUEST.messages[0]


async def test_the_requests_own_tools_are_not_called() -> None:
    own = ToolSpec(name="own", description="", parameters={})
    model = ScriptedProvider([REFUSED, REFUSED, GOOD])

    await parse(model, REQUEST.model_copy(update={"tools": (own,)}), Order)

    assert [one.tool_choice for one in model.requests] == ["none", "required", "none"]
    assert [[tool.name for tool in one.tools] for one in model.requests] == [
        ["own"],
        ["Order"],
        ["own"],
    ]


async def test_a_model_that_answers_to_any_schema_is_parsed() -> None:
    parsed = await parse(SchemaProvider(), REQUEST, Order)

    assert isinstance(parsed.value, Order)


# Streams.

END = StreamEnd(id="r", model="m", provider="p", finish_reason=FinishReason.STOP)


def streamed(*pieces: str) -> list[Any]:
    return [*(TextDelta(text=piece) for piece in pieces), END]


async def follow(model: ScriptedProvider, type_: Any, **options: Any) -> list[Any]:
    return [item async for item in stream_parse(model, REQUEST, type_, **options)]


async def test_the_answer_grows_while_it_arrives() -> None:
    model = ScriptedProvider([streamed('{"numb', 'er": 7', ', "lines": ["mi', 'lk"', "]}")])

    *partials, parsed = await follow(model, Order)

    assert [partial.value for partial in partials] == [
        {},
        {"number": 7, "lines": ["mi"]},
        {"number": 7, "lines": ["milk"]},
    ]
    assert parsed.value == ORDER


@pytest.mark.parametrize(
    ("steps", "can"),
    [
        ([[*streamed('{"number": 1,')[:1], StreamReset(reason="x"), *streamed(GOOD)]], None),
        ([streamed('{"number": 1, "lines": 2}'), streamed(GOOD)], None),
        (
            [[*streamed('{"number": 1,')[:1], REFUSED], [call('{"number": 7, "lines": ["milk"]}')]],
            None,
        ),
        ([streamed('Well: {"number": 1, "lines": 2}'), streamed(GOOD)], PROMPTED),
    ],
)
async def test_what_is_void_is_said_before_it_begins_anew(steps: Any, can: Any) -> None:
    *partials, parsed = await follow(Limited(steps, can or Capabilities()), Order)

    values = [partial.value for partial in partials]
    begun = [partial.restarted for partial in partials].index(True)
    assert values[:begun][-1]["number"] == 1
    assert values[begun] is None
    assert values[-1] == {"number": 7, "lines": ["milk"]}
    assert parsed.value == ORDER


async def test_a_stream_that_is_cut_off_at_its_limit_fails() -> None:
    cut = [*streamed(GOOD)[:1], END.model_copy(update={"finish_reason": FinishReason.LENGTH})]

    with pytest.raises(OutputTruncatedError):
        await follow(ScriptedProvider([cut]), Order)


async def test_a_long_answer_is_read_a_few_hundred_times_however_small_its_pieces() -> None:
    text = json.dumps({"number": 1, "lines": ["milk and butter"] * 4_000})
    model = ScriptedProvider([streamed(*text)])

    items = await follow(model, Order)

    assert 100 < len(items) < 400
    assert len(items[-1].value.lines) == 4_000


async def test_leaving_early_closes_the_stream_below() -> None:
    closed = []

    class Watched(ScriptedProvider):
        async def stream(self, request: LLMRequest) -> Any:
            try:
                async for chunk in super().stream(request):
                    yield chunk
            finally:
                closed.append(True)

    items = stream_parse(Watched([streamed(*GOOD)]), REQUEST, Order)
    await anext(items)
    await items.aclose()

    assert closed == [True]


def begins(partial: Any, whole: Any) -> bool:
    """Whether `partial` is how `whole` looks before the rest of it has come."""
    if isinstance(partial, str) and isinstance(whole, str):
        return whole.startswith(partial)
    if isinstance(partial, list) and isinstance(whole, list):
        return (
            len(partial) <= len(whole)
            and partial[:-1] == whole[: max(0, len(partial) - 1)]
            and all(map(begins, partial[-1:], whole[len(partial) - 1 :]))
        )
    if isinstance(partial, dict) and isinstance(whole, dict):
        names = list(partial)
        return (
            names == list(whole)[: len(names)]
            and all(partial[name] == whole[name] for name in names[:-1])
            and all(begins(partial[name], whole[name]) for name in names[-1:])
        )
    return type(partial) is type(whole) and bool(partial == whole)


@given(
    strategies.json_values,
    st.lists(st.integers(0, 400), max_size=40),
    st.booleans(),
    st.sampled_from(["native", "tool", "prompted"]),
)
@settings(max_examples=300, deadline=None)
async def test_every_partial_is_a_beginning_of_the_answer_however_it_is_cut(
    value: Any, cuts: list[int], ascii_only: bool, mode: str
) -> None:
    text = json.dumps({"value": value}, ensure_ascii=ascii_only)
    text = f"So:\n```\n{text}\n```" if mode == "prompted" else text
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[begin:end] for begin, end in itertools.pairwise(edges)]
    can = Capabilities(structured_output=mode == "native", tools=mode == "tool")

    def answered(request: LLMRequest) -> Any:
        if mode != "tool":
            return streamed(*pieces)
        start = ToolCallStart(index=0, id="c", name=request.tools[0].name)
        return [start, *(ToolCallArgumentsDelta(index=0, text=one) for one in pieces), END]

    *partials, parsed = await follow(Limited([answered], can), object)

    assert isinstance(parsed, Parsed)
    assert parsed.value == value
    for partial in partials:
        assert isinstance(partial, Partial)
        assert begins(partial.value, value), (partial.value, value)
    grown = [partial.value for partial in partials]
    assert all(begins(one, other) for one, other in itertools.pairwise(grown))
