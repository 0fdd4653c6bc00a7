"""Invoices as files: CSV for a spreadsheet, HTML to read and print."""

from __future__ import annotations

from datetime import datetime, timedelta

from jinja2 import Environment, PackageLoader, StrictUndefined

from api.views.csv_cells import Number, as_csv
from schemas.http.invoices import Invoice, InvoiceLine
from streams.history.invoices import format_usd

CSV_COLUMNS = (
    "invoice", "status", "month", "billing_account", "project", "project_name", "kind", "item", "detail", "environment",
    "count", "quantity", "credits", "currency", "unit_cents", "cents", "price_versions", "facts",
)  # fmt: skip

_KIND_TEXTS = {
    "refund": "Refund",
    "expiry": "Expired",
    "grant": "Granted",
    "recurring": "Recurring",
}


def invoice_csv(invoice: Invoice) -> str:
    """An invoice as CSV: a header, and a row for each line."""
    return as_csv(
        CSV_COLUMNS,
        (
            (
                part.invoice, invoice.status, invoice.month, part.billing_account or "", part.project, part.name,
                line.kind, line.item, line.detail, line.environment, line.count, line.quantity, Number(line.credits),
                invoice.currency, line.unit_cents, line.cents, " ".join(line.price_versions), line.facts,
            )
            for part in invoice.projects
            for line in part.lines
        ),
    )  # fmt: skip


def as_html(invoice: Invoice) -> str:
    """An invoice as an HTML page that loads nothing and runs nothing, for the screen and for A4 or Letter paper."""
    return _templates.get_template("invoice.html").render(invoice=invoice)


def describe(line: InvoiceLine) -> str:
    """The words for an invoice line, for people."""
    where = " (preview)" if line.environment == "preview" else ""
    if line.kind == "subscription":
        return f"Plan {line.item}"
    if line.kind == "top_up":
        how = ", bought by auto-recharge" if line.detail else ""
        return f"Credit bundle of {format_usd(line.unit_cents)}{how}{where}"
    if line.kind == "correction":
        return f"Correction of {line.item}: {line.detail.replace('_', ' ')}{where}"
    if line.kind == "recurring":
        return f"{line.item}, unit-hours of {line.detail}"
    if line.kind == "usage":
        return f"{line.item}{where}"
    return f"{_KIND_TEXTS[line.kind]}: {line.item.replace('_', '-')} credits{where}"


def _last_day(period_to: datetime) -> str:
    return (period_to - timedelta(days=1)).date().isoformat()


_templates = Environment(
    loader=PackageLoader("api"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_templates.filters |= {"describe": describe, "last_day": _last_day}
