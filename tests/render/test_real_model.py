"""An application rendered for a real model, answering through a server that speaks its language."""

import asyncio
import os
import sys
from pathlib import Path

from rendering import render
from runtime.llm.fake_openai import Answer, Call, FakeOpenAI


async def test_an_application_for_openai_answers_through_a_loopback_server(
    template: Path, tmp_path: Path
) -> None:
    project = render(template, tmp_path / "project", {"model": "gpt-4o-mini"})
    asks = Answer(calls=(Call("call_1", "save_note", '{"text": "buy oat milk"}'),))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(project / "src")}

    async with FakeOpenAI(asks, Answer(text="I will remember it.")) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "my_agent", "ask", "Remember to buy oat milk"),
            cwd=project,
            env=environment | {"OPENAI_BASE_URL": server.url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        answer, said = await process.communicate()

    assert process.returncode == 0, said.decode()
    assert answer.decode().strip() == "I will remember it."
    first, second = (request.body for request in server.requests)
    assert first["model"] == "gpt-4o-mini"
    assert {tool["function"]["name"] for tool in first["tools"]} >= {"save_note", "current_time"}
    assert second["messages"][-1]["content"] == "Saved: buy oat milk"
