# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The bus's counters as OpenTelemetry metrics: read when they are collected, free otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from .handlers import CommandHandler, binding_name
from .lane import Lane

if TYPE_CHECKING:
    from .bus import MessageBus


def register_instruments(bus: MessageBus, meter: Meter) -> None:
    """Let the meter read the counters of every handler that is not a session's.

    `llmgine.bus.messages` counts by handler, message and outcome (`handled`, `failed`, `dropped`);
    `llmgine.bus.queued` is how many events wait, by handler and message; `llmgine.bus.running` how
    many commands run; `llmgine.bus.dead_letters` how many messages failed for good and are kept.
    """
    meter.create_observable_counter(
        "llmgine.bus.messages", [lambda _: _messages(bus)], "{message}", "Messages, by outcome."
    )
    meter.create_observable_up_down_counter(
        "llmgine.bus.queued", [lambda _: _queued(bus)], "{message}", "Events that wait."
    )

    def running(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(bus.running)]

    def dead_letters(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(len(bus.dead_letters))]

    meter.create_observable_up_down_counter("llmgine.bus.running", [running], "{message}")
    meter.create_observable_up_down_counter("llmgine.bus.dead_letters", [dead_letters], "{message}")


def _messages(bus: MessageBus) -> Iterator[Observation]:
    for handler in bus.handlers():
        outcomes = {"handled": handler.handled, "failed": handler.failed}
        if isinstance(handler, Lane):
            outcomes["dropped"] = handler.dropped
        for outcome, number in outcomes.items():
            yield Observation(number, {**_names(handler), "outcome": outcome})


def _queued(bus: MessageBus) -> Iterator[Observation]:
    for handler in bus.handlers():
        if isinstance(handler, Lane):
            yield Observation(handler.queued, _names(handler))


def _names(handler: Lane | CommandHandler) -> dict[str, str]:
    binding = handler.binding
    return {"handler": binding_name(binding), "message": binding.message_type.__name__}
