"""The shop of `meterline demo --stay`: a project that moves by itself while somebody watches."""

from __future__ import annotations

from api.demo.shop import PROJECT, Shop
from api.stack import Stack
from tests.calls import Operator, eventually


def test_the_shop_is_used_by_its_customers_until_it_closes(stack: Stack, operator: Operator) -> None:
    def customers() -> set[str]:
        entries = operator.http.get("/v1/ledger", params={"project": PROJECT}).json()["entries"]
        return {each["customer_id"] for each in entries if each["kind"] == "charge"}

    with Shop(stack.url, stack.admin_key) as shop:
        eventually(lambda: len(customers()) >= 2, 50)
        balance = operator.client(shop.key).get("/v1/balance").json()
        assert balance["plan"] == "build" and balance["promotional_count"] >= 1 and balance["top_ups_count"] >= 1
    # It opens again where it was, as beside a data directory that is kept.
    with Shop(stack.url, stack.admin_key) as again:
        assert again.key != shop.key
