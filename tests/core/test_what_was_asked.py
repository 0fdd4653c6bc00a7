"""Facts state refused, repeated and held uses in full, so that these can be explained and decided again later."""

import msgspec

from streams.core.decisions import command_reply
from streams.core.ledger import duplicate
from tests.core.builders import CREDIT, START_MS, admit, usage
from tests.core.test_ledger import Bench

POST = {"operation": "social_post.text", "surcharge": "social_post.image", "quantity": 2}


def test_a_refusal_and_a_duplicate_name_the_surcharge() -> None:
    bench = Bench()
    bench.charge("website")
    assert command_reply(bench.booking(), admit(usage("e9", **POST)), False).code == "out_of_credits"
    duplicate(bench.booking(), usage("e9", **POST))
    assert [(fact.kind, fact.operation, fact.surcharge, fact.quantity) for fact in bench.facts[-2:]] == [
        ("refusal", "social_post.text", "social_post.image", 2),
        ("duplicate", "social_post.text", "social_post.image", 2),
    ]


def test_a_hold_states_quantity_and_surcharge_once_however_many_grants_it_takes_from() -> None:
    bench = Bench()
    bench.charge("website")
    bench.top_up(20)
    held = msgspec.structs.replace(admit(usage("e9", **POST)), hold_seconds=60)
    assert command_reply(bench.booking(), held, False).amount == 74 * CREDIT
    holds = [fact for fact in bench.facts if fact.kind == "hold"]
    assert [(fact.quantity, fact.held, fact.surcharge) for fact in holds] == [
        (2, 10 * CREDIT, "social_post.image"),
        (0, 64 * CREDIT, "social_post.image"),
    ]
    assert all(fact.occurred_at_ms == START_MS for fact in holds)
