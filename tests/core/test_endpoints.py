"""Endpoints: made, changed, rotated, paused and told again, and never named by what is secret of them; retries are
charged once each."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.accounts import Endpoint
from schemas.commands import (
    BillDelivery,
    CloseProject,
    DeleteEndpoint,
    DisableEndpoint,
    Envelope,
    PutEndpoint,
    ReplayNotices,
    RotateEndpoint,
    TestEndpoint,
)
from schemas.notices import NOTICE_TYPES
from schemas.problems import Rejection
from streams.core.booking import available
from streams.core.deliveries import DELIVERY_SOURCE
from streams.core.endpoints import HEARD_OF, PLATFORM_ID, check_target, hears_of, shown_target
from tests.core.builders import CREDIT, START_MS, addressed, usage
from tests.core.test_ledger import Bench
from tests.core.test_past import Log

HOOK = {"endpoint_id": "whe_1", "kind": "webhook", "target": "https://acme.example/hook?token=hidden"}


def endpoint(**changes: Any) -> Endpoint:
    fields = {"id": "whe_1", "kind": "webhook", "target": "https://acme.example", "event_types": ["*"]}
    return Endpoint(**fields | {"environments": [], "is_ordered": False, "created_at_ms": 0} | changes)


def stated(bench: Bench) -> list[str]:
    return [fact.reason for fact in bench.facts if fact.kind == "endpoint"]


def test_an_endpoint_lives_and_each_step_is_stated_without_its_target() -> None:
    bench = Bench()
    assert bench.do(PutEndpoint, **HOOK).status == 201
    change = {"endpoint_id": "whe_1", "is_change": True}
    assert bench.do(PutEndpoint, **change, event_types=["hold.*", "hold.*"], state="paused").status == 200
    again = bench.do(PutEndpoint, **change, event_types=["hold.*"], state="paused", is_ordered=False)
    assert (again.status, again.entry_id, again.already_decided) == (200, "", True)
    for kind, fields in ((TestEndpoint, {}), (ReplayNotices, {"since_ms": START_MS})):
        assert bench.do(kind, endpoint_id="whe_1", **fields).code == "endpoint_inactive"
    bench.do(RotateEndpoint, START_MS + 5, endpoint_id="whe_1")
    (now,) = bench.account.endpoints
    assert (now.event_types, now.state, now.secret_version, now.rotated_at_ms) == (
        ["hold.*"],
        "paused",
        2,
        START_MS + 5,
    )
    bench.do(PutEndpoint, START_MS + 5, **change, state="active", target="https://acme.example/other")
    bench.do(TestEndpoint, START_MS + 5, endpoint_id="whe_1")
    bench.do(ReplayNotices, START_MS + 5, endpoint_id="whe_1", since_ms=START_MS, only_failed=True)
    for already in (False, True):
        reply = bench.do(DisableEndpoint, START_MS + 5, endpoint_id="whe_1", reason="410 Gone")
        assert reply.already_decided is already
    bench.do(DeleteEndpoint, START_MS + 5, endpoint_id="whe_1")
    assert bench.do(DeleteEndpoint, START_MS + 5, endpoint_id="whe_1").code == "unknown_endpoint"
    assert stated(bench) == [
        *("created", "changed", "paused", "rotated", "changed", "resumed", "tested", "replayed", "disabled", "deleted")
    ]
    notes = [msgspec.json.decode(fact.metadata) for fact in bench.facts if fact.kind == "endpoint"]
    assert all(each["endpoint_id"] == "whe_1" and "acme.example" not in str(each) for each in notes)
    assert notes[-3:-1] == [
        {"endpoint_id": "whe_1", "since_ms": START_MS, "only_failed": True},
        {"endpoint_id": "whe_1", "kind": "webhook", "reason": "410 Gone"},
    ]


def test_the_platforms_first_endpoint_opens_its_account_and_a_strangers_opens_none() -> None:
    log = Log()
    hook = {"endpoint_id": "whe_1", "kind": "webhook", "target": "https://acme.example"}

    def ask(kind: type[Any], project: str, name: str, /, **fields: Any) -> str:
        return log.apply(kind(project=project, **fields, **addressed(name)))

    assert ask(TestEndpoint, PLATFORM_ID, "1", endpoint_id="whe_1") == "unknown_endpoint"
    assert ask(PutEndpoint, PLATFORM_ID, "2", endpoint_id="whe_1", is_change=True) == "unknown_endpoint"
    assert PLATFORM_ID not in log.accounts
    assert ask(PutEndpoint, "nobody", "3", **hook) == "unknown_project"
    assert ask(PutEndpoint, PLATFORM_ID, "4", **hook) == ""
    assert ask(TestEndpoint, PLATFORM_ID, "5", endpoint_id="whe_1") == ""
    assert [each.id for each in log.accounts[PLATFORM_ID].endpoints] == ["whe_1"] and not log.account.endpoints


def test_an_endpoint_hears_of_what_it_names_by_name_by_family_or_by_the_star() -> None:
    families = {name for name in HEARD_OF if name.endswith(".*")}
    assert {"*", "project.*", "hold.*"} < set(HEARD_OF) and set(NOTICE_TYPES) - set(HEARD_OF) == {"webhook.test"}
    for name in NOTICE_TYPES:
        assert hears_of(endpoint(), name, "preview")
        assert hears_of(endpoint(event_types=[name]), name, "")
        assert not hears_of(endpoint(event_types=sorted(families - {f"{name.split('.')[0]}.*"})), name, "")
    one = endpoint(event_types=["project.*"], environments=["production"])
    assert [hears_of(one, "project.credits_low", each) for each in ("production", "preview", "")] == [True, False, True]


GOOD = (
    "https://a.example",
    "https://a.example:8443/x?y=1",
    "https://[2001:db8::1]/x",
    "https://xn--bcher-kva.example/",
)
BAD = (
    *("", "a.example", "http://a.example", "ftp://a.example", "https://", "https:///x", "https://user@a.example/"),
    *("https://u:p@a.example", "https://a.example:99999", "https://a.example:x", "https://[::1", "https://a b.example"),
    *("https://a.example/\n", "https://a.example\\@b.example", "https://bücher.example", "https://a.example/#x"),
    *("https://%31.example", "https://-a.example", "https://a.example/" + "x" * 512, "HTTPS//a.example"),
)


def test_a_target_is_an_https_url_with_a_host_or_an_address() -> None:
    for url in GOOD:
        for kind in ("webhook", "slack"):
            check_target(kind, url)
    check_target("webhook", "http://127.0.0.1:8080/x", is_http_allowed=True)
    for kind, bad in (
        ("webhook", BAD),
        ("slack", BAD),
        ("email", (*GOOD, "", "a", "a@b", "a b@c.example", "a@b@c.de")),
    ):
        for target in bad:
            with pytest.raises(Rejection) as refused:
                check_target(kind, target)
            assert refused.value.field == "target"
    check_target("email", "ops+low@acme.co.example")
    slack = endpoint(kind="slack", target="https://hooks.slack.example/services/T0/B0/secret")
    assert shown_target(slack) == "https://hooks.slack.example/…" and shown_target(endpoint()) == "https://acme.example"


@given(st.text(max_size=40), st.sampled_from(("webhook", "email")))
def test_any_text_is_a_target_or_is_refused(text: str, kind: str) -> None:
    for target in (text, f"https://{text}", f"https://a.example/{text}", f"{text}@a.example"):
        try:
            check_target(kind, target)
        except Rejection:
            continue
        assert target.isascii() and " " not in target and len(target) <= 512


def attempt(number: int, environment: str = "", project: str = "p1") -> BillDelivery:
    fields = {"attempt_id": f"whe_1.ntc-0-1-0.{number}", "environment": environment, "endpoint_id": "whe_1"}
    return BillDelivery(project=project, **fields, **addressed(f"b{number}{environment}"))


def test_a_retry_is_charged_once_by_its_attempt_and_at_zero_it_is_an_entry_of_zero() -> None:
    log = Log()
    before = available(log.account, "production")
    sent = [attempt(2), attempt(3), attempt(2)]
    for number, each in enumerate([*sent, msgspec.structs.replace(attempt(3), correlation="later")]):
        assert log.apply(each) == "", number
    charges = [fact for fact in log.facts if fact.kind == "charge"]
    assert [(fact.event_id[-1], fact.amount, fact.quantity) for fact in charges] == [
        ("2", -20_000, 1),
        ("3", -20_000, 1),
    ]
    assert {(fact.operation, fact.source) for fact in charges} == {("webhook.delivery", DELIVERY_SOURCE)}
    assert available(log.account, "production") == before - 40_000
    # Its id is claimed like that of any event, whoever reports it.
    spoof = usage(charges[0].event_id, source=DELIVERY_SOURCE, operation="webhook.delivery")
    spoof = msgspec.structs.replace(spoof, dedup_hash=attempt_hash(2))
    log.apply(Envelope([spoof]))
    assert log.facts[-1].kind == "duplicate" and log.facts[-1].reason == ""
    assert log.apply(attempt(2, "preview")) == "" and log.facts[-1].kind == "duplicate"
    log.apply(attempt(4, "preview"))
    left = available(log.account, "production")
    # Closed or not, window full or not, and whatever is left.
    log.do(CloseProject, reason="")
    log.apply(attempt(5))
    assert available(log.account, "production") == left - 20_000
    told = [(fact.environment, fact.amount, fact.balance) for fact in log.facts[-3:] if fact.kind == "charge"]
    assert told == [("preview", 0, 0), ("production", -20_000, left - 20_000)]
    assert "request" not in {fact.kind for fact in log.facts} and log.account.window is None


def attempt_hash(number: int) -> bytes:
    from streams.core.deliveries import delivery_hash

    return delivery_hash(attempt(number))


def test_what_is_held_and_a_balance_of_less_than_a_retry_pay_for_none() -> None:
    bench = Bench()
    for grant in bench.account.grants:
        grant.remaining, grant.held = CREDIT, CREDIT - 19_999
    reply = bench.do(BillDelivery, attempt_id="a", environment="", endpoint_id="whe_1")
    assert (reply.amount, reply.available) == (0, 19_999)
    assert [(fact.amount, fact.balance, fact.grant_id) for fact in bench.facts[-1:]] == [(0, CREDIT, "")]
    bench.account.grants[0].held -= 1
    reply = bench.do(BillDelivery, attempt_id="b", environment="production", endpoint_id="whe_1")
    assert (reply.amount, reply.available) == (20_000, 0)
