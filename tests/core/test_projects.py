"""Projects: the money due for them each month, their billing accounts, badge, keys and contracts."""

from typing import Any

import pytest

from schemas.accounts import Account
from schemas.commands import (
    ChangePlan,
    CloseProject,
    CreateKey,
    OpenBillingAccount,
    RefundTopUp,
    ReopenProject,
    RevokeKey,
    RotateKey,
    SetBadge,
    SetBillingAccount,
)
from schemas.times import DAY_MS
from streams.core.booking import available
from streams.core.decisions import open_account
from streams.core.fold import IntakeItem, fold
from streams.core.ledger import settle
from streams.core.price_list import Prices
from streams.core.projects import KEYS_MAX, has_ended
from streams.core.replies import Kept
from tests.core.builders import CREDIT, START_MS, addressed, create_project
from tests.core.test_ledger import Bench


def due(bench: Bench) -> list[tuple[str, str, int, str]]:
    """The facts for which money is due, each as (kind, reason, cents, billing account)."""
    return [(f.kind, f.reason, f.cents, f.billing_account) for f in bench.facts if f.cents]


def change_plan(bench: Bench, plan: str, credits: int = 0, cents: int = 0, at_ms: int = START_MS):
    return bench.do(ChangePlan, at_ms, plan=plan, contract_allowance=credits * CREDIT, contract_cents=cents)


def test_a_plan_is_due_at_the_beginning_of_each_of_its_months() -> None:
    bench = Bench("hobby")
    first_renewal = bench.account.renews_at_ms
    bench.booking(first_renewal)
    facts = [fact for fact in bench.facts if fact.kind == "subscription"]
    assert [(fact.reason, fact.cents, fact.occurred_at_ms) for fact in facts] == [
        ("hobby", 2_500, START_MS),
        ("hobby", 2_500, first_renewal),
    ]
    assert due(Bench("free")) == []


def test_an_upgrade_is_due_at_once_with_what_it_costs_more() -> None:
    bench = Bench("hobby")
    change_plan(bench, "build")
    assert due(bench) == [("subscription", "hobby", 2_500, ""), ("subscription", "build", 9_400, "")]
    change_plan(bench, "free")
    bench.booking(bench.account.renews_at_ms)
    assert len(due(bench)) == 2, "free from its renewal on"


def test_going_back_and_forth_within_a_month_costs_each_plan_once() -> None:
    bench = Bench("hobby")
    for plan in ("build", "hobby", "build", "hobby", "build"):
        change_plan(bench, plan)
    assert sum(cents for _, _, cents, _ in due(bench)) == 11_900


def test_a_contract_has_its_own_price_and_allowance() -> None:
    bench = Bench("scale")
    reply = change_plan(bench, "enterprise", 500_000, 120_000)
    assert reply.amount == 400_000 * CREDIT
    assert due(bench)[-1] == ("subscription", "enterprise", 120_000 - 39_900, "")
    change_plan(bench, "enterprise", 300_000, 80_000)
    assert bench.account.price_cents == 120_000, "less waits for the renewal"
    bench.booking(bench.account.renews_at_ms)
    assert due(bench)[-1] == ("subscription", "enterprise", 80_000, "")
    assert available(bench.account, "production") == 300_000 * CREDIT
    # The same credits for less money: the change counts at once, and nothing is given back for this month.
    change_plan(bench, "enterprise", 300_000, 70_000, bench.account.last_at_ms)
    assert (bench.account.price_cents, due(bench)[-1][2]) == (70_000, 80_000)


def test_other_plans_take_no_contract_terms() -> None:
    account, _ = open_account(create_project(plan="build"), 0, 0, START_MS, [], Prices())
    assert (account.allowance, account.price_cents) == (25_000 * CREDIT, 11_900)


def test_a_closed_month_is_not_due_and_a_month_is_due_once() -> None:
    bench = Bench("hobby")
    bench.do(CloseProject, reason="")
    bench.do(ReopenProject)
    assert len(due(bench)) == 1
    bench.do(CloseProject, reason="")
    renews_at_ms = bench.account.renews_at_ms
    bench.booking(renews_at_ms)
    assert len(due(bench)) == 1
    assert bench.do(ReopenProject, renews_at_ms + DAY_MS).amount == 5_000 * CREDIT
    assert len(due(bench)) == 2


