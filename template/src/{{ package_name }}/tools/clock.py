"""Tools about time. This file is yours."""

from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


def current_time(timezone: str) -> str:
    """The current date and time in a time zone.

    Args:
        timezone: an IANA name such as Europe/Berlin or Asia/Tokyo.
    """
    try:
        now = datetime.now(ZoneInfo(timezone))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"no time zone is called {timezone!r}; use an IANA name") from None
    return now.strftime("%A, %d %B %Y, %H:%M") + f" ({timezone})"
