"""Recurring items: their full hours, and the bills of past months."""

from __future__ import annotations

from typing import Any

from schemas.commands import SetItem
from tests.simulation.model.accounts import Bill, Item, Project
from tests.simulation.model.answers import Answer, Refused
from tests.simulation.model.burn_down import draw
from tests.simulation.model.partition import Partition
from tests.simulation.model.past import must_be_open
from tests.simulation.model.prices import book_at
from tests.simulation.model.recharge import recharge_if_low
from tests.simulation.model.times import HOUR_MS, month_end_after


def set_item(partition: Partition, project: Project, command: SetItem) -> Answer:
    if command.quantity:
        must_be_open(project)
    operation, now_ms = command.operation, partition.now(project)
    item = project.items.get(operation)
    ends = item is not None and command.quantity == 0
    if operation not in book_at(partition, now_ms).hourly and not ends:
        raise Refused("unknown_operation")
    if not 0 <= command.quantity <= 1_000_000 or (item is None and len(project.items) == 10):
        raise Refused("invalid_request")
    if item is None:
        item = project.items[operation] = Item(now_ms)
    count_hours(partition, operation, item, now_ms)
    item.quantity = command.quantity
    if project.month_end_ms is None:
        project.month_end_ms = month_end_after(now_ms)
    fields = {"operation": operation, "quantity": command.quantity, "reason": "set"}
    answer = partition.done(project, "item", "production", **fields)
    drop_items(project)
    return answer


def count_hours(partition: Partition, operation: str, item: Item, until_ms: int) -> None:
    """Each full hour in [counted_to, until) counts, at the price that holds at it."""
    hour_ms = -(-item.counted_to_ms // HOUR_MS) * HOUR_MS
    while item.quantity and hour_ms < until_ms:
        book = book_at(partition, hour_ms)
        running = [bill for bill in item.bills if bill.version == book.version and bill.month_end_ms is None]
        if not running:
            running = [Bill(book.version)]
            item.bills += running
        running[0].hours += item.quantity
        running[0].owed += item.quantity * book.hourly.get(operation, 0)
        hour_ms += HOUR_MS
    item.counted_to_ms = max(item.counted_to_ms, until_ms)


def pay_bills(partition: Partition, project: Project, at_ms: int) -> None:
    """Bills of past months, as far as there are credits."""
    is_any_due = False
    for operation, item in project.items.items():
        due = [bill for bill in item.bills if bill.month_end_ms is not None]
        for bill in due:
            is_any_due = True
            fields: dict[str, Any] = {
                "environment": "production",
                "operation": operation,
                "price_version": bill.version,
                "occurred_at_ms": at_ms,
            }
            if bill.hours and not bill.owed:
                partition.state(project, "charge", quantity=bill.hours, reason="recurring", **fields)
            for grant, drawn in draw(partition, project, "production", bill.owed):
                grant.left -= drawn
                bill.owed -= drawn
                fields |= {"quantity": bill.hours, "amount": -drawn, "grant_id": grant.id}
                partition.state(project, "charge", reason="recurring", **fields)
                bill.hours = 0
            if bill.owed and bill.month_end_ms == at_ms:
                fields |= {"quantity": 0, "amount": 0, "grant_id": ""}
                partition.state(project, "refusal", reason="out_of_credits", **fields)
            if not bill.owed:
                item.bills.remove(bill)
    drop_items(project)
    if is_any_due:
        recharge_if_low(partition, project)


def drop_items(project: Project) -> None:
    project.items = {name: item for name, item in project.items.items() if item.quantity or item.bills}
    if not project.items:
        project.month_end_ms = None
