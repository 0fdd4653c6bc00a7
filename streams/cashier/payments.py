"""Payments: the port through which the cashier takes money for a bundle, and the providers behind it.

A purchase has a key. However often it is asked for under that key, by however many processes, money is taken once. A
purchase that is said to have failed leaves nothing behind that might still be paid.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import SecretStr

from streams.settings import Settings

if TYPE_CHECKING:
    import stripe

log = logging.getLogger(__name__)

CALL_SECONDS_MAX = 20.0
DETAIL_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True)
class Payment:
    """A purchase: `amount_cents` of `currency`, from a payment method as its provider names it.

    `key` stands for the purchase for good. `requested_at_ms` is when it was first wanted, in Unix milliseconds.
    """

    key: str
    project: str
    amount_cents: int
    payment_method: str
    requested_at_ms: int
    currency: str = "usd"


@dataclass(frozen=True, slots=True)
class Paid:
    """The purchase was paid; `reference` is the provider's name for it."""

    reference: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The purchase failed: no money was taken, and none will be unless it is asked for again. `detail` says why,
    without secrets."""

    detail: str


class PaymentUnknownError(Exception):
    """The outcome of a purchase is not known: ask again under the same key. The message has nothing secret in it."""


class Payments(Protocol):
    """A provider that takes money. Safe in any thread; a call blocks."""

    def buy(self, payment: Payment) -> Paid | Failed:
        """Make a purchase, or say what became of it. Raises PaymentUnknownError."""


def payments_of(settings: Settings) -> Payments:
    """The provider that the settings name."""
    if settings.payments == "stripe":
        assert settings.stripe_secret_key is not None
        return StripePayments(settings.stripe_secret_key, settings.stripe_api_base)
    return LocalPayments(settings.payments_path)


_LOCAL_TABLE = """
CREATE TABLE IF NOT EXISTS purchases (
    key TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    amount_cents INTEGER NOT NULL,
    currency TEXT NOT NULL,
    payment_method TEXT NOT NULL,
    reference TEXT NOT NULL UNIQUE,
    is_paid INTEGER NOT NULL
)
"""


class LocalPayments:
    """LocalPayments pretends to take money, for demos and tests: a method with "declined" in its id fails, any other
    pays.

    Its purchases are in an SQLite file, so it answers the same after a crash and in every process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def buy(self, payment: Payment) -> Paid | Failed:
        """Write the purchase down, or read what was written before. Raises PaymentUnknownError."""
        terms = (payment.project, payment.amount_cents, payment.currency, payment.payment_method)
        is_paid = "declined" not in payment.payment_method
        with self._open() as connection:
            connection.execute(
                "INSERT INTO purchases SELECT ?, ?, ?, ?, ?, 'local-' || (SELECT count(*) + 1 FROM purchases), ? "
                "WHERE NOT EXISTS (SELECT 1 FROM purchases WHERE key = ?)",
                (payment.key, *terms, is_paid, payment.key),
            )
            found = connection.execute(
                "SELECT project, amount_cents, currency, payment_method, reference, is_paid FROM purchases "
                "WHERE key = ?",
                (payment.key,),
            ).fetchone()
        if found[:4] != terms:
            raise PaymentUnknownError("the key was used for a purchase on other terms")
        return Paid(found[4]) if found[5] else Failed("card_declined")

    def purchases(self) -> list[tuple[str, str, int, bool]]:
        """The purchases that were asked for, in order: key, project, cents, whether it was paid."""
        with self._open() as connection:
            rows = connection.execute("SELECT key, project, amount_cents, is_paid FROM purchases ORDER BY rowid")
            return [(key, project, cents, bool(is_paid)) for key, project, cents, is_paid in rows]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open a connection in one transaction, which is on disk when the context ends."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=CALL_SECONDS_MAX, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                # Take the write lock at once: if it is only asked for after a read, it is refused while another waits.
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(_LOCAL_TABLE)
                yield connection
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise PaymentUnknownError(f"{self._path.name}: {type(error).__name__}") from error


_STRIPE_METHOD = re.compile(r"(cus_\w+)/(pm_\w+)", re.ASCII)
# How long a payment that is being processed is waited for, before the next try.
_PROCESSING_PAUSES_SECONDS = (0.5, 1.0, 2.0)
# The most that Stripe's clock and the broker's may differ.
_CLOCKS_APART_SECONDS_MAX = 86_400


