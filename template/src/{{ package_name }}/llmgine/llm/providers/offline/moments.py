# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Dates, times and durations as people write them in English, and in ISO 8601."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_MONTH = (
    r"(?P<{0}>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
    r"(?:uary|ruary|ch|il|e|y|ust|t|tember|ober|ember)?\.?"
)
_DATE = re.compile(
    r"(?<![\w-])(?:"
    r"(?P<iso>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ](?P<isotime>[0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:\.[0-9]{1,9})?"
    r"(?P<zone>Z|[+-][0-9]{2}:?[0-9]{2})?)?"
    r"|(?P<day1>[0-9]{1,2})(?:st|nd|rd|th)?(?: of)? "
    + _MONTH.format("month1")
    + r"(?:,? (?P<year1>[0-9]{4}))?"
    r"|"
    + _MONTH.format("month2")
    + r" (?P<day2>[0-9]{1,2})(?:st|nd|rd|th)?(?:,? (?P<year2>[0-9]{4}))?"
    r"|(?P<after>day after tomorrow)|(?P<near>today|tonight|tomorrow|yesterday)"
    r"|(?:(?:this|next|coming) )?(?P<weekday>mon|tues|wednes|thurs|fri|satur|sun)day"
    r"|in (?P<count>[0-9]{1,3}|a|one|two|three|four|five|six|seven) (?P<unit>day|week)s?"
    r")(?![\w])",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"(?<![\w:.])(?:"
    r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}))?"
    r"(?: ?(?P<half1>[ap])\.?m\b\.?)?"
    r"|(?P<hour2>[0-9]{1,2}) ?(?P<half2>[ap])\.?m\b\.?"
    r"|(?<=at )(?P<hour3>[0-9]{1,2})(?![0-9.,%]|:[0-9])(?= o'clock\b|[\s,.;!?]*$| on | and )"
    r"(?: o'clock)?"
    r"|(?P<named>noon|midday|midnight)\b"
    r")(?!\w|:[0-9])",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"[\s,]{0,4}(?:(?:at|on|from|@)\s)?", re.IGNORECASE)
_DURATION = re.compile(
    r"(?<![\w.])([0-9]{1,6}|a|an|one|two|three|four|five|ten|half an)[ -]?"
    r"(second|sec|minute|min|hour|hr|day|week)s?(?!\w)",
    re.IGNORECASE,
)
_COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_COUNTS |= {"seven": 7, "ten": 10}


@dataclass(frozen=True, slots=True)
class Moment:
    """A date, a time of day, or both, and where the text says each."""

    day: date | None = None
    time: time | None = None
    day_at: tuple[int, int] = (0, 0)
    time_at: tuple[int, int] = (0, 0)

    @property
    def start(self) -> int:
        return min(at[0] for at in (self.day_at, self.time_at) if at[1])

    @property
    def end(self) -> int:
        return max(self.day_at[1], self.time_at[1])

    def as_datetime(self, now: datetime) -> str | None:
        """With an offset, as RFC 3339 asks: a time alone is today's, a date alone its midnight."""
        moment = datetime.combine(self.day or now.date(), self.time or time())
        try:
            return _with_zone(moment, now.tzinfo).isoformat()
        except (OverflowError, OSError, ValueError):
            return None  # The first or last day a calendar knows.


def _with_zone(moment: datetime, zone: tzinfo | None) -> datetime:
    if moment.tzinfo is not None:
        return moment
    return moment.astimezone() if zone is None else moment.replace(tzinfo=zone)


def find_moments(text: str, now: datetime) -> list[Moment]:
    """All dates and times in the order of the text; a date and a time side by side are one."""
    found = [moment for match in _DATE.finditer(text) if (moment := _date(match, now.date()))]
    found += [moment for match in _TIME.finditer(text) if (moment := _time(match))]
    found.sort(key=lambda moment: (moment.start, -moment.end))
    joined: list[Moment] = []
    for moment in found:
        last = joined[-1] if joined else None
        if last is None or moment.start >= last.end:
            both = _join(last, moment, text) if last is not None else None
            joined[-1:] = [both] if both is not None else [*joined[-1:], moment]
    return joined


def _join(first: Moment, second: Moment, text: str) -> Moment | None:
    apart = (first.day is None) != (second.day is None) and (first.time is None) != (
        second.time is None
    )
    if not apart or not _BETWEEN.fullmatch(text, first.end, second.start):
        return None
    dated, timed = (first, second) if first.day is not None else (second, first)
    return Moment(dated.day, timed.time, dated.day_at, timed.time_at)


def _date(match: re.Match[str], today: date) -> Moment | None:
    try:
        day = _day(match, today)
        clock = _iso_time(match)
    except (ValueError, OverflowError):
        return None  # The thirtieth of February and its like.
    at = match.span()
    return Moment(day, clock, at, at if clock is not None else (0, 0))


def _day(match: re.Match[str], today: date) -> date:
    if match["iso"]:
        return date.fromisoformat(match["iso"])
    if match["after"]:
        return today + timedelta(days=2)
    if match["near"]:
        return today + timedelta(
            days={"tomorrow": 1, "yesterday": -1}.get(match["near"].lower(), 0)
        )
    if match["weekday"]:
        wanted = _DAYS.index(match["weekday"][:3].lower())
        return today + timedelta(days=(wanted - today.weekday() - 1) % 7 + 1)
    if match["unit"]:
        count = _COUNTS.get(match["count"].lower()) or int(match["count"])
        return today + timedelta(days=count * (7 if match["unit"].lower() == "week" else 1))
    month = _MONTHS.index((match["month1"] or match["month2"]).lower()) + 1
    day, year = int(match["day1"] or match["day2"]), match["year1"] or match["year2"]
    if year:
        return date(int(year), month, day)
    this_year = date(today.year, month, day)
    return this_year if this_year >= today else date(today.year + 1, month, day)


def _iso_time(match: re.Match[str]) -> time | None:
    if not match["isotime"]:
        return None
    zone: timezone | None = None
    if written := match["zone"]:
        zone = UTC if written in "Zz" else _offset(written)
    return time.fromisoformat(match["isotime"]).replace(tzinfo=zone)


def _offset(written: str) -> timezone:
    minutes = int(written[1:3]) * 60 + int(written[-2:])
    return timezone(timedelta(minutes=-minutes if written[0] == "-" else minutes))


def _time(match: re.Match[str]) -> Moment | None:
    if match["named"]:
        hour, minute, second = (0 if match["named"].lower() == "midnight" else 12), 0, 0
    else:
        hour = int(match["hour"] or match["hour2"] or match["hour3"])
        minute, second = int(match["minute"] or 0), int(match["second"] or 0)
        if half := match["half1"] or match["half2"]:
            if not 1 <= hour <= 12:
                return None
            hour = hour % 12 + (12 if half in "pP" else 0)
    try:
        return Moment(time=time(hour, minute, second), time_at=match.span())
    except ValueError:
        return None


def find_durations(text: str) -> list[tuple[str, int, int]]:
    """Durations as ISO 8601 with the place of each: `5 minutes` is PT5M."""
    found: list[tuple[str, int, int]] = []
    for match in _DURATION.finditer(text):
        count = match[1].lower()
        unit = match[2][0].upper()
        if count == "half an":
            count, unit = ("30", "M") if unit == "H" else ("", unit)
        if count:
            amount = _COUNTS.get(count) or int(count)
            found.append(
                (f"P{'' if unit in 'DW' else 'T'}{amount}{unit}", match.start(), match.end())
            )
    return found
