"""Crossings: a threshold is told of once when the available credits fall to it, and armed again above it."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from schemas.accounts import Account
from schemas.commands import CloseProject, Envelope, GrantPromotional, ReleaseHold, SetNoticeRules
from schemas.facts import entry_id
from schemas.replies import Reply
from schemas.times import DAY_MS
from streams.core import decisions
from streams.core.booking import available
from streams.core.crossings import THRESHOLD_MAX, rule_id
from streams.core.dry_run import dry_run
from streams.core.fold import IntakeItem, fold
from streams.core.replies import Kept
from streams.kafka.codecs import encode_account
from tests.core.builders import CREDIT, START_MS, addressed, admit, create_project, top_up, usage
from tests.core.test_ledger import Bench

LOW, EXHAUSTED, RECOVERED = "credits_low", "credits_exhausted", "credits_recovered"


def told(bench: Bench, environment: str = "production") -> list[tuple[str, str]]:
    """The notices of an environment: (reason, rule)."""
    facts = [fact for fact in bench.facts if fact.kind == "notice" and fact.environment == environment]
    return [(fact.reason, json.loads(fact.metadata).get("rule", "")) for fact in facts if fact.reason != "rules"]


def test_low_is_told_once_at_a_fifth_of_the_allowance_and_none_left_is_told_apart() -> None:
    bench = Bench()
    bench.charge("chat.message", 199)
    assert told(bench) == []
    bench.charge("chat.message", 1)
    assert json.loads(bench.facts[-1].metadata) == {
        "rule": "low",
        "threshold_microcredits": 50 * CREDIT,
        "available_microcredits": 50 * CREDIT,
    }
    bench.charge("chat.message", 49)
    assert told(bench) == [(LOW, "low")]
    bench.charge("chat.message", 1)
    assert bench.charge("chat.message", 1).code == "out_of_credits"
    assert told(bench) == [(LOW, "low"), (EXHAUSTED, "exhausted")]


def test_one_charge_may_cross_all_and_a_purchase_tells_that_it_is_over() -> None:
    bench = Bench()
    bench.charge("chat.message", 250)
    bench.top_up()
    bench.charge("chat.message", 3_950)
    assert told(bench) == [(LOW, "low"), (EXHAUSTED, "exhausted"), (RECOVERED, ""), (LOW, "low")]


def test_a_hold_crosses_like_a_charge_and_its_release_or_expiry_is_a_recovery_of_its_own_time() -> None:
    bench = Bench()
    placed = bench.hold("website")
    assert told(bench) == [(LOW, "low")]
    bench.do(ReleaseHold, hold_id=placed.entry_id, environment="", reason="")
    bench.hold("website", seconds=600)
    bench.booking(START_MS + DAY_MS)
    assert told(bench) == [(LOW, "low"), (RECOVERED, "")] * 2
    assert bench.facts[-1].occurred_at_ms == START_MS + 600_000


def test_a_renewal_is_one_step_so_an_allowance_that_ends_and_comes_again_was_never_gone() -> None:
    bench = Bench()
    bench.booking(START_MS + 400 * DAY_MS)
    assert told(bench) == []
    bench.do(CloseProject, START_MS + 400 * DAY_MS, reason="")
    bench.booking(START_MS + 500 * DAY_MS)
    assert told(bench) == [(LOW, "low"), (EXHAUSTED, "exhausted")]


def test_environments_are_apart_and_first_credits_are_no_recovery() -> None:
    bench = Bench()
    bench.do(SetNoticeRules, environment="preview", rules=[(False, 3_990 * CREDIT)])
    bench.top_up(environment="preview")
    assert told(bench, "preview") == []
    bench.charge("chat.message", 10, environment="preview")
    assert told(bench, "preview") == [(LOW, "credits-3990")]
    assert told(bench) == []


def test_rules_of_ones_own_cross_beside_the_default_ones_and_one_that_is_crossed_already_waits() -> None:
    bench = Bench()
    bench.charge("chat.message", 100)
    bench.do(SetNoticeRules, environment="production", rules=[(True, 90), (True, 40), (False, 20_500_000)])
    assert told(bench) == []
    bench.charge("chat.message", 50)
    bench.charge("chat.message", 80)
    assert told(bench) == [(LOW, "percent-40"), (LOW, "low"), (LOW, "credits-20.5")]
    bench.do(SetNoticeRules, environment="production", rules=[])
    bench.top_up()
    assert told(bench)[3:] == [(RECOVERED, "")]


@pytest.mark.parametrize(
    "rules",
    [[(True, 20)], [(True, 5), (True, 5)], [(True, 101)], [(True, 0)], [(False, 10**15 + 1)]]
    + [[(False, number + 1) for number in range(11)]],
)
def test_bad_rules_are_refused_and_change_nothing(rules: list[tuple[bool, int]]) -> None:
    bench = Bench()
    assert bench.do(SetNoticeRules, environment="production", rules=[(True, 1)]).code == ""
    before = encode_account(bench.account)
    assert bench.do(SetNoticeRules, environment="production", rules=rules).code == "invalid_request"
    assert encode_account(bench.account) == before


def test_rules_are_answered_with_what_is_available_and_stated_with_their_names() -> None:
    bench = Bench()
    bench.top_up(environment="preview")
    ten = [(False, number + 1) for number in range(9)] + [(False, THRESHOLD_MAX)]
    reply = bench.do(SetNoticeRules, environment="preview", rules=ten)
    stated = bench.facts[-1]
    assert reply == Reply(200, "", "", 0, available(bench.account, "preview"), entry_id(0, stated.offset, stated.index))
    assert (stated.kind, stated.environment, stated.reason) == ("notice", "preview", "rules")
    assert json.loads(stated.metadata) == {"rules": [rule_id(*rule) for rule in ten]}
    # Those of another environment stay; 100 percent is the most, and 1 the least.
    assert bench.do(SetNoticeRules, environment="production", rules=[(True, 100), (True, 1)]).code == ""
    assert [rule.environment for rule in bench.account.notice_rules] == ["preview"] * 10 + ["production"] * 2


def test_a_rule_that_is_reached_when_it_is_set_is_no_crossing_nor_is_its_end_a_recovery() -> None:
    bench = Bench()
    left = available(bench.account, "production")
    bench.do(SetNoticeRules, environment="production", rules=[(False, left)])
    bench.charge("chat.message", 1)
    bench.top_up()
    assert told(bench) == []
    bench.do(SetNoticeRules, environment="production", rules=[(False, available(bench.account, "production") - CREDIT)])
    bench.charge("chat.message", 1)
    bench.do(SetNoticeRules, environment="production", rules=[])
    bench.top_up()
    assert [reason for reason, _ in told(bench)] == [LOW], "a rule that is no more is not recovered from"


def test_it_is_over_once_however_often_credits_come() -> None:
    bench = Bench()
    bench.charge("chat.message", 250)
    for _ in range(3):
        bench.top_up()
    assert told(bench) == [(LOW, "low"), (EXHAUSTED, "exhausted"), (RECOVERED, "")]


def test_thresholds_are_whole_microcredits_and_preview_has_none_of_the_plan() -> None:
    bench = Bench()
    bench.do(SetNoticeRules, environment="production", rules=[(True, 33)])
    bench.charge("chat.message", 170)
    assert '"threshold_microcredits":82500000,' in bench.facts[-1].metadata
    assert bench.facts[-1].metadata.endswith('"available_microcredits":80000000}')
    bench.charge("chat.message", 80)
    exhausted = json.loads(bench.facts[-1].metadata)
    assert exhausted == {"rule": "exhausted", "threshold_microcredits": 0, "available_microcredits": 0}
    bench.top_up(environment="preview")
    bench.charge("chat.message", available(bench.account, "preview") // CREDIT, environment="preview")
    assert told(bench, "preview") == [(EXHAUSTED, "exhausted")]


def test_what_crosses_by_itself_is_told_as_of_its_own_time() -> None:
    bench = Bench()
    bench.do(CloseProject, reason="")
    bench.booking(START_MS + 500 * DAY_MS)
    (ends_at_ms,) = {fact.occurred_at_ms for fact in bench.facts if fact.kind == "notice"}
    assert START_MS < ends_at_ms < START_MS + 40 * DAY_MS


def test_events_beside_a_hold_cross_by_what_it_leaves_and_at_nothing_left_no_event_crosses_again() -> None:
    accounts: dict[str, Account] = {}
    # 250 credits, of which a hold keeps some; those of preview are another's.
    held = admit(usage("h", operation="image"), hold_seconds=3_600)
    before = [create_project(), held, top_up(environment="preview")]
    fold(0, [IntakeItem(at, START_MS, each) for at, each in enumerate(before)], accounts, {}, Kept(), "intake")
    left = available(accounts["p1"], "production")
    assert left < 250 * CREDIT
    kinds: list[list[str]] = []
    for number, credits in enumerate([left // CREDIT - 50, left // CREDIT - (left // CREDIT - 50), 1, 1]):
        event = usage(f"e{number}", operation="chat.message", quantity=credits)
        facts = fold(0, [IntakeItem(3 + number, START_MS, Envelope([event]))], accounts, {}, Kept(), "intake").facts
        kinds.append([fact.kind for fact in facts])
    assert kinds == [["charge", "notice"], ["charge", "notice"], ["refusal"], ["refusal"]]


def test_a_command_that_tells_nothing_leaves_its_crossing_to_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    monkeypatch.setattr(decisions, "TELL_NOTHING", frozenset({decisions.Admit}))
    bench.charge("chat.message", 250)
    assert told(bench) == []
    monkeypatch.undo()
    assert bench.charge("chat.message").code == "out_of_credits"
    assert told(bench) == [(LOW, "low"), (EXHAUSTED, "exhausted")]


def test_events_of_one_record_cross_one_by_one_and_a_repeat_tells_the_same() -> None:
    accounts: dict[str, Account] = {}
    opened = IntakeItem(0, START_MS, create_project())
    events = [usage(f"e{number}", operation="chat.message", quantity=70) for number in range(4)]
    last = IntakeItem(1, START_MS, Envelope(events))
    facts = fold(0, [opened, last], accounts, {}, Kept(), "intake").facts
    assert [fact.kind for fact in facts if fact.offset] == ["charge"] * 3 + ["notice", "refusal"]
    assert all((one.offset, one.index) < (other.offset, other.index) for one, other in pairwise(facts))
    notice = next(fact for fact in facts if fact.kind == "notice")
    assert (notice.index, notice.balance) == (2 * 4096 + 1, 40 * CREDIT)


def test_an_account_of_an_older_version_is_watched_from_its_first_event_on() -> None:
    accounts: dict[str, Account] = {}
    fold(0, [IntakeItem(0, START_MS, create_project())], accounts, {}, Kept(), "intake")
    accounts["p1"].watches = []
    events = [usage(f"e{number}", operation="chat.message", quantity=100) for number in range(2)]
    used = [IntakeItem(1 + number, START_MS, Envelope([event])) for number, event in enumerate(events)]
    facts = fold(0, used, accounts, {}, Kept(), "intake").facts
    assert [fact.kind for fact in facts] == ["charge", "charge", "notice"]


def test_a_dry_run_says_what_would_be_told() -> None:
    bench = Bench()
    bench.charge("chat.message", 250)
    command = GrantPromotional(
        project="p1",
        environment="production",
        amount=CREDIT,
        expires_at_ms=START_MS + DAY_MS,
        reason="x",
        **addressed(),
    )
    outcome = dry_run(bench.account, command, 0, START_MS, bench.prices)
    assert [fact.kind for fact in outcome.facts] == ["grant"]
    assert available(bench.account, "production") == 0
