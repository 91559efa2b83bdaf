# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Which values of a clause could stand in a slot, by the slot's type, format and name."""

from __future__ import annotations

import functools
import re
import zoneinfo
from collections.abc import Iterator
from uuid import UUID

from pydantic import JsonValue

from .._json_schema import Schema, type_of
from .language import ARTICLES, PREPOSITIONS, Clause, Found, Spans, split_words, word_set
from .moments import Moment, find_durations
from .schema import IDENTIFIER, Slot

_ADDRESS = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_ON = word_set("on true yes enable enabled enabling activate start open")
_OFF = word_set("off false no disable disabled disabling deactivate stop")
_NEGATION = word_set("no not without non don't never exclude excluding except")
_DATE_NAMES = word_set("date day deadline due birthday")
_TIME_NAMES = word_set("datetime timestamp start end when time at")


def specific(slot: Slot, clause: Clause) -> list[Found]:
    """Values that can hardly be anything else: of a list of values, a format, a time zone."""
    found: list[Found] = []
    for kind in slot.kinds:
        if isinstance(kind.get("enum"), list):
            found += [one for value in kind["enum"] for one in _mentions(value, clause)]
        elif type_of(kind) == "string":
            found += _formatted(kind, slot, clause)
    return found


def _formatted(kind: Schema, slot: Slot, clause: Clause) -> list[Found]:
    match kind.get("format"):
        case "date" | "date-time" | "time" as form:
            return [one for moment in clause.moments for one in _moment(moment, form, clause)]
        case "duration":
            return [Found(*one) for one in find_durations(clause.text)]
        case "email" | "idn-email":
            return _addresses(clause)
        case "uri" | "url" | "iri" | "uri-reference":
            return _links(clause)
        case "uuid":
            return [token for token in clause.codes if _is_uuid(str(token.value))]
    if "pattern" in kind:
        return clause.tokens
    return _by_name(slot, clause)


def _by_name(slot: Slot, clause: Clause) -> list[Found]:
    """What the name of a plain string parameter promises."""
    if slot.is_zone:
        return find_zones(clause)
    if slot.words & {"email", "mail", "to", "recipient", "cc", "bcc"}:
        return _addresses(clause)
    if slot.words & {"url", "link", "uri", "website"}:
        return _links(clause)
    if slot.words & _DATE_NAMES:
        return [one for moment in clause.moments for one in _moment(moment, "date", clause)]
    if slot.words & _TIME_NAMES:
        return [one for moment in clause.moments for one in _any_moment(moment, clause)]
    return []


def _moment(moment: Moment, form: str, clause: Clause) -> Iterator[Found]:
    if form == "date" and moment.day is not None:
        yield Found(moment.day.isoformat(), *moment.day_at)
    elif form == "time" and moment.time is not None:
        yield Found(moment.time.isoformat(), *moment.time_at)
    elif form == "date-time" and (value := moment.as_datetime(clause.now)):
        yield Found(value, moment.start, moment.end)


def _any_moment(moment: Moment, clause: Clause) -> Iterator[Found]:
    """All that the text says, or its time alone where another slot has the date."""
    if moment.day is not None:
        yield from _moment(moment, "date" if moment.time is None else "date-time", clause)
    yield from _moment(moment, "time", clause)


def _addresses(clause: Clause) -> list[Found]:
    return [token for token in clause.codes if _ADDRESS.fullmatch(str(token.value))]


def _links(clause: Clause) -> list[Found]:
    return [
        token
        for token in clause.codes
        if str(token.value).lower().startswith(("http://", "https://", "ftp://", "www."))
    ]


def _is_uuid(token: str) -> bool:
    try:
        return len(token) == 36 and bool(UUID(token))
    except ValueError:
        return False


