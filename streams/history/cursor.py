"""Page cursors of facts, the newest first: opaque text outside, a fact's place inside."""

from __future__ import annotations

import base64
from typing import Any

from schemas.problems import Rejection


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
