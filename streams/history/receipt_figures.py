"""The figures of a receipt: price lines, grants drawn on, and the budget before and after."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.facts import USAGE_KINDS, Fact
from schemas.http.receipts import Budget, ReceiptGrant, ReceiptLine, ReceiptPrice
from schemas.times import utc
from streams.clickhouse.client import ClickHouse
from streams.core.booking import format_credits
from streams.core.price_list import Prices
from streams.history.facts import held_before


def price_of(prices: Prices, facts: Sequence[Fact]) -> ReceiptPrice | None:
    # A correction may give back a charge by another price book; the book it charges by is the receipt's.
    priced = [fact for fact in facts if fact.price_version]
    version = next((fact.price_version for fact in priced if fact.reason != "given_back"), "")
    version = version or (priced[0].price_version if priced else "")
    lines = lines_of(prices, facts)
    if not version or not lines:
        return None
    book = prices.version(version)
    head = next((fact for fact in facts if fact.source), facts[0])
    if head.kind in ("refusal", "hold"):
        total = cost_of(prices, head) or 0
    else:
        total = -sum(fact.amount for fact in facts if fact.kind in USAGE_KINDS)
    return ReceiptPrice(
        version=version,
        effective_at=utc(book.effective_at_ms) if book is not None and book.effective_at_ms else None,
        lines=lines,
        total=format_credits(total),
    )


def lines_of(prices: Prices, facts: Sequence[Fact]) -> list[ReceiptLine]:
    """Price lines by operation and direction. A refused or held use is priced anew: a book's rates never change."""
    sums: dict[tuple[str, str, str], list[int]] = {}
    for fact in facts:
        if fact.kind in USAGE_KINDS:
            line = sums.setdefault((fact.operation, fact.price_version, fact.reason), [0, 0])
            line[0] += fact.quantity
            line[1] -= fact.amount
        elif fact.kind in ("refusal", "hold") and fact.source and fact.quantity:
            for operation in filter(None, (fact.operation, fact.surcharge)):
                if (rate := _rate(prices, fact.price_version, operation)) is not None:
                    sums[operation, fact.price_version, ""] = [fact.quantity, rate * fact.quantity]
    lines = []
    for (operation, version, _), (quantity, amount) in sums.items():
        rate = _rate(prices, version, operation)
        if rate is None and quantity and amount % quantity == 0:
            rate = amount // quantity
        adds_up = rate is not None and rate * quantity == amount
        lines.append(
            ReceiptLine(
                operation=operation,
                quantity=quantity,
                rate=None if rate is None else format_credits(rate),
                credits=format_credits(amount),
                text=f"{quantity} × {format_credits(rate)} = {format_credits(amount)}"
                if adds_up and rate is not None
                else f"{format_credits(amount)}, in part",
            )
        )
    return lines


def _rate(prices: Prices, version: str, operation: str) -> int | None:
    book = prices.version(version)
    if book is None:
        return None
    return book.rates.get(operation, book.hourly.get(operation))


def cost_of(prices: Prices, fact: Fact) -> int | None:
    """The cost of a use that was refused or held, in microcredits; None where its price book does not say."""
    rates = [_rate(prices, fact.price_version, each) for each in (fact.operation, fact.surcharge) if each]
    return None if None in rates else fact.quantity * sum(rate for rate in rates if rate is not None)


def grants_of(facts: Sequence[Fact]) -> list[ReceiptGrant]:
    sums: dict[str, list[int]] = {}
    for fact in facts:
        if fact.grant_id:
            changed = sums.setdefault(fact.grant_id, [0, 0])
            changed[0] += fact.amount
            changed[1] += fact.held
    return [
        ReceiptGrant(
            grant_id=grant_id,
            kind=grant_id.partition("-")[0],
            amount=format_credits(amount),
            held=format_credits(held),
        )
        for grant_id, (amount, held) in sums.items()
    ]


def budgets_of(clickhouse: ClickHouse, facts: Sequence[Fact]) -> tuple[Budget | None, Budget | None]:
    """The budget that a decision is about, before and after it; (None, None) where it is about none."""
    environment = next((fact.environment for fact in facts if fact.environment), "")
    here = [fact for fact in facts if fact.environment == environment]
    if not environment:
        return None, None
    balance, first = here[0].balance - here[0].amount, here[0]
    held = held_before(clickhouse, first.project, environment, (first.offset, first.index))
    return _budget(balance, held), _budget(here[-1].balance, held + sum(fact.held for fact in here))


def _budget(balance: int, held: int) -> Budget:
    return Budget(balance=format_credits(balance), held=format_credits(held), available=format_credits(balance - held))
