"""Invoices on the real engine: a small known history whose invoice is written down, and random ones that add up."""

from __future__ import annotations

import csv
import io
import json
import os
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from api.views.invoice_files import as_html, invoice_csv
from schemas.accounts import Account, Grant
from schemas.commands import (
    CaptureHold,
    ChangePlan,
    CloseProject,
    Correct,
    CreateProject,
    GivenBack,
    RefundTopUp,
    ReleaseHold,
    SetAutoRecharge,
    SetBillingAccount,
    SetItem,
    SettleRecharge,
    TopUp,
)
from schemas.events import Usage
from schemas.facts import Fact
from schemas.http.invoices import BillTo, Invoice, InvoiceProject, Issuer
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from schemas.taxes import TaxRate
from streams.clickhouse.client import ClickHouse, Pack
from streams.clickhouse.historian import journal_sink
from streams.clickhouse.migrations import migrate
from streams.core.acceptance import dedup_hash
from streams.core.booking import Booking
from streams.core.decisions import command_reply, open_account
from streams.core.ledger import charge, hold, reschedule, settle
from streams.core.price_list import Prices
from streams.history.invoice_terms import InvoiceTerms
from streams.history.invoice_words import format_usd
from streams.history.invoices import Month, Payer, differences, read_invoice, read_months, summary
from streams.kafka.codecs import encode
from streams.settings import Settings
from tests.core.builders import CREDIT, addressed

GOLDEN = Path(__file__).parent.parent / "golden"
BILL_TO = BillTo(name="Acme & Söhne <Agency>", email="finance@example.com")
NAMES = {"shop": '<script>alert("shop")</script>', "blog": "=HYPERLINK(1)"}
NO_TERMS = InvoiceTerms()
TERMS = InvoiceTerms(
    issuer=Issuer(name="Example Platform GmbH", details=["Musterstraße 1, 10115 Berlin", "VAT DE123456789"]),
    taxes=[
        TaxRate(name="VAT", percent="19", until_month="2026-01"),
        TaxRate(name="VAT", percent="16", from_month="2026-02"),
        TaxRate(name="City tax", percent="0.125"),
    ],
    due_days=14,
    memo="=Pay to DE02 1203 0000 0000 2020 51.\nThank you <all>.",
)
JANUARY, FEBRUARY = Month(2026, 1), Month(2026, 2)
HOURLY = PriceBook(
    "2026-01", 0, FIRST_PRICE_BOOK.rates, FIRST_PRICE_BOOK.plan_required, hourly={"storage.gb": 1_000, "domain": 20_000}
)


class Books:
    """Books of projects in one partition. The core decides on them, and the facts it states go into the history."""

    def __init__(self, prices: Sequence[PriceBook] = (HOURLY,)) -> None:
        self.accounts: dict[str, Account] = {}
        self.facts: list[Fact] = []
        self.prices = Prices(prices)
        self.offset = 0

    def open(self, project: str, plan: str, at: str, billing_account: str = "") -> None:
        command = CreateProject(
            project=project,
            name="",
            plan=plan,
            contract_allowance=1_000_000 * CREDIT,
            contract_cents=1_234_56,
            billing_account=billing_account,
            **addressed(),
        )
        self.offset += 1
        account, _ = open_account(command, 0, self.offset, ms(at), self.facts, self.prices)
        self.accounts[project] = account
        reschedule(account)

    def booking(self, project: str, at: str | int) -> Booking:
        self.offset += 1
        account = self.accounts[project]
        at_ms = ms(at) if isinstance(at, str) else at
        booking = Booking(account, 0, self.offset, 0, at_ms, self.facts, self.prices)
        settle(booking)
        account.last_at_ms = booking.at_ms
        return booking

    def tell(self, kind: type, project: str, at: str | int, **fields: object) -> str:
        """Decide a command, and return the code of its refusal, or ""."""
        booking = self.booking(project, at)
        reply = command_reply(booking, kind(project=project, **fields, **addressed(f"c{self.offset}")), False)
        reschedule(booking.account)
        return reply.code

    def use(self, project: str, at: str | int, operation: str, quantity: int = 1, **more: object) -> str:
        booking = self.booking(project, at)
        code, _ = charge(booking, self.usage(project, booking.at_ms, operation, quantity, **more))
        reschedule(booking.account)
        return code

    def usage(
        self,
        project: str,
        at_ms: int,
        operation: str,
        quantity: int = 1,
        surcharge: str = "",
        environment: str = "production",
    ) -> Usage:
        name = f"e{self.offset}"
        return Usage(
            project=project,
            dedup_hash=dedup_hash(project, "/t", name),
            source="/t",
            event_id=name,
            operation=operation,
            quantity=quantity,
            surcharge=surcharge,
            environment=environment,
            occurred_at_ms=at_ms,
            job_id="",
            key_id="",
            metadata='{"customer_id":"c"}',
        )

    def write(self, clickhouse: ClickHouse) -> None:
        sink = journal_sink(Settings())
        pack = Pack((0, 0), encode(self.facts), len(self.facts))
        clickhouse.insert_packs(sink.table, sink.shared, sink.columns, [pack], partitions_max=24)


