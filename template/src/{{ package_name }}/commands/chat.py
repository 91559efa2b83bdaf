"""Orders of the chat topic. This file is yours."""

from ..llmgine import Command, PromptResult


class Ask(Command[PromptResult]):
    """Answer one prompt of a conversation."""

    prompt: str
    conversation_id: str
