# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What a bus handles, how, and how it goes: as data, as a graph, and as an AsyncAPI document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from ..messages import Batch, Binding, Event, Message, is_stream, result_type
from .handlers import CommandHandler, binding_name, layer_name
from .lane import Lane

if TYPE_CHECKING:
    from .bus import MessageBus


@dataclass(frozen=True, slots=True)
class LaneDescription:
    """The queue in front of an event's handler. `filtered`: it takes only some events."""

    capacity: int
    concurrency: int
    overflow: str
    filtered: bool
    batch: Batch | None
    queued: int
    dropped: int


@dataclass(frozen=True, slots=True)
class HandlerDescription:
    """A handler and its message. `policies` are its own, from the outermost to the innermost.

    `lane` is `None` for a command, which runs in its caller's task, and before the start.
    """

    message: str
    handler: str
    policies: tuple[str, ...]
    session_id: str | None
    handled: int
    failed: int
    lane: LaneDescription | None


@dataclass(frozen=True, slots=True)
class MessageDescription:
    """A class of messages. `result` is what a command returns, or what a stream yields."""

    name: str
    module: str
    kind: Literal["command", "stream", "event"]
    result: str | None
    handlers: tuple[str, ...]
    message_type: type[Message]


@dataclass(frozen=True, slots=True)
class BusDescription:
    """Everything registered, with counters as of now. `policies` are around every handler."""

    state: str
    policies: tuple[str, ...]
    messages: tuple[MessageDescription, ...]
    handlers: tuple[HandlerDescription, ...]
    sessions: int
    running: int
    dead_letters: int
    scheduled: int

    def mermaid(self) -> str:
        """A Mermaid flowchart: each message, and arrows to what handles it."""
        lines = ["flowchart LR"]
        policies = {one.handler: one.policies for one in self.handlers}
        numbers = {name: n for n, name in enumerate(sorted(policies))}
        for n, message in enumerate(self.messages):
            result = f" → {message.result}" if message.result not in {None, "None"} else ""
            left, right = ("([", "])") if message.kind == "event" else ("[", "]")
            lines.append(f'    m{n}{left}"{_escaped(message.name + result)}"{right}')
            lines += [f"    m{n} --> h{numbers[name]}" for name in message.handlers]
        for name, n in numbers.items():
            label = "<br/>".join(map(_escaped, [name, *policies[name]]))
            lines.append(f'    h{n}[["{label}"]]')
        return "\n".join(lines)

    def as_data(self) -> dict[str, Any]:
        """The same as plain data, fit for JSON."""
        data = asdict(self)
        for message in data["messages"]:
            del message["message_type"]
        return data

    def asyncapi(self, title: str, version: str) -> dict[str, Any]:
        """An AsyncAPI 3.0 document of all messages: commands with their replies, and events.

        Source: https://www.asyncapi.com/docs/reference/specification/v3.0.0
        """
        channels, operations = {}, {}
        payloads: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = []
        for one in self.messages:
            name = re.sub(r"[^a-zA-Z0-9._-]", "_", one.name)
            operations[f"handle{name}"] = operation = {"action": "receive", **_at(name, name)}
            names = [name]
            # Who sends a command may leave out what has a default; what comes back is complete.
            mode: JsonSchemaMode = "serialization" if one.kind == "event" else "validation"
            payloads.append((name, mode, _adapter(one.message_type, mode)))
            if (result := _result(one.message_type)) is not None:
                names.append(f"{name}.result")
                operation["reply"] = _at(name, names[1])
                payloads.append((names[1], "serialization", _adapter(result, "serialization")))
            references = {of: {"$ref": f"#/components/messages/{of}"} for of in names}
            channels[name] = {"address": one.name, "messages": references}
        schemas, shared = TypeAdapter.json_schemas(
            payloads, ref_template="#/components/schemas/{model}", schema_generator=_Schemas
        )
        messages = {name: {"payload": schemas[name, mode]} for name, mode, _ in payloads}
        return {
            "asyncapi": "3.0.0",
            "info": {"title": title, "version": version},
            "defaultContentType": "application/json",
            "channels": channels,
            "operations": operations,
            "components": {"messages": messages, "schemas": shared.get("$defs", {})},
        }


