"""The facts about endpoints, as the core states them, ask the courier for what they say; and who hears of a notice."""

from typing import Any

import pytest

from schemas.accounts import Endpoint
from schemas.commands import ChangePlan, DisableEndpoint, PutEndpoint, ReplayNotices, TestEndpoint
from schemas.courier import WantedReplay
from schemas.notices import Notice
from streams.core.endpoints import PLATFORM_ID
from streams.courier.matching import (
    WAKING,
    endpoint_named,
    hearing,
    is_platforms,
    may_tell,
    partition_of_notice,
    replay_of,
    tried_by,
)
from streams.kafka.codecs import encode_facts
from tests.core.builders import START_MS
from tests.core.test_ledger import Bench

HOOK: dict[str, Any] = {"endpoint_id": "ep_1", "kind": "webhook", "target": "https://acme.example/hook"}


def test_facts_about_endpoints_ask_for_tests_replays_and_a_look() -> None:
    bench = Bench()
    bench.do(PutEndpoint, **HOOK)
    bench.do(TestEndpoint, endpoint_id="ep_1")
    bench.do(ReplayNotices, endpoint_id="ep_1", since_ms=START_MS, only_failed=True)
    bench.do(ReplayNotices, endpoint_id="ep_1", notice_id="ntc-1-2-3")
    bench.do(PutEndpoint, endpoint_id="ep_1", is_change=True, state="paused")
    bench.do(DisableEndpoint, endpoint_id="ep_1", reason="410")
    facts = [fact for fact in bench.facts if fact.kind == "endpoint"]
    assert [endpoint_named(each) for each in facts] == ["ep_1"] * 6
    tried = [each for each in (tried_by(3, fact) for fact in facts) if each is not None]
    assert [(name, notice.type) for name, notice in tried] == [("ep_1", "webhook.test")] * 2
    assert [notice.id for _, notice in tried] == [f"ntc-3-{fact.offset}-{fact.index}" for fact in facts[:2]]
    replays = [each for each in (replay_of(fact, 70) for fact in facts) if each is not None]
    project = bench.account.project
    assert replays == [
        WantedReplay(project, "ep_1", START_MS, True, "", 70),
        WantedReplay(project, "ep_1", 0, False, "ntc-1-2-3", 70),
    ]
    assert [each.reason for each in facts if each.reason in WAKING] == ["paused", "disabled"]
    assert all(may_tell(encode_facts([each])) for each in facts)
    bench.do(ChangePlan, plan="build", contract_allowance=0)
    assert may_tell(encode_facts([each for each in bench.facts if each.kind == "plan"]))
    # What is used is most of a journal, and need not be looked at.
    before = len(bench.facts)
    bench.charge("chat.message")
    assert not may_tell(encode_facts(bench.facts[before:]))


@pytest.mark.parametrize(
    ("changes", "hears"),
    [
        ({}, True),
        ({"state": "paused"}, True),
        ({"state": "disabled"}, False),
        ({"created_at_ms": START_MS + 1}, False),
        ({"event_types": ["project.*"]}, True),
        ({"event_types": ["hold.expired"]}, False),
        ({"environments": ["preview"]}, False),
    ],
)
def test_an_endpoint_hears_of_what_it_asks_for_from_when_it_is_there(changes: dict[str, object], hears: bool) -> None:
    bench = Bench()
    terms = {"id": "ep_1", "kind": "webhook", "target": "https://a.example", "event_types": ["*"], "environments": []}
    endpoint = Endpoint(**terms | {"is_ordered": False, "created_at_ms": START_MS} | changes)  # type: ignore[arg-type]
    bench.account.endpoints.append(endpoint)
    notice = Notice("ntc-0-1-0", "project.credits_low", "p1", "production", START_MS, "{}")
    assert list(hearing(bench.account, notice)) == [endpoint] * hears
    assert list(hearing(None, notice)) == []
    assert [partition_of_notice(each) for each in ("ntc-3-70-1", "ntc-3-70", "")] == [3, -1, -1]
    assert is_platforms(PLATFORM_ID) and not is_platforms("p1")
