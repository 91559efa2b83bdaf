"""Our contracts as Anthropic's Messages API takes them."""

import json
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.contracts import (
    BlobPart,
    ChatMessage,
    LLMRequest,
    OutputSpec,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolResult,
    ToolSpec,
    ToolStatus,
    UriPart,
)
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.llm.providers._messages import DEFAULT_MAX_TOKENS, Messages
from runtime import strategies

HI = ChatMessage.user("hi")
FIND = ToolSpec(name="find", description="Find.", parameters={"type": "object", "properties": {}})
CALL = ToolCall(id="toolu_1", name="find", arguments='{"query": "tea"}')
RESULT = ToolResult(call_id="toolu_1", name="find", status=ToolStatus.OK, content="Green.")
CACHED = {"type": "ephemeral"}


def encoded(*messages: ChatMessage, **fields: Any) -> dict[str, Any]:
    return Messages().encode(LLMRequest(model="m", messages=messages, **fields), stream=False)


def turns(*messages: ChatMessage) -> list[tuple[str, Any]]:
    return [(turn["role"], turn["content"]) for turn in encoded(*messages)["messages"]]


def test_what_a_request_leaves_open_is_left_out_but_for_the_limit_that_the_api_insists_on() -> None:
    assert encoded(HI) == {
        "model": "m",
        "max_tokens": DEFAULT_MAX_TOKENS,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    }


def test_every_wish_is_sent_in_the_words_of_the_api() -> None:
    properties = {"a": {"type": "string"}}
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": ["a"]}
    body = encoded(
        HI,
        tools=(FIND,),
        tool_choice="required",
        output=OutputSpec(name="answer", parameters=schema),
        max_output_tokens=9,
        temperature=0.5,
        seed=7,
        stop=("END",),
        user_id="ann@example.org",
    )

    del body["model"], body["messages"], body["tools"]
    assert body == {
        "max_tokens": 9,
        "tool_choice": {"type": "any"},
        "output_config": {
            "format": {"type": "json_schema", "schema": {**schema, "additionalProperties": False}}
        },
        "stop_sequences": ["END"],
        "temperature": 0.5,
    }


@pytest.mark.parametrize(
    ("tools", "choice", "sent"),
    [
        ((FIND,), "auto", None),
        ((FIND,), "none", {"type": "none"}),
        ((FIND,), "required", {"type": "any"}),
        ((), "required", None),
    ],
)
def test_the_choice_of_tools_is_sent_where_there_are_any(
    tools: Any, choice: Any, sent: Any
) -> None:
    assert encoded(HI, tools=tools, tool_choice=choice).get("tool_choice") == sent


def test_the_extra_body_has_the_last_word_and_joins_the_objects_of_ours() -> None:
    body = encoded(
        HI,
        output=OutputSpec(name="answer", parameters={"type": "object"}),
        extra_body={"max_tokens": 5, "top_k": 3, "output_config": {"effort": "low"}},
    )

    assert (body["max_tokens"], body["top_k"]) == (5, 3)
    assert body["output_config"].keys() == {"effort", "format"}


def test_instructions_stand_apart_wherever_they_were_given() -> None:
    body = encoded(ChatMessage.system("Be brief."), HI, ChatMessage.system("Be kind."))

    assert [text["text"] for text in body["system"]] == ["Be brief.", "Be kind."]
    assert [turn["role"] for turn in body["messages"]] == ["user"]


def test_turns_alternate_and_results_come_first_in_the_users() -> None:
    other = CALL.model_copy(update={"id": "toolu_2", "arguments": "{}"})
    wrong = RESULT.model_copy(update={"call_id": "toolu_2", "status": ToolStatus.FAILED})

    assert turns(
        HI,
        ChatMessage.user("please"),
        ChatMessage.assistant("Well."),
        ChatMessage.assistant("", CALL, other),
        ChatMessage.user("And?"),
        ChatMessage.tool(RESULT),
        ChatMessage.tool(wrong),
    ) == [
        ("user", [{"type": "text", "text": "hi"}, {"type": "text", "text": "please"}]),
        (
            "assistant",
            [
                {"type": "text", "text": "Well."},
                {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"query": "tea"}},
                {"type": "tool_use", "id": "toolu_2", "name": "find", "input": {}},
            ],
        ),
        (
            "user",
            [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Green."},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "content": "Green.",
                    "is_error": True,
                },
                {"type": "text", "text": "And?"},
            ],
        ),
    ]


