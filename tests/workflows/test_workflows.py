"""The page on workflows: its code runs on DBOS, and survives being killed."""

import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 12) and sqlite3.sqlite_version_info < (3, 42),
    reason="DBOS takes it that Python 3.12 has SQLite 3.42; here it is older, and DBOS cannot run",
)

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "workflows.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
OUTPUT = re.findall(r"```python\n.*?```\n\n```text\n(.*?)```", PAGE, re.DOTALL)

# The unrendered application under the name that the page uses.
AS_MY_AGENT = f"""
import importlib, sys
sys.path.insert(0, {str(TESTS)!r})
sys.modules["my_agent"] = importlib.import_module("app")
"""
MAIN = """
async def main():
    launch()
    bus = MessageBus(journal=SQLiteJournal("app.db"), lease_s=0.5)
    bus.register_command_handler(Onboard, handler)
    async with bus:
        receipt = await bus.send(Onboard(customer="ada"), id="ada")
        workflow = await DBOS.retrieve_workflow_async(await bus.result(receipt))
        print("done:", await workflow.get_result())
        print("workflows:", len(await DBOS.list_workflows_async()))
    DBOS.destroy()

asyncio.run(main())
"""
KILLS_ITSELF = """
import os, signal

async def handler(command):
    await onboard(command)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def start(tmp_path):
    """Start a program in an empty folder, the same one each time."""
    running = []

    def start(*parts):
        program = tmp_path / "program.py"
        program.write_text("\n".join([AS_MY_AGENT, *parts]))
        process = subprocess.Popen(
            [sys.executable, program], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_the_program_of_the_page_prints_what_it_says(start):
    printed, _ = start(*BLOCKS).communicate(timeout=60)

    assert [printed] == OUTPUT


def test_a_workflow_goes_on_where_it_was_killed(start):
    first = start(BLOCKS[0], "handler = onboard", MAIN)
    begun = [first.stdout.readline(), first.stdout.readline()]
    first.kill()
    printed, _ = start(BLOCKS[0], "handler = onboard", MAIN).communicate(timeout=60)

    assert begun == ["opened an account for ada\n", "a week passes\n"]
    assert "opened an account" not in printed
    assert printed.count("asked how it goes with the account of ada\n") == 1
    assert printed.endswith("done: account of ada\nworkflows: 1\n")


def test_a_command_that_is_handled_twice_starts_one_workflow(start):
    killed = start(BLOCKS[0], KILLS_ITSELF, MAIN)
    before, _ = killed.communicate(timeout=60)
    again = "async def handler(command):\n    print('again')\n    return await onboard(command)"
    after, _ = start(BLOCKS[0], again, MAIN).communicate(timeout=60)

    assert killed.returncode == -signal.SIGKILL
    assert "again\n" in after
    assert (before + after).count("asked how it goes") == 1
    assert after.endswith("workflows: 1\n")