def ms(at: str) -> int:
    return round(datetime.fromisoformat(f"{at}+00:00").timestamp() * 1000)


def known_books() -> Books:
    """The books of January: an agency's two projects, one of which joins within the month, and a stranger's project."""
    books = Books()
    books.open("shop", "hobby", "2026-01-05T08:00", "acme")
    books.open("blog", "free", "2026-01-05T09:00")
    books.open("stranger", "scale", "2026-01-06T09:00", "umbrella")
    books.use("stranger", "2026-01-07T09:00", "website")
    # The blog is not on the agency's invoice yet.
    assert not books.tell(TopUp, "blog", "2026-01-09T10:00", environment="production", bundle_usd=20, reference="r")
    books.use("blog", "2026-01-09T11:00", "image")
    assert not books.tell(SetBillingAccount, "blog", "2026-01-10T00:00", billing_account="acme")
    # An event of two lines; a line that allowance and bundle pay together; a use on the preview budget.
    books.use("shop", "2026-01-11T10:00", "social_post.text", surcharge="social_post.image")
    books.use("blog", "2026-01-11T11:00", "website")
    books.use("shop", "2026-01-11T12:00", "webhook.delivery", 3)
    books.use("shop", "2026-01-11T12:30", "read")
    assert not books.tell(TopUp, "shop", "2026-01-12T10:00", environment="preview", bundle_usd=100, reference="=1+1")
    books.use("shop", "2026-01-12T11:00", "image", 2, environment="preview")
    # An upgrade, then a job holds so many credits that they run low, and a bundle is bought by itself.
    assert not books.tell(ChangePlan, "shop", "2026-01-15T10:00", plan="build", contract_allowance=0)
    assert not books.tell(
        SetAutoRecharge, "shop", "2026-01-16T10:00", is_on=True, threshold=4_000 * CREDIT, bundle_usd=20,
        cap_cents=100_00, payment_method="pm_1",
    )  # fmt: skip
    booking = books.booking("shop", "2026-01-16T10:59")
    _, _, large = hold(booking, books.usage("shop", booking.at_ms, "website", 88), 3_600)
    assert large is not None
    reschedule(booking.account)
    books.use("shop", "2026-01-16T11:00", "video.budget")
    recharge = books.accounts["shop"].auto_recharge
    assert recharge is not None and recharge.pending_id
    assert not books.tell(
        SettleRecharge, "shop", "2026-01-16T11:01", recharge_id=recharge.pending_id, is_paid=True, reference="ch_1",
        detail="",
    )  # fmt: skip
    assert not books.tell(ReleaseHold, "shop", "2026-01-16T11:02", hold_id=large.id, environment="", reason="timeout")
    assert not books.tell(SetItem, "shop", "2026-01-20T00:00", operation="storage.gb", quantity=7)
    # A job that is captured in part, and a use that was wrong.
    booking = books.booking("shop", "2026-01-21T10:00")
    _, _, placed = hold(booking, books.usage("shop", booking.at_ms, "translation", 4), 3_600)
    assert placed is not None
    reschedule(booking.account)
    assert not books.tell(
        CaptureHold, "shop", "2026-01-21T10:05", hold_id=placed.id, environment="", amount=14 * CREDIT
    )
    books.use("shop", "2026-01-22T10:00", "blog_post")
    wrong = books.facts[-1]
    grant = next(each for each in books.accounts["shop"].grants if each.id == wrong.grant_id)
    assert not books.tell(
        Correct, "shop", "2026-01-22T11:00", source=wrong.source, event_id=wrong.event_id, sequence=0,
        given_back=[GivenBack(grant, wrong.operation, 1, -wrong.amount)],
        usage=books.usage("shop", wrong.occurred_at_ms, "content_plan"), metadata='{"reason":"wrong operation"}',
    )  # fmt: skip
    bundle = next(each for each in books.accounts["shop"].grants if each.kind == "top_up" and each.remaining)
    assert not books.tell(RefundTopUp, "shop", "2026-01-30T10:00", grant_id=bundle.id, reason="asked for")
    # February: the bill of January's storage, and a renewal of each project.
    books.booking("shop", "2026-02-01T00:00:10")
    books.booking("shop", "2026-02-05T08:00")
    books.booking("blog", "2026-02-05T09:00")
    return books