def test_nothing_empty_is_sent() -> None:
    silent = RESULT.model_copy(update={"content": ""})

    assert turns(
        ChatMessage.system(" "),
        HI,
        ChatMessage.assistant(" \n"),
        ChatMessage.user(""),
        ChatMessage.assistant("", CALL),
        ChatMessage.tool(silent),
    )[2:] == [("user", [{"type": "tool_result", "tool_use_id": "toolu_1"}])]


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("", {}),
        ('{"a": ', {"invalid_json": '{"a": '}),
        ("[1]", {"invalid_json": "[1]"}),
        ("tea", {"invalid_json": "tea"}),
        ('{"a": NaN}', {"invalid_json": '{"a": NaN}'}),
        ('{"a": 1e999}', {"invalid_json": '{"a": 1e999}'}),
        ("[" * 10_000, {"invalid_json": "[" * 10_000}),
    ],
)
def test_arguments_that_are_no_object_are_sent_as_a_quotation(arguments: str, sent: Any) -> None:
    call = CALL.model_copy(update={"arguments": arguments})

    [(_, blocks)] = turns(ChatMessage.assistant("", call))

    assert blocks[0]["input"] == sent


def test_ids_and_names_from_elsewhere_fit_the_api_and_each_other() -> None:
    call = CALL.model_copy(update={"id": "functions.find:0", "name": "find notes!"})
    result = RESULT.model_copy(update={"call_id": "functions.find:0"})

    (_, [sent]), (_, [answered]) = turns(ChatMessage.assistant("", call), ChatMessage.tool(result))

    assert sent["name"] == "find_notes_"
    assert sent["id"].removeprefix("toolu_").isalnum()
    assert sent["id"] == answered["tool_use_id"]


def test_only_thinking_that_was_signed_here_goes_back() -> None:
    parts = (
        ReasoningPart(text="Hm", signature="c2ln", signed_by="anthropic"),
        ReasoningPart(text="", signature="redacted:ZGF0YQ==", signed_by="anthropic"),
        ReasoningPart(text="Hm", signature="c2ln", signed_by="openai"),
        ReasoningPart(text="Hm"),
        TextPart(text="Yes."),
    )

    [(_, blocks)] = turns(ChatMessage(role="assistant", parts=parts))

    assert blocks == [
        {"type": "thinking", "thinking": "Hm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        {"type": "text", "text": "Yes."},
    ]


@pytest.mark.parametrize(
    ("file", "sent"),
    [
        (
            BlobPart(media_type="image/png", data=b"\x89P"),
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": "iVA="},
            },
        ),
        (
            UriPart(media_type="image/png", uri="https://a.example/b.png"),
            {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}},
        ),
        (
            UriPart(media_type="image/png", uri="data:image/png;base64,iVBORw=="),
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="},
            },
        ),
        (
            UriPart(media_type="image/png", uri="file_1"),
            {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        ),
        (
            BlobPart(media_type="application/pdf", data=b"%PDF", name="a.pdf"),
            {
                "type": "document",
                "title": "a.pdf",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
            },
        ),
        (
            UriPart(media_type="application/pdf", uri="https://a.example/b.pdf"),
            {"type": "document", "source": {"type": "url", "url": "https://a.example/b.pdf"}},
        ),
        (
            BlobPart(media_type="text/csv; charset=utf-8", data="ä,b".encode()),
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "ä,b"},
            },
        ),
    ],
)
def test_files_are_images_or_documents(file: BlobPart | UriPart, sent: Any) -> None:
    [(_, blocks)] = turns(ChatMessage.user("Look", file))

    assert blocks[1] == sent


@pytest.mark.parametrize(
    "file",
    [
        BlobPart(media_type="audio/wav", data=b""),
        UriPart(media_type="image/svg+xml", uri="data:image/svg+xml,%3Csvg/%3E"),
        UriPart(media_type="text/plain", uri="https://a.example/b.txt"),
    ],
)
def test_a_file_that_the_api_does_not_take_is_refused_before_the_call(
    file: BlobPart | UriPart,
) -> None:
    with pytest.raises(LLMError, match="cannot take") as caught:
        encoded(ChatMessage.user("Listen", file))

    assert caught.value.kind is LLMErrorKind.BAD_REQUEST


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_a_file_that_is_not_the_users_is_refused_before_the_call(role: Any) -> None:
    picture = BlobPart(media_type="image/png", data=b"a")

    with pytest.raises(LLMError, match=f"of role '{role}'"):
        encoded(HI, ChatMessage(role=role, parts=(picture,)))


