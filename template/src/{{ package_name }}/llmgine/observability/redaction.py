# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Takes secrets out of everything that is recorded, before it reaches any sink or exporter."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, JsonValue

MASK: Final = "[REDACTED]"
MASK_ERROR: Final = "[REDACTED:error]"

_MAX_DEPTH = 64
_SEQUENCES = (list, tuple, set, frozenset)
_MAX_INT = 2**63 - 1
_MAX_KNOWN_KEYS = 4096
_MIN_SECRET_CHARS = 8
# In no shorter text is a secret known as one: `?key=x`.
_MIN_TEXT_CHARS = 6

# Every pattern takes time in proportion to the text, whatever the text is: what people and models
# say comes by here. Hence the bounds on repetitions that could fail late.

# Where a token of its own can begin: not inside a word, but right after an escape such as `\n`
# or `%3D` in quoted or encoded text.
_START = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt])|(?<=%[0-9A-Fa-f]{2}))"
_PEM = r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----"
_SHAPES = "|".join(
    (
        _START + r"sk-[A-Za-z0-9_-]{8,}",
        r"A[KS]IA[A-Z0-9]{16}",
        r"gh[opusr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}",
        r"AIza[A-Za-z0-9_-]{20,}",
        _START + r"(?:hf|gsk)_[A-Za-z0-9]{16,}",
        _START + r"xox[a-z]-[A-Za-z0-9-]{10,}",
        r"eyJ[A-Za-z0-9_-]{8,1024}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?",
        _PEM + r"(?s:.*?)(?:" + _PEM.replace("BEGIN", "END") + r"|\Z)",
        r"(?i:(?<=bearer )|(?<=bearer%20))[A-Za-z0-9._~+/=-]{8,}",
    )
)
_URL_LOGIN = r"(?<=://)([^\s/:@]*:)[^\s/]+(?=@)"
_URL_QUERY = r"([?&]key=)[^&\s\"'<>]+"
# `password=...` and `"api_key": "..."` inside a text: an error message, a header, quoted JSON.
_QUOTED = r"b?\\*\"[^\"\r\n]*\"|b?\\*'[^'\r\n]*'"
_ASSIGNED = (
    r"((?:passw(?:or)?d|passphrase|secret|credentials?|(?<!per[_-])token"
    r"|(?:api|access|private|secret|signing)[_-]?key)\\*+[\"']?+\s*+[=:]\s*+)"
    rf"(?!\[REDACTED)(?:{_QUOTED}|[^\s\"'\\,;&)}}\]]+)"
)
_HEADER = r"((?:authorization|cookie)\\*+[\"']?+\s*+[=:]\s*+\\*+[\"']?+)(?!\[REDACTED)[^\"'\r\n]+"
# What pydantic quotes of a value it refused: content at best, a secret at worst.
_REFUSED = r"(input_value=)(?!\[REDACTED)[^\r\n]*?(?=, input_type=|\]?$)"

_RULES: Final = tuple(
    (re.compile(pattern, flags), replacement)
    for pattern, flags, replacement in (
        (_SHAPES, 0, MASK),
        (_URL_LOGIN, 0, rf"\1{MASK}"),
        (_URL_QUERY, re.IGNORECASE, rf"\1{MASK}"),
        (_ASSIGNED, re.IGNORECASE, rf"\1{MASK}"),
        (_HEADER, re.IGNORECASE, rf"\1{MASK}"),
        (_REFUSED, re.MULTILINE, rf"\1{MASK}"),
    )
)
# A text without any of these has nothing for the rules. Asking this first, in this way, is some
# ten times cheaper than letting a pattern look.
_CLUES: Final = (
    *("sk-", "akia", "asia", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "aiza", "hf_"),
    *("gsk_", "xox", "eyj", "bearer", "://", "passw", "passphrase", "secret"),
    *("key", "credential", "token", "authorization", "cookie", "input_value="),
)

_Verdict = Literal["open", "secret", "numbers"]

_WORD_BREAK = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")
_SECRET_KEY = re.compile(
    r"passw(?:or)?d|passphrase|secret|credential|authorization|cookie"
    r"|(?:api|access|private|signing|encryption)_?key"
    r"|(?:^|_)(?:pwd|auth|bearer|jwt)(?:_|$)"
    r"|(?<!per_)(?<!per_input_)(?<!per_output_)"
    r"token(?!s|ize|_(?:count|type|usage|limit|budget|modality|total))"
)