@pytest.fixture
def history(embedded: ClickHouse) -> ClickHouse:
    migrate(embedded)
    known_books().write(embedded)
    return embedded


def invoice_of(clickhouse: ClickHouse, payer: Payer, month: Month = JANUARY, terms: InvoiceTerms = NO_TERMS) -> Invoice:
    return read_invoice(clickhouse, payer, month, "final", BILL_TO, lambda project: NAMES.get(project, ""), terms)


ACME = Payer("billing_account", "acme")


def lines_of(part: InvoiceProject) -> dict[tuple[str, ...], tuple[object, ...]]:
    return {
        (line.kind, line.item, line.detail, line.environment): (line.count, line.quantity, line.cents, line.credits)
        for line in part.lines
    }


def test_the_known_invoice_line_by_line(history: ClickHouse) -> None:
    invoice = invoice_of(history, ACME)
    assert (invoice.number, invoice.kind, invoice.status) == ("INV-acme-2026-01", "invoice", "final")
    blog, shop = invoice.projects
    assert lines_of(blog) == {
        # A website that January's allowance paid in part, and the bundle for the rest.
        ("usage", "website", "", "production"): (1, 1, 0, "-240"),
    }
    assert lines_of(shop) == {
        ("subscription", "hobby", "", ""): (1, 0, 25_00, "0"),
        ("subscription", "build", "", ""): (1, 0, 94_00, "0"),
        ("top_up", "top_up", "", "preview"): (1, 0, 100_00, "20000"),
        ("top_up", "top_up", "auto_recharge", "production"): (1, 0, 20_00, "4000"),
        ("refund", "top_up", "", "preview"): (1, 0, -99_68, "-19936"),
        ("grant", "allowance", "", "production"): (2, 0, 0, "25000"),
        ("usage", "social_post.text", "", "production"): (1, 1, 0, "-5"),
        ("usage", "social_post.image", "", "production"): (1, 1, 0, "-32"),
        ("usage", "webhook.delivery", "", "production"): (1, 3, 0, "-0.06"),
        ("usage", "read", "", "production"): (1, 1, 0, "0"),
        ("usage", "image", "", "preview"): (1, 2, 0, "-64"),
        ("usage", "video.budget", "", "production"): (1, 1, 0, "-40"),
        ("usage", "translation", "", "production"): (1, 2, 0, "-14"),
        ("usage", "blog_post", "", "production"): (1, 1, 0, "-60"),
        ("correction", "blog_post", "given_back", "production"): (1, -1, 0, "60"),
        ("correction", "content_plan", "charged", "production"): (1, 1, 0, "-10"),
    }
    assert [line.facts for line in blog.lines] == [2]
    assert (blog.total, shop.total, invoice.total) == ("USD 0.00", "USD 139.32", "USD 139.32")
    assert (blog.credits_used, shop.credits_used, invoice.credits_used) == ("240", "165.06", "405.06")
    assert {version for line in shop.lines for version in line.price_versions} == {"2026-01"}


