"""The only wiring of the application; read this first. This file is yours."""

from collections.abc import Callable, Mapping
from functools import partial

from .commands.chat import Ask
from .config import Settings
from .events.chat import QuestionAnswered
from .handlers.chat import ask, log_answer
from .llmgine import (
    Application,
    Event,
    EventRecorder,
    LLMEngine,
    LLMManager,
    MemoryStore,
    MessageBus,
    PromptCommand,
    Provider,
    SQLiteStore,
    TextStreamedEvent,
    ToolManager,
    default_journal,
    default_ledger,
    default_providers,
    default_transport,
    observe,
)
from .services.notes import Notes
from .tools.clock import current_time
from .tools.notes import note_tools


def bootstrap(
    settings: Settings, *, providers: Mapping[str, Callable[[], Provider]] | None = None
) -> Application:
    """Build the application. The tests call it too, with providers of their own."""
    observer = observe(settings)
    bus = MessageBus(
        middleware=[observer.around_message],
        traceparent=observer.traceparent,
        journal=default_journal(settings),
        transport=default_transport(settings),
        work=settings.work,
    )
    database = settings.data_dir / "app.db"
    store = SQLiteStore(database) if settings.context_store == "sqlite" else MemoryStore()
    llm = LLMManager(
        providers or default_providers(settings),
        models=settings.models,
        ledger=default_ledger(settings),
        observer=observer,
    )

    tools = ToolManager(timeout_s=settings.tool_timeout_s, observer=observer)
    for tool in [current_time, *note_tools(Notes(database))]:
        tools.register(tool)

    recorder = EventRecorder(observer, skip=(TextStreamedEvent,))
    engine = LLMEngine(
        bus=bus, llm=llm, tools=tools, store=store, settings=settings, observer=observer
    )
    bus.register_command_handler(PromptCommand, engine.prompt)
    bus.register_command_handler(Ask, partial(ask, bus=bus))
    bus.register_event_handler(QuestionAnswered, log_answer)
    bus.register_event_handler(Event, recorder.record_event)

    return Application(
        settings=settings,
        bus=bus,
        tools=tools,
        llm=llm,
        store=store,
        observer=observer,
        ask=lambda prompt, conversation_id: Ask(prompt=prompt, conversation_id=conversation_id),
    )
