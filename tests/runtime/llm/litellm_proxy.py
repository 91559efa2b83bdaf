"""A litellm proxy with mock models: one more server that speaks Chat Completions, as a process.

It is told that the way out of this machine leads through `outside`, which answers nobody and counts
who asked.
"""

from __future__ import annotations

import json
import socket
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from faults.proxy import HOST
from servers import Server

READY_S = 100.0
"""It imports for twenty seconds where the compiled modules may not be kept."""

TEXT = "Hello from the proxy, wörld."
CALL = {"id": "call_1", "type": "function"} | {
    "function": {"name": "find_notes", "arguments": '{"query": "tea"}'}
}


class LiteLLMProxy(Server):
    name = "litellm-proxy"
    missing = "" if find_spec("litellm") and find_spec("fastapi_sso") else "No litellm[proxy] here."

    def __init__(self) -> None:
        self.outside = socket.create_server((HOST, 0))
        self.outside.setblocking(False)
        super().__init__()

    @property
    def key(self) -> str:
        return f"sk-{self.token}"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/v1"

    def prepare(self) -> None:
        models = {
            # The first is how it is known for the one that was started.
            self.token: {"mock_response": TEXT},
            "mock": {"mock_response": TEXT},
            "calling": {"mock_response": "", "mock_tool_calls": [CALL]},
            "limited": {"mock_response": "litellm.RateLimitError"},
            "failing": {"mock_response": "litellm.InternalServerError"},
        }
        config = {
            "model_list": [_model(name, answer) for name, answer in models.items()],
            "litellm_settings": {"telemetry": False, "num_retries": 0},
            "router_settings": {"num_retries": 0, "disable_cooldowns": True},
            "general_settings": {"master_key": self.key},
        }
        self._config.write_text(json.dumps(config))  # JSON is YAML.

    @property
    def _config(self) -> Path:
        return self.folder / "config.yaml"

    def command(self) -> list[str]:
        outside = f"http://{HOST}:{self.outside.getsockname()[1]}"
        environment = {
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "PATH": "/usr/bin:/bin",
            "HTTP_PROXY": outside,
            "HTTPS_PROXY": outside,
            "NO_PROXY": HOST,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
        }
        program = Path(sys.executable).with_name("litellm")
        arguments = ["--config", str(self._config), "--host", HOST, "--port", str(self.port)]
        variables = [f"{name}={value}" for name, value in environment.items()]
        return ["/usr/bin/env", "-i", *variables, str(program), *arguments, "--telemetry", "False"]

    def start(self) -> None:
        if not self._start_once(time.monotonic() + READY_S):
            raise RuntimeError(f"The litellm proxy did not start:\n{self.last_words()}")

    def identity(self) -> str:
        asked = urllib.request.Request(
            f"{self.url}/models", headers={"Authorization": f"Bearer {self.key}"}
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(asked, timeout=READY_S) as reply:
                return str(json.load(reply)["data"][0]["id"])
        except urllib.error.HTTPError as error:
            return f"HTTP {error.code}"
        except OSError:
            return ""

    def close(self) -> None:
        super().close()
        self.outside.close()

    def called_out(self) -> bool:
        """Whether it has tried to reach anything beyond this machine."""
        try:
            self.outside.accept()[0].close()
        except BlockingIOError:
            return False
        return True


def _model(name: str, answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_name": name,
        "litellm_params": {"model": "openai/gpt-4o", "api_key": "none", **answer},
    }
