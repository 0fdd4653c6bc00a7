"""Billing accounts are opened once, changed on purpose, and named by a project's facts from the moment it joins."""

import pytest

from schemas.commands import ChangePlan, OpenBillingAccount, SetBillingAccount
from schemas.problems import Rejection
from schemas.times import DAY_MS
from streams.core.booking import Booking
from streams.core.decisions import command_reply, open_account
from streams.core.price_list import Prices
from tests.core.builders import START_MS, addressed
from tests.core.test_ledger import Bench


def terms(name: str, is_change: bool = False) -> OpenBillingAccount:
    return OpenBillingAccount(
        project="billing:acme", name=name, email="finance@example.com", is_change=is_change, **addressed(name)
    )


def test_a_billing_account_is_opened_once_and_changed_on_purpose() -> None:
    with pytest.raises(Rejection) as refused:
        open_account(terms("Acme", is_change=True), 0, 0, START_MS, [], Prices())
    assert refused.value.code == "unknown_billing_account"
    account, reply = open_account(terms("Acme"), 0, 0, START_MS, [], Prices())
    assert (reply.status, account.name, account.email) == (201, "Acme", "finance@example.com")
    facts: list = []
    booking = Booking(account, 0, 1, 0, START_MS, facts, Prices())
    again = command_reply(booking, terms("Other"), False)
    assert (again.status, again.code, account.name, facts) == (409, "billing_account_exists", "Acme", [])
    assert command_reply(booking, terms("Other", is_change=True), False).status == 200
    assert (account.name, [fact.reason for fact in facts]) == ("Other", ["changed"])


def test_what_was_due_before_a_move_stays_on_the_old_invoice() -> None:
    """The renewal came a month after the start and the move ten days later: one command settles both, in order."""
    bench = Bench("hobby")
    command = SetBillingAccount(project="p1", billing_account="acme", **addressed())
    assert command_reply(bench.booking(START_MS + 41 * DAY_MS), command, False).status == 200
    upgrade = ChangePlan(project="p1", plan="build", contract_allowance=0, **addressed("up"))
    assert command_reply(bench.booking(START_MS + 41 * DAY_MS), upgrade, False).status == 200
    money = [(fact.reason, fact.cents, fact.billing_account) for fact in bench.facts if fact.cents]
    assert money == [("hobby", 25_00, ""), ("hobby", 25_00, ""), ("build", 94_00, "acme")]
