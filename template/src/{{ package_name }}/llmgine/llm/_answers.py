# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The JSON of an answer: where it stands, and what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from .schema import OutputType

T = TypeVar("T")

BEGIN = re.compile(r'\{\s*["}]')
"""Of an object: a brace in words is followed by something else."""

_MOST_ERRORS_TOLD = 20


class ProblemError(Exception):
    """Why an answer is not taken. `told` is for the model; `unfit` says that the mode fails."""

    def __init__(self, problem: str, *, told: str = "", unfit: bool = False) -> None:
        super().__init__(problem)
        self.problem = problem
        self.told = told or problem
        self.unfit = unfit


def only_object(text: str) -> str:
    """The one JSON object in a text, as it stands there.

    Raises:
        ProblemError: there is none, or there are several.
    """
    begin = BEGIN.search(text)
    if begin is None:
        raise ProblemError("no JSON object", unfit=True)
    before, rest = text[: begin.start()], text[begin.start() :]
    try:
        _, end = json.JSONDecoder().raw_decode(rest)
    except (ValueError, RecursionError):
        # Where it breaks off is not known, and an object inside it is not the answer.
        return rest
    if before.rstrip().endswith("["):
        raise ProblemError("a JSON array, not one object")
    if BEGIN.search(rest, end):
        raise ProblemError("several JSON objects; answer with one")
    return rest[:end]


def validate(text: str, output: OutputType[T]) -> T:
    """The value that the text spells.

    Raises:
        ProblemError: it is no JSON, or of another type.
    """
    try:
        value = from_json(as_bytes(text), allow_inf_nan=False)
    except ValueError as error:
        raise ProblemError(f"invalid JSON: {error}") from None
    if _is_schema(value, output):
        raise ProblemError("the JSON Schema itself, not an answer that fits it", unfit=True)
    try:
        return output.validate(text)
    except ValidationError as error:
        raise _wrong(error, output) from None


def as_bytes(text: str) -> bytes:
    """With half of a surrogate pair, which is no text, as bytes that are no JSON."""
    return text.encode(errors="surrogatepass")


def _is_schema(value: Any, output: OutputType[Any]) -> bool:
    """Whether it is the schema, or one much like it, which an open type could mean."""
    fields = output.schema.get("properties")
    if value == output.schema:
        return True
    if not isinstance(value, dict) or fields is None or "properties" in fields:
        return False
    return value.get("type") == "object" and isinstance(value.get("properties"), dict)


def _wrong(error: ValidationError, output: OutputType[Any]) -> ProblemError:
    known = json.dumps(output.schema)

    def name(step: str | int) -> str:
        # A key that the schema does not know is content.
        return str(step) if isinstance(step, int) or json.dumps(step) in known else "*"

    def listed(step: Callable[[str | int], str], what: str, separator: str) -> str:
        return separator.join(
            f"{'.'.join(map(step, one['loc'])) or 'the whole'}: {one[what]}"  # type: ignore[literal-required] # `type` or `msg`
            for one in error.errors(include_url=False, include_input=False)[:_MOST_ERRORS_TOLD]
        )

    return ProblemError(listed(name, "type", ", "), told=listed(str, "msg", "\n"))
