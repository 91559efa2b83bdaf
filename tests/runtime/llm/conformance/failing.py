"""Cases of failure: told by its kind, asked for once, on time, and without the key."""

from __future__ import annotations

import asyncio
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from app.llmgine.errors import LLMErrorKind
from runtime.llm.conformance.answering import LONG
from runtime.llm.conformance.cases import case
from runtime.llm.conformance.subjects import KEY, Subject, collect
from runtime.llm.vendors import (
    NOTHING,
    SILENCE,
    WEB_PAGE,
    Fault,
    Raw,
    Reply,
    Sent,
    as_event,
    broken,
    first_half,
    whole,
)


async def fails(
    s: Subject, kind: LLMErrorKind, status: int | None, *replies: Reply, timeout_s: float = 30.0
) -> None:
    errors = await s.failures(*replies, timeout_s=timeout_s)

    assert [(error.kind, error.status) for error in errors] == [(kind, status)] * 2
    assert [error.model for error in errors] == [s.kind.model] * 2
    assert all(s.kind.model in str(error) for error in errors)


@case("401: `authentication`", "server")
async def unauthorized(s: Subject) -> None:
    await fails(s, LLMErrorKind.AUTHENTICATION, 401, Fault("key"))


@case("403: `authentication`", "server")
async def forbidden(s: Subject) -> None:
    await fails(s, LLMErrorKind.AUTHENTICATION, 403, Fault("permission"))


@case("400: `bad_request`", "server")
async def bad_request(s: Subject) -> None:
    await fails(s, LLMErrorKind.BAD_REQUEST, 400, Fault("request"))


@case("404: `bad_request`", "server")
async def unknown_model(s: Subject) -> None:
    await fails(s, LLMErrorKind.BAD_REQUEST, 404, Fault("model"))


@case("a conversation that is too long: `context_length`", "server")
async def context_length(s: Subject) -> None:
    await fails(s, LLMErrorKind.CONTEXT_LENGTH, 400, Fault("context"))


@case("a prompt that the vendor filters: `content_filter`", "server")
async def content_filter(s: Subject) -> None:
    await fails(s, LLMErrorKind.CONTENT_FILTER, 400, Fault("content"))


@case("429: `rate_limit`, and how many seconds to wait", "server")
async def rate_limit_seconds(s: Subject) -> None:
    errors = await s.failures(Fault("rate", retry_after="7"))

    assert [error.kind for error in errors] == [LLMErrorKind.RATE_LIMIT] * 2
    assert [error.retry_after_s for error in errors] == [7.0, 7.0]


@case("429: `rate_limit`, and until which date to wait", "server")
async def rate_limit_date(s: Subject) -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)

    errors = await s.failures(Fault("rate", retry_after=then))

    assert [error.kind for error in errors] == [LLMErrorKind.RATE_LIMIT] * 2
    assert all(40 < (error.retry_after_s or 0) <= 60 for error in errors)


@case("500: `server`", "server")
async def server_error(s: Subject) -> None:
    await fails(s, LLMErrorKind.SERVER, 500, Fault("server"))


@case("529: `server`", "server")
async def overloaded(s: Subject) -> None:
    await fails(s, LLMErrorKind.SERVER, 529, Fault("overloaded"))


@case("no reply at all: `network`", "server")
async def no_reply(s: Subject) -> None:
    await fails(s, LLMErrorKind.NETWORK, None, NOTHING)


@case("an answer that is cut in the middle: `network`", "server")
async def cut_stream(s: Subject) -> None:
    await fails(s, LLMErrorKind.NETWORK, None, Sent(LONG, pieces=first_half, then="cut"))


@case("an error in the middle of a stream: its kind", "server")
async def error_in_stream(s: Subject) -> None:
    errors = await s.failures(Fault("rate"), Sent(LONG, pieces=_begin, fault=Fault("rate")))

    assert [error.kind for error in errors] == [LLMErrorKind.RATE_LIMIT] * 2


def _begin(events: list[bytes]) -> list[bytes]:
    return events[:6]


@case("a first byte that does not come: `timeout`", "server")
async def slow_first_byte(s: Subject) -> None:
    await fails(s, LLMErrorKind.TIMEOUT, None, SILENCE, timeout_s=0.3)


@case("a stream that stands still: `timeout`", "server")
async def standstill(s: Subject) -> None:
    half = Sent(LONG, pieces=first_half, then="hang")
    await fails(s, LLMErrorKind.TIMEOUT, None, half, timeout_s=0.3)


@case("a request's own `timeout_s` ends the whole call, however long silence may last", "server")
async def deadline(s: Subject) -> None:
    dripping = Sent(LONG, gate=asyncio.Semaphore(4))
    begun = asyncio.get_running_loop().time()

    errors = await s.failures(SILENCE, dripping, request=s.request(timeout_s=0.3))

    assert [error.kind for error in errors] == [LLMErrorKind.TIMEOUT] * 2
    assert asyncio.get_running_loop().time() - begun < 5


@case("broken JSON: `bad_response`", "server")
async def bad_json(s: Subject) -> None:
    await fails(s, LLMErrorKind.BAD_RESPONSE, None, Sent(LONG, pieces=broken))


@case("a web page in place of an answer: `bad_response`", "server")
async def web_page(s: Subject) -> None:
    await fails(s, LLMErrorKind.BAD_RESPONSE, None, WEB_PAGE)


@case("JSON without an answer in it: `bad_response`", "server")
async def no_answer(s: Subject) -> None:
    nothing: dict[str, list[str]] = {"choices": []} if s.kind.speaks == "chat" else {}
    events = [as_event(nothing), as_event("[DONE]")]
    stream = Raw(events, headers={"Content-Type": "text/event-stream"})
    streamed = stream if s.kind.speaks == "chat" else whole(nothing)
    await fails(s, LLMErrorKind.BAD_RESPONSE, None, whole(nothing), streamed)


@case("a call that is cancelled closes its connection within a second", "server")
async def cancelling(s: Subject) -> None:
    s.will(SILENCE, Sent(LONG, pieces=first_half, then="hang"))
    provider = s.provider()
    for number, ask in enumerate((provider.complete, None), start=1):
        calling = asyncio.ensure_future(ask(s.request()) if ask else collect(provider, s.request()))
        await asyncio.wait_for(s.server.asked(number), 10)

        calling.cancel()

        await asyncio.wait_for(s.server.client_left(number), 1)
        await asyncio.wait([calling])
        assert calling.cancelled()


@case("a stream that is closed early closes its connection within a second", "server")
async def closing_early(s: Subject) -> None:
    s.will(Sent(LONG, pieces=first_half, then="hang"))
    chunks = s.provider().stream(s.request())
    await anext(chunks)

    await chunks.aclose()  # type: ignore[attr-defined]  # Every provider's stream has it.

    await asyncio.wait_for(s.server.client_left(), 1)


@case("the key is in no error and no traceback", "server")
async def secrets(s: Subject) -> None:
    said = f"Incorrect API key provided: {KEY}. It began with {KEY[:6]}***."
    page = Raw([f"<html><title>{KEY}</title></html>".encode()], 500, {"Content-Type": "text/html"})
    errors = await s.failures(Fault("key", said))
    s.server.requests.clear()
    errors += await s.failures(page)
    for error in errors:
        assert "canary" not in "".join(traceback.format_exception(error))
