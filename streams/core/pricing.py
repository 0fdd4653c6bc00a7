"""Pricing, first step: what a producer says happened becomes the operation, quantity and surcharge to bill."""

from __future__ import annotations

from collections.abc import Container

from schemas.events import Surcharge, UsageData
from schemas.problems import Rejection

# Names that stand for several operations; another field says which one is meant.
_SOCIAL_POST = ("social_post", "social_post.text")
_VIDEO = ("video", "video.budget", "video.premium")
_SURCHARGES: dict[str | None, Surcharge] = {"image": "social_post.image", "video": "social_post.video"}
# Operations that `meter` never gives.
UNMETERED = frozenset({"social_post", "video", *_SURCHARGES.values()})


def meter(data: UsageData, operations: Container[str] | None) -> tuple[str, int, Surcharge]:
    """The (operation, quantity, surcharge operation or "") to bill for `data`.

    A social post's media is a surcharge beside the text, always at the budget video's price; networks do not count.
    A video is the budget one unless `tier` says premium. Translations count target languages, webhook deliveries
    count retry attempts (the first attempt is free and not sent). Source: pricing, "What every operation costs".
    `operations` are those that have a price; None stands for any, where prices are not known.

    Raises Rejection (`unknown_operation`, `invalid_event`).
    """
    operation = data.operation
    quantity = data.quantity or 1
    surcharge: Surcharge = ""
    if operation in _SOCIAL_POST:
        operation = "social_post.text"
        surcharge = _SURCHARGES.get(data.media_type, "")
    elif data.media_type is not None or data.networks is not None:
        raise _misplaced("media_type" if data.media_type is not None else "networks", "social_post")
    if operation in _VIDEO:
        named = operation.partition(".")[2]
        if named and data.tier and named != data.tier:
            raise Rejection("invalid_event", f"`tier` {data.tier!r} contradicts operation {operation!r}", "data.tier")
        operation = f"video.{named or data.tier or 'budget'}"
    elif data.tier is not None:
        raise _misplaced("tier", "video")
    if data.target_languages is not None:
        quantity = _counted(data, "target_languages", data.target_languages, "translation")
    if data.attempts is not None:
        quantity = _counted(data, "attempts", data.attempts, "webhook.delivery")
    if operation in UNMETERED or (operations is not None and operation not in operations):
        raise Rejection("unknown_operation", f"No operation {operation[:80]!r} in the price book", "data.operation")
    return operation, quantity, surcharge


def _counted(data: UsageData, field: str, count: int, operation: str) -> int:
    if data.operation != operation:
        raise _misplaced(field, operation)
    if data.quantity is not None and data.quantity != count:
        raise Rejection("invalid_quantity", f"`quantity` contradicts `{field}`; send one of them", "data.quantity")
    return count


def _misplaced(field: str, operation: str) -> Rejection:
    return Rejection("invalid_event", f"`{field}` belongs to operation {operation!r} only", f"data.{field}")