def test_a_bundle_is_due_and_its_refund_gives_back_what_is_left_of_it() -> None:
    bench = Bench("free")
    bench.top_up(20, "preview")
    bench.charge("image", environment="preview")
    bench.do(RefundTopUp, grant_id=bench.grant("top_up").id, reason="")
    assert due(bench) == [("grant", "top_up", 2_000, ""), ("refund", "top_up", -1_984, "")]


def test_what_is_due_is_on_the_invoice_of_its_time() -> None:
    bench = Bench("hobby")
    bench.top_up(20)
    bench.do(SetBillingAccount, billing_account="billing:agency")
    bench.top_up(100)
    bench.do(SetBillingAccount, billing_account="")
    bench.top_up(20)
    assert [(cents, account) for _, _, cents, account in due(bench)] == [
        (2_500, ""),
        (2_000, ""),
        (10_000, "billing:agency"),
        (2_000, ""),
    ]
    joined = [(f.billing_account, f.metadata) for f in bench.facts if f.kind == "billing_account"]
    assert joined == [("billing:agency", ""), ("", '{"before":"billing:agency"}')]


def test_a_billing_account_is_opened_and_renamed_and_nothing_is_ever_due_in_it() -> None:
    accounts: dict[str, Account] = {}

    def open_it(name: str, offset: int, at_ms: int = START_MS):
        fields = {"project": "billing:agency", "name": name, "email": "a@example.com"}
        command = OpenBillingAccount(**fields, is_change=offset > 0, **addressed(f"c{offset}"))
        return fold(0, [IntakeItem(offset, at_ms, command)], accounts, {}, Kept(), "intake")

    assert open_it("One", 0).replies[0][1].status == 201
    effects = open_it("Two", 1, START_MS + 4_000 * DAY_MS)
    assert effects.replies[0][1].status == 200
    assert [(fact.kind, fact.reason) for fact in effects.facts] == [("billing_account", "changed")]
    assert (accounts["billing:agency"].name, accounts["billing:agency"].grants) == ("Two", [])


def test_a_free_project_carries_the_badge_and_a_paid_one_may_turn_it_off() -> None:
    bench = Bench("free")
    refused = bench.do(SetBadge, is_off=True)
    assert (refused.status, refused.code) == (402, "plan_required")
    assert bench.do(SetBadge, is_off=False).status == 200
    change_plan(bench, "hobby")
    assert bench.do(SetBadge, is_off=True).status == 200
    assert bench.account.badge_off
    assert bench.facts[-1].reason == "badge_off"


def test_keys_are_made_and_ended_once() -> None:
    bench = Bench()

    def create(key_id: str):
        return bench.do(CreateKey, key_id=key_id, key_hash=b"", environment="preview", scopes=["content:write"])

    assert create("k0").status == 200
    assert create("k0").code == "key_exists"
    assert bench.do(RevokeKey, START_MS + 5, key_id="k0").status == 200
    assert bench.do(RevokeKey, START_MS + 9, key_id="k0").status == 200
    assert bench.account.keys[0].revoked_at_ms == START_MS + 5, "it ended when it was first ended"
    assert bench.do(RevokeKey, key_id="other").code == "unknown_key"
    for number in range(1, KEYS_MAX):
        assert create(f"k{number}").status == 200
    assert create("one.more").code == "invalid_request"


def test_a_key_made_or_ended_says_whose_key_did_it() -> None:
    made = CreateKey(
        project="p1", key_id="k0", key_hash=b"", environment="preview", scopes=[], actor="admin:1", **addressed("k")
    )
    ended = RevokeKey(project="p1", key_id="k0", actor="admin:2", **addressed("r"))
    items = [IntakeItem(number, START_MS, each) for number, each in enumerate((create_project(), made, ended))]
    facts = [fact for fact in fold(0, items, {}, {}, Kept(), "intake").facts if fact.kind == "key"]
    assert [(fact.key_id, fact.reason, fact.metadata) for fact in facts] == [
        ("k0", "created", '{"by":"admin:1"}'),
        ("k0", "revoked", '{"by":"admin:2"}'),
    ]


