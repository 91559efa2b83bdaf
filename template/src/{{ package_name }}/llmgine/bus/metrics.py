# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The bus's counters as OpenTelemetry metrics: read when they are collected, free otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from ..delivery.journal import RouteStats, State
from .handlers import CommandHandler, binding_name
from .lane import Lane
from .queue import QueueStats, depth, oldest_age_s

if TYPE_CHECKING:
    from .bus import MessageBus


def register_instruments(bus: MessageBus, meter: Meter) -> None:
    """Let the meter read the counters of every handler that is not a session's.

    `llmgine.bus.messages` counts by handler, message and outcome (`handled`, `failed`, `dropped`);
    `llmgine.bus.queued` is how many events wait, by handler and message; `llmgine.bus.running` how
    many commands run; `llmgine.bus.dead_letters` how many messages failed for good and are kept.

    Of the journal, as this process last saw it, by route and message: `llmgine.queue.depth` is how
    many entries are not finished, and `llmgine.queue.oldest_age` how long the oldest one waits that
    could run; `llmgine.queue.lag` is the longest of these ages. Two kinds wait for a person:
    `llmgine.queue.dead` failed for good, `llmgine.queue.parked` is understood by no process.
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
    meter.create_observable_up_down_counter(
        "llmgine.queue.depth", [lambda _: _depths(bus)], "{message}", "Entries to be done."
    )
    meter.create_observable_gauge(
        "llmgine.queue.oldest_age", [lambda _: _ages(bus)], "s", "Age of the oldest that is due."
    )
    meter.create_observable_up_down_counter(
        "llmgine.queue.dead", [lambda _: _in_state(bus, "dead")], "{message}", "Failed for good."
    )
    meter.create_observable_up_down_counter(
        "llmgine.queue.parked",
        [lambda _: _in_state(bus, "parked")],
        "{message}",
        "Understood by nobody.",
    )
    meter.create_observable_gauge(
        "llmgine.queue.lag", [lambda _: _lag(bus)], "s", "The longest of these ages."
    )


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


def _depths(bus: MessageBus) -> Iterator[Observation]:
    for route in _snapshot(bus).routes:
        yield Observation(depth(route), _queue(route))


def _in_state(bus: MessageBus, state: State) -> Iterator[Observation]:
    for route in _snapshot(bus).routes:
        yield Observation(route.counts.get(state, 0), _queue(route))


def _ages(bus: MessageBus) -> Iterator[Observation]:
    snapshot = _snapshot(bus)
    for route in snapshot.routes:
        yield Observation(oldest_age_s(route, snapshot.at_ns), _queue(route))


def _lag(bus: MessageBus) -> Iterator[Observation]:
    if bus.delivery is not None:
        yield Observation(_snapshot(bus).lag_s)


def _snapshot(bus: MessageBus) -> QueueStats:
    """The last one that the bus took: nobody waits for the journal here."""
    if bus.delivery is None:
        return QueueStats(routes=(), at_ns=0)
    return QueueStats(routes=bus.delivery.upkeep.snapshot, at_ns=bus.delivery.upkeep.snapshot_at_ns)


def _queue(route: RouteStats) -> dict[str, str]:
    return {"route": route.route, "message": route.name}


def _names(handler: Lane | CommandHandler) -> dict[str, str]:
    binding = handler.binding
    return {"handler": binding_name(binding), "message": binding.message_type.__name__}
