"""A stuck tool keeps no process alive."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]
STUCK = """
import asyncio, threading
from app.llmgine.contracts import ToolCall
from app.llmgine.tools import ToolManager

def wait() -> None:
    threading.Event().wait()

async def main() -> None:
    manager = ToolManager(timeout_s=0.01)
    manager.register(wait)
    (result,) = await manager.execute([ToolCall(id="1", name="wait", arguments="{}")])
    print(result.status)
    await manager.aclose()

asyncio.run(main())
"""


def test_the_interpreter_exits_while_a_tool_is_stuck_in_its_thread() -> None:
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}

    ended = subprocess.run(
        [sys.executable, "-c", STUCK], env=environment, capture_output=True, text=True, timeout=60
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "timeout\n", "")
