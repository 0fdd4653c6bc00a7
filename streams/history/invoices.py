"""Invoices: the money and credits of a calendar month, line by line, from the history.

A fact is in the month, UTC, that it was booked in, and on the invoice of the billing account that it names; neither
ever changes. So a line is a sum over facts, and every fact of money or credits is in one line. `differences` checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

from schemas.facts import FACT_KINDS, USAGE_KINDS, Kind
from schemas.http.invoices import (
    INVOICE_LINES_MAX,
    BillTo,
    Invoice,
    InvoiceLine,
    InvoiceProject,
    InvoiceSummary,
    Status,
    TaxLine,
)
from schemas.prices import MICROCREDITS_PER_CREDIT
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.limits import too_much
from streams.core.booking import format_credits
from streams.core.taxes import tax_cents
from streams.history.facts import kind_in
from streams.history.invoice_terms import InvoiceTerms
from streams.history.invoice_words import AUTO_RECHARGE, BY_CONTRACT, describe, format_usd

# What has a line: all that moves credits or money.
_KINDS = [kind for kind, each in FACT_KINDS.items() if each.is_entry or each.bears_cents]
# Of those, what moves money alone.
_NO_ENTRIES: tuple[Kind, ...] = ("subscription", "transfer")
_LINE_ORDER = ("subscription", "top_up", "refund", "transfer", "grant", "usage", "recurring", "correction", "expiry")


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A calendar month, UTC."""

    year: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a month such as "2026-01". Raises ValueError."""
        return cls.of(datetime.strptime(text, "%Y-%m"))

    @classmethod
    def of(cls, at: datetime) -> Self:
        """The month that a time, in UTC, is in."""
        return cls(at.year, at.month)

    @property
    def begins_at(self) -> datetime:
        """The first instant of the month."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def ends_at(self) -> datetime:
        """The first instant of the next month."""
        years, months = divmod(self.number, 12)
        return datetime(self.year + years, months + 1, 1, tzinfo=UTC)

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.number:02d}"


@dataclass(frozen=True, slots=True)
class Payer:
    """The payer whose invoices are meant: a billing account, or a project with its part of any invoice."""

    kind: Literal["billing_account", "project"]
    id: str


@dataclass(frozen=True, slots=True)
class MonthTotals:
    """The totals of a payer's month. `charged_to` has the billing accounts that pay, "" for the project."""

    month: Month
    charged_to: list[str]
    projects: int
    cents: int
    microcredits_used: int
    facts: int


def read_invoice(
    clickhouse: ClickHouse,
    payer: Payer,
    month: Month,
    status: Status,
    bill_to: BillTo | None,
    name_of: Callable[[str], str],
    terms: InvoiceTerms,
) -> Invoice:
    """Read the payer's invoice for a month. A billing account's has every project that was on it in the month, if with
    zero; a project's has no projects where nothing was booked.

    A project's statement, part of which a billing account pays, leaves `bill_to` out. `name_of` gives a project's name.
    """
    sql, parameters = _lines_question(payer, month)
    rows = clickhouse.query(sql, parameters)
    if len(rows) > INVOICE_LINES_MAX:
        raise too_much(f"more than {INVOICE_LINES_MAX} lines; ask for the statement of each project")
    by_part: dict[tuple[str, str], list[Sequence[Any]]] = {}
    for project, billing_account, *line in rows:
        by_part.setdefault((project, billing_account), []).append(line)
    if payer.kind == "billing_account":
        for project in _projects_on(clickhouse, payer.id, month):
            by_part.setdefault((project, payer.id), [])
    parts = [
        _part(project, name_of(project), billing_account, month, lines)
        for (project, billing_account), lines in sorted(by_part.items())
    ]
    kind = _kind(payer, [part.billing_account or "" for part in parts])
    subtotal = sum(part.total_cents for part in parts)
    taxes = _taxes(terms, kind, month, subtotal)
    total = subtotal + sum(tax.cents for tax in taxes)
    paid = sum(line.paid_cents for part in parts for line in part.lines)
    due = total - paid if kind == "invoice" else 0
    issued_on = month.ends_at.date()
    return Invoice(
        number=_number(payer, kind, month),
        kind=kind,
        status=status,
        month=str(month),
        period_from=month.begins_at,
        period_to=month.ends_at,
        billing_account=payer.id if payer.kind == "billing_account" else None,
        project=payer.id if payer.kind == "project" else None,
        bill_to=bill_to if kind == "invoice" else None,
        projects=parts,
        total_cents=total,
        total=format_usd(total),
        credits_used=_total_credits(part.credits_used for part in parts),
        facts=sum(part.facts for part in parts),
        issuer=terms.issuer,
        issued_on=issued_on if status == "final" else None,
        due_on=issued_on + timedelta(days=terms.due_days) if due > 0 else None,
        memo=terms.memo,
        subtotal_cents=subtotal,
        subtotal=format_usd(subtotal),
        taxes=taxes,
        paid_cents=paid,
        paid=format_usd(paid),
        due_cents=due,
        due=format_usd(due),
    )


