# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Tools: plain typed functions that a model may call."""

from .manager import ToolManager
from .schema import describe

__all__ = ["ToolManager", "describe"]