def test_a_preview_key_has_content_scopes_only() -> None:
    bench = Bench()
    for scopes, code in ((["*"], "invalid_request"), (["content:read", "billing:read"], "invalid_request"), ([], "")):
        fields = {"key_id": f"k{len(scopes)}", "key_hash": b"", "scopes": scopes}
        assert bench.do(CreateKey, environment="preview", **fields).code == code
    assert bench.do(CreateKey, environment="production", key_id="live", key_hash=b"", scopes=["*"]).code == ""


def test_a_contract_without_an_allowance_is_due_once_a_month_however_often_it_is_reopened() -> None:
    bench = Bench("enterprise")
    bench.do(ChangePlan, START_MS, plan="enterprise", contract_allowance=0, contract_cents=700_00)

    def due() -> list[int]:
        return [fact.cents for fact in bench.facts if fact.kind == "subscription"]

    renews_at_ms = bench.account.renews_at_ms
    settle(bench.booking(renews_at_ms))
    before = due()
    assert before[-1] == 700_00
    bench.do(CloseProject, renews_at_ms + 1, reason="")
    bench.do(ReopenProject, renews_at_ms + 2)
    assert due() == before, "this month is paid"
    bench.do(CloseProject, renews_at_ms + 3, reason="")
    settle(bench.booking(bench.account.renews_at_ms))
    assert due() == before, "closed, it is not renewed"
    bench.do(ReopenProject, bench.account.last_at_ms + DAY_MS)
    assert due() == [*before, 700_00]


def test_a_rotated_key_ends_after_its_grace_and_another_takes_its_place() -> None:
    bench = Bench()
    bench.do(CreateKey, key_id="old", key_hash=b"1", environment="preview", scopes=["content:read"], name="shop")
    fields = {"key_id": "old", "new_key_id": "new", "key_hash": b"2"}
    assert bench.do(RotateKey, **fields, grace_ms=DAY_MS).code == ""
    old, new = bench.account.keys
    assert (new.id, new.hash, new.environment, new.scopes, new.name) == (
        "new",
        b"2",
        "preview",
        ["content:read"],
        "shop",
    )
    assert (old.revoked_at_ms, old.ends_at_ms, new.ends_at_ms) == (0, START_MS + DAY_MS, 0)
    assert [has_ended(old, START_MS + ms) for ms in (0, DAY_MS - 1, DAY_MS)] == [False, False, True]
    assert [(fact.reason, fact.key_id) for fact in bench.facts[-2:]] == [("created", "new"), ("rotated", "old")]
    assert bench.do(RevokeKey, START_MS + 5, key_id="old").code == ""
    assert has_ended(old, START_MS + 5), "a grace does not keep a key from being revoked"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"key_id": "nobody"}, "unknown_key"),
        ({"key_id": "ended"}, "unknown_key"),
        ({"key_id": "revoked"}, "unknown_key"),
        ({"new_key_id": "old"}, "key_exists"),
        ({"grace_ms": -1}, "invalid_request"),
        ({"grace_ms": 30 * DAY_MS + 1}, "invalid_request"),
        ({"grace_ms": 30 * DAY_MS}, ""),
        ({"grace_ms": 0}, ""),
    ],
)
def test_what_can_not_be_rotated_is_refused_and_stays_as_it_is(changes: dict[str, Any], code: str) -> None:
    bench = Bench()
    for key_id in ("old", "ended", "revoked"):
        bench.do(CreateKey, key_id=key_id, key_hash=b"1", environment="production", scopes=["*"])
    bench.do(RotateKey, key_id="ended", new_key_id="heir", key_hash=b"2", grace_ms=0)
    bench.do(RevokeKey, key_id="revoked")
    before = len(bench.account.keys)
    fields = {"key_id": "old", "new_key_id": "new", "key_hash": b"2", "grace_ms": 0}
    assert bench.do(RotateKey, **fields | changes).code == code
    assert len(bench.account.keys) == before + (code == "")