def test_taxes_are_added_by_month_and_what_a_card_paid_is_not_due_again(history: ClickHouse) -> None:
    invoice = invoice_of(history, ACME, terms=TERMS)
    # 19 % of 139.32 is 26.4708, and an eighth of a percent 0.17415.
    assert [(tax.name, tax.percent, tax.cents) for tax in invoice.taxes] == [
        ("VAT", "19", 26_47),
        ("City tax", "0.125", 17),
    ]
    assert (invoice.subtotal, invoice.total, invoice.paid, invoice.due) == (
        "USD 139.32", "USD 165.96", "USD 20.00", "USD 145.96",
    )  # fmt: skip
    assert (str(invoice.issued_on), str(invoice.due_on)) == ("2026-02-01", "2026-02-15")
    assert differences(history, invoice) == []
    february = invoice_of(history, ACME, FEBRUARY, TERMS)
    assert [tax.percent for tax in february.taxes] == ["16", "0.125"]


def test_a_statement_has_no_taxes_and_nothing_due(history: ClickHouse) -> None:
    statement = invoice_of(history, Payer("project", "blog"), terms=TERMS)
    assert (statement.kind, statement.taxes, statement.due_cents, statement.due_on) == ("statement", [], 0, None)
    assert statement.total_cents == statement.subtotal_cents == 20_00


def test_february_has_what_januarys_storage_cost_and_the_renewals(history: ClickHouse) -> None:
    blog, shop = invoice_of(history, ACME, FEBRUARY).projects
    # 12 days of 7 units at 0.001 credits an hour.
    assert lines_of(shop)["recurring", "storage.gb", "2026-01", "production"] == (1, 2016, 0, "-2.016")
    assert lines_of(shop)["subscription", "build", "", ""] == (1, 0, 119_00, "0")
    assert ("expiry", "allowance", "", "production") in lines_of(shop)
    assert lines_of(blog)["grant", "allowance", "", "production"] == (1, 0, 0, "250")


@pytest.mark.parametrize("month", [JANUARY, FEBRUARY], ids=str)
@pytest.mark.parametrize(
    "payer",
    [ACME, Payer("billing_account", "umbrella"), *(Payer("project", name) for name in ("shop", "blog", "stranger"))],
    ids=lambda payer: payer.id,
)
def test_every_invoice_adds_up(history: ClickHouse, payer: Payer, month: Month) -> None:
    assert differences(history, invoice_of(history, payer, month)) == []


def test_what_does_not_add_up_is_named(history: ClickHouse) -> None:
    invoice = invoice_of(history, ACME)
    invoice.projects[1].lines[0].cents += 1
    assert differences(history, invoice) == [
        "shop: its totals are not those of its lines",
        "shop: cents are 13933 by line and 13932 by fact",
    ]
    assert invoice.projects.pop(0).project == "blog"
    wrong = differences(history, invoice)
    assert "the invoice's totals are not those of its projects" in wrong
    assert "blog: entries are 0 by line and 2 by fact" in wrong
    alone = invoice_of(history, Payer("project", "blog"))
    alone.projects.clear()
    assert "blog: cents are 0 by line and 2000 by fact" in differences(history, alone)


def test_a_move_splits_a_project_exactly(history: ClickHouse) -> None:
    statement = invoice_of(history, Payer("project", "blog"))
    assert (statement.number, statement.kind, statement.bill_to) == ("STM-blog-2026-01", "statement", None)
    own, agencys = statement.projects
    assert (own.invoice, own.total, own.credits_used) == ("INV-P-blog-2026-01", "USD 20.00", "32")
    assert (agencys.invoice, agencys.total, agencys.credits_used) == ("INV-acme-2026-01", "USD 0.00", "240")
    assert agencys == invoice_of(history, ACME).projects[0]


