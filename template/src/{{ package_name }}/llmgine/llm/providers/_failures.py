# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Turns what a server refused, or a connection broke, into an `LLMError` that says the fix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from ...errors import LLMError, LLMErrorKind

_READ_CHARS = 4_000
_EXCERPT_CHARS = 300
_SHORTEST_SECRET = 8

_KIND_OF_STATUS = {
    401: LLMErrorKind.AUTHENTICATION,
    402: LLMErrorKind.AUTHENTICATION,
    403: LLMErrorKind.AUTHENTICATION,
    408: LLMErrorKind.TIMEOUT,
    413: LLMErrorKind.CONTEXT_LENGTH,
    429: LLMErrorKind.RATE_LIMIT,
    498: LLMErrorKind.RATE_LIMIT,
    504: LLMErrorKind.TIMEOUT,
    524: LLMErrorKind.TIMEOUT,
}

# Vendors agree on hardly any error code, so the words of the message count as well.
_KIND_OF_WORDS = (
    (
        LLMErrorKind.CONTEXT_LENGTH,
        (
            r"context.?(length|window|size|limit)|maximum (context|model length|prompt length)"
            r"|(prompt|input) is too long|too many tokens|token count.{0,40}exceeds"
            r"|input length.{0,40}exceeds|range of input length|prompt exceeds max"
            r"|exceeded model token limit|`inputs` (tokens \+|must have less)"
        ),
    ),
    (
        LLMErrorKind.CONTENT_FILTER,
        (
            r"content.?(filter|management|policy)|usage polic|(ai|bio_)policy|moderation|flagged"
            r"|safety (system|filter)|violat\w* .{0,40}(polic|guideline)"
            r"|data_inspection_failed|content exists risk"
        ),
    ),
    (
        LLMErrorKind.AUTHENTICATION,
        r"api key (is )?(not valid|invalid|expired)|(incorrect|invalid) api key",
    ),
    # Groq, of what its model wrote.
    (LLMErrorKind.BAD_RESPONSE, r"tool_use_failed|json_validate_failed"),
)
# Some say it with 429, but waiting does not help. Gemini's "quota" is that of a minute.
_UNPAID = re.compile(
    r"insufficient.?(quota|balance|credit|funds)|credit balance|available credits"
    r"|spending limit|specified api usage limits|billing_(hard_limit|not_active)"
)
_UNKNOWN_MODEL = re.compile(
    r"model.*(not.found|does not exist)|(not.found|does not exist).*model"
    r"|not a valid model|deployment.*does not exist",
    re.DOTALL,
)
_WAIT = re.compile(
    r"(?:try again|retry) (?:in|after) (?:(\d{1,4})h)?(?:(\d{1,4})m(?!s))?"
    r"(?:(\d{1,9}(?:\.\d+)?) ?(m?s))?"
)
_KIND_OF_TYPE = (
    (LLMErrorKind.RATE_LIMIT, r"rate.?limit|quota|too.?many.?requests"),
    (LLMErrorKind.AUTHENTICATION, r"auth|api.?key|permission"),
    (LLMErrorKind.TIMEOUT, r"time.?out|timed.?out"),
    (LLMErrorKind.BAD_REQUEST, r"invalid|not.?found|bad.?request|unsupported|image_"),
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a server said when it refused, in whichever of the usual shapes."""

    message: str
    code: str = ""
    status: int | None = None

    @classmethod
    def parse(cls, body: Any, status: int | None = None) -> Refusal:
        """Read `{"error": {...}}`, `{"error": "..."}`, `{"message": ...}`, `{"detail": ...}`.

        Where there should be one error, a list of them may be.
        """
        body = _first(body)
        if isinstance(body, dict):
            told = body.get("error") or ("message" not in body and body.get("errors"))
            body = _first(told or body)
        if not isinstance(body, dict):
            return cls("" if body is None else str(body)[:_READ_CHARS], status=status)
        message = body.get("message") or body.get("detail") or ""
        metadata = body.get("metadata")
        if isinstance(metadata, dict) and metadata.get("raw"):
            # OpenRouter's message says no more than that a provider failed.
            message = f"{message}: {metadata['raw']}"
        codes = [str(body[name])[:100] for name in ("code", "type") if body.get(name) is not None]
        if status in (None, 200):
            status = next((int(c) for c in codes if re.fullmatch(r"[45]\d\d", c)), None)
        return cls(str(message)[:_READ_CHARS], " ".join(codes), status)

    @property
    def is_unpaid(self) -> bool:
        """Whether the account has nothing left to pay with."""
        return self.status == 402 or bool(_UNPAID.search(f"{self.code} {self.message}".lower()))

    @property
    def kind(self) -> LLMErrorKind:
        words = f"{self.code} {self.message}".lower()
        if self.status is None or 400 <= self.status < 500:
            if self.is_unpaid:
                return LLMErrorKind.AUTHENTICATION
            for kind, pattern in _KIND_OF_WORDS:
                if self.status != 429 and re.search(pattern, words):
                    return kind
        if self.status in _KIND_OF_STATUS:
            return _KIND_OF_STATUS[self.status]
        if self.status is not None:
            return LLMErrorKind.SERVER if self.status >= 500 else LLMErrorKind.BAD_REQUEST
        for kind, pattern in _KIND_OF_TYPE:
            if re.search(pattern, self.code.lower()):
                return kind
        return LLMErrorKind.SERVER


@dataclass(slots=True)
class Origin:
    """Who was asked for what: the subject of every error message about one model call.

    `fixes` says, by kind of error, what to do about it here. `secrets` never appear in a message,
    not even when the server quotes them.
    """

    provider: str
    model: str
    server: str = ""
    fixes: Mapping[LLMErrorKind, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def error(
        self,
        kind: LLMErrorKind,
        what: str,
        *,
        fix: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> LLMError:
        at = f" at {self.server}" if self.server else ""
        fix = self.fixes.get(kind, "") if fix is None else fix
        return LLMError(
            f"{self.provider}/{self.model}{at} {what}. {fix}".strip(),
            kind=kind,
            provider=self.provider,
            model=self.model,
            status=status,
            retry_after_s=retry_after_s,
        )

    def refused(
        self,
        refusal: Refusal,
        headers: Mapping[str, str] | None = None,
        *,
        kind: LLMErrorKind | None = None,
    ) -> LLMError:
        """The error for a refusal that the server put into words; `kind` where it is known."""
        kind = kind or refusal.kind
        retry_after_s = parse_retry_after(headers or {})
        if retry_after_s is None and kind is LLMErrorKind.RATE_LIMIT:
            retry_after_s = _wait_in_words(refusal.message)
        what = _WHAT_HAPPENED[kind]
        fix = self.fixes.get(kind, "")
        if kind is LLMErrorKind.AUTHENTICATION and refusal.is_unpaid:
            what = "refuses: the account has no credit left"
            fix = "Check its plan and billing."
        elif kind is LLMErrorKind.BAD_REQUEST and _is_unknown_model(refusal):
            what, fix = "is not known there", f"Check the model's name, {self.model!r}."
        elif kind is LLMErrorKind.BAD_RESPONSE:
            what, fix = "could not read what the model wrote", "Try again, or try another model."
        elif refusal.status == 404:
            what, fix = "has no such address", self.fixes.get(LLMErrorKind.BAD_RESPONSE, "")
        elif retry_after_s is not None:
            fix = f"Try again in {retry_after_s:g} s."
        if refusal.status is not None:
            what = f"{what} (HTTP {refusal.status})"
        if said := self.quote(refusal.message):
            what = f"{what}: {said.rstrip('.')}"
        return self.error(kind, what, fix=fix, status=refusal.status, retry_after_s=retry_after_s)

    def quote(self, text: str) -> str:
        """A short, one-line, keyless excerpt of what the server sent."""
        for secret in self.secrets:
            # A shorter one is a stand-in, such as `ollama`, and would mask ordinary text.
            if len(secret) >= _SHORTEST_SECRET:
                text = re.sub(re.escape(secret[:_SHORTEST_SECRET]) + r"\S*", "[key]", text)
        # Servers quote keys with the middle starred out; the ends are secret enough.
        text = re.sub(r"(?<!\S)[^\s*]*\*{3,}\S*", "[key]", text)
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= _EXCERPT_CHARS else f"{text[:_EXCERPT_CHARS]}…"


_WHAT_HAPPENED = {
    LLMErrorKind.AUTHENTICATION: "refuses the key or its permissions",
    LLMErrorKind.RATE_LIMIT: "limits the rate of calls",
    LLMErrorKind.TIMEOUT: "gave up waiting for the model",
    LLMErrorKind.CONTEXT_LENGTH: "cannot take a conversation this long",
    LLMErrorKind.CONTENT_FILTER: "filtered the content",
    LLMErrorKind.BAD_REQUEST: "refuses the request",
    LLMErrorKind.BAD_RESPONSE: "answered nonsense",
    LLMErrorKind.SERVER: "failed",
    LLMErrorKind.NETWORK: "cannot be reached",
}

GENERAL_FIXES = {
    LLMErrorKind.RATE_LIMIT: "Wait a little and try again.",
    LLMErrorKind.TIMEOUT: "Try again, or allow more time: LLMGINE_REQUEST_TIMEOUT_S.",
    LLMErrorKind.CONTEXT_LENGTH: (
        "Start a new conversation, or lower LLMGINE_CONTEXT_BUDGET_TOKENS."
    ),
    LLMErrorKind.CONTENT_FILTER: "Say it in other words.",
    LLMErrorKind.SERVER: "It is the server's fault: try again later.",
    LLMErrorKind.NETWORK: "Try again.",
}


def _first(body: Any) -> Any:
    return body[0] if isinstance(body, list) and body else body


def _is_unknown_model(refusal: Refusal) -> bool:
    return bool(_UNKNOWN_MODEL.search(f"{refusal.code} {refusal.message}".lower()))


def _wait_in_words(message: str) -> float | None:
    """Seconds to wait, where OpenAI, Azure, Groq and Gemini say it in the message alone."""
    said = _WAIT.search(message.lower())
    if said is None or not any(said.groups()):
        return None
    hours, minutes, rest, unit = said.groups(default="0")
    return 3600.0 * int(hours) + 60.0 * int(minutes) + float(rest) / (1000 if unit == "ms" else 1)


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `Retry-After` (seconds or an HTTP date).

    Source: RFC 9110, 10.2.3; the header in milliseconds is OpenAI's.
    """
    by_name = {name.lower(): value for name, value in headers.items()}
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = by_name.get(name, "").strip()
        if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
            return float(value) / scale
    try:
        at = parsedate_to_datetime(by_name["retry-after"]).astimezone(UTC)
    except (KeyError, ValueError, OverflowError):
        return None
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
