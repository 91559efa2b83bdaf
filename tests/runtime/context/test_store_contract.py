"""What every context store does; each test runs on all of them."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.llmgine.context import ContextStore
from app.llmgine.contracts import (
    ChatMessage,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolResult,
    ToolStatus,
)
from app.llmgine.errors import ConversationConflictError, StoreError


def said(*texts: str) -> list[ChatMessage]:
    return [ChatMessage.user(text) for text in texts]


def texts(messages: tuple[ChatMessage, ...]) -> list[str]:
    return [message.text for message in messages]


async def test_messages_come_back_as_they_were_appended(store: ContextStore) -> None:
    messages = (
        ChatMessage.user("What time is it?"),
        ChatMessage(
            role="assistant",
            parts=(
                ReasoningPart(text="A clock knows.", signature="c2ln"),
                TextPart(text="One moment."),
                ToolCall(id="1", name="clock", arguments='{"zone": '),
            ),
        ),
        ChatMessage.tool(
            ToolResult(
                call_id="1", name="clock", status=ToolStatus.FAILED, content="", truncated=True
            )
        ),
    )
    await store.append("c", messages)

    assert await store.read("c") == messages


async def test_append_returns_the_number_of_the_last_message(store: ContextStore) -> None:
    assert await store.append("c", said("one", "two")) == 2
    assert await store.append("c", said("three")) == 3
    assert await store.last_seq("c") == 3
    assert texts(await store.read("c")) == ["one", "two", "three"]


async def test_a_conversation_that_does_not_exist_is_empty(store: ContextStore) -> None:
    assert await store.read("nobody") == ()
    assert await store.last_seq("nobody") == 0
    assert await store.conversations() == ()


async def test_appending_nothing_changes_nothing(store: ContextStore) -> None:
    await store.append("old", said("one"))
    await store.append("new", said("one"))

    assert await store.append("old", []) == 1
    assert await store.append("nobody", [], expected_seq=0) == 0
    assert await store.conversations() == ("new", "old")


async def test_an_append_to_the_expected_place_is_taken(store: ContextStore) -> None:
    assert await store.append("c", said("one"), expected_seq=0) == 1
    assert await store.append("c", said("two"), expected_seq=1) == 2


@pytest.mark.parametrize("expected_seq", [0, 1, 3])
async def test_an_append_to_another_place_is_a_conflict_and_adds_nothing(
    store: ContextStore, expected_seq: int
) -> None:
    await store.append("c", said("one", "two"))

    with pytest.raises(ConversationConflictError) as raised:
        await store.append("c", said("three", "four"), expected_seq=expected_seq)

    assert raised.value.conversation_id == "c"
    assert (raised.value.expected_seq, raised.value.actual_seq) == (expected_seq, 2)
    assert texts(await store.read("c")) == ["one", "two"]


async def test_of_many_appends_to_the_same_place_exactly_one_is_taken(store: ContextStore) -> None:
    outcomes = await asyncio.gather(
        *(store.append("c", said(f"{i}"), expected_seq=0) for i in range(20)),
        return_exceptions=True,
    )

    assert [outcome for outcome in outcomes if outcome == 1] == [1]
    assert sum(isinstance(outcome, ConversationConflictError) for outcome in outcomes) == 19
    assert await store.last_seq("c") == 1


async def test_appends_at_the_same_time_are_all_taken_and_none_is_torn(store: ContextStore) -> None:
    batches = [[f"{i} first", f"{i} second", f"{i} third"] for i in range(20)]
    await asyncio.gather(*(store.append("c", said(*batch)) for batch in batches))

    found = texts(await store.read("c"))
    assert sorted(found[i : i + 3] for i in range(0, 60, 3)) == sorted(batches)


async def test_conversations_are_told_apart(store: ContextStore) -> None:
    await store.append("a", said("one"))
    await store.append("A", said("two"))
    await store.append("a ", said("three"))

    assert [texts(await store.read(name)) for name in ("a", "A", "a ")] == [
        ["one"],
        ["two"],
        ["three"],
    ]


async def test_the_conversation_last_appended_to_comes_first(store: ContextStore) -> None:
    for name in ("a", "b", "c", "a"):
        await store.append(name, said("one"))

    assert await store.conversations() == ("a", "c", "b")


async def test_a_deleted_conversation_is_gone_and_may_begin_again(store: ContextStore) -> None:
    await store.append("a", said("one", "two"))
    await store.append("b", said("one"))

    await store.delete("a")
    await store.delete("nobody")

    assert await store.read("a") == ()
    assert await store.last_seq("a") == 0
    assert await store.conversations() == ("b",)
    assert await store.append("a", said("new"), expected_seq=0) == 1
    assert texts(await store.read("a")) == ["new"]


@pytest.mark.parametrize(
    "text", ["", "a\x00b", "\x00", "naïve 日本 👩🏽‍🚀", "\ud800", "x\udcff y", "\u2028\r\n\t'\";--"]
)
async def test_any_text_comes_back_unchanged(store: ContextStore, text: str) -> None:
    call = ToolCall(id=text, name=text, arguments=text)
    message = ChatMessage.assistant(text, call)
    await store.append("c", [message])

    assert await store.read("c") == (message,)


@pytest.mark.parametrize(
    "name", ["", "a\x00b", "日本 👩🏽‍🚀", "'; DROP TABLE messages; --", "x" * 10_000]
)
async def test_any_valid_text_is_a_conversation_id(store: ContextStore, name: str) -> None:
    await store.append(name, said("one"))
    await store.append("a", said("another"))

    assert texts(await store.read(name)) == ["one"]
    assert await store.conversations() == ("a", name)


async def test_an_id_that_is_no_valid_unicode_is_refused(store: ContextStore) -> None:
    for attempt in _calls(store, "\udcff")[:-1]:
        with pytest.raises(StoreError, match=r"'\\udcff' is not valid Unicode"):
            await attempt()

    assert await store.conversations() == ()


async def test_a_closed_store_says_so(store: ContextStore) -> None:
    await store.append("c", said("one"))
    await store.aclose()
    await store.aclose()

    for attempt in _calls(store, "c"):
        with pytest.raises(StoreError, match="closed"):
            await attempt()


async def test_a_store_that_was_never_used_closes(store: ContextStore) -> None:
    await store.aclose()

    with pytest.raises(StoreError, match="closed"):
        await store.read("c")


async def test_a_cancelled_append_adds_all_or_nothing_and_the_store_goes_on(
    store: ContextStore,
) -> None:
    for round_number in range(30):
        name = f"{round_number}"
        append = asyncio.create_task(store.append(name, said("one", "two", "three")))
        for _ in range(round_number % 6):
            await asyncio.sleep(0)
        append.cancel()
        await asyncio.gather(append, return_exceptions=True)

        assert await store.last_seq(name) in (0, 3)
        assert len(await store.read(name)) == await store.last_seq(name)
        assert await store.append(name, said("four")) in (1, 4)


async def test_ten_thousand_messages_come_back_in_order(store: ContextStore) -> None:
    numbers = [str(i) for i in range(10_000)]
    assert await store.append("c", said(*numbers)) == 10_000

    assert texts(await store.read("c")) == numbers


def _calls(store: ContextStore, conversation_id: str) -> list[Callable[[], Awaitable[object]]]:
    return [
        lambda: store.append(conversation_id, said("one")),
        lambda: store.read(conversation_id),
        lambda: store.last_seq(conversation_id),
        lambda: store.delete(conversation_id),
        store.conversations,
    ]
