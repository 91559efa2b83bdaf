# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Values as text: arguments from what the model wrote, results to what the model reads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Iterator
from itertools import islice
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_json

from .schema import Definition

_LISTS = (list, tuple, set, frozenset)
_SIZED = (str, dict, *_LISTS)
_MAX_DEPTH = 100
_LIGHT_WEIGHT = 4096


class ResultError(Exception):
    """A tool returned something that no text spells."""


def render(value: object, max_bytes: int) -> tuple[str, bool]:
    """The text for the model, and whether it was cut: a `str` as it is, all else as JSON.

    Raises:
        ResultError: the value, or something in it, has no JSON form.
    """
    if isinstance(value, str):
        return cut(value, max_bytes)
    if isinstance(value, Iterator | AsyncIterable):
        raise ResultError("it returned an iterator; a list of its items can be sent")
    text = bytearray()
    try:
        for piece in _pieces(value, max_bytes):
            text += piece
            if len(text) > max_bytes:
                return _cut(text, max_bytes)
    except PydanticSerializationError as cause:
        reason = str(cause).removeprefix("Error serializing to JSON: ")
        raise ResultError(f"what it returned is not JSON serialisable ({reason})") from cause
    return text.decode(), False


def cut(text: str, max_bytes: int) -> tuple[str, bool]:
    """The text within the limit, and whether it was cut. Lone surrogates become `?`."""
    # No character is less than a byte, so what is beyond need not be looked at.
    data = text[: max_bytes + 1].encode("utf-8", "replace")
    return _cut(data, max_bytes) if len(data) > max_bytes else (data.decode(), False)


def _cut(data: bytes | bytearray, max_bytes: int) -> tuple[str, bool]:
    kept = data[:max_bytes].decode("utf-8", "ignore")
    return f"{kept}\n[Truncated: only the first {max_bytes} bytes are shown.]", True


def _pieces(value: Any, max_bytes: int, around: tuple[int, ...] = ()) -> Iterator[bytes]:
    """The value's JSON, a large list or dict part by part, so that the caller can stop.

    Serialising holds the interpreter's lock until it is done: 10 MB in one go would stall every
    task for a tenth of a second, whichever thread does it.
    """
    if id(value) in around:
        raise ResultError("what it returned contains itself")
    inside = (*around, id(value))
    if _is_light(value):
        yield to_json(value, inf_nan_mode="strings")
    elif isinstance(value, dict):
        yield b"{"
        for index, (key, item) in enumerate(value.items()):
            yield b"," if index else b""
            yield to_json({key: None})[1:-5]
            yield from _pieces(item, max_bytes, inside)
        yield b"}"
    elif isinstance(value, _LISTS):
        yield b"["
        # No item is less than a byte, so that many are above the limit.
        yield from _items(list(islice(value, max_bytes)), max_bytes, inside)
        yield b"]"
    else:
        yield to_json(value[: max_bytes + 1])


def _items(items: list[Any], max_bytes: int, around: tuple[int, ...]) -> Iterator[bytes]:
    if len(items) == 1:
        yield from _pieces(items[0], max_bytes, around)
    elif _is_light(items):
        yield to_json(items, inf_nan_mode="strings")[1:-1]
    else:
        middle = len(items) // 2
        yield from _items(items[:middle], max_bytes, around)
        yield b","
        yield from _items(items[middle:], max_bytes, around)


def _is_light(value: Any) -> bool:
    """Whether the value is serialised in no time; no plain list, dict or text of some size is.

    Raises:
        ResultError: it is nested more deeply than readers of JSON follow.
    """
    weight = 0
    level = [value]
    for _ in range(_MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if not isinstance(item, _SIZED):
                continue
            weight += len(item)
            if weight > _LIGHT_WEIGHT:
                return False
            if isinstance(item, dict):
                below.extend(item)
                below.extend(item.values())
            elif not isinstance(item, str):
                below.extend(item)
        if not below:
            return True
        level = below
    raise ResultError("what it returned is nested too deeply, or contains itself")


_MAX_COMPLAINTS = 10
_MAX_COMPLAINT_CHARS = 200


class ArgumentsError(Exception):
    """The arguments are not what the tool takes; the text is for the model."""


def parse_arguments(definition: Definition, text: str) -> dict[str, Any]:
    """The keyword arguments that the JSON text spells; no text at all is no arguments.

    Raises:
        ArgumentsError: the text is not one JSON object, or does not fit the tool's parameters.
    """
    text = text if text and not text.isspace() else "{}"
    _check_object(text)
    try:
        return definition.arguments.validate_json(text, extra=None if definition.open else "forbid")
    except ValidationError as cause:
        raise ArgumentsError(_explain(definition, cause)) from cause


def _check_object(text: str) -> None:
    try:
        value = _strict.decode(text)
    except RecursionError as cause:
        raise ArgumentsError("The arguments are nested too deeply.") from cause
    except ValueError as cause:
        raise ArgumentsError(
            f"The arguments are not valid JSON: {cause}. Send one complete JSON object."
        ) from cause
    if not isinstance(value, dict):
        raise ArgumentsError("The arguments must be one JSON object, such as {}.")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


# The validator's own JSON reader takes NaN and the last of two equal keys; this one does not.
_strict = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_unique)


def _explain(definition: Definition, invalid: ValidationError) -> str:
    problems = invalid.errors(include_url=False, include_context=False, include_input=False)
    complaints = [
        f"- {_path(problem['loc'])}: {_expected(problem['type'], problem['msg'])}"
        for problem in problems[:_MAX_COMPLAINTS]
    ]
    if len(problems) > _MAX_COMPLAINTS:
        complaints.append(f"- and {len(problems) - _MAX_COMPLAINTS} more")
    return "\n".join(
        (
            f"The arguments do not fit the tool {definition.spec.name!r}:",
            *(complaint[:_MAX_COMPLAINT_CHARS] for complaint in complaints),
            _allowed(definition),
        )
    )


def _path(location: tuple[int | str, ...]) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return path.removeprefix(".") or "arguments"


def _expected(kind: str, message: str) -> str:
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return "Unknown field"
    return message


def _allowed(definition: Definition) -> str:
    parameters = definition.spec.parameters
    properties, required = parameters["properties"], parameters.get("required", [])
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    names = [f"{name} (required)" if name in required else name for name in properties]
    return f"Allowed: {', '.join(names)}." if names else "The tool takes no arguments."
