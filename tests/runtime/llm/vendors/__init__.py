"""A loopback server that speaks Chat Completions, Responses and Messages, from one description."""

from ._wire import Recorded, as_event
from .answers import (
    NOTHING,
    SILENCE,
    WEB_PAGE,
    Answer,
    Call,
    Fault,
    Raw,
    Reply,
    Sent,
    Tokens,
    broken,
    cut,
    first_half,
    recut,
)
from .server import FORMATS, Format, VendorServer, spell, whole

__all__ = [
    "FORMATS",
    "NOTHING",
    "SILENCE",
    "WEB_PAGE",
    "Answer",
    "Call",
    "Fault",
    "Format",
    "Raw",
    "Recorded",
    "Reply",
    "Sent",
    "Tokens",
    "VendorServer",
    "as_event",
    "broken",
    "cut",
    "first_half",
    "recut",
    "spell",
    "whole",
]
