"""Auto-recharge on the whole stack buys a bundle when credits run low, once, and the purchase can be read back."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from api.stack import Stack
from streams.cashier.payments import LocalPayments
from streams.settings import Settings
from tests.calls import Operator, eventually
from tests.cashier.stripe_server import CUSTOMER, SECRET_KEY, StripeServer
from tests.command_line import Meterline


def set_auto_recharge(operator: Operator, project: str, payment_method: str) -> None:
    """Turn auto-recharge on: below 100 credits it buys 4,000 for $20, up to $100 a month."""
    terms = {"on": True, "threshold": "100", "bundle_usd": 20, "cap_usd": 100, "payment_method": payment_method}
    answer = operator.http.put(f"/v1/admin/projects/{project}/auto-recharge", json=terms)
    assert answer.status_code == 200, answer.text


def low_customer(operator: Operator, payment_method: str) -> tuple[str, httpx.Client]:
    """A free project with auto-recharge that has just spent 240 of its 250 credits."""
    project, client = operator.customer()
    set_auto_recharge(operator, project, payment_method)
    answer = client.post("/v1/admissions", json={"operation": "website"})
    assert (answer.status_code, answer.json()["available"]) == (200, "10")
    return project, client


def trail(operator: Operator, clickhouse_url: str, project: str) -> list[str]:
    sql = f"SELECT kind, reason FROM facts WHERE project = '{project}' ORDER BY offset, position FORMAT TSV"
    rows = operator.rows(clickhouse_url, sql)
    return [reason for kind, reason in rows if kind == "recharge" or reason == "top_up"]


def purchases(stack: Stack, project: str) -> list[tuple[int, bool]]:
    found = LocalPayments(stack.settings.payments_path).purchases()
    return [(cents, is_paid) for _, owner, cents, is_paid in found if owner == project]


def purchase_metrics(operator: Operator) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in operator.metrics().splitlines()]
    return {name: float(value) for name, _, value in lines if name.startswith("meterline_purchases")}


def test_below_the_threshold_credits_are_bought(stack: Stack, operator: Operator) -> None:
    paid = 'meterline_purchases_total{outcome="paid"}'
    before = purchase_metrics(operator)[paid]
    project, client = low_customer(operator, "card_1")
    eventually(lambda: client.get("/v1/balance").json()["available"] == "4010")
    (bundle,) = client.get("/v1/balance").json()["top_ups"]
    assert (bundle["granted"], bundle["remaining"]) == ("4000", "4000")
    assert client.post("/v1/admissions", json={"operation": "website"}).status_code == 200
    eventually(lambda: trail(operator, stack.clickhouse_url, project) == ["on", "requested", "top_up"])
    assert purchases(stack, project) == [(2_000, True)]

    def bought() -> dict[str, Any] | None:
        entries = client.get("/v1/ledger").json()["entries"]
        return next((entry for entry in entries if entry["reason"] == "top_up"), None)

    entry = eventually(bought)
    assert entry["amount"] == "4000"
    assert entry["metadata"]["recharge"].startswith("recharge-")
    assert entry["metadata"]["reference"].startswith("local-")
    eventually(lambda: purchase_metrics(operator)[paid] >= before + 1)
    assert purchase_metrics(operator)["meterline_purchases_waiting"] == 0


def test_a_declined_card_gives_nothing_and_is_not_tried_again_at_once(stack: Stack, operator: Operator) -> None:
    project, client = low_customer(operator, "card_declined_1")
    eventually(lambda: trail(operator, stack.clickhouse_url, project) == ["on", "requested", "failed"])
    assert client.post("/v1/admissions", json={"operation": "website"}).status_code == 402
    assert client.post("/v1/admissions", json={"operation": "chat.message"}).status_code == 200
    # A later purchase is settled by now: a second one of this project would be settled, too.
    later, other = low_customer(operator, "card_1")
    eventually(lambda: other.get("/v1/balance").json()["available"] == "4010")
    eventually(lambda: trail(operator, stack.clickhouse_url, later) == ["on", "requested", "top_up"])
    assert trail(operator, stack.clickhouse_url, project) == ["on", "requested", "failed"]
    assert purchases(stack, project) == [(2_000, False)]
    assert client.get("/v1/balance").json()["available"] == "9"


@pytest.fixture
def stripe() -> Iterator[StripeServer]:
    with StripeServer().running() as running:
        yield running


@pytest.fixture
def stripe_stack(stripe: StripeServer, settings_for: Callable[..., Settings]) -> Iterator[Stack]:
    """A stack that buys through Stripe, and that a test may break."""
    settings = settings_for(
        api_port=0,
        clickhouse_front_port=0,
        log_level="DEBUG",
        payments="stripe",
        stripe_secret_key=SecretStr(SECRET_KEY),
        stripe_api_base=stripe.url,
    )
    with Stack(settings) as running:
        yield running


def test_an_api_killed_while_stripe_takes_the_money_has_it_taken_once(
    stripe: StripeServer, stripe_stack: Stack
) -> None:
    stack, operator = stripe_stack, Operator(stripe_stack)
    stripe.faults = ["500 before", "hang"]
    project, client = low_customer(operator, f"{CUSTOMER}/pm_ok")
    eventually(lambda: stripe.statuses() == ["succeeded"])
    restarts = stack.restarts
    os.kill(stack.pids()["api"], signal.SIGKILL)
    eventually(lambda: stack.restarts > restarts)

    def available() -> str | None:
        try:
            return str(client.get("/v1/balance").json().get("available"))
        except httpx.TransportError:
            return None

    eventually(lambda: available() == "4010", 60)
    declined, _ = low_customer(operator, f"{CUSTOMER}/pm_declined")
    eventually(lambda: trail(operator, stack.clickhouse_url, declined) == ["on", "requested", "failed"], 60)
    eventually(lambda: trail(operator, stack.clickhouse_url, project) == ["on", "requested", "top_up"])
    assert stripe.statuses() == ["canceled", "succeeded"]
    assert [each["metadata"]["project"] for each in stripe.paid()] == [project]
    logs = b"".join(path.read_bytes() for path in stack.logs_dir.iterdir())
    assert project.encode() in logs and SECRET_KEY.encode() not in logs


def test_stripe_without_its_key_is_told_at_the_start(meterline: Meterline) -> None:
    done = meterline("up", METERLINE_PAYMENTS="stripe")
    assert done.returncode == 1
    assert "METERLINE_STRIPE_SECRET_KEY" in done.stderr and "Traceback" not in done.stderr