def test_every_project_that_was_on_an_account_in_the_month_is_on_its_page(embedded: ClickHouse) -> None:
    migrate(embedded)
    books = Books()
    for project in ("idle", "left", "joined", "closed", "passed", "own"):
        books.open(project, "free", "2025-12-03T10:00", "acme" if project in ("idle", "left", "closed") else "")
    for project, at, account in (
        ("left", "2026-01-10T10:00", ""),
        ("joined", "2026-01-31T23:00", "acme"),
        ("passed", "2026-01-11T10:00", "acme"),
        ("passed", "2026-01-12T10:00", "umbrella"),
        ("own", "2026-02-01T00:00", "acme"),
    ):
        books.tell(SetBillingAccount, project, at, billing_account=account)
    books.tell(CloseProject, "closed", "2025-12-31T10:00", reason="")
    books.write(embedded)
    pages = {
        payer: [part.project for part in invoice_of(embedded, Payer("billing_account", payer)).projects]
        for payer in ("acme", "umbrella", "nobody")
    }
    assert pages == {"acme": ["idle", "joined", "left", "passed"], "umbrella": ["passed"], "nobody": []}
    invoice = invoice_of(embedded, ACME)
    assert differences(embedded, invoice) == []
    assert "idle" in as_html(invoice)


def test_a_month_that_moves_to_an_account_is_on_its_invoice_once(embedded: ClickHouse) -> None:
    migrate(embedded)
    books = Books()
    books.open("shop", "hobby", "2026-01-05T08:00")
    books.tell(TopUp, "shop", "2026-01-06T08:00", environment="production", bundle_usd=20, reference="r")
    books.use("shop", "2026-01-06T09:00", "image")
    books.tell(SetBillingAccount, "shop", "2026-01-10T00:00", billing_account="acme", is_from_month_start=True)
    books.write(embedded)
    own, acme = invoice_of(embedded, Payer("project", "shop")).projects
    assert [(part.invoice, part.total_cents) for part in (own, acme)] == [
        ("INV-P-shop-2026-01", 0),
        ("INV-acme-2026-01", 45_00),
    ]
    assert lines_of(own)["transfer", "moved_out", "acme", ""] == (1, 0, -45_00, "0")
    (moved,) = acme.lines
    assert (moved.description, moved.cents) == ("Moved from the project's own invoice", 45_00)
    for payer in (ACME, Payer("project", "shop")):
        assert differences(embedded, invoice_of(embedded, payer)) == []


def test_a_project_of_its_own_has_an_invoice_and_its_months_are_listed(embedded: ClickHouse) -> None:
    migrate(embedded)
    books = Books()
    books.open("alone", "hobby", "2026-01-31T10:00")
    books.booking("alone", "2026-03-31T10:00")
    books.write(embedded)
    payer = Payer("project", "alone")
    assert invoice_of(embedded, payer).number == "INV-P-alone-2026-01"
    assert invoice_of(embedded, payer, FEBRUARY).projects == []
    listed = [summary(payer, totals, "final", NO_TERMS) for totals in read_months(embedded, payer)]
    # Nothing touched the project in February: that renewal was booked in March, with the time at which it was due.
    assert [(each.month, each.number, each.total, each.facts) for each in listed] == [
        ("2026-03", "INV-P-alone-2026-03", "USD 50.00", 6),
        ("2026-01", "INV-P-alone-2026-01", "USD 25.00", 2),
    ]
    assert read_months(embedded, Payer("project", "nobody")) == []


def test_a_month_begins_with_its_first_instant_and_ends_before_the_next(embedded: ClickHouse) -> None:
    migrate(embedded)
    books = Books()
    for project, at in (
        ("first", "2026-01-01T00:00:00.000"),
        ("last", "2026-01-31T23:59:59.999"),
        ("before", "2025-12-31T23:59:59.999"),
        ("after", "2026-02-01T00:00:00.000"),
    ):
        books.open(project, "hobby", at, "acme")
    books.write(embedded)
    invoice = invoice_of(embedded, ACME)
    assert [part.project for part in invoice.projects] == ["before", "first", "last"]
    assert differences(embedded, invoice) == []


