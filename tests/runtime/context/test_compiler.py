"""Laws of the compiler: what a model is sent is paired, in order, in budget, and stable."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from app.llmgine.context import compile_context
from app.llmgine.context.compiler import NO_RESULT
from app.llmgine.contracts import (
    BlobPart,
    ChatMessage,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolResult,
    ToolSpec,
    ToolStatus,
    UriPart,
)
from app.llmgine.errors import ContextTooLargeError
from app.llmgine.tokens import estimate_tokens
from runtime import strategies

PLENTY = 10**9
histories = st.lists(strategies.chat_messages, max_size=12)


def user(text: str = "hello") -> ChatMessage:
    return ChatMessage.user(text)


def said(text: str = "yes") -> ChatMessage:
    return ChatMessage.assistant(text)


def called(*ids: str) -> ChatMessage:
    return ChatMessage.assistant("", *(ToolCall(id=i, name="clock", arguments="{}") for i in ids))


def result(call_id: str, content: str = "noon") -> ToolResult:
    return ToolResult(call_id=call_id, name="clock", status=ToolStatus.OK, content=content)


def answered(*ids: str) -> ChatMessage:
    return ChatMessage.tool(*(result(i) for i in ids))


def no_result(call_id: str) -> ToolResult:
    return ToolResult(call_id=call_id, name="clock", status=ToolStatus.CANCELLED, content=NO_RESULT)


def one_token(message: ChatMessage) -> int:
    return 1


def compiled(*history: ChatMessage, budget: int = PLENTY) -> tuple[ChatMessage, ...]:
    """What is kept, at one token for each message."""
    return compile_context(history, system=None, budget_tokens=budget, count=one_token)


# Laws, for any history whatsoever.


@given(history=histories)
def test_no_call_is_without_its_result_and_no_result_without_its_call(
    history: list[ChatMessage],
) -> None:
    messages = compile_context(history, system="be brief", budget_tokens=PLENTY)

    for before, message in zip(messages, [*messages[1:], None], strict=True):
        asked = [call.id for call in before.tool_calls]
        answers = [] if message is None else [r.call_id for r in message.tool_results]
        assert asked == answers
    assert not messages[0].tool_results
    assert all(message.tool_calls == () for message in messages if message.role != "assistant")
    assert all(message.tool_results == () for message in messages if message.role != "tool")


@given(history=histories, budget=st.integers(min_value=0, max_value=250))
def test_what_is_kept_fits_the_budget_or_it_is_an_error(
    history: list[ChatMessage], budget: int
) -> None:
    tools = [ToolSpec(name="clock", description="Tells the time.", parameters={})]
    try:
        messages = compile_context(history, system="be brief", budget_tokens=budget, tools=tools)
    except ContextTooLargeError as error:
        assert error.needed_tokens > error.budget_tokens == budget
    else:
        spec = ChatMessage.system(tools[0].model_dump_json())
        assert sum(map(estimate_tokens, [spec, *messages])) <= budget


@given(history=histories, budget=st.integers(min_value=0, max_value=12))
def test_compiling_twice_changes_nothing(history: list[ChatMessage], budget: int) -> None:
    assume_fits(history, budget)
    once = compile_context(history, system="s", budget_tokens=budget, count=one_token)

    assert compile_context(once, system="s", budget_tokens=budget, count=one_token) == once
    assert compile_context(history, system="s", budget_tokens=budget, count=one_token) == once


@given(history=histories, budget=st.integers(min_value=0, max_value=12))
def test_what_is_kept_is_the_end_of_the_history_and_the_newest_user_message(
    history: list[ChatMessage], budget: int
) -> None:
    assume_fits(history, budget)
    everything = compile_context(history, system=None, budget_tokens=PLENTY, count=one_token)
    kept = compile_context(history, system=None, budget_tokens=budget - 1, count=one_token)

    newest = next((message for message in reversed(everything) if message.role == "user"), None)
    end = everything[len(everything) - len(kept) :]
    without_user = everything[len(everything) - len(kept) + 1 :]
    assert kept == end or kept == (newest, *without_user)
    assert newest is None or newest in kept
    if newest is not None:
        assert kept[0].role == "user"


@given(history=histories, budget=st.integers(min_value=0, max_value=12))
def test_a_larger_budget_never_keeps_less(history: list[ChatMessage], budget: int) -> None:
    assume_fits(history, budget)
    less = compile_context(history, system="s", budget_tokens=budget, count=one_token)
    more = compile_context(history, system="s", budget_tokens=budget + 3, count=one_token)

    assert len(more) >= len(less)


@given(history=histories)
def test_with_room_for_all_only_what_no_provider_takes_is_left_out(
    history: list[ChatMessage],
) -> None:
    history = [user("first"), *history]
    messages = compile_context(history, system=None, budget_tokens=PLENTY)

    users = [m for m in history if m.role == "user"]
    said = (TextPart, BlobPart, UriPart)
    texts = [m.text for m in users if any(isinstance(part, said) for part in m.parts)]
    assert [m.text for m in messages if m.role == "user"] == texts
    speaking = [m for m in history if m.role == "assistant" and (m.text or m.tool_calls)]
    said_and_called = [(m.text, m.tool_calls) for m in speaking]
    assert [(m.text, m.tool_calls) for m in messages if m.role == "assistant"] == said_and_called


def assume_fits(history: list[ChatMessage], budget: int) -> None:
    try:
        compile_context(history, system="s", budget_tokens=budget, count=one_token)
    except ContextTooLargeError:
        assume(False)


# Each rule, by example.


def test_a_conversation_in_order_comes_out_as_it_is() -> None:
    history = (user(), called("a", "b"), answered("a", "b"), said())

    assert compiled(*history) == history


def test_the_system_prompt_comes_first_and_replaces_those_of_the_history() -> None:
    history = (ChatMessage.system("old"), user())

    assert compile_context(history, system="new", budget_tokens=PLENTY) == (
        ChatMessage.system("new"),
        user(),
    )


def test_a_call_that_nobody_answered_gets_a_cancelled_result() -> None:
    assert compiled(user("one"), called("a"), user("two")) == (
        user("one"),
        called("a"),
        ChatMessage.tool(no_result("a")),
        user("two"),
    )


def test_of_parallel_calls_only_the_unanswered_one_gets_a_cancelled_result() -> None:
    assert compiled(user(), called("a", "b", "c"), answered("c", "a"))[-1] == ChatMessage.tool(
        result("a"), no_result("b"), result("c")
    )


def test_results_that_came_one_by_one_become_one_message_in_call_order() -> None:
    assert compiled(user(), called("a", "b"), answered("b"), answered("a")) == (
        user(),
        called("a", "b"),
        answered("a", "b"),
    )


def test_a_result_that_came_late_stands_behind_its_call() -> None:
    assert compiled(user("one"), called("a"), user("two"), answered("a"), said()) == (
        user("one"),
        called("a"),
        answered("a"),
        user("two"),
        said(),
    )


def test_a_result_of_no_call_is_left_out() -> None:
    assert compiled(answered("a"), user(), answered("b"), said()) == (user(), said())


def test_a_second_result_of_one_call_is_left_out() -> None:
    again = ChatMessage.tool(result("a", "midnight"))

    assert compiled(user(), called("a"), answered("a"), again) == (
        user(),
        called("a"),
        answered("a"),
    )


def test_a_call_id_used_again_does_not_answer_the_call_before() -> None:
    history = (user("one"), called("a"), user("two"), called("a"), answered("a"))

    assert compiled(*history) == (
        user("one"),
        called("a"),
        ChatMessage.tool(no_result("a")),
        *history[2:],
    )


def test_a_second_result_does_not_answer_an_older_call_of_the_same_id() -> None:
    history = (user("one"), called("a"), user("two"), called("a"), answered("a"), answered("a"))

    assert compiled(*history) == (
        user("one"),
        called("a"),
        ChatMessage.tool(no_result("a")),
        *history[2:5],
    )


def test_calls_of_one_id_in_one_message_take_their_results_in_order() -> None:
    results = ChatMessage.tool(result("a", "noon"), result("a", "midnight"))

    assert compiled(user(), called("a", "a"), results) == (user(), called("a", "a"), results)


def test_an_assistant_message_that_says_and_calls_nothing_is_left_out() -> None:
    only_thought = ChatMessage(role="assistant", parts=(ReasoningPart(text="hm"),))

    assert compiled(user("one"), only_thought, said(""), user("two")) == (user("one"), user("two"))


def test_reasoning_stays_with_what_was_said_after_it() -> None:
    thought = ChatMessage(
        role="assistant",
        parts=(ReasoningPart(text="hm", signature="s"), TextPart(text="yes")),
    )

    assert compiled(user(), thought) == (user(), thought)


def test_the_oldest_turns_go_first_and_whole() -> None:
    first = (user("one"), said("1"))
    second = (user("two"), called("a"), answered("a"), said("2"))
    third = (user("three"), said("3"))

    assert compiled(*first, *second, *third, budget=8) == (*first, *second, *third)
    assert compiled(*first, *second, *third, budget=7) == (*second, *third)
    assert compiled(*first, *second, *third, budget=5) == third
    assert compiled(*first, *second, budget=6) == (*first, *second)
    assert compiled(*first, *second, budget=5) == second


def test_of_a_turn_that_does_not_fit_the_question_and_the_newest_steps_stay() -> None:
    question = (user("one"), said("1"), user("two"))
    steps = (called("a"), answered("a"), called("b"), answered("b"), called("c"), answered("c"))

    assert compiled(*question, *steps, budget=6) == (user("two"), *steps[2:])
    assert compiled(*question, *steps, budget=4) == (user("two"), *steps[4:])
    assert compiled(user("zero"), user("one"), *steps[:2], said(), budget=3) == (
        user("one"),
        said(),
    )


def test_a_history_without_a_user_message_keeps_its_end() -> None:
    assert compiled(said("1"), said("2"), said("3"), budget=2) == (said("2"), said("3"))


def test_an_empty_history_is_the_system_prompt_alone() -> None:
    assert compile_context((), system="s", budget_tokens=PLENTY) == (ChatMessage.system("s"),)
    assert compile_context((), system=None, budget_tokens=0) == ()


def test_what_cannot_fit_is_an_error_that_names_the_sizes_and_the_setting() -> None:
    tools = [ToolSpec(name="clock", description="", parameters={})] * 2

    with pytest.raises(ContextTooLargeError) as raised:
        compile_context(
            (user("one"), user("two"), called("a"), answered("a")),
            system="s",
            budget_tokens=5,
            tools=tools,
            count=one_token,
        )

    assert str(raised.value) == (
        "The context needs 6 tokens: 1 for the system prompt, 2 for the tools, 3 for the newest "
        "messages. The budget is 5. Raise LLMGINE_CONTEXT_BUDGET_TOKENS if the model takes more, "
        "or shorten what is sent."
    )
    assert (raised.value.needed_tokens, raised.value.budget_tokens) == (6, 5)


def test_a_long_history_is_only_read_as_far_back_as_it_is_kept() -> None:
    history = [user(), called("a"), answered("a"), said()] * 2_500
    counted = []

    def count(message: ChatMessage) -> int:
        counted.append(message)
        return 1

    kept = compile_context(history, system=None, budget_tokens=100, count=count)

    assert len(kept) == 100
    assert len(counted) <= 104


# The estimate.


@given(history=st.text(max_size=60))
@example("\ud800")
def test_a_text_costs_at_least_one_token_for_every_ten_of_its_bytes(history: str) -> None:
    size_bytes = len(history.encode(errors="surrogatepass"))

    assert size_bytes / 4 <= estimate_tokens(user(history)) <= size_bytes / 2 + 5


def test_the_estimate_counts_letters_signs_and_other_scripts_by_their_own_measure() -> None:
    frame = estimate_tokens(user(""))

    assert estimate_tokens(user("letters and spaces only."[:-1])) - frame == 6
    assert estimate_tokens(user("1234567890")) - frame == 5
    assert estimate_tokens(user("消息总线")) - frame == 5


@pytest.mark.parametrize(
    "part",
    [
        TextPart(text="x" * 400),
        ReasoningPart(text="x" * 400),
        ReasoningPart(text="", signature="x" * 400),
        ToolCall(id="", name="x" * 400, arguments=""),
        ToolCall(id="", name="", arguments="x" * 400),
        ToolResult(call_id="", name="", status=ToolStatus.OK, content="x" * 400),
    ],
)
def test_everything_that_is_sent_is_counted(part: Part) -> None:
    message = ChatMessage(role="assistant", parts=(part,))

    assert estimate_tokens(message) - estimate_tokens(ChatMessage.assistant()) == 100
