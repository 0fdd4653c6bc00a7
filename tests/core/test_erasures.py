"""Erasures: the fact names nobody, holds forget what their events said, and nothing else changes."""

from __future__ import annotations

from hashlib import sha256

import msgspec

from schemas.commands import CaptureHold, Erase
from streams.core.booking import available
from streams.core.erasures import customer_hash, customer_of
from tests.core.builders import START_MS
from tests.core.test_ledger import Bench


def erase(bench: Bench, customer: str = "", reason: str = ""):
    return bench.do(Erase, START_MS, customer=customer, reason=reason)


def test_the_fact_says_of_whom_by_a_hash_and_moves_nothing() -> None:
    bench = Bench()
    before = available(bench.account, "production")
    for customer, reason in (("", ""), ('Zoë \'n "co"', "she asked")):
        reply = erase(bench, customer, reason)
        assert (reply.status, reply.amount, reply.available) == (200, 0, before)
    whole, one = [fact for fact in bench.facts if fact.kind == "erasure"]
    assert (whole.reason, whole.metadata, one.reason) == ("project", "", "customer")
    name = sha256(f'{one.project}\nZoë \'n "co"'.encode()).hexdigest()
    assert msgspec.json.decode(one.metadata) == {"customer_sha256": name, "reason": "she asked"}
    assert customer_hash(one.project, 'Zoë \'n "co"') == name != customer_hash("other", 'Zoë \'n "co"')


def test_a_customer_is_named_by_its_text_or_else_as_json() -> None:
    for said, name in (('"a"', "a"), ("7", "7"), ('"7"', "7"), ("null", "null"), ("true", "true"), ('""', "")):
        assert customer_of(f'{{"x":1,"customer_id":{said}}}') == name
    assert customer_of('{"x":"customer_id"}') == ""


def test_a_hold_that_is_open_forgets_its_customer_and_is_captured_as_ever() -> None:
    bench = Bench()
    said = {name: f'{{"customer_id":"{name}"}}' for name in ("ann", "bob")}
    for name, metadata in said.items():
        bench.hold("image", job_id=name, metadata=metadata)
    erase(bench, "ann")
    assert [each.metadata for each in bench.account.holds] == ["", said["bob"]]
    for each in list(bench.account.holds):
        assert bench.do(CaptureHold, START_MS, hold_id=each.id, environment="", amount=-1).status == 200
    charges = [fact.metadata for fact in bench.facts if fact.kind == "charge"]
    assert charges == ["", said["bob"]]
    bench.hold("image", job_id="new", metadata=said["bob"])
    erase(bench)
    assert [each.metadata for each in bench.account.holds] == [""]
