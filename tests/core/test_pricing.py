"""The price table and how usage becomes lines, against the conformance cases and the rules they leave open."""

import json
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from schemas.events import UsageData
from schemas.prices import FIRST_PRICE_BOOK as BOOK
from schemas.problems import Rejection
from streams.core.booking import Booking, format_credits
from streams.core.decisions import command_reply, open_account
from streams.core.ledger import charge
from streams.core.price_list import Prices
from streams.core.pricing import meter
from tests.core.builders import admit, create_project, usage

CASES = json.loads((Path(__file__).parent.parent / "conformance" / "pricing.json").read_text())["cases"]


def lines_of(data: dict) -> list[tuple[str, int]]:
    """The lines that a usage event with this `data` is charged, each as (operation, microcredits)."""
    facts: list = []
    account = open_account(create_project(plan="scale"), 0, 0, 0, facts, Prices())[0]
    facts.clear()
    operation, quantity, surcharge = meter(msgspec.convert(data, UsageData), BOOK.rates)
    used = usage(operation=operation, quantity=quantity, surcharge=surcharge)
    assert charge(Booking(account, 0, 1, 0, 0, facts, Prices()), used) == ("", "")
    return [(fact.operation, -fact.amount) for fact in facts]


@pytest.mark.parametrize("case", [c for c in CASES if "total" in c], ids=lambda case: case["name"])
def test_conformance_totals(case: dict) -> None:
    lines = [line for data in case["usage"] for line in lines_of(data)]
    if "lines" in case:
        assert [format_credits(amount) for _, amount in lines] == case["lines"]
    assert sum(amount for _, amount in lines) == Decimal(case["total"]) * 1_000_000


@pytest.mark.parametrize("case", [c for c in CASES if "plan" in c], ids=lambda case: case["name"])
def test_conformance_plan_gates(case: dict) -> None:
    facts: list = []
    account = open_account(create_project(plan=case["plan"]), 0, 0, 0, facts, Prices())[0]
    operation, quantity, surcharge = meter(msgspec.convert(case["usage"][0], UsageData), BOOK.rates)
    used = usage(operation=operation, quantity=quantity, surcharge=surcharge)
    reply = command_reply(Booking(account, 0, 1, 0, 0, facts, Prices()), admit(used), False)
    if "error" in case:
        assert (reply.status, reply.code) == (case["error"]["status"], case["error"]["code"])
        assert reply.amount == 0
    else:
        assert format_credits(reply.amount) == case["total"]


def test_worked_case_blog_post_and_four_translations_is_88() -> None:
    lines = lines_of({"operation": "blog_post"}) + lines_of({"operation": "translation", "target_languages": 4})
    assert sum(amount for _, amount in lines) == 88_000_000


@pytest.mark.parametrize(
    ("data", "metered"),
    [
        ({"operation": "image"}, ("image", 1, "")),
        ({"operation": "image", "quantity": 3}, ("image", 3, "")),
        ({"operation": "social_post"}, ("social_post.text", 1, "")),
        ({"operation": "social_post.text", "media_type": "image"}, ("social_post.text", 1, "social_post.image")),
        (
            {"operation": "social_post", "media_type": "video", "networks": 2},
            ("social_post.text", 1, "social_post.video"),
        ),
        ({"operation": "video"}, ("video.budget", 1, "")),
        ({"operation": "video", "tier": "premium"}, ("video.premium", 1, "")),
        ({"operation": "video.premium", "tier": "premium"}, ("video.premium", 1, "")),
        ({"operation": "video.budget"}, ("video.budget", 1, "")),
        ({"operation": "translation", "target_languages": 4}, ("translation", 4, "")),
        ({"operation": "translation", "target_languages": 4, "quantity": 4}, ("translation", 4, "")),
        ({"operation": "webhook.delivery", "attempts": 2}, ("webhook.delivery", 2, "")),
    ],
)
def test_usage_is_metered_as_one_operation_and_a_surcharge(data: dict, metered: tuple[str, int, str]) -> None:
    used = msgspec.convert(data, UsageData)
    assert meter(used, BOOK.rates) == meter(used, None) == metered


def test_reads_and_writes_cost_nothing() -> None:
    assert lines_of({"operation": "read"}) == [("read", 0)]
    assert lines_of({"operation": "write", "quantity": 50}) == [("write", 0)]


ONLY_VIDEO = "`tier` belongs to operation 'video' only"
ONLY_POST = "`{}` belongs to operation 'social_post' only"


@pytest.mark.parametrize(
    ("data", "code", "field", "detail"),
    [
        ({"operation": "hologram"}, "unknown_operation", "operation", "No operation 'hologram' in the price book"),
        ({"operation": "o" * 81}, "unknown_operation", "operation", f"No operation {'o' * 80!r} in the price book"),
        ({"operation": "video.x"}, "unknown_operation", "operation", "No operation 'video.x' in the price book"),
        (
            {"operation": "social_post.image"},
            "unknown_operation",
            "operation",
            "No operation 'social_post.image' in the price book",
        ),
        ({"operation": "image", "tier": "premium"}, "invalid_event", "tier", ONLY_VIDEO),
        ({"operation": "image", "media_type": "video"}, "invalid_event", "media_type", ONLY_POST.format("media_type")),
        ({"operation": "image", "networks": 2}, "invalid_event", "networks", ONLY_POST.format("networks")),
        (
            {"operation": "image", "target_languages": 2},
            "invalid_event",
            "target_languages",
            "`target_languages` belongs to operation 'translation' only",
        ),
        (
            {"operation": "chat.message", "attempts": 2},
            "invalid_event",
            "attempts",
            "`attempts` belongs to operation 'webhook.delivery' only",
        ),
        (
            {"operation": "video.budget", "tier": "premium"},
            "invalid_event",
            "tier",
            "`tier` 'premium' contradicts operation 'video.budget'",
        ),
        (
            {"operation": "translation", "target_languages": 2, "quantity": 3},
            "invalid_quantity",
            "quantity",
            "`quantity` contradicts `target_languages`; send one of them",
        ),
        (
            {"operation": "webhook.delivery", "attempts": 2, "quantity": 3},
            "invalid_quantity",
            "quantity",
            "`quantity` contradicts `attempts`; send one of them",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(data: dict, code: str, field: str, detail: str) -> None:
    with pytest.raises(Rejection) as refused:
        lines_of(data)
    told = refused.value
    assert (told.code, told.field, told.detail) == (code, f"data.{field}", detail)
