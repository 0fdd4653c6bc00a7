"""Instants that callers ask about: a time with its zone, or a day of a zone."""

from __future__ import annotations

import re
from datetime import date, datetime, time
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import PlainValidator, TypeAdapter, ValidationError, WithJsonSchema

from api.dependencies import instant
from schemas.http.common import GivenTime
from schemas.problems import Rejection

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TIMES: TypeAdapter[datetime] = TypeAdapter(GivenTime)
_UTC = ZoneInfo("UTC")
# What a parameter's description says of an instant that `moment_in_utc` reads.
DAY_IN_UTC = "RFC 3339 with a zone, or a day, which begins at midnight UTC"


def _day_or_time(given: Any) -> date:
    if isinstance(given, str) and _DAY.fullmatch(given):
        return date.fromisoformat(given)
    try:
        return _TIMES.validate_python(given)
    except ValidationError:
        raise ValueError("give a day, such as 2026-03-01, or a time with a zone: 2026-03-01T09:30:00Z") from None


# A date, or a datetime, as a parameter gives it.
DayOrTime = Annotated[date, PlainValidator(_day_or_time), WithJsonSchema({"type": "string"})]


def moment(given: date, field: str, zone: ZoneInfo) -> datetime:
    """The time that a caller gave in `field`; of a day, its begin in the zone. Raises Rejection as `instant` does."""
    return instant(given if isinstance(given, datetime) else datetime.combine(given, time(), zone), field)


def moment_in_utc(given: date | None, field: str) -> datetime | None:
    """The time that a caller gave in `field`, as `moment` has it of days in UTC; None where none was given."""
    return moment(given, field, _UTC) if given else None


def check_order(since: datetime | None, until: datetime | None) -> None:
    """Check that what was asked for ends no earlier than it begins. Raises Rejection."""
    if since is not None and until is not None and until < since:
        raise Rejection("invalid_request", "`to` is before `from`: give the earlier one as `from`", "to")
