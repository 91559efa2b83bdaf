# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Model calls: one manager, any number of providers behind it."""

from .manager import LLMManager, default_providers
from .provider import Capabilities, Provider

__all__ = ["Capabilities", "LLMManager", "Provider", "default_providers"]
