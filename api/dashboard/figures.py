"""Figures and times as pages show them: exact, aligned, with thin separators that are no part of what is copied."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from markupsafe import Markup, escape

from streams.core.booking import format_credits

MINUS = "\N{MINUS SIGN}"
_SEPARATOR = Markup("<i></i>")


def figure(value: Any, *, signed: bool = False) -> Markup:
    """A number or a decimal string, its digits in groups of three; `signed` puts a plus before what is above 0."""
    text = str(value)
    sign, text = ("-", text[1:]) if text.startswith("-") else ("", text)
    whole, dot, fraction = text.partition(".")
    groups = [whole[max(0, end - 3) : end] for end in range(len(whole), 0, -3)][::-1]
    before = MINUS if sign else "+" if signed and text.strip("0.") else ""
    return Markup("{}{}{}{}").format(before, _SEPARATOR.join(escape(each) for each in groups), dot, fraction)


def signed_figure(value: Any) -> Markup:
    """A number or a decimal string with its sign."""
    return figure(value, signed=True)


def dollars(cents: int) -> Markup:
    """An amount of money in cents, in dollars."""
    sign, cents = (MINUS, -cents) if cents < 0 else ("", cents)
    return Markup("{}${}.{:02d}").format(sign, figure(cents // 100), cents % 100)


def share(part: Any, whole: Any) -> int:
    """The share of a part in a whole, in whole percent, of decimal strings or numbers; 0 of nothing."""
    total = Decimal(str(whole))
    return int(min(Decimal(100), 100 * Decimal(str(part)) / total)) if total > 0 else 0


def microcredits(credits: str) -> int:
    """Microcredits of a decimal string of the API's own, of any sign and length: sums are larger than what may be asked
    for, and a correction of what was used before may leave less than nothing."""
    return int(Decimal(credits).scaleb(6))


def credits_sum(*amounts: str) -> str:
    """The sum of decimal strings of credits, exact."""
    return format_credits(sum(map(microcredits, amounts)))


def instant(value: Any) -> datetime:
    """A time of the API's answers."""
    at = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return at if at.tzinfo else at.replace(tzinfo=UTC)


# What a browser takes into a field for a day or a time: it leaves the field empty for all else.
_FIELD_PATTERNS = {
    "date": re.compile(r"\d{4}-\d\d-\d\d", re.ASCII),
    "datetime-local": re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,3})?)?", re.ASCII),
}


def field_type(value: str, usual: str) -> str:
    """The type of a field that shows this value: the usual one, "date" or "datetime-local", or text for what such a
    field would not show, as a time with a zone, or what is none."""
    if not value:
        return usual
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return "text"
    return usual if _FIELD_PATTERNS[usual].fullmatch(value) else "text"


# How a time is shown: the hour of today's, the day of others.
_FORMATS = {
    "clock": "%H:%M:%S",
    "minute": "%d %b %H:%M",
    "stamp": "%d %b %H:%M:%S",
    "day": "%d %b %Y",
    "moment": "%d %b %Y %H:%M:%S",
    "exact": "%H:%M:%S.%f",
    "weekday": "%a %d %b",
    "date": "%d %b",
}


def shown_time(value: Any, zone: ZoneInfo, how: str = "minute") -> Markup:
    """A time in the reader's zone, with UTC where one points at it; a dash for None."""
    if value in (None, ""):
        return Markup("–")
    at = instant(value)
    here, utc = at.astimezone(zone), at.astimezone(UTC)
    text = here.strftime(_FORMATS[how])
    text = text[:-3] if how == "exact" else text.lstrip("0") if text[2:3] == " " else text
    text = text.replace(" 0", " ") if how == "weekday" else text
    machine, told = utc.isoformat().replace("+00:00", "Z"), utc.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(machine, told, text)


def in_words(seconds: float) -> str:
    """A length of time in words, as in "about 2 days"; for what is to come or has been."""
    for name, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        count = round(abs(seconds) / length)
        if count >= 1 and abs(seconds) >= length * 0.95:
            return f"about {count} {name}{'s' * (count != 1)}"
    return "less than a minute"
