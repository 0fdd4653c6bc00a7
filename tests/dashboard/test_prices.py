"""The price list on the dashboard: what is announced, what usage would cost under it, exactly; a calculator."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

from api.dashboard.views.prices import BookPrices, cost_under
from api.stack import Stack
from tests.calls import Operator, eventually
from tests.dashboard.readers import DashboardReader, text_of

PRICES = "/dashboard/prices"


def book(version: str, plans: dict[str, str] | None = None, **rates: str) -> BookPrices:
    """A price book as an answer of the API has it."""
    prices = [
        {"operation": name, "credits": credits, "plan_required": (plans or {}).get(name)}
        for name, credits in rates.items()
    ]
    return BookPrices.of({"version": version, "prices": prices, "hourly": []})


def row(operation: str, quantity: int, credits: str) -> dict[str, object]:
    return {"group": {"operation": operation}, "quantity": quantity, "credits": credits}


def test_what_usage_would_cost_is_exact_and_leaves_out_what_has_no_price() -> None:
    now, then = book("1", image="0.000001", chat="3", old="1"), book("2", {"chat": "build"}, image="0.000003", chat="2")
    used = [row("image", 10**15 + 1, "1000000000.000001"), row("chat", 5, "14.5"), row("old", 2, "2")]
    cost = cost_under(used, now, then)
    assert [(each.operation, each.now, each.then, each.difference, each.plan_then) for each in cost.rows] == [
        ("image", "1000000000.000001", "3000000000.000003", "2000000000.000002", ""),
        ("chat", "15", "10", "-5", "build"),
        ("old", "2", None, None, ""),
    ]
    assert (cost.charged, cost.now, cost.then) == ("1000000016.500001", "1000000015.000001", "3000000010.000003")
    assert (cost.difference, cost.is_whole) == ("1999999995.000002", False)


def test_an_announced_book_is_shown_with_what_it_would_cost(stack: Stack, operator: Operator) -> None:
    project, client = operator.customer("build")
    reader = DashboardReader(operator.url, operator.key(project)["key"])
    assert "Nothing was used in the last 30 days" in reader.open(f"{PRICES}/cost", is_part=True)
    for operation, quantity in (("image", 3), ("translation", 10)):
        body = {"operation": operation, "quantity": quantity, "source": "/prices"}
        assert client.post("/v1/admissions", json=body).status_code == 200
    version, at = f"dash-{secrets.token_hex(4)}", datetime.now(UTC) + timedelta(days=400)
    body = {"version": version, "effective_at": at.isoformat(), "rates": {"image": "40.5", "translation": "6.5"}}
    announced = operator.http.post("/v1/admin/price-books", json=body)
    assert announced.status_code == 201, announced.text
    try:
        page = text_of(reader.open(PRICES))
        assert version in page and "image any 32 dearer 40.5" in page and "translation any 7 cheaper 6.5" in page
        assert "image 32 → 40.5" in page
        part = eventually(
            lambda: (told := text_of(reader.open(f"{PRICES}/cost", is_part=True))) and "translation 10" in told and told
        )
        assert "would have cost 186.5 credits: 20.5 more than at today's" in part
        assert "image 3 96 96 121.5 +25.5" in part and "translation 10 70 70 65 −5" in part
        # Anybody may look at prices; what it costs is of the own project.
        admin = DashboardReader(operator.url, stack.admin_key)
        assert version in admin.open(PRICES) and "What it would cost" not in text_of(admin.open(PRICES)).split("one")[0]
        assert "an admin names the project" in admin.open(f"{PRICES}/cost", 422, is_part=True).lower()
    finally:
        operator.http.delete(f"/v1/admin/price-books/{version}")
    assert f"{version} would have held" in text_of(reader.open(PRICES))


def test_the_calculator_multiplies_and_says_what_is_wrong(operator: Operator) -> None:
    reader = DashboardReader(operator.url, operator.key(operator.project())["key"])
    assert "2400000000 credits now" in text_of(reader.open(f"{PRICES}?operation=website&quantity=10,000,000"))
    assert "0.06 credits now" in text_of(reader.open(f"{PRICES}?operation=webhook.delivery&quantity=3"))
    for quantity in ("0", "1.5", "1,5", "9999999999"):
        assert "Give a whole quantity" in reader.open(f"{PRICES}?operation=image&quantity={quantity}")
    assert "Choose an operation that has a price" in reader.open(f"{PRICES}?operation=nothing&quantity=1")
