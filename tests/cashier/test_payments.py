"""Payments: pretended ones, which are durable; and those by Stripe's own library, against a stand-in for Stripe."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from streams.cashier import payments
from streams.cashier.payments import (
    Failed,
    LocalPayments,
    Paid,
    Payment,
    PaymentUnknownError,
    StripePayments,
    payments_of,
)
from streams.errors import OperatorError
from streams.settings import PROJECT_ROOT, Settings
from tests.cashier.stripe_server import CUSTOMER, SECRET_KEY, StripeServer


def payment(key: str = "recharge-0-1-2", method: str = f"{CUSTOMER}/pm_ok") -> Payment:
    return Payment(key, "p1", 2_000, method, int(time.time() * 1000))


def test_pretended_money_is_taken_once_and_a_declined_method_never_pays(tmp_path: Path) -> None:
    here = LocalPayments(tmp_path / "deeper" / "payments.sqlite3")
    assert here.buy(payment("a")) == Paid("local-1")
    assert here.buy(payment("b", "card_declined_1")) == Failed("card_declined")
    assert here.buy(payment("c")) == Paid("local-3")
    there = LocalPayments(tmp_path / "deeper" / "payments.sqlite3")
    assert there.buy(payment("a")) == Paid("local-1")
    assert there.buy(payment("b", "card_declined_1")) == Failed("card_declined")
    assert there.purchases() == [("a", "p1", 2_000, True), ("b", "p1", 2_000, False), ("c", "p1", 2_000, True)]


def test_a_key_with_other_terms_is_not_taken_for_the_first_purchase(tmp_path: Path) -> None:
    local = LocalPayments(tmp_path / "payments.sqlite3")
    local.buy(payment("a"))
    for other in (replace(payment("a"), project="p2"), replace(payment("a"), amount_cents=10_000)):
        with pytest.raises(PaymentUnknownError):
            local.buy(other)
    assert len(local.purchases()) == 1


def test_a_file_that_cannot_be_used_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    path = tmp_path / "payments.sqlite3"
    path.write_bytes(b"this is not a database, and long enough to show it" * 100)
    with pytest.raises(PaymentUnknownError):
        LocalPayments(path).buy(payment())


BUYER = """
import os, signal, sys
from pathlib import Path
from streams.cashier.payments import LocalPayments, Payment
local = LocalPayments(Path(sys.argv[1]))
for number in range(40):
    print(number, local.buy(Payment(f"key-{number}", "p1", 2_000, "card", 0)).reference)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_at_once_and_kills_leave_one_purchase_a_key(tmp_path: Path) -> None:
    path = tmp_path / "payments.sqlite3"
    argv = [sys.executable, "-c", BUYER, str(path)]
    buyers = [subprocess.Popen(argv, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = [buyer.communicate(timeout=120)[0] for buyer in buyers]
    assert [buyer.returncode for buyer in buyers] == [-signal.SIGKILL] * 3
    assert len(told[0].splitlines()) == 40
    assert told[1] == told[0] and told[2] == told[0]
    assert [key for key, *_ in LocalPayments(path).purchases()] == [f"key-{number}" for number in range(40)]


KILLED_HALF_WAY = """
import os, signal, sys
from pathlib import Path
from streams.cashier.payments import LocalPayments
with LocalPayments(Path(sys.argv[1]))._open() as connection:
    connection.execute("INSERT INTO purchases VALUES ('a', 'p1', 2000, 'usd', 'card', 'local-1', 1)")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_purchase_that_was_cut_short_was_not_made(tmp_path: Path) -> None:
    path = tmp_path / "payments.sqlite3"
    subprocess.run([sys.executable, "-c", KILLED_HALF_WAY, str(path)], cwd=PROJECT_ROOT, env=dict(os.environ))
    local = LocalPayments(path)
    assert local.purchases() == []
    assert local.buy(payment("a")) == Paid("local-1")


@pytest.fixture
def server() -> Iterator[StripeServer]:
    with StripeServer().running() as running:
        yield running


@pytest.fixture
def stripe(server: StripeServer) -> StripePayments:
    return StripePayments(SecretStr(SECRET_KEY), server.url, timeout_seconds=1.0)


def test_a_payment_is_made_off_session_under_its_key(server: StripeServer, stripe: StripePayments) -> None:
    assert stripe.buy(payment()) == Paid("pi_1")
    (intent,) = server.intents
    assert (intent["amount"], intent["currency"], intent["customer"]) == (2_000, "usd", CUSTOMER)
    assert intent["metadata"] == {"project": "p1", "key": "recharge-0-1-2"}
    form = intent["form"]
    assert (form["confirm"], form["off_session"], form["payment_method"]) == ("true", "true", "pm_ok")
    assert form["automatic_payment_methods[allow_redirects]"] == "never"
    assert server.asked[-1] == ("POST", "/v1/payment_intents", "recharge-0-1-2")


def test_asked_again_it_is_the_same_payment_even_once_stripe_has_forgotten_the_key(
    server: StripeServer, stripe: StripePayments
) -> None:
    assert [stripe.buy(payment(key)) for key in "abcde"] == [Paid(f"pi_{number}") for number in range(1, 6)]
    server.answers.clear()
    # The first of the five intents is on the last page of Stripe's list.
    assert stripe.buy(payment("a")) == Paid("pi_1")
    assert len(server.intents) == 5


def test_two_who_ask_at_once_pay_once(server: StripeServer, stripe: StripePayments) -> None:
    def buy(_: int) -> object:
        try:
            return stripe.buy(payment())
        except PaymentUnknownError:
            return None

    with ThreadPoolExecutor(4) as pool:
        outcomes = set(pool.map(buy, range(4)))
    assert Paid("pi_1") in outcomes and outcomes <= {Paid("pi_1"), None}
    assert stripe.buy(payment()) == Paid("pi_1")
    assert len(server.intents) == 1


def test_a_declined_card_fails_with_its_decline_code_and_can_never_pay_later(
    server: StripeServer, stripe: StripePayments
) -> None:
    wanted = payment(method=f"{CUSTOMER}/pm_declined")
    assert stripe.buy(wanted) == Failed("card_declined: insufficient_funds")
    assert server.statuses() == ["canceled"]
    server.answers.clear()
    assert stripe.buy(wanted) == Failed("card_declined: insufficient_funds")
    assert server.statuses() == ["canceled"]


def test_a_payment_that_asks_for_the_customer_fails(server: StripeServer, stripe: StripePayments) -> None:
    assert stripe.buy(payment(method=f"{CUSTOMER}/pm_action")) == Failed("requires_action")
    assert server.statuses() == ["canceled"]


@pytest.mark.parametrize("fault", ["500 before", "500 after", "hang", "drop", "429"])
def test_an_unknown_outcome_is_known_when_asked_again(fault: str, server: StripeServer, stripe: StripePayments) -> None:
    server.faults = [fault]
    with pytest.raises(PaymentUnknownError):
        stripe.buy(payment())
    assert len(server.intents) == (0 if fault in ("500 before", "429") else 1)
    assert stripe.buy(payment()) == Paid("pi_1")
    assert server.statuses() == ["succeeded"]


def test_a_decline_that_was_not_heard_of_is_found(server: StripeServer, stripe: StripePayments) -> None:
    server.faults = ["drop"]
    wanted = payment(method=f"{CUSTOMER}/pm_declined")
    with pytest.raises(PaymentUnknownError):
        stripe.buy(wanted)
    assert server.statuses() == ["requires_payment_method"]
    assert stripe.buy(wanted) == Failed("card_declined: insufficient_funds")
    assert server.statuses() == ["canceled"]


def test_a_payment_that_is_processed_is_waited_for(
    server: StripeServer, stripe: StripePayments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payments, "_PROCESSING_PAUSES_SECONDS", (0.01, 0.01, 0.01))
    server.looks = 3
    assert stripe.buy(payment("a", f"{CUSTOMER}/pm_slow")) == Paid("pi_1")
    server.looks = 5
    with pytest.raises(PaymentUnknownError, match="pi_2 is still being processed"):
        stripe.buy(payment("b", f"{CUSTOMER}/pm_slow"))
    assert server.statuses() == ["processing", "succeeded"]
    assert stripe.buy(payment("b", f"{CUSTOMER}/pm_slow")) == Paid("pi_2")


@pytest.mark.parametrize("method", ["cus_gone/pm_ok", f"{CUSTOMER}/pm_gone"])
def test_what_stripe_does_not_know_fails(method: str, server: StripeServer, stripe: StripePayments) -> None:
    server.missing = {"cus_gone", "pm_gone"}
    assert stripe.buy(payment(method=method)) == Failed("resource_missing")
    assert server.intents == []


@pytest.mark.parametrize(
    "method", ["pm_ok", "cus_ok", "cus_ok/", "pm_ok/cus_ok", "cus_ok/pm_ok/x", "cus_ok/pm_ok\n", ""]
)
def test_a_method_of_another_shape_fails_and_is_sent_nowhere(
    method: str, server: StripeServer, stripe: StripePayments
) -> None:
    outcome = stripe.buy(payment(method=method))
    assert isinstance(outcome, Failed) and "cus_…/pm_…" in outcome.detail
    assert server.asked == []


def test_a_key_that_is_refused_fails_nobodys_purchase_and_is_never_told(
    server: StripeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "sk_live_that_is_wrong"
    with pytest.raises(PaymentUnknownError) as refused:
        StripePayments(SecretStr(secret), server.url).buy(payment())
    assert str(refused.value) == "AuthenticationError 401 req_1"
    StripePayments(SecretStr(SECRET_KEY), server.url).buy(payment())
    assert secret not in caplog.text and SECRET_KEY not in caplog.text
    assert "may quote what was sent" not in caplog.text


def test_nobody_there_is_unknown() -> None:
    with StripeServer().running() as gone:
        url = gone.url
    with pytest.raises(PaymentUnknownError):
        StripePayments(SecretStr(SECRET_KEY), url).buy(payment())


def test_stripe_needs_its_key_which_is_told_to_children_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OperatorError, match="METERLINE_STRIPE_SECRET_KEY"):
        Settings(payments="stripe")
    with pytest.raises(OperatorError, match="METERLINE_STRIPE_SECRET_KEY"):
        Settings.model_validate({"payments": "stripe", "stripe_secret_key": ""})
    settings = Settings(
        payments="stripe", stripe_secret_key=SecretStr(SECRET_KEY), stripe_api_base="http://127.0.0.1:1"
    )
    assert SECRET_KEY not in repr(settings) + settings.model_dump_json()
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    child = Settings()
    assert child.stripe_secret_key is not None and child.stripe_secret_key.get_secret_value() == SECRET_KEY
    assert (child.payments, child.stripe_api_base) == ("stripe", "http://127.0.0.1:1")
    assert isinstance(payments_of(child), StripePayments)
    assert isinstance(payments_of(Settings(payments="local")), LocalPayments)