@pytest.mark.parametrize("terms", [NO_TERMS, TERMS])
def test_listed_months_say_what_their_invoices_say(history: ClickHouse, terms: InvoiceTerms) -> None:
    for payer in (ACME, Payer("project", "blog"), Payer("billing_account", "umbrella"), Payer("project", "shop")):
        for totals in read_months(history, payer):
            listed = summary(payer, totals, "final", terms)
            invoice = invoice_of(history, payer, totals.month, terms)
            for field in ("month", "number", "status", "total_cents", "total", "credits_used", "facts"):
                assert getattr(listed, field) == getattr(invoice, field), field
            assert listed.projects == len({part.project for part in invoice.projects if part.facts})


@pytest.mark.parametrize("seed", range(5))
def test_random_histories_add_up(embedded: ClickHouse, seed: int) -> None:
    """Random commands in random order, across months and moves: each fact of money and credits is on exactly one
    invoice, once."""
    chance = random.Random(seed)
    books = Books()
    projects = [f"p{number}" for number in range(4)]
    payers = ["", "a1", "a2"]
    at_ms = ms("2026-01-01T00:00")
    for project in projects:
        plan = chance.choice(["free", "hobby", "build", "enterprise"])
        books.open(project, plan, "2026-01-01T00:00", chance.choice(payers))
    for _ in range(150):
        at_ms += chance.randrange(1, 36 * 3_600_000)
        act(books, chance, chance.choice(projects), at_ms, payers)
    migrate(embedded)
    books.write(embedded)
    everyone = [Payer("project", project) for project in projects]
    everyone += [Payer("billing_account", account) for account in payers if account]
    cents: dict[str, int] = {"project": 0, "billing_account": 0}
    microcredits = 0
    for payer in everyone:
        for totals in read_months(embedded, payer):
            invoice = invoice_of(embedded, payer, totals.month)
            assert differences(embedded, invoice) == []
            assert invoice.total_cents == totals.cents
            cents[payer.kind] += invoice.total_cents
            if payer.kind == "project":
                microcredits += sum(int(Decimal(part.credits_change) * CREDIT) for part in invoice.projects)
    assert cents["project"] == sum(fact.cents for fact in books.facts)
    assert cents["billing_account"] == sum(fact.cents for fact in books.facts if fact.billing_account)
    left = sum(grant.remaining for account in books.accounts.values() for grant in account.grants)
    assert microcredits == left, "the lines of all months are what the balances are made of"
    assert {fact.kind for fact in books.facts} >= {"charge", "grant", "subscription", "billing_account"}


def act(books: Books, chance: random.Random, project: str, at_ms: int, payers: Sequence[str]) -> None:
    environment = chance.choice(["production", "production", "preview"])
    match chance.randrange(9):
        case 0 | 1 | 2:
            operation = chance.choice(["image", "chat.message", "webhook.delivery", "website", "read"])
            books.use(project, at_ms, operation, chance.randrange(1, 9), environment=environment)
        case 3:
            bundle = chance.choice([20, 100, 500])
            books.tell(TopUp, project, at_ms, environment=environment, bundle_usd=bundle, reference="")
        case 4:
            is_from_start = chance.random() < 0.5
            to = chance.choice(payers)
            books.tell(SetBillingAccount, project, at_ms, billing_account=to, is_from_month_start=is_from_start)
        case 5:
            plan = chance.choice(["free", "hobby", "build", "scale"])
            books.tell(ChangePlan, project, at_ms, plan=plan, contract_allowance=0)
        case 6:
            books.tell(SetItem, project, at_ms, operation="domain", quantity=chance.randrange(5))
        case 7:
            bundles = [each for each in books.accounts[project].grants if each.kind == "top_up"]
            if bundles:
                books.tell(RefundTopUp, project, at_ms, grant_id=chance.choice(bundles).id, reason="")
        case 8:
            give_back(books, chance, project, at_ms)


