"""A payment counts once: its reference is booked by the first purchase that bears it, by hand or by auto-recharge, in
its project."""

from typing import Any

import pytest

from schemas.accounts import Account
from schemas.commands import Commands, SetAutoRecharge, SettleRecharge, TopUp
from schemas.facts import Fact
from schemas.replies import Reply
from schemas.times import DAY_MS
from streams.core.booking import available
from streams.core.fold import IntakeItem, fold
from streams.core.marks import Claim
from streams.core.replies import Kept
from tests.core.builders import CREDIT, START_MS, addressed, create_project


class Log:
    """A log of commands to two projects, decided by the owner's fold."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.seen: dict[bytes, Claim] = {}
        self.kept = Kept()
        self.offset = 3
        self.facts: list[Fact] = []
        for project in ("p1", "p2"):
            self.apply(create_project(project=project))

    def apply(self, *commands: Any, again: bool = False) -> list[Reply]:
        """Decide commands of one record; `again`, the last record once more."""
        self.offset += not again
        item = IntakeItem(self.offset, START_MS, Commands(list(commands)))
        effects = fold(0, [item], self.accounts, self.seen, self.kept, "intake")
        self.facts += effects.facts
        return [reply for _, reply in effects.replies]

    def left(self, project: str = "p1") -> int:
        return sum(available(self.accounts[project], each) for each in ("production", "preview")) // CREDIT

    def wants(self) -> str:
        """Have auto-recharge want a bundle; gives the purchase's id."""
        terms = {"threshold": 4_000 * CREDIT, "bundle_usd": 20, "cap_cents": 100_000, "payment_method": "card"}
        self.apply(SetAutoRecharge(project="p1", is_on=True, **terms, **addressed(f"on{self.offset}")))
        recharge = self.accounts["p1"].auto_recharge
        assert recharge is not None and recharge.pending_id
        return recharge.pending_id


def bundle(reference: str, correlation: str, project: str = "p1", key: str = "", **fields: Any) -> TopUp:
    known = {"environment": "production", "bundle_usd": 20} | fields
    return TopUp(project=project, reference=reference, **known, **addressed(correlation, key))


def paid(recharge_id: str, reference: str, correlation: str) -> SettleRecharge:
    return SettleRecharge(
        project="p1", recharge_id=recharge_id, is_paid=True, reference=reference, detail="", **addressed(correlation)
    )


@pytest.mark.parametrize("other", [{}, {"bundle_usd": 100}, {"environment": "preview"}, {"key": "another"}])
def test_a_reference_is_booked_once_whatever_else_differs(other: dict[str, Any]) -> None:
    log = Log()
    (first,) = log.apply(bundle("inv-9", "a", key="one"))
    (second,) = log.apply(bundle("inv-9", "b", **other))
    assert (second.status, second.code, second.field) == (409, "reference_used", "reference")
    assert second.detail == f"The payment 'inv-9' was booked before, by entry {first.entry_id}"
    assert log.left() == 4_250
    (again,) = log.apply(bundle("inv-9", "c", key="one"))
    assert (again.code, again.entry_id) == ("", first.entry_id), "the same request gets its answer"
    assert log.left() == 4_250


def test_a_reference_counts_in_its_project_and_to_the_letter() -> None:
    log = Log()
    for number, (project, reference) in enumerate(
        [("p1", "inv-9"), ("p2", "inv-9"), ("p1", "INV-9"), ("p1", "inv-9 "), ("p1", ""), ("p1", "")]
    ):
        assert log.apply(bundle(reference, f"c{number}", project))[0].code == ""
    assert (log.left("p1"), log.left("p2")) == (5 * 4_000 + 250, 4_250)


def test_two_purchases_of_one_record_book_a_payment_once() -> None:
    log = Log()
    first, second = log.apply(bundle("inv-9", "a"), bundle("inv-9", "b"))
    assert (first.code, second.code) == ("", "reference_used")
    assert f"entry {first.entry_id}" in second.detail
    third, fourth = log.apply(bundle("x", "c"), bundle("inv-9", "d"))
    assert (third.code, fourth.code) == ("", "reference_used")
    assert first.entry_id in fourth.detail


def test_a_refused_purchase_leaves_its_reference_free() -> None:
    log = Log()
    assert log.apply(bundle("inv-9", "a", bundle_usd=7))[0].code == "invalid_request"
    assert log.apply(bundle("inv-9", "b"))[0].code == ""


def test_a_redelivered_purchase_is_the_one_that_it_was() -> None:
    log = Log()
    purchase = bundle("inv-9", "a")
    (first,) = log.apply(purchase)
    assert log.apply(purchase, again=True) == [first]
    assert log.left() == 4_250
    # After a crash the index may be ahead of the account: what this very record has claimed does not stop it.
    account = Log().accounts
    log.accounts, log.kept = account, Kept()
    (repeated,) = log.apply(purchase, again=True)
    assert (repeated.code, repeated.entry_id) == ("", first.entry_id)
    assert log.left() == 4_250


def test_a_payment_booked_by_hand_ends_the_purchase_of_auto_recharge_and_grants_nothing_more() -> None:
    log = Log()
    recharge_id = log.wants()
    (by_hand,) = log.apply(bundle("pi_1", "a"))
    (settled,) = log.apply(paid(recharge_id, "pi_1", "b"))
    assert (settled.status, settled.code, settled.amount, settled.already_decided) == (200, "", 0, True)
    assert settled.detail == f"Its payment was booked before, by entry {by_hand.entry_id}"
    assert log.left() == 4_250
    recharge = log.accounts["p1"].auto_recharge
    assert recharge is not None and recharge.pending_id == "" and recharge.failures == 0
    fact = log.facts[-1]
    assert (fact.kind, fact.reason, fact.amount, fact.cents) == ("recharge", "booked", 0, 0)
    assert f'"entry":"{by_hand.entry_id}"' in fact.metadata and '"reference":"pi_1"' in fact.metadata
    assert log.apply(paid(recharge_id, "pi_1", "c"))[0].code == "recharge_settled"
    assert log.apply(bundle("pi_1", "d"))[0].code == "reference_used"


def test_a_payment_of_auto_recharge_is_not_booked_by_hand_too() -> None:
    log = Log()
    (settled,) = log.apply(paid(log.wants(), "pi_1", "a"))
    (by_hand,) = log.apply(bundle("pi_1", "b"))
    assert (by_hand.code, settled.code, log.left()) == ("reference_used", "", 4_250)
    assert settled.entry_id in by_hand.detail


def test_a_failed_purchase_books_nothing() -> None:
    log = Log()
    failed = SettleRecharge(
        project="p1", recharge_id=log.wants(), is_paid=False, reference="pi_1", detail="declined", **addressed("a")
    )
    assert log.apply(failed)[0].code == ""
    assert log.apply(bundle("pi_1", "b"))[0].code == ""


def test_bundles_of_one_reference_are_as_many_as_one_in_any_order() -> None:
    for first_by_hand in (True, False):
        log = Log()
        recharge_id = log.wants()
        commands = [bundle("r", "a"), paid(recharge_id, "r", "b"), bundle("r", "c", environment="preview")]
        for command in commands if first_by_hand else reversed(commands):
            log.apply(command)
        grants = [fact for fact in log.facts if fact.kind == "grant" and fact.reason == "top_up"]
        assert len(grants) == 1 and grants[0].occurred_at_ms < START_MS + DAY_MS
