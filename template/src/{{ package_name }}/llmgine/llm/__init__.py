# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Model calls: one manager, any number of providers behind it."""

from .limits import Breaker
from .manager import LLMManager, default_providers
from .provider import Capabilities, Provider
from .router import (
    DECISIONS,
    Candidate,
    Decision,
    RetryPolicy,
    Route,
    Strategy,
    Target,
    best,
    cheapest,
    fastest,
    in_order,
    weighted,
)

__all__ = [
    "DECISIONS",
    "Breaker",
    "Candidate",
    "Capabilities",
    "Decision",
    "LLMManager",
    "Provider",
    "RetryPolicy",
    "Route",
    "Strategy",
    "Target",
    "best",
    "cheapest",
    "default_providers",
    "fastest",
    "in_order",
    "weighted",
]
