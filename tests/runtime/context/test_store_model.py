"""Any sequence of calls leaves a store as it leaves the simplest model of one."""

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.llmgine.context import ContextStore, MemoryStore, SQLiteStore
from app.llmgine.contracts import ChatMessage
from app.llmgine.errors import ConversationConflictError
from runtime import strategies

T = TypeVar("T")
ids = st.sampled_from(["a", "b", "c"])
batches = st.lists(strategies.chat_messages, max_size=3)


class Conversations(RuleBasedStateMachine):
    """The store beside a dict in the order of the last appends."""

    durable: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.model: dict[str, tuple[ChatMessage, ...]] = {}
        self.store = self.open()

    def open(self) -> ContextStore:
        return SQLiteStore(Path(self.folder.name) / "app.db") if self.durable else MemoryStore()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    @rule(name=ids, batch=batches)
    def append(self, name: str, batch: list[ChatMessage]) -> None:
        last_seq = self.run(self.store.append(name, batch))
        self.extend_model(name, batch)
        assert last_seq == len(self.model.get(name, ()))

    @rule(name=ids, batch=batches, expected_seq=st.integers(min_value=0, max_value=4))
    def append_at(self, name: str, batch: list[ChatMessage], expected_seq: int) -> None:
        append = self.store.append(name, batch, expected_seq=expected_seq)
        if expected_seq == len(self.model.get(name, ())):
            self.run(append)
            self.extend_model(name, batch)
        else:
            with pytest.raises(ConversationConflictError):
                self.run(append)

    def extend_model(self, name: str, batch: list[ChatMessage]) -> None:
        if batch:
            self.model[name] = (*self.model.pop(name, ()), *batch)

    @rule(name=ids)
    def delete(self, name: str) -> None:
        self.run(self.store.delete(name))
        self.model.pop(name, None)

    @precondition(lambda self: self.durable)
    @rule()
    def reopen(self) -> None:
        self.run(self.store.aclose())
        self.store = self.open()

    @precondition(lambda self: self.durable)
    @rule()
    def go_on_in_another_store(self) -> None:
        first, self.store = self.store, self.open()
        self.run(self.store.conversations())
        self.run(first.aclose())

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        assert self.run(self.store.conversations()) == tuple(reversed(self.model))
        for name in ("a", "b", "c"):
            assert self.run(self.store.read(name)) == self.model.get(name, ())
            assert self.run(self.store.last_seq(name)) == len(self.model.get(name, ()))

    def teardown(self) -> None:
        self.run(self.store.aclose())
        self.runner.close()
        self.folder.cleanup()


class DurableConversations(Conversations):
    durable = True


TestMemory = Conversations.TestCase
TestMemory.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestSQLite = DurableConversations.TestCase
TestSQLite.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
