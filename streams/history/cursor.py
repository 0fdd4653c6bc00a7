"""Page cursors of facts, the newest first: opaque text outside, a fact's place inside."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from schemas.problems import Rejection
from schemas.times import DAY_MS, EPOCH
from streams.kafka.clock import now_ms

# A page is looked for in so many days first, then in more, then in all: ClickHouse reads the beginning of each part
# that it has to look at.
_DAYS = (1, 32)

T = TypeVar("T")


def encode_cursor(at_ms: int, partition: int, offset: int, position: int) -> str:
    """The cursor of the page that comes after a fact."""
    text = f"{at_ms}.{partition}.{offset}.{position}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[int, int, int, int]:
    """The (booked at in Unix milliseconds, partition, offset, position) of a cursor's fact. Raises Rejection."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at_ms, partition, offset, position = (int(part) for part in text.split("."))
        bounds = ((at_ms, 53), (partition, 16), (offset, 63), (position, 32))
        if any(not 0 <= number < 1 << bits for number, bits in bounds):
            raise ValueError
    except Exception:
        raise Rejection("invalid_request", "`cursor` is not one that a page gave", "cursor") from None
    return at_ms, partition, offset, position


def after_cursor(cursor: str) -> tuple[str, dict[str, Any]]:
    """The SQL condition that a fact comes after a cursor's, among those of which the newest come first, and its
    parameters. Raises Rejection."""
    at_ms, partition, offset, position = decode_cursor(cursor)
    return (
        "(booked_at, partition, offset, position) < (fromUnixTimestamp64Milli({at:Int64}, 'UTC'), "
        "{partition:UInt16}, {offset:UInt64}, {position:UInt32})"
    ), {"at": at_ms, "partition": partition, "offset": offset, "position": position}


def newest_of(
    since: datetime | None, until: datetime | None, cursor: str | None, now: int | None = None, days: int = 1
) -> tuple[list[str], dict[str, Any]]:
    """The SQL conditions that a fact was booked in [since, until) and comes after a cursor's, and their parameters;
    with `now`, in Unix milliseconds, only of so many days before it, or before the cursor. Raises Rejection."""
    conditions: list[str] = []
    parameters: dict[str, Any] = {}
    if since is not None:
        conditions.append("booked_at >= fromUnixTimestamp64Milli({from:Int64}, 'UTC')")
        parameters["from"] = _unix_ms(since)
    if until is not None:
        conditions.append("booked_at < fromUnixTimestamp64Milli({until:Int64}, 'UTC')")
        parameters["until"] = _unix_ms(until)
        now = min(now, parameters["until"]) if now is not None else None
    if cursor:
        after, place = after_cursor(cursor)
        now = min(now, place["at"]) if now is not None else None
        conditions.append("booked_at <= fromUnixTimestamp64Milli({at:Int64}, 'UTC')")
        conditions.append(after)
        parameters |= place
    if now is not None:
        conditions.append("booked_at >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')")
        parameters["since"] = max(0, now - days * DAY_MS)
    return conditions, parameters


def looked_for(page: Callable[[int | None, int], Sequence[T]], limit: int) -> Sequence[T]:
    """Look for a page in the newest days first, and in more while it has no more than `limit` rows. `page` is asked
    with a `now` and days for `newest_of`."""
    now = now_ms()
    for days in _DAYS:
        if len(found := page(now, days)) > limit:
            return found
    return page(None, 0)


def _unix_ms(at: datetime) -> int:
    """The first millisecond that is not before a time."""
    return -((EPOCH - at) // timedelta(milliseconds=1))
