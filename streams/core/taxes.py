"""Taxes: integer cents of integer cents, rounded once for each tax of an invoice."""

from __future__ import annotations

from schemas.taxes import MILLIONTHS


def tax_cents(net_cents: int, millionths: int) -> int:
    """The tax on a net amount, in cents: half a cent is rounded away from zero, so that what is paid back has exactly
    the tax that was paid."""
    cents = (abs(net_cents) * millionths * 2 + MILLIONTHS) // (2 * MILLIONTHS)
    return -cents if net_cents < 0 else cents
