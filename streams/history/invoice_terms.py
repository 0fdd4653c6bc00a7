"""The terms of invoices, by setting: who issues them, what taxes are added, when they are due, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.http.invoices import Issuer
from schemas.taxes import TaxRate
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class InvoiceTerms:
    """The terms that every invoice of this Meterline has. Without any it names no issuer, and no tax is added."""

    issuer: Issuer | None = None
    taxes: Sequence[TaxRate] = ()
    due_days: int = 30
    memo: str = ""


def terms_of(settings: Settings) -> InvoiceTerms:
    """The terms that the settings give."""
    issuer = None
    if settings.invoice_issuer:
        name, *details = settings.invoice_issuer
        issuer = Issuer(name=name, details=details)
    return InvoiceTerms(issuer, settings.invoice_taxes, settings.invoice_due_days, settings.invoice_memo)
