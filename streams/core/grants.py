"""Grants, the credits that come: their burn-down order, what is bought by hand or by auto-recharge, refunds, and
promotional credits that an operator gives."""

from __future__ import annotations

from schemas.accounts import Account, Grant
from schemas.commands import GrantPromotional, RefundTopUp, SettleRecharge, TopUp
from schemas.prices import MICROCREDITS_PER_CREDIT
from schemas.problems import Rejection
from schemas.replies import Reply
from schemas.times import DAY_MS
from streams.core.booking import Booking, available, note
from streams.core.items import bill_due
from streams.core.marks import entry_of
from streams.core.plans import BUNDLES, not_refundable, refund_cents
from streams.core.recharge import ENVIRONMENT, note_booked, note_failure, note_success

CONTRACT_CREDITS_MAX = 1_000_000_000
CONTRACT_CENTS_MAX = 1_000_000_000
PROMOTIONAL_CREDITS_MAX = 10_000_000
PROMOTIONAL_DAYS_MAX = 5 * 366
# All of them may end at once: what states that must fit into one event's facts, beside all holds that expire.
PROMOTIONAL_GRANTS_MAX = 500
GRANT_REASON_CHARS_MAX = 200
# Every kind of grant, in burn-down order.
GRANT_KINDS = ("allowance", "promotional", "top_up")


def grant_credits(
    booking: Booking,
    kind: str,
    environment: str,
    amount: int,
    granted_at_ms: int,
    expires_at_ms: int,
    metadata: str = "",
    cents: int = 0,
    paid_cents: int = 0,
    contract_cents: int = 0,
) -> str:
    """Grant `amount` microcredits; gives the fact's id. Items that past months left unpaid are charged at once."""
    account = booking.account
    grant_id = f"{kind}-{booking.offset}-{booking.next_index}"
    terms = amount, amount, granted_at_ms, expires_at_ms
    add_grant(account, Grant(grant_id, kind, environment, *terms, contract_cents=contract_cents))
    fact_id = booking.state(
        "grant",
        environment=environment,
        amount=amount,
        grant_id=grant_id,
        reason=kind,
        occurred_at_ms=granted_at_ms,
        metadata=metadata,
        cents=cents,
        paid_cents=paid_cents,
    )
    if account.items:
        bill_due(booking, granted_at_ms)
    return fact_id


def add_grant(account: Account, grant: Grant) -> None:
    """Put a grant in its place in burn-down order: allowance, promotional credits, the earliest end first, then
    bundles, the oldest first."""
    account.grants.append(grant)
    account.grants.sort(key=burn_down)


def burn_down(grant: Grant) -> tuple[int, int, int]:
    """The key that sorts grants into burn-down order."""
    ends_at_ms = grant.expires_at_ms if grant.kind == "promotional" else 0
    return GRANT_KINDS.index(grant.kind), ends_at_ms, grant.granted_at_ms


def top_up(booking: Booking, command: TopUp) -> Reply:
    """Grant a bundle that was bought, or credits that were bought by contract. Raises Rejection."""
    account = booking.account
    by_contract = command.bundle_usd == 0
    amount, cents = _by_contract(command) if by_contract else _bundle(command.bundle_usd)
    if first := _booked_by(booking):
        raise reference_used(command.reference, first)
    metadata = note(reference=command.reference, by_contract=by_contract or None)
    fact_id = grant_credits(
        booking,
        "top_up",
        command.environment,
        amount,
        booking.at_ms,
        0,
        metadata,
        cents,
        contract_cents=cents if by_contract else 0,
    )
    return Reply(200, "", "", amount, available(account, command.environment), fact_id, cents=cents)


def reference_used(reference: str, first: str) -> Rejection:
    """The rejection of a payment that the entry `first` has booked already."""
    return Rejection("reference_used", f"The payment {reference!r} was booked before, by entry {first}", "reference")


def _bundle(usd: int) -> tuple[int, int]:
    """The microcredits and the cents of a bundle. Raises Rejection."""
    if usd not in BUNDLES:
        raise Rejection("invalid_request", f"No bundle of ${usd}; there are {sorted(BUNDLES)}", "bundle_usd")
    return BUNDLES[usd], usd * 100


def _by_contract(command: TopUp) -> tuple[int, int]:
    """The microcredits and the cents of a purchase by contract. Raises Rejection."""
    if not 0 < command.amount <= CONTRACT_CREDITS_MAX * MICROCREDITS_PER_CREDIT:
        detail = f"Credits that are bought by contract are more than 0 and at most {CONTRACT_CREDITS_MAX}"
        raise Rejection("invalid_request", detail, "credits")
    if not 0 < command.cents <= CONTRACT_CENTS_MAX:
        detail = f"Their price is 1 to {CONTRACT_CENTS_MAX} cents; give what costs nothing as promotional credits"
        raise Rejection("invalid_request", detail, "price_cents")
    return command.amount, command.cents


