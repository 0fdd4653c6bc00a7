"""A dry run tells what a command would do, by the command's own rule, and leaves the account as it is."""

from typing import Any

import msgspec
import pytest

from schemas.commands import ChangePlan, CloseProject, Correct, CreateKey, GivenBack, RefundTopUp, RevokeKey, SetItem
from streams.core.dry_run import dry_run
from tests.core.builders import CREDIT, START_MS, addressed, usage
from tests.core.test_items import opened
from tests.core.test_ledger import Bench

LATER_MS = START_MS + 60_000


def bench_of_all() -> Bench:
    """A project with all that the commands below may change: a bundle, a key, a recurring item, a charged event."""
    bench = opened("hobby", START_MS)
    bench.top_up()
    bench.do(CreateKey, key_id="k1", key_hash=b"h", environment="production", scopes=["*"])
    bench.do(SetItem, operation="domain", quantity=2)
    bench.charge("image")
    bench.account.last_offset = bench.offset  # as the fold notes
    return bench


def given_back(bench: Bench) -> list[GivenBack]:
    return [GivenBack(bench.grant("allowance"), "image", 1, 32 * CREDIT, "2026-01")]


def commands(bench: Bench) -> dict[str, Any]:
    event = {"source": "/test", "event_id": "e9", "sequence": 0, "metadata": ""}
    late = usage("e9", operation="image")
    made = {
        "refund": (RefundTopUp, {"grant_id": bench.grant("top_up").id, "reason": "asked"}),
        "close": (CloseProject, {"reason": "asked"}),
        "plan": (ChangePlan, {"plan": "build", "contract_allowance": 0}),
        "revoke": (RevokeKey, {"key_id": "k1"}),
        "void": (Correct, {**event, "given_back": given_back(bench), "usage": None}),
        "amend": (Correct, {**event, "given_back": given_back(bench), "usage": late}),
        "bill-late": (Correct, {**event, "given_back": [], "usage": late}),
    }
    return {name: kind(project="p1", **fields, **addressed()) for name, (kind, fields) in made.items()}


@pytest.mark.parametrize("name", sorted(commands(bench_of_all())))
def test_a_dry_run_states_what_the_command_then_states_and_changes_nothing(name: str) -> None:
    bench = bench_of_all()
    command = commands(bench)[name]
    untouched = msgspec.msgpack.encode(bench.account)
    outcome = dry_run(bench.account, command, 0, LATER_MS, bench.prices)
    assert msgspec.msgpack.encode(bench.account) == untouched
    stated = len(bench.facts)
    fields = {each: getattr(command, each) for each in command.__struct_fields__ if each not in addressed()}
    fields.pop("project"), fields.pop("actor")
    reply = bench.do(type(command), LATER_MS, **fields)
    assert reply.code == "" and outcome.reply == reply
    assert outcome.facts == bench.facts[stated:] != []
    assert msgspec.structs.replace(outcome.after, last_at_ms=LATER_MS) == bench.account


def test_what_the_command_would_refuse_the_dry_run_refuses() -> None:
    bench = bench_of_all()
    command = RefundTopUp(project="p1", grant_id="nothing", reason="", **addressed())
    refused = dry_run(bench.account, command, 0, LATER_MS, bench.prices)
    assert (refused.reply.code, refused.reply.field, refused.facts) == ("unknown_grant", "grant_id", [])


def test_a_renewal_that_is_due_anyway_is_no_part_of_a_dry_run() -> None:
    bench = bench_of_all()
    command = commands(bench)["close"]
    outcome = dry_run(bench.account, command, 0, START_MS + 40 * 86_400_000, bench.prices)
    assert {fact.kind for fact in outcome.facts} == {"project"}
