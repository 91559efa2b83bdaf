# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Messages, results and errors as JSON, and back: what is stored and what travels."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json, to_jsonable_python

from ..errors import MessageTooLargeError, MessageUnreadableError, RemoteError
from ..messages import Command, Envelope, Message, result_type, schema_name
from .journal import Entry, LoggedEvent

MAX_BYTES = 16_000_000
"""The largest message that is kept; a larger one belongs in a file or an object store."""


def message_json(message: Message) -> str:
    """The message's fields.

    Raises:
        MessageTooLargeError: more than `MAX_BYTES`.
    """
    try:
        text = message.__pydantic_serializer__.to_json(message).decode()
    except PydanticSerializationError:
        # Half of a surrogate pair, as an undecodable command-line byte leaves it.
        text = json.dumps(message.model_dump(mode="json"))
    if len(text) * 4 > MAX_BYTES and (size_bytes := len(text.encode())) > MAX_BYTES:
        name = type(message).__name__
        raise MessageTooLargeError(name, size_bytes=size_bytes, limit_bytes=MAX_BYTES)
    return text


def envelope_json(envelope: Envelope, **more: object) -> str:
    """The envelope, and whatever more is to travel with it."""
    data = envelope.as_data()
    data.update(more)
    try:
        # Half of the time that `json` takes, and every message pays for it.
        return to_json(data).decode()
    except PydanticSerializationError:
        return json.dumps(data)


def headers_data(headers: str) -> dict[str, Any]:
    """What `envelope_json` wrote. Raises: ValueError: it is no JSON."""
    try:
        data: dict[str, Any] = from_json(headers)
    except ValueError:
        data = json.loads(headers)
    return data


def child_id(parent: str, name: str, payload: str, number: int) -> str:
    """The id of what a handler sends: the same whenever it runs again and sends the same."""
    told = json.dumps([parent, name, payload, number]).encode()
    return hashlib.sha256(told).hexdigest()[:32]


class Catalogue:
    """The message classes of one bus, by the names under which they are stored.

    A class that is not registered is found all the same, if no other has its name.
    """

    def __init__(self) -> None:
        self._classes: dict[str, type[Message]] = {}

    def add(self, message_type: type[Message]) -> type[Message] | None:
        """Know that class from now on; return another one that has the name already."""
        known = self._classes.setdefault(schema_name(message_type), message_type)
        return None if known is message_type else known

    def get(self, name: str) -> type[Message] | None:
        """The class that is stored under the name."""
        known = self._classes.get(name)
        if known is None:
            imported = [one for one in _subclasses(Message) if schema_name(one) == name]
            if len(imported) == 1:
                known = self._classes[name] = imported[0]
        return known

    def read(self, entry: Entry | LoggedEvent) -> Envelope:
        """The entry's message in its envelope.

        Raises:
            MessageUnreadableError: its class, version or content is not one that is known here.
        """
        wanted = self.get(entry.name)
        if wanted is None:
            raise MessageUnreadableError(
                f"{entry.name!r} is no message known here. Register its handler, or give its "
                "class the schema_name that it was stored under."
            )
        if entry.version > wanted.schema_version:
            raise MessageUnreadableError(
                f"{entry.name!r} is stored in version {entry.version}; this process knows version "
                f"{wanted.schema_version}. A newer one of the application will read it."
            )
        try:
            if entry.version == wanted.schema_version:
                message = _message(wanted, entry.payload)
            else:
                fields = wanted.upcast(json.loads(entry.payload), entry.version)
                message = _message(wanted, json.dumps(fields))
            return Envelope.from_data(message, headers_data(entry.headers))
        except Exception as error:  # Also whatever the owner's `upcast` and validators raise.
            raise MessageUnreadableError(
                f"{entry.name!r} version {entry.version} cannot be read as version "
                f"{wanted.schema_version}: {_reason(error)}. Mend its class or its `upcast`, or "
                "drop it."
            ) from error


