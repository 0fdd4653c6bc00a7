"""Auto-recharge: when a bundle is to be bought, and what stops it.

The core only states that a purchase is wanted; the cashier makes it and answers with a command. There is one purchase
at a time, so none is made twice for the same need. Source: pricing, "When am I billed?": the card on file only if opted
in.
"""

from __future__ import annotations

from schemas.accounts import Account, AutoRecharge
from schemas.commands import SetAutoRecharge
from schemas.problems import Rejection
from schemas.replies import Reply
from schemas.times import DAY_MS, HOUR_MS
from streams.core.billed import month_of
from streams.core.booking import Booking, available, format_credits, note
from streams.core.plans import BUNDLES

ENVIRONMENT = "production"
FAILURES_MAX = 5
_FIRST_PAUSE_MS = HOUR_MS
_PAUSE_MS_MAX = DAY_MS
CAP_CENTS_MAX = 100_000_00


def recharge_if_low(booking: Booking) -> None:
    """Ask for a bundle where less than the threshold is available, and nothing speaks against it.

    Call it after whatever may have brought the balance down, and after a refusal: the month may be a new one, or the
    pause after a failure over. What a refused request would have cost plays no part: a client that asks for too much
    again and again must not buy bundles by it.
    """
    account = booking.account
    recharge = account.auto_recharge
    if recharge is None or not recharge.is_on or recharge.pending_id or account.closed_at_ms:
        return
    # Terms may be older than the rule that a bundle reaches the threshold, or than what bundles there are and bring: no
    # more is bought than would keep the credits of one bundle there, and nothing where its bundle is not sold any more.
    threshold = min(recharge.threshold, BUNDLES.get(recharge.bundle_usd, 0))
    if booking.at_ms < recharge.blocked_until_ms or available(account, ENVIRONMENT) >= threshold:
        return
    month = month_of(booking.at_ms)
    if recharge.month != month:
        recharge.month, recharge.spent_cents = month, 0
    cents = recharge.bundle_usd * 100
    if recharge.spent_cents + cents > recharge.cap_cents:
        if recharge.capped_month != month:
            recharge.capped_month = month
            booking.state("recharge", environment=ENVIRONMENT, reason="cap_reached", metadata=_terms(recharge))
        return
    recharge.spent_cents += cents
    recharge.pending_cents = cents
    recharge.pending_id = f"recharge-{booking.partition}-{booking.offset}-{booking.next_index}"
    booking.state("recharge", environment=ENVIRONMENT, reason="requested", metadata=_terms(recharge))


def set_auto_recharge(booking: Booking, command: SetAutoRecharge) -> Reply:
    """Turn auto-recharge on with new terms, or off. A purchase under way is not called back. Raises Rejection.

    The terms that hold already change nothing and are no new fact: not even the pause after a failed purchase ends.
    """
    account = booking.account
    if command.is_on:
        if command.bundle_usd not in BUNDLES:
            raise Rejection("invalid_request", f"There are bundles of {sorted(BUNDLES)} dollars", "bundle_usd")
        brings = BUNDLES[command.bundle_usd]
        if not 0 < command.threshold <= brings:
            # Above that, each purchase would leave too little, and the next request buy again, up to the cap.
            detail = (
                f"The threshold is above 0 and at most the {format_credits(brings)} credits that a bundle of "
                f"${command.bundle_usd} brings; lower it, or take a larger bundle"
            )
            raise Rejection("invalid_request", detail, "threshold")
        if not command.bundle_usd * 100 <= command.cap_cents <= CAP_CENTS_MAX:
            raise Rejection("invalid_request", "The cap covers one bundle at least and is at most $100,000", "cap_usd")
        if not command.payment_method:
            raise Rejection("invalid_request", "It needs a payment method", "payment_method")
    known = account.auto_recharge or AutoRecharge(False, 0, min(BUNDLES), 0, "")
    if _holds_already(known, command):
        left = available(account, ENVIRONMENT)
        return Reply(200, "", "These terms hold already", 0, left, "", already_decided=True)
    known.is_on = command.is_on
    if command.is_on:
        known.threshold, known.bundle_usd = command.threshold, command.bundle_usd
        known.cap_cents, known.payment_method = command.cap_cents, command.payment_method
        known.failures = known.blocked_until_ms = known.capped_month = 0
    account.auto_recharge = known
    fact_id = booking.state(
        "recharge", environment=ENVIRONMENT, reason="on" if command.is_on else "off", metadata=_terms(known)
    )
    recharge_if_low(booking)
    return Reply(200, "", "", 0, available(account, ENVIRONMENT), fact_id)


def _holds_already(known: AutoRecharge, command: SetAutoRecharge) -> bool:
    if not (known.is_on and command.is_on):
        return known.is_on == command.is_on
    terms = known.threshold, known.bundle_usd, known.cap_cents, known.payment_method
    return terms == (command.threshold, command.bundle_usd, command.cap_cents, command.payment_method)


def note_failure(booking: Booking, recharge_id: str, detail: str) -> str:
    """Note that a purchase failed and nothing was bought. Gives the fact's id.

    The next need after a pause tries again; the pause doubles with each failure, and five in a row turn auto-recharge
    off.
    """
    recharge = _pending(booking.account, recharge_id)
    recharge.spent_cents -= recharge.pending_cents
    recharge.pending_id, recharge.pending_cents = "", 0
    recharge.failures += 1
    recharge.blocked_until_ms = booking.at_ms + min(_PAUSE_MS_MAX, _FIRST_PAUSE_MS << (recharge.failures - 1))
    fact_id = booking.state(
        "recharge",
        environment=ENVIRONMENT,
        reason="failed",
        metadata=note(id=recharge_id, detail=detail, failures=recharge.failures),
    )
    if recharge.failures >= FAILURES_MAX:
        recharge.is_on = False
        booking.state("recharge", environment=ENVIRONMENT, reason="off", metadata=note(detail="It failed too often"))
    return fact_id


def note_success(account: Account, recharge_id: str) -> int:
    """Note that a purchase was paid; gives the bundle's price in dollars."""
    recharge = _pending(account, recharge_id)
    bundle_usd = recharge.pending_cents // 100
    recharge.pending_id, recharge.pending_cents, recharge.failures, recharge.blocked_until_ms = "", 0, 0, 0
    return bundle_usd


def note_booked(booking: Booking, recharge_id: str, reference: str, entry_id: str) -> str:
    """Note that a purchase was paid by a payment that had been booked before. Gives the fact's id."""
    metadata = note(id=recharge_id, reference=reference, entry=entry_id)
    return booking.state("recharge", environment=ENVIRONMENT, reason="booked", metadata=metadata)


def _pending(account: Account, recharge_id: str) -> AutoRecharge:
    recharge = account.auto_recharge
    if recharge is None or not recharge_id or recharge.pending_id != recharge_id:
        raise Rejection("recharge_settled", f"No purchase {recharge_id!r} is under way", "recharge_id")
    return recharge


def _terms(recharge: AutoRecharge) -> str:
    return note(
        id=recharge.pending_id,
        bundle_usd=recharge.bundle_usd,
        cap_cents=recharge.cap_cents,
        spent_cents=recharge.spent_cents,
        payment_method=recharge.payment_method,
    )
