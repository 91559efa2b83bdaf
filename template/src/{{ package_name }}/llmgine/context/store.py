# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What a context store is, and the one in memory: the append-only log of every conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..contracts import ChatMessage
from ..errors import ConversationConflictError, StoreError


class ContextStore(Protocol):
    """Keeps the messages of each conversation, numbered 1, 2, 3 and so on in the order appended.

    Everything but `aclose` raises `StoreError` when the store cannot be opened, read or written,
    when it is closed, and for a conversation id that is not valid Unicode.
    """

    async def append(
        self,
        conversation_id: str,
        messages: Sequence[ChatMessage],
        *,
        expected_seq: int | None = None,
    ) -> int:
        """Add the messages, all or none, and return the number of the last one.

        Once it returns, the messages outlive the process. Cancelled, it has added all or none.

        Args:
            conversation_id: begins to exist with its first message.
            messages: none at all is allowed and changes nothing.
            expected_seq: refuse unless the conversation's last number is this one.

        Raises:
            ConversationConflictError: the last number is not `expected_seq`; nothing was added.
        """
        ...

    async def read(self, conversation_id: str) -> tuple[ChatMessage, ...]:
        """All messages of the conversation, oldest first; none if it does not exist."""
        ...

    async def last_seq(self, conversation_id: str) -> int:
        """The number of the conversation's last message, 0 if it does not exist."""
        ...

    async def conversations(self) -> tuple[str, ...]:
        """The ids of all conversations, the one last appended to first."""
        ...

    async def delete(self, conversation_id: str) -> None:
        """Erase the conversation; it does not matter whether it exists."""
        ...

    async def aclose(self) -> None:
        """Give back files and threads; closing twice does nothing."""
        ...


def checked(conversation_id: str) -> str:
    """The id, if it can be written down.

    Raises:
        StoreError: it holds half of a surrogate pair, as an undecodable command-line byte does.
    """
    try:
        conversation_id.encode()
    except UnicodeEncodeError as cause:
        raise StoreError(
            f"Conversation id {conversation_id!r} is not valid Unicode. Use another one."
        ) from cause
    return conversation_id


class MemoryStore:
    """A `ContextStore` for tests, and for conversations that nobody goes back to."""

    def __init__(self) -> None:
        self._logs: dict[str, tuple[ChatMessage, ...]] = {}
        self._closed = False

    async def append(
        self,
        conversation_id: str,
        messages: Sequence[ChatMessage],
        *,
        expected_seq: int | None = None,
    ) -> int:
        log = self._log(conversation_id)
        if expected_seq is not None and expected_seq != len(log):
            raise ConversationConflictError(
                conversation_id, expected_seq=expected_seq, actual_seq=len(log)
            )
        if messages:
            # Taken out first, so that the dict's order is the order of the last appends.
            self._logs.pop(conversation_id, None)
            self._logs[conversation_id] = (*log, *messages)
        return len(log) + len(messages)

    async def read(self, conversation_id: str) -> tuple[ChatMessage, ...]:
        return self._log(conversation_id)

    async def last_seq(self, conversation_id: str) -> int:
        return len(self._log(conversation_id))

    async def conversations(self) -> tuple[str, ...]:
        self._check_open()
        return tuple(reversed(self._logs))

    async def delete(self, conversation_id: str) -> None:
        self._log(conversation_id)
        self._logs.pop(conversation_id, None)

    async def aclose(self) -> None:
        self._closed = True

    def _log(self, conversation_id: str) -> tuple[ChatMessage, ...]:
        self._check_open()
        return self._logs.get(checked(conversation_id), ())

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("The context store in memory is closed; it takes no more calls.")