def _message(wanted: type[Message], payload: str) -> Message:
    try:
        return wanted.model_validate_json(payload)
    except ValidationError:
        if r"\ud" not in payload.lower():
            raise
        return wanted.model_validate(json.loads(payload))  # As above: half of a surrogate pair.


def _subclasses(message_type: type[Message]) -> Iterator[type[Message]]:
    for subclass in message_type.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _reason(error: Exception) -> str:
    """Why, without the values: a message may hold what is not for logs."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['type']}"
            for one in error.errors(include_input=False, include_url=False, include_context=False)
        )
    return type(error).__name__


@lru_cache(maxsize=1_000)
def result_adapter(command_type: type[Command[Any]]) -> TypeAdapter[Any]:
    """Raises: PydanticSchemaGenerationError: results of that class cannot be stored."""
    wanted = result_type(command_type)
    return TypeAdapter(type(None) if wanted is None else wanted)


def result_json(command_type: type[Command[Any]], result: object) -> str:
    """What the handler returned.

    Raises:
        TypeError: it cannot be stored.
    """
    if result is None:
        return "null"
    serializer = result_adapter(command_type).serializer
    try:
        try:
            return serializer.to_json(result, warnings="error").decode()
        except PydanticSerializationError:
            # As above: half of a surrogate pair, if it is not that it cannot be stored.
            return json.dumps(serializer.to_python(result, mode="json", warnings="error"))
    except PydanticSerializationError as error:
        raise TypeError(
            f"The handler of {command_type.__name__!r} returned a {type(result).__name__}, which "
            f"cannot be stored as the result it promises."
        ) from error


def result_from(command_type: type[Command[Any]], text: str) -> Any:
    """Raises: MessageUnreadableError: it is not what such a command returns now."""
    if text == "null":
        return None
    adapter = result_adapter(command_type)
    try:
        if r"\ud" in text.lower():
            return adapter.validate_python(json.loads(text))
        return adapter.validate_json(text)
    except ValidationError as error:
        raise MessageUnreadableError(
            f"The stored result of {command_type.__name__!r} is not what it returns now: "
            f"{_reason(error)}."
        ) from error


def error_data(error: BaseException, kind: Literal["raised", "unreadable"] = "raised") -> str:
    """What another process, or a person, needs to know of the error: JSON with `type`, `module`,
    `message`, `arguments`, `attributes`, `kind`. Values that JSON does not know are left out."""
    try:
        message = str(error)
    except Exception as broken:
        message = f"(its message cannot be read: {type(broken).__name__})"
    facts: dict[str, Any] = {
        "type": type(error).__qualname__,
        "module": type(error).__module__,
        "message": message,
        "arguments": _plain(list(error.args)),
        "attributes": {
            name: plain
            for name, value in vars(error).items()
            if not name.startswith("_") and (plain := _plain(value)) is not _UNKNOWN
        },
        "kind": kind,
    }
    if facts["arguments"] is _UNKNOWN:
        facts["arguments"] = [message]
    return json.dumps(facts)


_UNKNOWN = object()


def _plain(value: object) -> Any:
    try:
        return to_jsonable_python(value, inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError):
        return _UNKNOWN


def error_from(text: str | None) -> Exception:
    """The error, of its own class where that is known here; otherwise a `RemoteError`."""
    try:
        facts: Mapping[str, Any] = json.loads(text or "{}")
        named, told = str(facts.get("type", "Error")), str(facts.get("message", ""))
    except (ValueError, AttributeError):
        return RemoteError("Error", str(text))
    found: Any = sys.modules.get(str(facts.get("module")))
    for part in named.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, Exception):
        try:
            error = found.__new__(found, *facts["arguments"])
            error.args = tuple(facts["arguments"])
            vars(error).update(facts["attributes"])
            if str(error) == told:
                return error
        except Exception:  # A class that is not made as it was: the name and the text remain.
            return RemoteError(named, told)
    return RemoteError(named, told)
