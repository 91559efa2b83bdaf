"""A process killed at any moment has lost nothing that it had acknowledged."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from contextlib import closing
from pathlib import Path

from app.llmgine.context import SQLiteStore

TESTS = Path(__file__).parents[2]
WRITER = """
import asyncio, os, sys
from app.llmgine.context import SQLiteStore
from app.llmgine.contracts import ChatMessage

async def write(store, name):
    seq = await store.last_seq(name)
    while True:
        texts = [str(number) for number in range(seq + 1, seq + 1 + 1 + seq % 3)]
        seq = await store.append(name, [ChatMessage.user(text) for text in texts], expected_seq=seq)
        os.write(1, f"{name} {seq}\\n".encode())

async def main():
    store = SQLiteStore(sys.argv[1])
    await asyncio.gather(*(write(store, name) for name in "abcd"))

asyncio.run(main())
"""


def write_and_die(path: Path, acknowledgements: int) -> list[str]:
    """What a process said it had stored; it is killed after that many lines, or a few more."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(acknowledgements)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.stdout.close()
    assert process.wait(timeout=60) == -signal.SIGKILL
    return [line for line in lines if line.endswith("\n")]


async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    acknowledged: dict[str, int] = defaultdict(int)
    dice = random.Random(20261121)
    for _ in range(6):
        for line in write_and_die(path, dice.randint(1, 120)):
            name, seq = line.split()
            acknowledged[name] = int(seq)

        store = SQLiteStore(path)
        for name, last_seq in acknowledged.items():
            texts = [message.text for message in await store.read(name)]
            assert len(texts) >= last_seq
            assert texts == [str(number) for number in range(1, len(texts) + 1)]
        await store.aclose()

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
