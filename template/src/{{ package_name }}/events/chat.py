"""Past facts of the chat topic. This file is yours."""

from ..llmgine import Event


class QuestionAnswered(Event):
    """A prompt was answered, after `steps` model calls."""

    conversation_id: str
    steps: int
