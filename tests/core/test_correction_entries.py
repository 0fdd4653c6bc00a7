"""The entries of a correction: what is given back, what is charged instead, and what each entry says."""

from schemas.accounts import Grant
from schemas.commands import Correct, GivenBack
from schemas.events import Usage
from schemas.replies import Reply
from streams.core.booking import available
from streams.core.decisions import command_reply
from tests.core.builders import CREDIT, START_MS, addressed, usage
from tests.core.test_ledger import Bench


def correct(bench: Bench, given_back: list[GivenBack], used: Usage | None, at_ms: int = START_MS) -> Reply:
    command = Correct(
        project="p1",
        source="/test",
        event_id="e1",
        sequence=0,
        given_back=given_back,
        usage=used,
        metadata='{"customer_id":"old"}',
        **addressed(),
    )
    return command_reply(bench.booking(at_ms), command, False)


def charged(bench: Bench, operation: str) -> list[GivenBack]:
    """The charge of an operation, as the history tells it to a correction."""
    grants = {grant.id: grant for grant in bench.account.grants}
    unknown = Grant("", "top_up", "production", 0, 0, 0, 0)
    return [
        GivenBack(grants.get(fact.grant_id, unknown), fact.operation, fact.quantity, -fact.amount)
        for fact in bench.facts
        if fact.kind == "charge" and fact.operation == operation
    ]


def test_what_is_given_back_bears_the_old_metadata_and_what_is_charged_the_new() -> None:
    bench = Bench()
    bench.charge("image")
    reply = correct(bench, charged(bench, "image"), usage(operation="blog_post", metadata='{"customer_id":"new"}'))
    assert (reply.status, reply.amount, reply.available) == (200, -28 * CREDIT, 190 * CREDIT)
    assert [(fact.operation, fact.quantity, fact.amount, fact.reason, fact.metadata) for fact in bench.facts[-2:]] == [
        ("image", -1, 32 * CREDIT, "given_back", '{"customer_id":"old"}'),
        ("blog_post", 1, -60 * CREDIT, "charged", '{"customer_id":"new"}'),
    ]


def test_a_free_use_is_taken_back_and_touches_no_grant() -> None:
    bench = Bench()
    bench.charge("read", 3)
    before = [(grant.id, grant.remaining) for grant in bench.account.grants]
    reply = correct(bench, charged(bench, "read"), None)
    assert (reply.status, reply.amount, reply.available) == (200, 0, 250 * CREDIT)
    assert [(grant.id, grant.remaining) for grant in bench.account.grants] == before
    entry = bench.facts[-1]
    assert (entry.quantity, entry.grant_id, entry.environment, entry.balance) == (-3, "", "production", 250 * CREDIT)


def test_a_free_use_that_is_charged_says_so() -> None:
    bench = Bench()
    bench.charge("image")
    correct(bench, charged(bench, "image"), usage(operation="read"))
    assert [(fact.reason, fact.quantity) for fact in bench.facts[-2:]] == [("given_back", -1), ("charged", 1)]
    assert available(bench.account, "production") == 250 * CREDIT == bench.entries_sum()
