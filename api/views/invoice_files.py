"""Invoices as files: CSV for a spreadsheet, HTML to read and print."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from jinja2 import Environment, PackageLoader, StrictUndefined

from api.views.csv_cells import Number, as_csv
from schemas.http.invoices import Invoice, InvoiceLine, InvoiceProject
from streams.history.invoice_words import (
    day_name,
    describe,
    format_cents,
    group_digits,
    month_name,
    operation_name,
)

CSV_COLUMNS = (
    "invoice", "status", "month", "billing_account", "project", "project_name", "kind", "item", "detail", "environment",
    "count", "quantity", "credits", "currency", "unit_cents", "cents", "price_versions", "facts", "description",
    "bill_to", "issuer", "issued_on", "due_on", "memo",
)  # fmt: skip

_FREE_NAMES_MAX = 8


def invoice_csv(invoice: Invoice) -> str:
    """An invoice as CSV: a header, a row for each line, and one for each tax; `cents` of all rows is the total."""
    bill_to = "" if invoice.bill_to is None else invoice.bill_to.name
    issuer = "" if invoice.issuer is None else invoice.issuer.name
    ends = (bill_to, issuer, str(invoice.issued_on or ""), str(invoice.due_on or ""), invoice.memo)
    lines = (
        (
            part.invoice, invoice.status, invoice.month, part.billing_account or "", part.project, part.name,
            line.kind, line.item, line.detail, line.environment, line.count, line.quantity, Number(line.credits),
            invoice.currency, line.unit_cents, line.cents, " ".join(line.price_versions), line.facts, line.description,
            *ends,
        )
        for part in invoice.projects
        for line in part.lines
    )  # fmt: skip
    taxes = (
        (
            invoice.number, invoice.status, invoice.month, invoice.billing_account or "", "", "", "tax", tax.name,
            tax.percent, "", 0, 0, 0, invoice.currency, 0, tax.cents, "", 0, f"{tax.name} {tax.percent}%", *ends,
        )
        for tax in invoice.taxes
    )  # fmt: skip
    return as_csv(CSV_COLUMNS, (row for rows in (lines, taxes) for row in rows))


def as_html(invoice: Invoice, logo: str = "") -> str:
    """An invoice as an HTML page that loads nothing and runs nothing, for the screen and for A4 or Letter paper. `logo`
    is a picture as a data: URL."""
    return _templates.get_template("invoice.html").render(
        invoice=invoice,
        logo=logo,
        parts=[(part, _sections(part)) for part in invoice.projects],
        last_day=(invoice.period_to - timedelta(days=1)).date(),
    )


@dataclass(frozen=True, slots=True)
class Sections:
    """The lines of a project as they are read: money first, then what was used, then credits that came and went
    otherwise. `free` names what was used and cost nothing, in one line."""

    money: list[InvoiceLine]
    usage: list[InvoiceLine]
    free: str
    credits: list[InvoiceLine]
    price_versions: list[str]


def _sections(part: InvoiceProject) -> Sections:
    used = [line for line in part.lines if line.kind in ("usage", "recurring", "correction")]
    return Sections(
        money=[
            line for line in part.lines if line.cents or line.kind in ("subscription", "top_up", "refund", "transfer")
        ],
        usage=[line for line in used if line.credits != "0"],
        free=_named(operation_name(line.item) for line in used if line.credits == "0"),
        credits=[line for line in part.lines if line.kind in ("grant", "expiry")],
        price_versions=sorted({version for line in used for version in line.price_versions}),
    )


def _named(names: Iterable[str]) -> str:
    each = sorted(set(names))
    more = len(each) - _FREE_NAMES_MAX
    return "; ".join(each[:_FREE_NAMES_MAX]) + (f"; and {more} more" if more > 0 else "")


def _spent(credits: str) -> str:
    """Credits used are above 0 where they are read; those that came back are below."""
    return credits.removeprefix("-") if credits.startswith("-") or credits == "0" else f"-{credits}"


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


_templates = Environment(
    loader=PackageLoader("api"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_templates.filters |= {
    "cents": lambda cents: _minus(format_cents(cents)),
    "credits": lambda credits: _minus(group_digits(credits)),
    "day": day_name,
    "describe": describe,
    "month": month_name,
    "spent": _spent,
}
