# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
from .application import (
    Application as Application,
)
from .application import (
    ApplicationBootstrap as ApplicationBootstrap,
)
from .application import (
    default_journal as default_journal,
)
from .application import (
    default_ledger as default_ledger,
)
from .application import (
    default_providers as default_providers,
)
from .application import (
    default_transport as default_transport,
)
from .application import (
    observe as observe,
)
from .bus import (
    CommandErrorEvent as CommandErrorEvent,
)
from .bus import (
    CommandResult as CommandResult,
)
from .bus import (
    CommandResultEvent as CommandResultEvent,
)
from .bus import (
    EventHandlerFailedEvent as EventHandlerFailedEvent,
)
from .bus import (
    MessageBus as MessageBus,
)
from .bus import (
    Receipt as Receipt,
)
from .context import (
    ContextStore as ContextStore,
)
from .context import (
    MemoryStore as MemoryStore,
)
from .context import (
    SQLiteStore as SQLiteStore,
)
from .contracts import (
    ChatMessage as ChatMessage,
)
from .contracts import (
    LLMRequest as LLMRequest,
)
from .contracts import (
    LLMResponse as LLMResponse,
)
from .contracts import (
    ToolCall as ToolCall,
)
from .contracts import (
    ToolResult as ToolResult,
)
from .contracts import (
    ToolSpec as ToolSpec,
)
from .contracts import (
    Usage as Usage,
)
from .delivery import (
    SQLiteJournal as SQLiteJournal,
)
from .engine import (
    LLMEngine as LLMEngine,
)
from .engine import (
    LLMResponseEvent as LLMResponseEvent,
)
from .engine import (
    PromptCommand as PromptCommand,
)
from .engine import (
    PromptResult as PromptResult,
)
from .engine import (
    TextDiscardedEvent as TextDiscardedEvent,
)
from .engine import (
    TextStreamedEvent as TextStreamedEvent,
)
from .engine import (
    ToolCallEvent as ToolCallEvent,
)
from .engine import (
    ToolResultEvent as ToolResultEvent,
)
from .errors import LLMError as LLMError
from .errors import LlmgineError as LlmgineError
from .llm import (
    LLMManager as LLMManager,
)
from .llm import (
    Provider as Provider,
)
from .llm import (
    Route as Route,
)
from .llm import (
    Target as Target,
)
from .messages import (
    Command as Command,
)
from .messages import (
    Envelope as Envelope,
)
from .messages import (
    Event as Event,
)
from .messages import (
    current_envelope as current_envelope,
)
from .observability import (
    EventRecorder as EventRecorder,
)
from .observability import (
    Metric as Metric,
)
from .observability import (
    MetricEvent as MetricEvent,
)
from .observability import (
    Observer as Observer,
)
from .observability import (
    TraceEvent as TraceEvent,
)
from .settings import RuntimeSettings as RuntimeSettings
from .tools import ToolManager as ToolManager
