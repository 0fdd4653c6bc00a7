"""Receipts and the audit log have words for every fact that the table of facts lets be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from schemas.facts import FACT_KINDS, Fact, Kind
from schemas.problems import CODES
from streams.core.plans import PLANS
from streams.core.price_list import Prices
from streams.history.audit import _LIMIT_ACTIONS, _PROJECT_ACTIONS, entry_of
from streams.history.fact_words import _BY_KIND, _OTHERWISE, outcome_of
from streams.history.receipt_words import summary_of
from tests.core.stated import GRANT_KINDS
from tests.core.test_facts import fact

IN_SETS = {
    "problem code": sorted(CODES),
    "plan": list(PLANS),
    "grant kind": sorted(GRANT_KINDS),
    "price version": ["2026-09"],
}
# As limits and raises are noted beside their fact.
LIMITS = '{"requests_per_minute":60,"raise_id":"0-1-0","starts_at_ms":1,"ends_at_ms":2}'


def stated(kind: Kind) -> Iterator[Fact]:
    """A fact of the kind by itself, for each reason that it may bear, of an event and of none."""
    known = FACT_KINDS[kind]
    others = IN_SETS[known.reasons_from] if known.reasons_from is not None else []
    for reason in (*known.reasons, *others):
        for source in ("/test", ""):
            if source or (kind, reason) != ("charge", ""):
                metadata = LIMITS if kind == "limits" else ""
                yield fact(kind, reason, source=source, operation="image", metadata=metadata)


@pytest.mark.parametrize("kind", FACT_KINDS)
def test_every_fact_has_an_outcome_a_summary_and_an_entry_in_the_audit_log(kind: Kind) -> None:
    for one in stated(kind):
        outcome = outcome_of([one])
        assert kind in _OTHERWISE or kind in dict(_BY_KIND) or outcome != kind.replace("_", " "), one
        assert summary_of(Prices(), [one], None, None, None), one
        action, _, what = entry_of(0, one).action.partition(".")
        assert action, one
        assert what or not one.reason, one


def test_a_kind_that_a_newer_version_has_stated_is_told_by_its_name() -> None:
    facts = [fact("birthday_gift", "cake")]
    assert outcome_of(facts) == "birthday gift"
    assert summary_of(Prices(), facts, None, None, None) == "Birthday gift cake"


def test_the_actions_of_the_audit_log_are_those_of_reasons_that_there_are() -> None:
    assert _LIMIT_ACTIONS.keys() < FACT_KINDS["limits"].reasons.keys()
    assert _PROJECT_ACTIONS.keys() == FACT_KINDS["project"].reasons.keys()