def read_months(
    clickhouse: ClickHouse, payer: Payer, limit: int = 1_000, before: Month | None = None
) -> list[MonthTotals]:
    """Read the totals of the months, before one, in which the payer has something, the newest first."""
    until = datetime(2300, 1, 1, tzinfo=UTC) if before is None else before.begins_at
    sql = f"""
    SELECT toYYYYMM(booked_at) AS month, arraySort(groupUniqArray(toString(billing_account))), uniqExact(project),
        sum(cents), -sumIf(amount, {kind_in(*USAGE_KINDS)}), count()
    FROM facts WHERE {payer.kind} = {{payer:String}} AND kind IN {{kinds:Array(String)}}
        AND booked_at < {{until:DateTime64(3, 'UTC')}}
    GROUP BY month ORDER BY month DESC LIMIT {limit:d}
    """
    return [
        MonthTotals(Month(*divmod(month, 100)), *values)
        for month, *values in clickhouse.query(sql, {"payer": payer.id, "kinds": _KINDS, "until": until})
    ]


def summary(payer: Payer, totals: MonthTotals, status: Status, terms: InvoiceTerms) -> InvoiceSummary:
    """The summary of a month, as the list of invoices shows it."""
    kind = _kind(payer, totals.charged_to)
    cents = totals.cents + sum(tax.cents for tax in _taxes(terms, kind, totals.month, totals.cents))
    return InvoiceSummary(
        month=str(totals.month),
        number=_number(payer, kind, totals.month),
        status=status,
        projects=totals.projects,
        total_cents=cents,
        total=format_usd(cents),
        credits_used=format_credits(totals.microcredits_used),
        facts=totals.facts,
    )


def invoice_number(project: str, billing_account: str, month: Month) -> str:
    """The number of the invoice on which a project is billed: that of a billing account, or, with "", its own."""
    payer = Payer("billing_account", billing_account) if billing_account else Payer("project", project)
    return _number(payer, "invoice", month)


