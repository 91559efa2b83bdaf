# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""A model that answers from a file: recorded from a real one once, then replayed without a key.

The file holds JSON lines, one for each call: the request, for a reviewer to read, its hash, and
what came of it. It knows contracts only, so it works for every provider, and for its successor.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias

from pydantic import JsonValue

from ...contracts import Accumulator, Chunk, LLMRequest, LLMResponse, accumulate
from ...errors import CassetteError, ConfigurationError, LLMError
from ...observability import Redactor
from ..provider import Capabilities, Capable, Provider, closing_stream
from ._recordings import (
    VERSION,
    Failure,
    Json,
    Recording,
    append,
    canonical,
    digest,
    read,
    redacted,
    redacted_chunks,
    spell,
)

Mode: TypeAlias = Literal["record", "replay", "auto"]

_HOW_TO_RECORD = (
    "To record what is missing, run once with mode='auto' outside CI, or with LLMGINE_RECORD=1 for "
    "the `cassette` fixture; where prompts have changed, delete the file first."
)


class CassetteProvider:
    """Answers with what `path` holds, and records what it does not hold from `inner`.

    `replay` never touches `inner`, and fails where the file has no answer. `auto` asks `inner` for
    what is missing and appends it; in CI (`CI` is set) it is `replay`. `record` asks `inner` for
    everything and replaces the file in `aclose()`; used as `async with`, only if the block did not
    fail.

    The same request asked again gets the next of its recordings; after the last one it fails, for
    to repeat it would hide a caller that asks too often. Used as `async with`, it fails as well
    when recordings are left. Secrets are masked before they are written, so they are replayed
    masked; `redactor` is for those that only the application knows.
    """

    name = "cassette"

    def __init__(
        self,
        path: Path | str,
        inner: Provider | Callable[[], Provider] | None = None,
        mode: Mode = "auto",
        *,
        redactor: Redactor | None = None,
    ) -> None:
        """Raises: CassetteError: the file cannot be read; the message names the line."""
        if mode == "record" and inner is None:
            raise ConfigurationError("A cassette cannot record without a provider: pass `inner`.")
        self._path = Path(path)
        self._make_inner = inner
        self._inner: Provider | None = None
        self._anew = mode == "record"
        self._strict = mode == "replay" or (mode == "auto" and (inner is None or _in_ci()))
        self._redactor = redactor or Redactor()
        self._entered = False
        self._new_lines: list[bytes] = []
        self._recordings = [] if self._anew else read(self._path)
        self._left: dict[str, deque[int]] = {}
        for index, recording in enumerate(self._recordings):
            self._left.setdefault(recording.hash, deque()).append(index)

    def capabilities(self, model: str) -> Capabilities:
        """As they were when the model was recorded, for what is asked depends on them."""
        for recording in self._recordings:
            if recording.capabilities and recording.request.get("model") == model:
                return recording.capabilities
        found = None if self._strict else _capabilities(self._provider(), model)
        return found or Capabilities()

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """The recorded answer, or the sum of the recorded stream.

        Raises:
            CassetteError: there is none, and this is not the time to record one.
            LLMError: that is what was recorded.
        """
        asked = canonical(request, self._redactor)
        if (recording := self._next(asked)) is not None:
            return self._completion(recording)
        try:
            response = await self._provider().complete(request)
        except LLMError as error:
            self._keep(asked, error=Failure.of(error))
            raise
        self._keep(asked, response=response)
        return response

    async def stream(self, request: LLMRequest) -> AsyncGenerator[Chunk, None]:
        """The recorded chunks, or the recorded answer as chunks, all at once.

        A stream that its caller closes early is recorded as far as it came. One that is cancelled
        is not recorded: where that happens differs from run to run.

        Raises:
            CassetteError: there is none, and this is not the time to record one.
            LLMError: that is what was recorded.
        """
        asked = canonical(request, self._redactor)
        if (recording := self._next(asked)) is None:
            async with aclosing(self._stream_and_keep(request, asked)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        for chunk in spell(recording.response) if recording.response else recording.chunks:
            yield chunk
        self._raise_recorded(recording)

    def assert_complete(self) -> None:
        """Fail when recordings are left.

        Raises:
            CassetteError: the file holds more than what was asked for.
        """
        left = sorted(index for indexes in self._left.values() for index in indexes)
        if left:
            raise CassetteError(
                f"{len(left)} of the {len(self._recordings)} recordings of {str(self._path)!r} "
                f"were never asked for; the first of them is line {left[0] + 1}. Delete them, or "
                "the file to record it anew."
            )

    async def aclose(self) -> None:
        """Close `inner`, and put what `record` has recorded in the place of the file."""
        if not self._entered:
            self._replace_file()
        inner, self._inner = self._inner, None
        if inner is not None:
            await inner.aclose()

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._new_lines.clear()
        self._entered = False
        await self.aclose()
        if error is None:
            self.assert_complete()

    def _provider(self) -> Provider:
        if self._inner is None:
            made = self._make_inner
            assert made is not None
            self._inner = made() if callable(made) else made
        return self._inner

    def _next(self, asked: Json) -> Recording | None:
        """The recording whose turn it is; `None` where one is to be made."""
        left = self._left.get(digest(asked))
        if left:
            return self._recordings[left.popleft()]
        if self._strict:
            raise CassetteError(
                f"{self._what_is_missing(asked)} {_HOW_TO_RECORD}", model=str(asked["model"])
            )
        return None

    def _what_is_missing(self, asked: Json) -> str:
        path = repr(str(self._path))
        if not self._recordings:
            return f"{path} does not exist, or is empty, so there is no answer to replay."
        times = sum(recording.hash == digest(asked) for recording in self._recordings)
        if times:
            return f"This request was recorded {times} times in {path}, and is now asked once more."
        differing = [_differences(recording.request, asked) for recording in self._recordings]
        nearest = min(range(len(differing)), key=lambda index: len(differing[index]))
        shown, more = differing[nearest][:3], len(differing[nearest]) - 3
        rest = f"; and {more} more" if more > 0 else ""
        return (
            f"{path} has no answer for this request. The nearest one there is line {nearest + 1}, "
            f"which differs in {'; '.join(shown)}{rest}."
        )

    def _completion(self, recording: Recording) -> LLMResponse:
        self._raise_recorded(recording)
        return recording.response or accumulate(recording.chunks)

    def _raise_recorded(self, recording: Recording) -> None:
        if recording.left_early:
            raise CassetteError(
                f"The recording in {str(self._path)!r} ends here, for its caller closed the stream "
                f"here; this one reads on. {_HOW_TO_RECORD}",
                model=str(recording.request["model"]),
            )
        if (failed := recording.error) is not None:
            error = failed.as_error()
            error.add_note(f"Replayed from {str(self._path)!r}.")
            raise error

    async def _stream_and_keep(
        self, request: LLMRequest, asked: Json
    ) -> AsyncGenerator[Chunk, None]:
        answer = Accumulator()
        chunks: list[Chunk] = []
        try:
            async with closing_stream(self._provider().stream(request)) as arriving:
                async for chunk in arriving:
                    answer.add(chunk)
                    chunks.append(chunk)
                    yield chunk
        except LLMError as error:
            self._keep(asked, chunks=chunks, error=Failure.of(error))
            raise
        except GeneratorExit:
            self._keep(asked, chunks=chunks, left_early=answer.end is None)
            raise
        self._keep(asked, chunks=chunks)

    def _keep(
        self,
        asked: Json,
        *,
        response: LLMResponse | None = None,
        chunks: Sequence[Chunk] = (),
        error: Failure | None = None,
        left_early: bool = False,
    ) -> None:
        recording = Recording(
            version=VERSION,
            hash=digest(asked),
            request=asked,
            capabilities=_capabilities(self._inner, str(asked["model"])),
            response=response and redacted(response, self._redactor),
            chunks=tuple(redacted_chunks(chunks, self._redactor)),
            error=error and redacted(error, self._redactor),
            left_early=left_early,
        )
        written = recording.model_dump(mode="json", exclude_none=True)
        line = json.dumps(written, ensure_ascii=False).encode() + b"\n"
        if self._anew:
            self._new_lines.append(line)
        else:
            append(self._path, line)

    def _replace_file(self) -> None:
        if not self._new_lines:
            return  # A run that never came to a call must not empty the file.
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        new.unlink(missing_ok=True)
        append(new, b"".join(self._new_lines))
        new.replace(self._path)


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in {"", "0", "false"}


def _capabilities(provider: Provider | None, model: str) -> Capabilities | None:
    return provider.capabilities(model) if isinstance(provider, Capable) else None


def _differences(there: Json, here: Json) -> list[str]:
    """What stands where, in the recorded request and in this one."""
    old, new = dict(_leaves(there)), dict(_leaves(here))
    return [
        f"{path}: {_contrast(old.get(path, 'nothing'), new.get(path, 'nothing'))}"
        for path in {**old, **new}
        if old.get(path) != new.get(path)
    ]


def _leaves(value: JsonValue, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, json.dumps(value, ensure_ascii=False)


def _contrast(there: str, here: str) -> str:
    """Both, from shortly before where they part."""
    pairs = zip(there, here, strict=False)
    alike = next((index for index, (old, new) in enumerate(pairs) if old != new), 0)
    return f"{_excerpt(there, alike)} there, {_excerpt(here, alike)} here"


def _excerpt(text: str, at: int) -> str:
    start = max(0, at - 20)
    before, after = "…" * (start > 0), "…" * (len(text) > start + 60)
    return f"{before}{text[start : start + 60]}{after}"
