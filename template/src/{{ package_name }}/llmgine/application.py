# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The running application: what `bootstrap()` builds and every interface is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from .bus import MessageBus
from .context import ContextStore
from .delivery import Journal, SQLiteJournal, Transport
from .engine import PromptResult
from .errors import ConfigurationError
from .llm import LLMManager, Provider
from .llm import default_providers as builtin_providers
from .llm.budget import Budget, Cap, Ledger
from .llm.prices import PriceTable
from .messages import Command
from .observability import JsonlSink, Observer, Redactor, configure_logging, otlp_exporter
from .settings import RuntimeSettings
from .tools import ToolManager


@dataclass(kw_only=True)
class Application:
    """All the parts, wired. `async with` starts them, and stops them in the opposite order."""

    settings: RuntimeSettings
    bus: MessageBus
    tools: ToolManager
    llm: LLMManager
    store: ContextStore
    observer: Observer
    ask: Callable[[str, str], Command[PromptResult]]
    """The command for (prompt, conversation id); what the interfaces send."""

    def __post_init__(self) -> None:
        self._stack = AsyncExitStack()
        if self.llm.ledger is None and default_budget(self.settings) != Budget():
            raise ConfigurationError(
                "A budget is set, but nothing holds model calls to it. In bootstrap.py, give "
                "LLMManager the argument ledger=default_ledger(settings)."
            )

    async def __aenter__(self) -> Self:
        stack = self._stack
        stack.callback(self.observer.close)
        stack.callback(configure_logging(self.settings.log_level, self.observer))
        stack.push_async_callback(self.store.aclose)
        stack.push_async_callback(self.llm.aclose)
        stack.push_async_callback(self.tools.aclose)
        stack.push_async_callback(self.bus.stop, self.settings.stop_grace_s)
        try:
            await self.bus.start()
        except BaseException:
            await stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()


class ApplicationBootstrap(Protocol):
    """What `bootstrap.py` holds: one function that builds the application from its settings.

    Tests call the same function with providers of their own.
    """

    def __call__(
        self, settings: Any, *, providers: Mapping[str, Callable[[], Provider]] | None = None
    ) -> Application: ...


def observe(settings: RuntimeSettings) -> Observer:
    """The observer that the settings ask for: one line of JSON for each record, free of secrets.

    Spans also go over OTLP where OpenTelemetry's own variables name an endpoint.

    Raises:
        ConfigurationError: the log folder cannot be written.
        MissingExtraError: an endpoint is named and the extra `otlp` is not installed.
    """
    exporter = otlp_exporter()
    return Observer(
        [JsonlSink(settings.log_dir / "app.jsonl")],
        redact=Redactor(secrets=settings.secrets()),
        capture_content=settings.capture_content,
        exporters=[] if exporter is None else [exporter],
    )


def default_journal(settings: RuntimeSettings) -> Journal:
    """Where the settings have durable messages and the event log kept.

    Raises:
        ConfigurationError: the address is of no kind that is known.
    """
    if settings.journal_url is None:
        in_memory = settings.context_store == "memory"
        return SQLiteJournal(":memory:" if in_memory else settings.data_dir / "app.db")
    url = settings.journal_url.get_secret_value()
    if not url.startswith(("postgres://", "postgresql://")):
        raise ConfigurationError(
            "LLMGINE_JOURNAL_URL must begin with postgresql://, or be left out for a SQLite file."
        )
    from .delivery import PostgresJournal  # As below: only who uses it pays for it.

    return PostgresJournal(url)


def default_transport(settings: RuntimeSettings) -> Transport | None:
    """What carries messages to other machines, if the settings name a server.

    Raises:
        ConfigurationError: the address is of no kind that is known.
    """
    if settings.transport_url is None:
        return None
    url = settings.transport_url.get_secret_value()
    if not url.startswith(("nats://", "tls://")):
        raise ConfigurationError(
            "LLMGINE_TRANSPORT_URL must begin with nats:// or tls://. For Kafka, RabbitMQ and "
            "Redis, give the bus a FastStreamTransport in bootstrap.py."
        )
    from .delivery import NatsTransport

    return NatsTransport(url)


def default_prices(settings: RuntimeSettings) -> PriceTable:
    """The prices that come with the runtime, under those of the settings' `prices_file`.

    Where a base URL is not the vendor's own, the vendor's prices do not hold.

    Raises:
        ConfigurationError: the file cannot be read, or is wrong.
    """
    homes = {
        "openai": (settings.openai_base_url, "api.openai.com"),
        "anthropic": (settings.anthropic_base_url, "api.anthropic.com"),
    }
    elsewhere = [vendor for vendor, (url, home) in homes.items() if url and _host(url) != home]
    return PriceTable.load(settings.prices_file, elsewhere=elsewhere)


def _host(url: str) -> str | None:
    try:
        return urlsplit(url.strip()).hostname
    except ValueError:
        return None


def default_budget(settings: RuntimeSettings) -> Budget:
    """The caps that the settings name."""

    def cap(usd: Decimal | None, tokens: int | None) -> Cap | None:
        return None if usd is None and tokens is None else Cap(usd=usd, tokens=tokens)

    return Budget(
        call=cap(settings.budget_call_usd, settings.budget_call_tokens),
        session=cap(settings.budget_session_usd, settings.budget_session_tokens),
        user=cap(settings.budget_user_usd, settings.budget_user_tokens),
        day=cap(settings.budget_day_usd, settings.budget_day_tokens),
    )


def default_ledger(settings: RuntimeSettings) -> Ledger:
    """The ledger of the settings' budget: beside the conversations, or in memory as they are.

    Raises:
        ConfigurationError: the settings' `prices_file` cannot be read, or is wrong.
    """
    in_memory = settings.context_store == "memory"
    return Ledger(
        None if in_memory else settings.data_dir / "app.db",
        default_budget(settings),
        default_prices(settings),
    )


def default_providers(settings: RuntimeSettings) -> Mapping[str, Callable[[], Provider]]:
    """The providers that come with the runtime, by the first half of a model's name.

    Each is made, and its libraries are imported, when a model of it is first asked for.
    """
    return builtin_providers(
        openai_api_key=settings.openai_api_key,
        openai_base_url=settings.openai_base_url,
        anthropic_api_key=settings.anthropic_api_key,
        anthropic_auth_token=settings.anthropic_auth_token,
        anthropic_base_url=settings.anthropic_base_url,
        timeout_s=settings.request_timeout_s,
        environment=settings.dotenv(),
    )