class StripePayments:
    """StripePayments takes money through Stripe, off session. A payment method is `cus_…/pm_…`: the customer, and how
    they pay.

    Stripe forgets a key after a day, and until then repeats even its own 500s under it. So each try first looks
    for a payment of the customer's that bears the key. A payment that did not succeed is cancelled before the purchase
    is said to have failed.
    """

    def __init__(
        self, secret_key: SecretStr, api_base: str | None = None, timeout_seconds: float = CALL_SECONDS_MAX
    ) -> None:
        # Imported only where it is used: the import takes most of a second.
        import stripe

        # At DEBUG the library logs whole answers.
        logging.getLogger("stripe").setLevel(logging.WARNING)
        self._client = stripe.StripeClient(
            secret_key.get_secret_value(),
            base_addresses={"api": api_base.rstrip("/")} if api_base else {},
            # The caller tries again, under the same key and for as long as it takes.
            max_network_retries=0,
            http_client=stripe.RequestsClient(timeout=timeout_seconds),
        )

    def buy(self, payment: Payment) -> Paid | Failed:
        """Find the payment that bears this key, or make it. Raises PaymentUnknownError."""
        import stripe

        method = _STRIPE_METHOD.fullmatch(payment.payment_method)
        if method is None:
            return Failed("invalid_payment_method: for Stripe it looks like cus_…/pm_…, the customer and the method")
        try:
            made = self._find(payment, method[1]) or self._make(payment, method[1], method[2])
            return made if isinstance(made, Failed) else self._outcome(made)
        except stripe.StripeError as error:
            raise PaymentUnknownError(_named(error)) from None

    def _find(self, payment: Payment, customer: str) -> stripe.PaymentIntent | Failed | None:
        import stripe

        since = payment.requested_at_ms // 1000 - _CLOCKS_APART_SECONDS_MAX
        try:
            page = self._client.v1.payment_intents.list({"customer": customer, "created": {"gte": since}, "limit": 100})
            return next(
                (each for each in page.auto_paging_iter() if each.metadata.to_dict().get("key") == payment.key), None
            )
        except stripe.InvalidRequestError as error:
            return Failed(_detail(error.code, None))

    def _make(self, payment: Payment, customer: str, method: str) -> stripe.PaymentIntent | Failed:
        import stripe

        try:
            return self._client.v1.payment_intents.create(
                {
                    "amount": payment.amount_cents,
                    "currency": payment.currency,
                    "customer": customer,
                    "payment_method": method,
                    "confirm": True,
                    "off_session": True,
                    # There is nobody in front of a browser to be sent to another page.
                    "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
                    "description": f"Credits for {payment.project}",
                    "metadata": {"project": payment.project, "key": payment.key},
                },
                {"idempotency_key": payment.key},
            )
        except (stripe.CardError, stripe.InvalidRequestError) as error:
            refused = error.error
            if refused is not None and refused.payment_intent is not None:
                return refused.payment_intent
            return Failed(_detail(error.code, refused.decline_code if refused is not None else None))

    def _outcome(self, intent: stripe.PaymentIntent) -> Paid | Failed:
        for pause_seconds in _PROCESSING_PAUSES_SECONDS:
            if intent.status != "processing":
                break
            time.sleep(pause_seconds)
            intent = self._client.v1.payment_intents.retrieve(intent.id)
        if intent.status == "succeeded":
            return Paid(intent.id)
        if intent.status == "processing":
            raise PaymentUnknownError(f"{intent.id} is still being processed")
        # Stripe leaves the fields out that it has nothing to say of.
        failure = intent.last_payment_error.to_dict() if intent.last_payment_error is not None else {}
        detail = _detail(failure.get("code") or intent.status, failure.get("decline_code"))
        if intent.status != "canceled":
            self._client.v1.payment_intents.cancel(intent.id, {"cancellation_reason": "abandoned"})
        return Failed(detail)


def _detail(code: str | None, decline_code: str | None) -> str:
    return ": ".join(each for each in (code or "refused", decline_code) if each)[:DETAIL_LENGTH_MAX]


def _named(error: stripe.StripeError) -> str:
    """The name of an error, without its message, which may quote what was sent."""
    facts = (type(error).__name__, error.http_status, error.code, error.request_id)
    return " ".join(str(each) for each in facts if each)
