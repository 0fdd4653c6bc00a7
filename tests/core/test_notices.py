"""Every fact is a notice of one type, or none."""

from __future__ import annotations

import msgspec

from schemas.facts import FACT_KINDS, Fact
from schemas.notices import NOTICE_TYPES
from streams.core.grants import GRANT_KINDS
from streams.core.notices import NOTICE_KINDS, notice_of
from streams.core.plans import PLANS

SETS = {"problem code": ["out_of_credits"], "plan": [*PLANS], "grant kind": [*GRANT_KINDS], "price version": ["v2"]}
# The type of each fact that is a notice; all others are none.
EXPECTED = {
    ("notice", "credits_low"): "project.credits_low",
    ("notice", "credits_exhausted"): "project.credits_exhausted",
    ("notice", "credits_recovered"): "project.credits_recovered",
    ("notice", "time_to_empty"): "project.time_to_empty",
    ("price_book", "v2"): "price.announced",
    ("release", "expired"): "hold.expired",
    ("recharge", "failed"): "payment.failed",
    ("grant", "top_up"): "purchase.succeeded",
    **{("plan", plan): "plan.changed" for plan in PLANS},
    ("endpoint", "disabled"): "endpoint.disabled",
}


def fact(kind: str, reason: str, metadata: str = '{"held_microcredits":7}', occurred_at_ms: int = 5) -> Fact:
    names = dict.fromkeys(Fact.__struct_fields__[:19], "")
    numbers = {"offset": 12, "index": 4097, "quantity": 0, "amount": 9, "balance": 0, "booked_at_ms": 5}
    said = {"kind": kind, "reason": reason, "project": "acme", "environment": "preview", "metadata": metadata}
    return Fact(**{**names, **numbers, "occurred_at_ms": occurred_at_ms, **said})  # type: ignore[arg-type]


def test_every_kind_and_reason_is_the_notice_of_the_table_or_none() -> None:
    found, stated = {}, set()
    for kind, each in FACT_KINDS.items():
        for reason in (*each.reasons, *SETS.get(each.reasons_from or "", ())):
            stated.add((kind, reason))
            if (notice := notice_of(3, fact(kind, reason))) is not None:
                found[kind, reason] = notice.type
                assert notice.id == "ntc-3-12-4097"
                assert notice.project == ("" if kind == "price_book" else "acme")
                assert (notice.environment, notice.at_ms) == ("preview", 5)
    assert found == {pair: told for pair, told in EXPECTED.items() if pair in stated}
    assert set(EXPECTED.values()) == set(NOTICE_TYPES) - {"webhook.test"}
    assert {kind for kind, _ in EXPECTED} == set(NOTICE_KINDS)


def test_a_plan_that_waits_for_the_renewal_is_told_when_it_begins() -> None:
    assert notice_of(0, fact("plan", "hobby", "", occurred_at_ms=6)) is None
    assert notice_of(0, fact("plan", "hobby", "", occurred_at_ms=5)) is not None


def test_a_hold_on_several_grants_is_told_of_once() -> None:
    assert notice_of(0, fact("release", "expired", '{"hold":"0-1-0"}')) is None


def test_the_data_tells_what_the_metadata_and_the_type_tell() -> None:
    notice = notice_of(0, fact("grant", "top_up", '{"reference":"inv-7"}'))
    assert notice is not None
    assert msgspec.json.decode(notice.data) == {
        "reference": "inv-7",
        "amount_microcredits": 9,
        "cents": 0,
    }
