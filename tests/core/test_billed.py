"""Money that a project was billed this month moves to another invoice whole and once, and is nowhere lost."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from schemas.commands import ChangePlan, RefundTopUp, SetAutoRecharge, SetBillingAccount, SettleRecharge, TopUp
from schemas.times import DAY_MS
from streams.core.billed import INVOICES_MAX, billed_elsewhere, billed_in_month, month_of
from tests.core.builders import CREDIT, START_MS
from tests.core.test_ledger import Bench


def on_invoices(bench: Bench) -> dict[tuple[int, str], int]:
    """The cents on each invoice of each month, as invoices sum them."""
    sums: Counter[tuple[int, str]] = Counter()
    for fact in bench.facts:
        sums[month_of(fact.booked_at_ms), fact.billing_account] += fact.cents
    return {key: cents for key, cents in sums.items() if cents}


def transfers(bench: Bench) -> list[tuple[str, int, str, str]]:
    return [(f.reason, f.cents, f.billing_account, f.metadata) for f in bench.facts if f.kind == "transfer"]


def test_what_was_billed_stays_behind_and_follows_from_the_months_start() -> None:
    bench = Bench("hobby")
    bench.top_up(20)
    bench.do(SetBillingAccount, billing_account="acme")
    assert transfers(bench) == []
    (stays,) = billed_elsewhere(bench.account, START_MS, "acme")
    assert (stays.billing_account, stays.cents) == ("", 45_00)
    bench.do(SetBillingAccount, billing_account="acme", is_from_month_start=True)
    assert transfers(bench) == [
        ("moved_out", -45_00, "", '{"to":"acme"}'),
        ("moved_in", 45_00, "acme", ""),
    ]
    assert billed_elsewhere(bench.account, START_MS, "acme") == []
    bench.do(SetBillingAccount, billing_account="acme", is_from_month_start=True)
    assert len(transfers(bench)) == 2, "a second time there is nothing left to move"
    assert on_invoices(bench) == {(month_of(START_MS), "acme"): 45_00}


def test_an_earlier_month_stays_where_it_was_billed() -> None:
    bench = Bench("hobby")
    later = START_MS + 62 * DAY_MS
    bench.do(SetBillingAccount, later, billing_account="acme", is_from_month_start=True)
    moved = {fact.cents for fact in bench.facts if fact.kind == "transfer"}
    in_month = sum(
        f.cents for f in bench.facts if f.kind == "subscription" and month_of(f.booked_at_ms) == month_of(later)
    )
    assert moved == {in_month, -in_month}
    assert on_invoices(bench)[month_of(START_MS), ""] == 25_00


def test_what_a_card_has_paid_moves_with_it() -> None:
    bench = Bench("hobby")
    terms = {"is_on": True, "threshold": 4_000 * CREDIT, "bundle_usd": 20, "cap_cents": 100_00, "payment_method": "pm"}
    bench.do(SetAutoRecharge, **terms)
    bench.charge("chat.message", 1_500)
    assert bench.account.auto_recharge is not None
    recharge_id = bench.account.auto_recharge.pending_id
    bench.do(SettleRecharge, recharge_id=recharge_id, is_paid=True, reference="r", detail="")
    assert [(each.cents, each.paid_cents) for each in billed_in_month(bench.account, START_MS)] == [(45_00, 20_00)]
    bench.do(SetBillingAccount, billing_account="acme", is_from_month_start=True)
    assert transfers(bench) == [
        ("moved_out", -45_00, "", '{"to":"acme","paid_cents":-2000}'),
        ("moved_in", 45_00, "acme", '{"paid_cents":2000}'),
    ]


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["move", "move from start", "move from start", "top up", "refund", "upgrade", "wait"]),
        st.sampled_from(["", "a", "b"]),
    ),
    max_size=25,
)


@given(ACTS)
def test_nothing_is_billed_twice_or_vanishes_however_a_project_moves(acts: list[tuple[str, str]]) -> None:
    bench = Bench("hobby")
    at_ms = START_MS
    for act, account in acts:
        match act:
            case "move" | "move from start":
                is_from_start = act != "move"
                bench.do(SetBillingAccount, at_ms, billing_account=account, is_from_month_start=is_from_start)
                if is_from_start:
                    in_month = [key for key in on_invoices(bench) if key[0] == month_of(at_ms)]
                    assert in_month in ([], [(month_of(at_ms), account)]), "all of the month is on one invoice"
            case "top up":
                bench.do(TopUp, at_ms, environment="production", bundle_usd=20, reference="")
            case "refund":
                for grant in [each for each in bench.account.grants if each.kind == "top_up"][:1]:
                    bench.do(RefundTopUp, at_ms, grant_id=grant.id, reason="")
            case "upgrade":
                bench.do(ChangePlan, at_ms, plan="build", contract_allowance=0)
            case _:
                at_ms += 17 * DAY_MS
        assert sum(fact.cents for fact in bench.facts if fact.kind == "transfer") == 0
        known = {each.billing_account: each.cents for each in billed_in_month(bench.account, bench.account.last_at_ms)}
        month = month_of(bench.account.last_at_ms)
        assert known == {account: cents for (each, account), cents in on_invoices(bench).items() if each == month}
    total = sum(fact.cents for fact in bench.facts if fact.kind != "transfer")
    assert sum(on_invoices(bench).values()) == total


def test_what_is_kept_of_a_month_has_a_bound() -> None:
    bench = Bench("hobby")
    for number in range(INVOICES_MAX + 5):
        bench.do(SetBillingAccount, billing_account=f"a{number}")
        bench.top_up(20)
    assert len(bench.account.billed) == INVOICES_MAX
    bench.do(SetBillingAccount, billing_account="last", is_from_month_start=True)
    # The first of them keep what is theirs.
    assert on_invoices(bench)[month_of(START_MS), ""] == 25_00
    assert on_invoices(bench)[month_of(START_MS), "last"] == 20_00 * INVOICES_MAX
    assert sum(on_invoices(bench).values()) == 25_00 + 20_00 * (INVOICES_MAX + 5)
