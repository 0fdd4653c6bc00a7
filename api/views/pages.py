"""Pages of what an account has: bundles, holds. A cursor names the item that the page before ended with."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from schemas.problems import Rejection
from streams.core.foreign import UnreadableError, read

T = TypeVar("T")
Place = tuple[int, str]
_decode_place = msgspec.json.Decoder(Place).decode


def page_of(
    items: Iterable[T], place: Callable[[T], Place], limit: int, cursor: str | None
) -> tuple[list[T], str | None]:
    """At most `limit` items in the order of their places, those after the cursor's; and the cursor of the page after
    them, or None at the end. An item that is gone by then leaves the place of its cursor. Raises Rejection."""
    after = None if cursor is None else _decoded(cursor)
    left = sorted((each for each in items if after is None or place(each) > after), key=place)
    page = left[:limit]
    if len(left) <= limit:
        return page, None
    return page, base64.urlsafe_b64encode(msgspec.json.encode(place(page[-1]))).decode().rstrip("=")


def _decoded(cursor: str) -> Place:
    def decode(text: str) -> Place:
        place: Place = read(_decode_place, base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return place

    try:
        return read(decode, cursor)
    except UnreadableError:
        raise Rejection("invalid_request", "`cursor` is not one that a page gave", "cursor") from None
