# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The lines of a cassette: how they are made without secrets, written, and read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from ...contracts import (
    Accumulator,
    Attempt,
    BlobPart,
    ChatMessage,
    Chunk,
    Contract,
    LLMRequest,
    LLMResponse,
    ReasoningDelta,
    ReasoningPart,
    StreamEnd,
    StreamReset,
    TextDelta,
    TextPart,
    ToolCall,
    ToolCallArgumentsDelta,
    ToolCallStart,
    accumulate,
)
from ...errors import CassetteError, LLMError, LLMErrorKind
from ...observability import Redactor
from ..provider import Capabilities

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

VERSION = 1
Json: TypeAlias = dict[str, JsonValue]
_M = TypeVar("_M", bound=BaseModel)

# Who asks, and how long they wait, is no part of the question.
_NOT_ASKED = {"timeout_s", "conversation_id", "user_id"}


class Failure(Contract):
    """All that an `LLMError` says."""

    message: str
    kind: LLMErrorKind
    provider: str
    model: str = ""
    status: int | None = None
    retry_after_s: float | None = None
    attempts: tuple[Attempt, ...] = ()

    @classmethod
    def of(cls, error: LLMError) -> Self:
        return cls(
            message=str(error),
            kind=error.kind,
            provider=error.provider,
            model=error.model,
            status=error.status,
            retry_after_s=error.retry_after_s,
            attempts=error.attempts,
        )

    def as_error(self) -> LLMError:
        error = LLMError(
            self.message,
            kind=self.kind,
            provider=self.provider,
            model=self.model,
            status=self.status,
            retry_after_s=self.retry_after_s,
        )
        error.attempts = self.attempts
        return error


class Recording(Contract):
    """One line. Either `response`, or `chunks`, or an `error`, which may follow `chunks`."""

    version: int
    hash: str
    request: Json
    capabilities: Capabilities | None = None
    response: LLMResponse | None = None
    chunks: tuple[Chunk, ...] = ()
    error: Failure | None = None
    left_early: bool = False
    """The caller closed the stream before its end."""


def canonical(request: LLMRequest, redactor: Redactor) -> Json:
    """The request as it is compared and kept: what changes the answer, without secrets.

    What has its default is left out, so that a field of a later version changes no hash. Files and
    `extra_body` are hashes here: the ones are unreadable, the other is never written anywhere.
    """
    default = {
        name
        for name, field in type(request).model_fields.items()
        if not field.is_required()
        and getattr(request, name) == field.get_default(call_default_factory=True)
    }
    dumped = request.model_dump(mode="json", exclude_none=True, exclude=default | _NOT_ASKED)
    for message, written in zip(request.messages, dumped["messages"], strict=True):
        for part, fields in _files(message, written):
            fields["data"] = hashlib.sha256(_masked(part.data, redactor)).hexdigest()
    if "extra_body" in dumped:
        dumped["extra_body"] = digest(redactor.fields(dumped["extra_body"]))
    clean: Json = _clean(dumped, redactor)
    return clean


def digest(value: JsonValue) -> str:
    """The same for the same JSON value, whatever the order of its keys, in every process."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read(path: Path) -> list[Recording]:
    """What the file holds, in its order; nothing if there is none.

    Raises:
        CassetteError: it cannot be read; the message names the line.
    """
    try:
        with path.open("rb") as file, _locked(file.fileno(), alone=False):
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CassetteError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
    if lines.pop():
        raise CassetteError(
            f"{str(path)!r}, line {len(lines) + 1} is cut off: whoever wrote it did not finish. "
            "Delete that line and record it again."
        )
    return [_parse(path, number, line) for number, line in enumerate(lines, 1)]


def _parse(path: Path, number: int, line: bytes) -> Recording:
    where = f"{str(path)!r}, line {number}"
    try:
        version = json.loads(line)["version"]
        if version > VERSION:
            raise CassetteError(
                f"{where} is of version {version}, and this runtime reads up to {VERSION}. Update "
                "the project from its template, or delete the file and record it again."
            )
        return Recording.model_validate_json(line)
    except (ValueError, LookupError, TypeError) as error:
        wrong = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}" if wrong else str(error)
        raise CassetteError(
            f"{where} is no recording ({reason}). Restore the file, or delete the line and record "
            "it again."
        ) from error


def append(path: Path, line: bytes) -> None:
    """In one write at the end of the file: other processes may be appending, too.

    Raises:
        CassetteError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file, _locked(file.fileno(), alone=True):
            written = file.write(line)
    except OSError as error:
        raise CassetteError(f"{str(path)!r} cannot be written: {error.strerror}.") from error
    if written < len(line):
        raise CassetteError(
            f"{str(path)!r} cannot grow: free some space, and delete its last line."
        )