def grant_promotional(booking: Booking, command: GrantPromotional) -> Reply:
    """Grant promotional credits: an operator gives them with a reason, until an end. Raises Rejection."""
    account = booking.account
    if not 0 < command.amount <= PROMOTIONAL_CREDITS_MAX * MICROCREDITS_PER_CREDIT:
        raise Rejection("invalid_request", f"Give more than 0 and at most {PROMOTIONAL_CREDITS_MAX} credits", "amount")
    if not command.reason.strip() or len(command.reason) > GRANT_REASON_CHARS_MAX:
        detail = f"Say why, in at most {GRANT_REASON_CHARS_MAX} characters that are not all blank"
        raise Rejection("invalid_request", detail, "reason")
    if not 0 < command.expires_at_ms - booking.at_ms <= PROMOTIONAL_DAYS_MAX * DAY_MS:
        detail = f"The credits end in the future, and within {PROMOTIONAL_DAYS_MAX} days"
        raise Rejection("invalid_request", detail, "expires_at")
    if sum(grant.kind == "promotional" for grant in account.grants) >= PROMOTIONAL_GRANTS_MAX:
        detail = f"A project has at most {PROMOTIONAL_GRANTS_MAX} promotional grants at once; wait until some end"
        raise Rejection("invalid_request", detail)
    metadata = note(reason=command.reason, expires_at_ms=command.expires_at_ms)
    fact_id = grant_credits(
        booking,
        "promotional",
        command.environment,
        command.amount,
        booking.at_ms,
        command.expires_at_ms,
        metadata,
    )
    return Reply(200, "", "", command.amount, available(account, command.environment), fact_id)


def settle_recharge(booking: Booking, command: SettleRecharge) -> Reply:
    """End the auto-recharge purchase that is under way. Money that was taken buys its credits, even for a project that
    was closed meanwhile; but once only: a payment that was booked by hand meanwhile has bought them already.

    Raises Rejection `recharge_settled` where that purchase has ended already.
    """
    account = booking.account
    if not command.is_paid:
        fact_id = note_failure(booking, command.recharge_id, command.detail)
        return Reply(200, "", "", 0, available(account, ENVIRONMENT), fact_id)
    bundle_usd = note_success(account, command.recharge_id)
    if first := _booked_by(booking):
        fact_id = note_booked(booking, command.recharge_id, command.reference, first)
        detail = f"Its payment was booked before, by entry {first}"
        return Reply(200, "", detail, 0, available(account, ENVIRONMENT), fact_id, already_decided=True)
    amount, cents = _bundle(bundle_usd)
    metadata = note(recharge=command.recharge_id, reference=command.reference)
    fact_id = grant_credits(booking, "top_up", ENVIRONMENT, amount, booking.at_ms, 0, metadata, cents, cents)
    return Reply(200, "", "", amount, available(account, ENVIRONMENT), fact_id)


def _booked_by(booking: Booking) -> str:
    """The entry that the command's payment was booked by before, or ""."""
    first = booking.made[0] if booking.made else None
    return entry_of(first, booking.partition) if first is not None else ""


def refund_top_up(booking: Booking, command: RefundTopUp) -> Reply:
    """Refund credits that were bought: take back those that are left, since their money is given back, at the price
    that was paid for them. Raises Rejection."""
    account = booking.account
    grant = next((grant for grant in account.grants if grant.id == command.grant_id), None)
    if grant is None or grant.kind != "top_up":
        raise Rejection("unknown_grant", f"Nothing that was bought is left of {command.grant_id!r}", "grant_id")
    if grant.held:
        raise Rejection("not_refundable", "A part of them is held for a job; resolve its hold first", "grant_id")
    standing = account.is_in_good_standing
    if why := not_refundable(grant.granted, grant.remaining, grant.granted_at_ms, booking.at_ms, standing):
        raise Rejection("not_refundable", why, "grant_id")
    account.grants.remove(grant)
    cents = refund_cents(grant.remaining, grant.granted, grant.contract_cents)
    fact_id = booking.state(
        "refund",
        environment=grant.environment,
        amount=-grant.remaining,
        grant_id=grant.id,
        reason=grant.kind,
        metadata=note(refund_cents=cents, reason=command.reason, by_contract=grant.contract_cents != 0 or None),
        cents=-cents,
    )
    return Reply(200, "", "", grant.remaining, available(account, grant.environment), fact_id, cents=-cents)
