# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Model calls: one manager, any number of providers behind it."""

from .manager import LLMManager, Provider, default_providers

__all__ = ["LLMManager", "Provider", "default_providers"]
