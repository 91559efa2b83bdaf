"""Cases of requests: what of them arrives, in the form of each API."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from app.llmgine.contracts import BlobPart, ChatMessage, LLMRequest, UriPart
from runtime.llm.conformance.answering import CONVERSATIONS, FIND
from runtime.llm.conformance.cases import case
from runtime.llm.conformance.subjects import Subject, collect
from runtime.llm.vendors import Answer


async def bodies(s: Subject, request: LLMRequest) -> list[Any]:
    """What the server was sent by `complete` and by `stream`."""
    s.will(Answer("Yes."), Answer("Yes."))
    provider = s.provider()
    await provider.complete(request)
    await collect(provider, request)
    return [recorded.body for recorded in s.server.requests]


@case("the conversation, the tools and the limits arrive", "server")
async def conversation(s: Subject) -> None:
    request = s.request(*CONVERSATIONS[2], tools=(FIND,), max_output_tokens=7)
    for body in await bodies(s, request):
        if s.kind.speaks == "chat":
            _, assistant, result = body["messages"]
            call = assistant["tool_calls"][0]
            assert (call["id"], call["function"]["arguments"]) == ("call_1", '{"query": "tea"}')
            assert (result["tool_call_id"], result["content"]) == ("call_1", '["tea"]')
            assert body["tools"][0]["function"]["parameters"] == FIND.parameters
            assert body["max_tokens"] == 7
        elif s.kind.speaks == "responses":
            _, call, result = body["input"]
            assert (call["call_id"], call["arguments"]) == ("call_1", '{"query": "tea"}')
            assert (result["call_id"], result["output"]) == ("call_1", '["tea"]')
            assert body["tools"][0]["parameters"] == FIND.parameters
            assert body["max_output_tokens"] == 7
        else:
            _, assistant, user = body["messages"]
            (call,), (result,) = assistant["content"], user["content"]
            assert (call["id"], call["input"]) == ("call_1", {"query": "tea"})
            assert (result["tool_use_id"], _text(result)) == ("call_1", '["tea"]')
            assert body["tools"][0]["input_schema"] == FIND.parameters
            assert body["max_tokens"] == 7


def _text(result: Any) -> str:
    content = result["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


PNG, PDF = b"\x89PNG-bytes", b"%PDF-bytes"
SHOWN = ChatMessage.user(
    "What is this?",
    BlobPart(media_type="image/png", data=PNG),
    UriPart(uri="https://example.com/a.png", media_type="image/png"),
    BlobPart(media_type="application/pdf", data=PDF, name="a.pdf"),
)


@case("images and files arrive", "server")
async def files(s: Subject) -> None:
    png, pdf = b64encode(PNG).decode(), b64encode(PDF).decode()
    address = "https://example.com/a.png"
    for body in await bodies(s, s.request(SHOWN)):
        if s.kind.speaks == "chat":
            _, image, linked, file = body["messages"][0]["content"]
            assert image["image_url"]["url"] == f"data:image/png;base64,{png}"
            assert linked["image_url"]["url"] == address
            assert file["file"]["file_data"] == f"data:application/pdf;base64,{pdf}"
        elif s.kind.speaks == "responses":
            _, image, linked, file = body["input"][0]["content"]
            assert (image["type"], linked["type"]) == ("input_image", "input_image")
            assert image["image_url"] == f"data:image/png;base64,{png}"
            assert linked["image_url"] == address
            assert file["file_data"] == f"data:application/pdf;base64,{pdf}"
        else:
            _, image, linked, file = body["messages"][0]["content"]
            assert (image["source"]["media_type"], image["source"]["data"]) == ("image/png", png)
            assert linked["source"] == {"type": "url", "url": address}
            assert file["type"] == "document"
            assert file["source"]["data"] == pdf


@case("`extra_body` arrives", "server")
async def extra_body(s: Subject) -> None:
    request = s.request(extra_body={"x_vendor": {"depth": [1, 2]}})
    for body in await bodies(s, request):
        assert body["x_vendor"] == {"depth": [1, 2]}
