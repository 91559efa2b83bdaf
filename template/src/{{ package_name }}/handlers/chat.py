"""What happens in the chat topic. This file is yours."""

import logging

from ..commands.chat import Ask
from ..events.chat import QuestionAnswered
from ..llmgine import MessageBus, PromptCommand, PromptResult

logger = logging.getLogger(__name__)


async def ask(command: Ask, *, bus: MessageBus) -> PromptResult:
    # Your own rules go here: who may ask, what is added to the prompt, what is kept of the answer.
    result = await bus.execute(
        PromptCommand(conversation_id=command.conversation_id, prompt=command.prompt)
    )
    await bus.publish(QuestionAnswered(conversation_id=result.conversation_id, steps=result.steps))
    return result


async def log_answer(event: QuestionAnswered) -> None:
    logger.info("Answered in %s, steps: %d", event.conversation_id, event.steps)