def differences(clickhouse: ClickHouse, invoice: Invoice) -> list[str]:
    """The differences between an invoice and its facts, asked for anew and in another way; none if it adds up.

    Check an open month's invoice only while nothing is being booked.
    """
    payer = (
        Payer("project", invoice.project)
        if invoice.project is not None
        else Payer("billing_account", invoice.billing_account or "")
    )
    where = f"{payer.kind} = {{payer:String}} AND toYYYYMM(booked_at) = {{month:UInt32}}"
    month = Month.parse(invoice.month)
    parameters = {"payer": payer.id, "month": month.year * 100 + month.number}
    entries = clickhouse.query(
        f"SELECT project, billing_account, count(), sum(amount) FROM ledger_entries WHERE {where} GROUP BY ALL",
        parameters,
    )
    money = clickhouse.query(
        f"SELECT project, billing_account, countIf({kind_in(*_NO_ENTRIES)}), sum(cents) "
        f"FROM facts WHERE {where} GROUP BY ALL",
        parameters,
    )
    expected: dict[tuple[str, str], dict[str, int]] = {}
    for project, billing_account, facts, amount in entries:
        expected.setdefault((project, billing_account), {}).update(entries=facts, microcredits=amount)
    for project, billing_account, facts, cents in money:
        if facts or cents or (project, billing_account) in expected:
            expected.setdefault((project, billing_account), {}).update({"charges of money": facts, "cents": cents})
    found = {}
    wrong = []
    for part in invoice.projects:
        found[part.project, part.billing_account or ""] = {
            "entries": sum(line.facts for line in part.lines if line.kind not in _NO_ENTRIES),
            "microcredits": sum(_microcredits(line.credits) for line in part.lines),
            "charges of money": sum(line.facts for line in part.lines if line.kind in _NO_ENTRIES),
            "cents": sum(line.cents for line in part.lines),
        }
        stated = (part.total_cents, _microcredits(part.credits_change), part.facts)
        summed = found[part.project, part.billing_account or ""]
        if stated != (summed["cents"], summed["microcredits"], summed["entries"] + summed["charges of money"]):
            wrong.append(f"{part.project}: its totals are not those of its lines")
    net = sum(part.total_cents for part in invoice.projects)
    if (invoice.subtotal_cents, invoice.total_cents, invoice.facts) != (
        net,
        net + sum(tax.cents for tax in invoice.taxes),
        sum(part.facts for part in invoice.projects),
    ):
        wrong.append("the invoice's totals are not those of its projects")
    for key in sorted(found.keys() | expected.keys()):
        lines, facts = found.get(key, {}), expected.get(key, {})
        for what in ("entries", "microcredits", "charges of money", "cents"):
            if lines.get(what, 0) != facts.get(what, 0):
                wrong.append(f"{key[0]}: {what} are {lines.get(what, 0)} by line and {facts.get(what, 0)} by fact")
    return wrong


def _lines_question(payer: Payer, month: Month) -> tuple[str, dict[str, object]]:
    # A line that two grants paid for has two entries; only the first bears its quantity.
    sql = f"""
    SELECT project, toString(billing_account),
        multiIf({kind_in("grant")} AND reason = 'top_up', 'top_up', {kind_in("charge")} AND reason = 'recurring',
            'recurring', {kind_in("charge")}, 'usage', kind) AS line,
        line IN ('usage', 'recurring', 'correction') AS is_use,
        if(is_use, operation, reason) AS item,
        multiIf(line = 'correction', reason, line = 'recurring', JSONExtractString(metadata, 'month'),
            line = 'transfer', JSONExtractString(metadata, if(reason = 'moved_out', 'to', 'from')),
            line = 'top_up' AND JSONHas(metadata, 'recharge'), '{AUTO_RECHARGE}',
            line IN ('top_up', 'refund') AND JSONHas(metadata, 'by_contract'), '{BY_CONTRACT}', '') AS detail,
        toString(environment),
        if(line IN ('subscription', 'top_up'), cents, 0) AS each_cents,
        if(is_use, countIf(quantity != 0), count()),
        sum(quantity), sum(cents), sum(amount),
        sum(multiIf(detail = '{AUTO_RECHARGE}', cents, line = 'transfer', JSONExtractInt(metadata, 'paid_cents'), 0)),
        arraySort(groupUniqArrayIf(toString(price_version), price_version != '')),
        count()
    FROM facts
    WHERE {payer.kind} = {{payer:String}} AND kind IN {{kinds:Array(String)}}
        AND booked_at >= {{since:DateTime64(3, 'UTC')}} AND booked_at < {{until:DateTime64(3, 'UTC')}}
    GROUP BY project, billing_account, line, is_use, item, detail, environment, each_cents
    LIMIT {INVOICE_LINES_MAX + 1}
    """
    return sql, {"payer": payer.id, "kinds": _KINDS, "since": month.begins_at, "until": month.ends_at}