def describe(bus: MessageBus) -> BusDescription:
    """What `bus.describe()` returns."""
    at_work = {one.binding: one for one in bus.handlers()}
    sessions: dict[Binding, str] = {}
    for session in bus.sessions():
        for one in session.handlers():
            at_work[one.binding], sessions[one.binding] = one, session.id
    bindings = [*bus.bindings, *sessions]
    names = _names(bindings)
    return BusDescription(
        state=bus.state,
        policies=tuple(map(layer_name, bus.middleware)),
        messages=tuple(_message(one, name, bindings) for one, name in names.items()),
        handlers=tuple(
            _handler(one, names.get(one.message_type, "Event"), at_work.get(one), sessions.get(one))
            for one in bindings
        ),
        sessions=len(bus.sessions()),
        running=bus.running,
        dead_letters=len(bus.dead_letters),
        scheduled=len(bus.scheduler.pending()),
    )


def _handler(
    binding: Binding, name: str, at_work: Lane | CommandHandler | None, session_id: str | None
) -> HandlerDescription:
    return HandlerDescription(
        message=name,
        handler=binding_name(binding),
        policies=tuple(map(layer_name, binding.middleware)),
        session_id=session_id,
        handled=at_work.handled if at_work else 0,
        failed=at_work.failed if at_work else 0,
        lane=_lane(at_work) if isinstance(at_work, Lane) else None,
    )


def _lane(lane: Lane) -> LaneDescription:
    return LaneDescription(
        capacity=lane.capacity,
        concurrency=lane.concurrency,
        overflow=lane.overflow,
        filtered=lane.restricted,
        batch=lane.binding.batch,
        queued=lane.queued,
        dropped=lane.dropped,
    )


def _names(bindings: Sequence[Binding]) -> dict[type[Message], str]:
    """The classes handled, themselves or one above; with the module where two are named alike."""
    found = {binding.message_type for binding in bindings}
    found.update(*(_below(one) for one in found if issubclass(one, Event)))
    paths = {one: f"{one.__module__}.{one.__qualname__}" for one in found - {Event}}
    names = [one.__name__ for one in paths]
    return {
        one: one.__name__ if names.count(one.__name__) == 1 else paths[one].replace("<locals>.", "")
        for one in sorted(paths, key=lambda one: (issubclass(one, Event), one.__name__, paths[one]))
    }


def _below(message_type: type[Message]) -> Iterator[type[Message]]:
    yield message_type
    for one in message_type.__subclasses__():
        yield from _below(one)


def _message(of: type[Message], name: str, bindings: Sequence[Binding]) -> MessageDescription:
    is_event, result = issubclass(of, Event), _result(of)
    shown = result.__name__ if isinstance(result, type) and not get_args(result) else str(result)
    return MessageDescription(
        name=name,
        module=of.__module__,
        kind="event" if is_event else "stream" if is_stream(of) else "command",
        result=None if is_event else shown,
        handlers=tuple(
            binding_name(binding)
            for binding in bindings
            if of is binding.message_type or (is_event and issubclass(of, binding.message_type))
        ),
        message_type=of,
    )


def _result(message_type: Any) -> Any:
    """What the handler of a command returns or yields; `None` for an event's."""
    result = result_type(message_type)
    return get_args(result)[0] if is_stream(message_type) else result


def _at(channel: str, message: str) -> dict[str, Any]:
    here = f"#/channels/{channel}"
    return {"channel": {"$ref": here}, "messages": [{"$ref": f"{here}/messages/{message}"}]}


class _Schemas(GenerateJsonSchema):
    """Without `discriminator`, which is OpenAPI's here and something else in AsyncAPI."""

    def tagged_union_schema(self, schema: Any) -> dict[str, Any]:
        return {"oneOf": super().tagged_union_schema(schema)["oneOf"]}


def _adapter(annotation: Any, mode: JsonSchemaMode) -> TypeAdapter[Any]:
    """What makes the schema; that of anything at all where JSON has no words for the type."""
    try:
        adapter = TypeAdapter[Any](annotation)
        adapter.json_schema(mode=mode)
    except PydanticUserError:
        return TypeAdapter(Any)
    return adapter


def _escaped(text: str) -> str:
    """Source: https://mermaid.js.org/syntax/flowchart.html#entity-codes-to-escape-characters"""
    return re.sub(r'[#&"<>]', lambda found: f"#{ord(found[0])};", text)
