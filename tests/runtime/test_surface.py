"""The names that the runtime shows, and what importing it must not cost."""

import ast
import subprocess
import sys
from pathlib import Path

from app import llmgine

TESTS = Path(__file__).parents[1]


def test_the_surface_is_this_list():
    assert list(llmgine.__all__) == sorted(
        """
        Application ApplicationBootstrap ChatMessage Command CommandErrorEvent CommandResult
        CommandResultEvent ContextStore Envelope Event EventHandlerFailedEvent EventRecorder
        LLMEngine LLMError LLMManager LLMRequest LLMResponse LLMResponseEvent LlmgineError
        MemoryStore MessageBus Metric MetricEvent Observer PromptCommand PromptResult Provider
        Receipt Route RuntimeSettings SQLiteJournal SQLiteStore Target TextDiscardedEvent
        TextStreamedEvent ToolCall ToolCallEvent ToolManager ToolResult ToolResultEvent ToolSpec
        TraceEvent Usage current_envelope default_journal default_ledger default_providers
        default_transport observe
        """.split()
    )


def test_every_name_of_the_surface_is_there():
    assert [name for name in llmgine.__all__ if not hasattr(llmgine, name)] == []


def test_the_stub_tells_the_type_checkers_the_same():
    stub = ast.parse((TESTS / "app" / "llmgine" / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]

    homes = {alias.name: node.module for node in imports for alias in node.names}

    assert homes == llmgine._HOMES


def test_importing_the_application_imports_no_heavy_library():
    heavy = {"litellm", "openai", "mcp", "fastapi", "discord", "aiohttp", "structlog", "rich"}
    heavy |= {"asyncpg", "nats", "faststream"}
    program = f"import sys, app.bootstrap; print(sorted({heavy!r} & sys.modules.keys()))"

    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=TESTS, capture_output=True, text=True, check=True
    )

    assert printed.stdout == "[]\n"