@contextmanager
def _locked(descriptor: int, *, alone: bool) -> Iterator[None]:
    # Who reads while another one appends may otherwise see half of a line.
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    yield


def _clean(value: Any, redactor: Redactor) -> Any:
    """The JSON value with its texts redacted; names stay, for here they are those of contracts."""
    match value:
        case str():
            return _clean_text(value, redactor)
        case list():
            return [_clean(item, redactor) for item in value]
        case dict():
            return {redactor.text(key): _clean(item, redactor) for key, item in value.items()}
        case _:
            return value


def _clean_text(text: str, redactor: Redactor) -> str:
    """The text redacted, so that what was JSON still is: arguments and answers are parsed."""
    masked = redactor.text(text)
    if masked == text:
        return text
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return masked
    return json.dumps(redactor.fields({"": parsed})[""], ensure_ascii=False)


def _files(message: ChatMessage, written: Any) -> Iterator[tuple[BlobPart, Any]]:
    """The files in the message, each with its fields as they will be written."""
    for part, fields in zip(message.parts, written["parts"], strict=True):
        if isinstance(part, BlobPart):
            yield part, fields


def _masked(data: bytes, redactor: Redactor) -> bytes:
    text = data.decode("utf-8", "surrogateescape")
    return redactor.text(text).encode("utf-8", "surrogateescape")


def redacted(contract: _M, redactor: Redactor) -> _M:
    dumped = contract.model_dump(mode="json")
    clean = _clean(dumped, redactor)
    if isinstance(contract, LLMResponse):
        # Base64 with a mask in it is no base64 any more; a secret is masked in the bytes instead.
        for part, fields in _files(contract.message, clean["message"]):
            masked = part.model_copy(update={"data": _masked(part.data, redactor)})
            fields["data"] = masked.model_dump(mode="json")["data"]
    return type(contract).model_validate_json(json.dumps(clean))


def redacted_chunks(chunks: Sequence[Chunk], redactor: Redactor) -> Iterator[Chunk]:
    """The chunks themselves, unless a secret was in them: it may lie across several."""
    pieces: list[list[Chunk]] = [[]]
    for chunk in chunks:
        if isinstance(chunk, StreamReset):
            pieces.append([])
        pieces[-1].append(chunk)
    for piece in pieces:
        answer = Accumulator()
        for chunk in piece:
            answer.add(chunk)
        clean = redacted(answer.message, redactor)
        if clean != answer.message:
            resets = [chunk for chunk in piece if isinstance(chunk, StreamReset)]
            ends = [chunk for chunk in piece if isinstance(chunk, StreamEnd)]
            piece = [*resets, *_spelled(clean), *ends]
        for chunk in piece:
            whole = isinstance(chunk, ToolCallStart | StreamReset | StreamEnd)
            yield redacted(chunk, redactor) if whole else chunk


def spell(response: LLMResponse) -> list[Chunk]:
    """The response as a stream.

    Raises:
        CassetteError: no stream can say it.
    """
    said = response.model_dump(include=set(StreamEnd.model_fields) - {"type"})
    chunks = [*_spelled(response.message), StreamEnd(**said)]
    if accumulate(chunks) != response:
        raise CassetteError(
            "What was recorded by complete() holds what no stream can say, such as a file. Record "
            "it again with a caller that streams.",
            model=response.model,
        )
    return chunks


def _spelled(message: ChatMessage) -> list[Chunk]:
    chunks: list[Chunk] = []
    for index, part in enumerate(message.parts):
        match part:
            case TextPart():
                chunks.append(TextDelta(text=part.text))
            case ReasoningPart():
                said = part.model_dump(exclude={"type"})
                chunks.append(ReasoningDelta(**said))
            case ToolCall():
                start = part.model_dump(exclude={"type", "arguments"})
                chunks.append(ToolCallStart(index=index, **start))
                chunks.append(ToolCallArgumentsDelta(index=index, text=part.arguments))
            case _:
                pass  # The caller compares.
    return chunks
