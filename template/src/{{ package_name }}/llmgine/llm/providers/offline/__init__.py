# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""A model without a network: deterministic rules that call whatever tools are registered."""

from .provider import OfflineProvider

__all__ = ["OfflineProvider"]