def _projects_on(clickhouse: ClickHouse, billing_account: str, month: Month) -> list[str]:
    """The projects that were on a billing account's invoice at some time of a month, but for those closed before it."""
    sql = f"""
    WITH booked_at >= {{since:DateTime64(3, 'UTC')}} AS is_in_month, {{account:String}} AS payer
    SELECT project FROM facts
    WHERE {kind_in("billing_account", "project")} AND booked_at < {{until:DateTime64(3, 'UTC')}}
    GROUP BY project
    HAVING countIf(is_in_month AND billing_account = payer) > 0
        OR (argMaxIf(billing_account, (offset, position), NOT is_in_month) = payer
            AND argMaxIf(reason, (offset, position), NOT is_in_month AND {kind_in("project")}
                AND reason IN ('closed', 'reopened')) != 'closed')
    LIMIT {INVOICE_LINES_MAX + 1}
    """
    bounds = {"account": billing_account, "since": month.begins_at, "until": month.ends_at}
    found = [str(project) for (project,) in clickhouse.query(sql, bounds)]
    if len(found) > INVOICE_LINES_MAX:
        raise too_much(f"more than {INVOICE_LINES_MAX} projects; ask for the statement of each")
    return found


def _part(project: str, name: str, billing_account: str, month: Month, rows: Iterable[Sequence[Any]]) -> InvoiceProject:
    lines = []
    cents_total = change = used = facts_total = 0
    for kind, _, item, detail, environment, unit_cents, count, quantity, cents, amount, paid, versions, facts in rows:
        cents_total += cents
        change += amount
        facts_total += facts
        if kind in ("usage", "recurring", "correction"):
            used -= amount
        line = InvoiceLine(
            kind=kind,
            item=item,
            detail=detail,
            environment=environment,
            count=count,
            quantity=quantity,
            unit_cents=unit_cents,
            cents=cents,
            paid_cents=paid,
            amount=format_usd(cents),
            credits=format_credits(amount),
            price_versions=versions,
            facts=facts,
            description="",
        )
        line.description = describe(line)
        lines.append(line)
    lines.sort(
        key=lambda each: (_LINE_ORDER.index(each.kind), each.environment, each.item, each.detail, each.unit_cents)
    )
    return InvoiceProject(
        project=project,
        name=name,
        billing_account=billing_account or None,
        invoice=invoice_number(project, billing_account, month),
        lines=lines,
        total_cents=cents_total,
        total=format_usd(cents_total),
        credits_used=format_credits(used),
        credits_change=format_credits(change),
        facts=facts_total,
    )


def _taxes(terms: InvoiceTerms, kind: str, month: Month, net_cents: int) -> list[TaxLine]:
    """The taxes of an invoice that hold in its month; none on a statement, which is no bill."""
    if kind == "statement":
        return []
    lines = []
    for tax in terms.taxes:
        if tax.holds_in(str(month)):
            cents = tax_cents(net_cents, tax.millionths)
            lines.append(TaxLine(name=tax.name, percent=tax.percent, cents=cents, amount=format_usd(cents)))
    return lines


def _kind(payer: Payer, charged_to: Iterable[str]) -> Literal["invoice", "statement"]:
    """The kind of document for a payer: a statement for a project that was on a billing account, else an invoice."""
    return "statement" if payer.kind == "project" and any(charged_to) else "invoice"


def _number(payer: Payer, kind: Literal["invoice", "statement"], month: Month) -> str:
    # No billing account's id has capitals, so it can't make the number of a project's invoice.
    prefix = "STM-" if kind == "statement" else "INV-" if payer.kind == "billing_account" else "INV-P-"
    return f"{prefix}{payer.id}-{month}"


def _microcredits(credits: str) -> int:
    whole, _, fraction = credits.lstrip("-").partition(".")
    amount = int(whole) * MICROCREDITS_PER_CREDIT + int(fraction.ljust(6, "0"))
    return -amount if credits.startswith("-") else amount


def _total_credits(credits: Iterable[str]) -> str:
    return format_credits(sum(map(_microcredits, credits)))
