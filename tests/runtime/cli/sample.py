"""The application's command line with providers that fail, wait or say what a test needs."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, Literal

from app.llmgine.application import Application, observe
from app.llmgine.bus import MessageBus
from app.llmgine.context import MemoryStore, SQLiteStore
from app.llmgine.contracts import (
    Chunk,
    FinishReason,
    LLMRequest,
    LLMResponse,
    Money,
    StreamEnd,
    TextDelta,
    Usage,
    accumulate,
)
from app.llmgine.engine import LLMEngine, PromptCommand
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.interfaces.cli import build_cli
from app.llmgine.llm import LLMManager
from app.llmgine.llm.manager import Provider
from app.llmgine.settings import RuntimeSettings
from app.llmgine.tools import ToolManager


class Fake:
    """Streams what `chunks` yields."""

    name = "fake"

    def __init__(self, chunks: Callable[[LLMRequest], AsyncIterator[Chunk]]) -> None:
        self._chunks = chunks

    async def complete(self, request: LLMRequest) -> LLMResponse:
        return accumulate([chunk async for chunk in self.stream(request)])

    def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        return self._chunks(request)

    async def aclose(self) -> None:
        pass


def end(**fields: object) -> StreamEnd:
    return StreamEnd.model_validate(
        {"id": "1", "model": "m", "provider": "fake", "finish_reason": FinishReason.STOP, **fields}
    )


async def echo(request: LLMRequest) -> AsyncIterator[Chunk]:
    yield TextDelta(text="You said: ")
    yield TextDelta(text=request.messages[-1].text)
    yield end(
        usage=Usage(input_tokens=1200, output_tokens=34),
        cost=Money.model_validate({"amount": "0.00120"}),
    )


async def count(request: LLMRequest) -> AsyncIterator[Chunk]:
    """How many messages the model was given."""
    yield TextDelta(text=f"{len(request.messages)} messages")
    yield end()


async def hang(request: LLMRequest) -> AsyncIterator[Chunk]:
    try:
        yield TextDelta(text="The beginning of ")
        yield TextDelta(text="an answer")
        await asyncio.Event().wait()
    finally:
        with open(os.environ.get("CLOSED_FILE", os.devnull), "w") as file:
            file.write("closed")
    yield end()


async def cling(request: LLMRequest) -> AsyncIterator[Chunk]:
    """Does not end when it is told to."""
    try:
        yield TextDelta(text="I hold on")
        await asyncio.Event().wait()
    finally:
        print("<cancelled>", flush=True)
        await asyncio.Event().wait()
    yield end()


async def fail(request: LLMRequest) -> AsyncIterator[Chunk]:
    yield TextDelta(text="Half of")
    raise LLMError(
        "The server at example.org is overloaded (529). Try again in a minute.",
        kind=LLMErrorKind.SERVER,
        provider="fail",
    )


async def crash(request: LLMRequest) -> AsyncIterator[Chunk]:
    yield TextDelta(text="x")
    raise ZeroDivisionError("a bug of the provider")


async def sly(request: LLMRequest) -> AsyncIterator[Chunk]:
    yield TextDelta(text="red \x1b[31malert\x1b]52;c;aGk=\x07 ünïcödé 漢字")
    yield end()


async def endless(request: LLMRequest) -> AsyncIterator[Chunk]:
    while True:
        yield TextDelta(text="again and again ")
        await asyncio.sleep(0)


PROVIDERS: Mapping[str, Callable[[], Provider]] = {
    chunks.__name__: partial(Fake, chunks)
    for chunks in (echo, count, hang, cling, fail, crash, sly, endless)
}


def add(first: int, second: int = 1) -> int:
    """Add two numbers.

    They may be negative.

    Args:
        first: the one
        second: the other
    """
    return first + second


def paint(colour: Literal["red", "blue"], text: str, sizes: list[float] | None = None) -> str:
    """Paint a text."""
    return f"{colour} {text} {sizes}"


def break_down() -> None:
    """Always fails."""
    raise RuntimeError("the tool is broken")


def bootstrap(settings: RuntimeSettings) -> Application:
    if os.environ.get("BROKEN_BOOTSTRAP"):
        raise KeyError("a bug of the owner")
    observer = observe(settings)
    bus = MessageBus(middleware=[observer.around_message], traceparent=observer.traceparent)
    tools = ToolManager(observer=observer)
    for tool in (add, paint, break_down):
        tools.register(tool)
    llm = LLMManager(PROVIDERS, models=settings.models, observer=observer)
    database = settings.data_dir / "app.db"
    store = SQLiteStore(database) if settings.context_store == "sqlite" else MemoryStore()
    engine = LLMEngine(
        bus=bus, llm=llm, tools=tools, store=store, settings=settings, observer=observer
    )
    bus.register_command_handler(PromptCommand, engine.prompt)
    return Application(
        settings=settings,
        bus=bus,
        tools=tools,
        llm=llm,
        store=store,
        observer=observer,
        ask=lambda prompt, conversation_id: PromptCommand(
            prompt=prompt, conversation_id=conversation_id
        ),
    )


def load_settings(**overrides: Any) -> RuntimeSettings:
    return RuntimeSettings.load(**overrides)


cli = build_cli("sample", load_settings, bootstrap)

if __name__ == "__main__":
    cli()