class Redactor:
    """Turns values into JSON values without the secrets in them.

    It knows secrets by the name they stand under, by their shape, and those it is told of: these
    also percent-encoded, escaped, and in base64. Told secrets under 8 characters are ignored, for
    they would mask ordinary text. Counts of tokens are no secrets.

    A value that cannot be looked at becomes `[REDACTED:error]`; nothing here raises.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        stripped = {secret.strip() for secret in secrets}
        told = sorted((s for s in stripped if len(s) >= _MIN_SECRET_CHARS), key=len, reverse=True)
        self._clues = tuple({clue for secret in told for clue in _clues_of(secret)})
        self._told = re.compile("|".join(map(_pattern_of, told)))
        self._keys: dict[str, tuple[str, _Verdict]] = {}

    def text(self, text: str) -> str:
        """The text with every secret in it masked."""
        if len(text) < _MIN_TEXT_CHARS:
            return text
        if self._may_hold_told(text):
            text = self._told.sub(MASK, text)
        if _may_hold_shapes(text):
            for pattern, replacement in _RULES:
                text = pattern.sub(replacement, text)
        return text

    def _may_hold_told(self, text: str) -> bool:
        return any(map(text.__contains__, self._clues))

    def fields(self, fields: Mapping[str, object]) -> dict[str, JsonValue]:
        """The mapping as JSON values, without the secrets in its values and keys."""
        try:
            return self._mapping(fields, 0)
        except Exception:  # As in `_value`, for a mapping that cannot even be walked.
            return {"error": MASK_ERROR}

    def _mapping(self, mapping: Mapping[Any, object], depth: int) -> dict[str, JsonValue]:
        clean: dict[str, JsonValue] = {}
        items = list(mapping.items())
        # To look at all texts at once is cheaper, and hardly ever is there anything in them.
        texts = "\n".join([value for _, value in items if type(value) is str])
        suspect = self._may_hold_told(texts) or _may_hold_shapes(texts)
        for key, value in items:
            name, verdict = self._keys.get(key) or self._judge(key)
            if verdict == "open" and type(value) is str:
                clean[name] = self.text(value) if suspect else value
            elif verdict != "secret" and (
                (type(value) is int and -_MAX_INT <= value <= _MAX_INT)
                or (type(value) is float and math.isfinite(value))
            ):
                clean[name] = value
            elif verdict == "open":
                clean[name] = self._value(value, depth)
            elif value is None or value is True or value is False:
                clean[name] = value
            else:
                clean[name] = MASK if verdict == "secret" else self._numbers(value, depth)
        return clean

    def _judge(self, key: object) -> tuple[str, _Verdict]:
        """The key without secrets in itself, and what may be shown of what stands under it."""
        text = str(key)
        words = _WORD_BREAK.sub("_", text).lower()
        verdict: _Verdict = "open"
        if _SECRET_KEY.search(words):
            verdict = "secret"
        elif "tokens" in words:
            verdict = "numbers"
        judged = (self.text(text), verdict)
        if len(self._keys) < _MAX_KNOWN_KEYS and type(key) is str:
            self._keys[key] = judged
        return judged

    def _value(self, value: object, depth: int) -> JsonValue:
        # It runs other people's `__str__`, `items` and `__iter__`. Whatever these raise, the rest
        # of the record must still be written.
        try:
            return self._convert(value, depth + 1)
        except Exception:
            return MASK_ERROR

    def _convert(self, value: object, depth: int) -> JsonValue:
        if depth > _MAX_DEPTH:
            return MASK_ERROR
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self.text(str.__str__(value))
        if isinstance(value, int) and -_MAX_INT <= value <= _MAX_INT:
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        if isinstance(value, _SEQUENCES):
            return [self._value(item, depth) for item in value]
        if isinstance(value, BaseModel):
            return self._mapping(value.model_dump(), depth)
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, bytes):
            return self.text(value.decode("utf-8", "replace"))
        return self.text(str(value))

    def _numbers(self, value: object, depth: int) -> JsonValue:
        """What may stand under `tokens`: counts, and no text, which would be tokens themselves."""
        shown = self._value(value, depth)
        return _only_numbers(shown)


def _may_hold_shapes(text: str) -> bool:
    return any(map(text.lower().__contains__, _CLUES))


def _only_numbers(value: JsonValue) -> JsonValue:
    match value:
        case dict():
            return {key: _only_numbers(item) for key, item in value.items()}
        case list():
            return [_only_numbers(item) for item in value]
        case str() if value != MASK_ERROR:
            return MASK
        case _:
            return value


def _clues_of(secret: str) -> list[str]:
    """Texts of which at least one stands in any text that holds the secret in some form."""
    plain = max(re.findall(r"[A-Za-z0-9_.~-]+", secret), key=len, default="")
    return [plain, *_base64_cores(secret)]


def _pattern_of(secret: str) -> str:
    written = "".join(map(_character, secret))
    # The few characters around it in base64 hold some of its bits as well.
    encoded = "|".join(
        rf"[A-Za-z0-9+/_-]{{0,2}}{re.escape(core)}[A-Za-z0-9+/_-]{{0,2}}={{0,2}}"
        for core in _base64_cores(secret)
    )
    return f"{written}|{encoded}"


def _character(char: str) -> str:
    """Matches the character as it is, percent-encoded, or escaped as in JSON or Python."""
    if re.fullmatch(r"[A-Za-z0-9_.~-]", char):
        return re.escape(char)
    octets = char.encode("utf-8", "surrogatepass")
    units = char.encode("utf-16-be", "surrogatepass").hex()
    forms = [
        rf"\\{{0,8}}{re.escape(char)}",
        "(?i:" + "".join(f"%(?:25){{0,4}}{octet:02x}" for octet in octets) + ")",
        "(?i:" + "".join(rf"\\{{1,8}}u{units[i : i + 4]}" for i in range(0, len(units), 4)) + ")",
    ]
    if char == " ":
        forms.append(r"\+")
    escapes = {char.encode("unicode_escape").decode("ascii"), json.dumps(char)[1:-1]}
    forms += [rf"\\{{1,8}}{re.escape(e[1:])}" for e in escapes if e.startswith("\\")]
    return f"(?:{'|'.join(forms)})"


def _base64_cores(secret: str) -> set[str]:
    """What base64 of any bytes with the secret among them holds, whatever stands around it."""
    octets = secret.encode("utf-8", "surrogatepass")
    cores: set[str] = set()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + octets).decode("ascii")
        core = encoded[(before * 8 + 5) // 6 : (before + len(octets)) * 8 // 6]
        cores |= {core, core.replace("+", "-").replace("/", "_")}
    return cores
