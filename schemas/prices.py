"""The shape of a price book, and the book Meterline starts with."""

from __future__ import annotations

import msgspec

MICROCREDITS_PER_CREDIT = 1_000_000


class PriceBook(msgspec.Struct, frozen=True):
    """A price book says what each operation costs from `effective_at_ms` on.

    `rates` maps an operation to microcredits for one unit, `hourly` a recurring line item to microcredits for one unit
    and hour; `plan_required` maps an operation to the lowest plan that may use it. A price book is never changed: a new
    price is a new version. `note` is for the changelog.
    """

    version: str
    effective_at_ms: int
    rates: dict[str, int]
    plan_required: dict[str, str]
    hourly: dict[str, int] = {}
    announced_at_ms: int = 0
    note: str = ""


def _credits(text: str) -> int:
    whole, _, fraction = text.partition(".")
    return int(whole) * MICROCREDITS_PER_CREDIT + int(fraction.ljust(6, "0") or "0")


# The price table of the platform's public price list. `read` and `write` stand for every read and light write: they
# cost nothing, are recorded all the same, and count as requests.
FIRST_PRICE_BOOK = PriceBook(
    version="2026-01",
    effective_at_ms=0,
    rates={
        "chat.message": _credits("1"),
        "page.edit": _credits("2"),
        "social_post.text": _credits("5"),
        "social_post.image": _credits("32"),
        "social_post.video": _credits("40"),
        "translation": _credits("7"),
        "content_plan": _credits("10"),
        "image": _credits("32"),
        "video.budget": _credits("40"),
        "video.premium": _credits("300"),
        "blog_post": _credits("60"),
        "website": _credits("240"),
        "newsletter.subscribe": 0,
        "contact.submit": 0,
        "read": 0,
        "write": 0,
        "webhook.delivery": _credits("0.02"),
    },
    plan_required={"video.premium": "build"},
)