def give_back(books: Books, chance: random.Random, project: str, at_ms: int) -> None:
    charged = [
        fact
        for fact in books.facts
        if fact.amount and fact.kind == "charge" and fact.project == project and fact.source
    ]
    if not charged:
        return
    wrong = chance.choice(charged)
    kind = wrong.grant_id.partition("-")[0] or "allowance"
    past = Grant(wrong.grant_id, kind, wrong.environment, 0, 0, ms("2026-01-01T00:00"), 0)
    books.tell(
        Correct, project, at_ms, source=wrong.source, event_id=wrong.event_id, sequence=0,
        given_back=[GivenBack(past, wrong.operation, wrong.quantity, -wrong.amount)], usage=None, metadata="",
    )  # fmt: skip


GOLDEN_FILES = {
    "invoice.json": lambda invoice: invoice.model_dump_json(indent=2) + "\n",
    "invoice.csv": invoice_csv,
    "invoice.html": as_html,
}


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden_invoice(history: ClickHouse, name: str) -> None:
    """The golden files are written anew with METERLINE_WRITE_GOLDEN=1; then look at the diff."""
    text = GOLDEN_FILES[name](invoice_of(history, ACME, terms=TERMS))
    path = GOLDEN / name
    if os.environ.get("METERLINE_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
    assert text.encode() == path.read_bytes()


def test_the_json_has_no_floats(history: ClickHouse) -> None:
    def refuse(text: str) -> float:
        raise AssertionError(f"{text} is a float")

    json.loads(invoice_of(history, ACME).model_dump_json(), parse_float=refuse)


def test_the_csv_says_the_same_and_runs_nothing(history: ClickHouse) -> None:
    invoice = invoice_of(history, ACME)
    text = invoice_csv(invoice)
    assert text.count("\r\n") == text.count("\n") == sum(len(part.lines) for part in invoice.projects) + 1
    taxed = invoice_of(history, ACME, terms=TERMS)
    with_taxes = list(csv.DictReader(io.StringIO(invoice_csv(taxed), newline="")))
    assert sum(int(row["cents"]) for row in with_taxes) == taxed.total_cents
    assert {row["memo"] for row in with_taxes} == {f"'{TERMS.memo}"}
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert sum(int(row["cents"]) for row in rows) == invoice.total_cents
    assert sum(int(row["facts"]) for row in rows) == invoice.facts
    assert {row["project_name"] for row in rows} == {NAMES["shop"], "'=HYPERLINK(1)"}


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1", " =1"])
def test_no_cell_of_the_csv_runs_as_a_formula(history: ClickHouse, name: str) -> None:
    invoice = read_invoice(history, ACME, JANUARY, "final", BILL_TO, lambda _project: name, NO_TERMS)
    rows = list(csv.DictReader(io.StringIO(invoice_csv(invoice), newline="")))
    assert {row["project_name"] for row in rows} == {f"'{name}"}
    for row in rows:
        assert all(not value.startswith(("=", "+", "@")) for value in row.values())
        assert all(value.lstrip("-").replace(".", "").isdigit() for value in row.values() if value.startswith("-"))


def test_the_html_shows_names_as_text_and_runs_nothing(history: ClickHouse) -> None:
    page = as_html(invoice_of(history, ACME))
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#34;shop&#34;)&lt;/script&gt;" in page
    assert "Acme &amp; Söhne &lt;Agency&gt;" in page
    assert "http" not in page, "it loads nothing"


@pytest.mark.parametrize(
    ("cents", "text"),
    [
        (0, "USD 0.00"),
        (5, "USD 0.05"),
        (123_45, "USD 123.45"),
        (-15_00, "USD -15.00"),
        (-1_234_567_89, "USD -1,234,567.89"),
    ],
)
def test_money_as_text(cents: int, text: str) -> None:
    assert format_usd(cents) == text


def test_months() -> None:
    assert str(Month.parse("2026-12")) == "2026-12"
    assert Month(2026, 12).ends_at == Month(2027, 1).begins_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert Month(2026, 2) < Month(2026, 11)