def _mentions(value: JsonValue, clause: Clause) -> Iterator[Found]:
    """Where the clause says one value of a list."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from (
            Found(value, one.start, one.end) for one in clause.numbers if one.value == value
        )
    if not isinstance(value, str):
        return
    wanted = split_words(value)
    if not wanted:
        yield from _signs(value, clause)
        return
    unclear = len(value) == 1 or value.lower() in PREPOSITIONS | ARTICLES - {"all", "any", "some"}
    for index in clause.everywhere.get(wanted[0].stem, ()):
        words = clause.words[index : index + len(wanted)]
        if [word.stem for word in words] == [word.stem for word in wanted]:
            start, end = words[0].start, words[-1].end
            if not unclear or (value == clause.text[start:end] and value.isupper()):
                yield Found(value, start, end)


def _signs(value: str, clause: Clause) -> Iterator[Found]:
    """A value without letters, such as `+`, where it stands alone."""
    for token in re.finditer(r"\S+", clause.text):
        if token[0].rstrip(",;") == value:
            yield Found(value, token.start(), token.start() + len(value))


def numbers(slot: Slot, clause: Clause) -> list[Found]:
    """The numbers; only whole ones for an integer."""
    if slot.kind("number"):
        return clause.numbers
    if slot.kind("integer"):
        return [one for one in clause.numbers if isinstance(one.value, int)]
    return []


def truths(slot: Slot, clause: Clause) -> list[Found]:
    """`on` and `off` for a parameter that is required; its own name, perhaps denied, for any."""
    if not slot.kind("boolean"):
        return []
    if slot.required:
        for word in clause.words:
            if word.lower in _ON | _OFF:
                return [Found(word.lower in _ON, word.start, word.end)]
    for label in sorted(slot.label - {"includ", "show", "us", "enabl", "only", "al"}):
        for index in clause.everywhere.get(label, ()):
            before = {word.lower for word in clause.words[max(0, index - 2) : index]}
            after = {word.lower for word in clause.words[index + 1 : index + 2]}
            denied = bool(before & _NEGATION or after & _OFF)
            return [Found(not denied, clause.words[index].start, clause.words[index].end)]
    return []


def quoted(slot: Slot, clause: Clause) -> list[Found]:
    return clause.quoted if slot.text is not None else []


def names(slot: Slot, clause: Clause) -> list[Found]:
    """Names with a capital letter, and words that are no plain words, such as `A-1001`."""
    if slot.text is None or slot.is_long or slot.words & (_DATE_NAMES | _TIME_NAMES):
        return []
    identifies = bool(slot.words & IDENTIFIER)
    codes = [
        code
        for code in clause.codes
        if "@" not in str(code.value) and "://" not in str(code.value)
        if identifies
        or not str(code.value).replace(".", "").replace(",", "").lstrip("-$€£").isdigit()
    ]
    return codes if identifies and codes else [*clause.names, *codes]


_REGIONS = (
    "Africa/ America/ Antarctica/ Arctic/ Asia/ Atlantic/ Australia/ Europe/ Indian/ Pacific/"
)
# Large cities whose zone is named after another one, and short names.
_ALIASES = {
    "san francisco": "America/Los_Angeles",
    "seattle": "America/Los_Angeles",
    "la": "America/Los_Angeles",
    "boston": "America/New_York",
    "miami": "America/New_York",
    "washington": "America/New_York",
    "nyc": "America/New_York",
    "montreal": "America/Toronto",
    "rio de janeiro": "America/Sao_Paulo",
    "munich": "Europe/Berlin",
    "hamburg": "Europe/Berlin",
    "frankfurt": "Europe/Berlin",
    "milan": "Europe/Rome",
    "barcelona": "Europe/Madrid",
    "geneva": "Europe/Zurich",
    "beijing": "Asia/Shanghai",
    "shenzhen": "Asia/Shanghai",
    "osaka": "Asia/Tokyo",
    "kyoto": "Asia/Tokyo",
    "mumbai": "Asia/Kolkata",
    "delhi": "Asia/Kolkata",
    "bangalore": "Asia/Kolkata",
    "hanoi": "Asia/Ho_Chi_Minh",
    "tel aviv": "Asia/Jerusalem",
    "abu dhabi": "Asia/Dubai",
    "cape town": "Africa/Johannesburg",
    "utc": "UTC",
    "gmt": "GMT",
}


@functools.cache
def _zones() -> tuple[dict[str, str], dict[str, str]]:
    """The zones by their whole name and by the name of their city, both in lower case."""
    known = sorted(zoneinfo.available_timezones(), key=lambda zone: (zone.count("/"), zone))
    cities: dict[str, str] = {}
    for zone in known:
        if zone.startswith(tuple(_REGIONS.split())):
            cities.setdefault(zone.rsplit("/", 1)[1].replace("_", " ").lower(), zone)
    for zone in known:
        if "/" not in zone and len(zone) > 3:
            cities.setdefault(zone.lower(), zone)  # Japan, Singapore, Egypt and their like.
    return {zone.lower(): zone for zone in known}, cities | _ALIASES


def find_zones(clause: Clause) -> list[Found]:
    """The time zones the clause names, in its order."""
    whole, cities = _zones()
    found = [
        Found(zone, token.start, token.end)
        for token in clause.tokens
        if "/" in str(token.value) and (zone := whole.get(str(token.value).lower()))
    ]
    written = Spans([(one.start, one.end) for one in found])
    end = -1
    for index, word in enumerate(clause.words):
        if word.start < end or written.touch(word.start, word.end):
            continue
        for count in (3, 2, 1):
            name = " ".join(part.lower for part in clause.words[index : index + count])
            if zone := cities.get(name):
                end = clause.words[min(index + count, len(clause.words)) - 1].end
                found.append(Found(zone, word.start, end))
                break
    return sorted(found, key=lambda one: one.start)
