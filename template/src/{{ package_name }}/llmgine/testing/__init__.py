# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What the runtime is tested with, and your application can be too.

`plugin` is for pytest: loaded, it gives the fixtures and keeps tests off the network.
"""

from ..llm.providers.cassette import CassetteProvider
from ..llm.providers.scripted import ScriptedProvider
from .bus import RecordingBus, Sent
from .clock import FakeClock
from .network import NetworkReachedError, no_network

__all__ = [
    "CassetteProvider",
    "FakeClock",
    "NetworkReachedError",
    "RecordingBus",
    "ScriptedProvider",
    "Sent",
    "no_network",
]