# The cache of prompts.


def test_what_comes_before_the_conversation_is_cached_up_to_its_end() -> None:
    both = encoded(ChatMessage.system("One."), ChatMessage.system("Two."), HI, tools=(FIND, FIND))
    only_tools = encoded(HI, tools=(FIND, FIND))

    assert ["cache_control" in text for text in both["system"]] == [False, True]
    assert not any("cache_control" in tool for tool in both["tools"])
    assert ["cache_control" in tool for tool in only_tools["tools"]] == [False, True]


def test_a_conversation_is_cached_up_to_its_newest_message_and_a_single_question_is_not() -> None:
    messages = (HI, ChatMessage.assistant("", CALL), ChatMessage.tool(RESULT))

    going_on = encoded(*messages, conversation_id="c")["messages"]
    single = encoded(*messages)["messages"]

    assert going_on[-1]["content"][-1]["cache_control"] == CACHED
    assert json.dumps(going_on).count("cache_control") == 1
    assert "cache_control" not in json.dumps(single)


def test_thinking_cannot_be_marked_for_the_cache() -> None:
    thought = ReasoningPart(text="Hm", signature="c2ln", signed_by="anthropic")
    parts = (TextPart(text="a"), thought)

    body = encoded(ChatMessage(role="assistant", parts=parts), conversation_id="c")

    assert [sorted(part) for part in body["messages"][0]["content"]] == [
        ["cache_control", "text", "type"],
        ["signature", "thinking", "type"],
    ]


@given(st.lists(strategies.chat_messages, max_size=6), st.none() | st.just("c"))
def test_any_conversation_is_sent_in_alternating_turns_of_blocks_that_the_api_knows(
    messages: list[ChatMessage], conversation_id: str | None
) -> None:
    body: dict[str, Any] = {"messages": []}
    with suppress(LLMError):
        body = encoded(*messages, conversation_id=conversation_id)

    json.dumps(body, allow_nan=False)
    roles = [turn["role"] for turn in body["messages"]]
    assert all(one != other for one, other in pairwise(roles))
    assert all(turn["content"] for turn in body["messages"])
    assert json.dumps(body).count("cache_control") <= 4


def test_the_official_package_knows_every_block_that_is_sent() -> None:
    pydantic, types = pytest.importorskip("pydantic"), pytest.importorskip("anthropic.types")
    thought = ReasoningPart(text="Hm", signature="c2ln", signed_by="anthropic")
    redacted = ReasoningPart(text="", signature="redacted:ZGF0YQ==", signed_by="anthropic")
    files = (
        BlobPart(media_type="image/png", data=b"a"),
        BlobPart(media_type="application/pdf", data=b"a", name="a.pdf"),
        BlobPart(media_type="text/plain", data=b"a"),
        UriPart(media_type="image/png", uri="https://a.example/b.png"),
        UriPart(media_type="application/pdf", uri="file_1"),
    )
    body = encoded(
        ChatMessage.system("Be brief."),
        ChatMessage.user("hi", *files),
        ChatMessage(role="assistant", parts=(thought, redacted, CALL)),
        ChatMessage.tool(RESULT),
        tools=(FIND,),
        tool_choice="required",
        output=OutputSpec(name="answer", parameters={"type": "object"}),
        conversation_id="c",
    )

    for turn in body["messages"]:
        for sent in turn["content"]:
            known = pydantic.TypeAdapter(types.ContentBlockParam).validate_python(sent)
            assert known.keys() == sent.keys()
    for name, type_ in (
        ("system", types.TextBlockParam),
        ("tools", types.ToolParam),
        ("tool_choice", types.ToolChoiceParam),
        ("output_config", types.OutputConfigParam),
    ):
        for sent in body[name] if isinstance(body[name], list) else [body[name]]:
            assert pydantic.TypeAdapter(type_).validate_python(sent).keys() == sent.keys()
    assert body.keys() <= types.message_create_params.MessageCreateParamsBase.__annotations__.keys()
