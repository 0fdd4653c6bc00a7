"""Money that a project was billed this month, by invoice: so that it can be moved to another, once and whole."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.accounts import Account, Billed

# A project that is on more invoices within a month leaves what is on the first of them where it is.
INVOICES_MAX = 16


def month_of(at_ms: int) -> int:
    """The calendar month, UTC, that a time is in, as year * 100 + month."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    return at.year * 100 + at.month


def note_billed(account: Account, at_ms: int, cents: int, paid_cents: int) -> None:
    """Note that money is due on the invoice that a project is on now."""
    billed = {each.billing_account: each for each in billed_in_month(account, at_ms)}
    before = billed.get(account.billing_account, Billed(account.billing_account, 0, 0))
    billed[account.billing_account] = Billed(
        account.billing_account, before.cents + cents, before.paid_cents + paid_cents
    )
    account.billed_month = month_of(at_ms)
    account.billed = [each for each in billed.values() if each.cents or each.paid_cents][-INVOICES_MAX:]


def billed_in_month(account: Account, at_ms: int) -> list[Billed]:
    """The money that a project was billed in the month of a time, by invoice; none where it was last billed earlier."""
    return account.billed if account.billed_month == month_of(at_ms) else []


def billed_after_move(account: Account, at_ms: int, to: str, is_from_month_start: bool) -> list[Billed]:
    """The money that a project will have been billed in the month of a time, by invoice, once it is on that of another
    billing account; by the accounts' ids."""
    billed = {each.billing_account: each for each in billed_in_month(account, at_ms)}
    if is_from_month_start:
        moved = billed_elsewhere(account, at_ms, to)
        here = billed.get(to, Billed(to, 0, 0))
        parts = [here, *(billed.pop(each.billing_account) for each in moved)]
        billed[to] = Billed(to, sum(each.cents for each in parts), sum(each.paid_cents for each in parts))
    return sorted(billed.values(), key=lambda each: each.billing_account)


def billed_elsewhere(account: Account, at_ms: int, billing_account: str) -> list[Billed]:
    """The money that a project was billed in the month of a time on other invoices than that of a billing account, ""
    being its own; by the accounts' ids."""
    found = [each for each in billed_in_month(account, at_ms) if each.billing_account != billing_account and each.cents]
    return sorted(found, key=lambda each: each.billing_account)
