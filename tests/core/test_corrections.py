"""Corrections put an event right by new entries, whole or not at all, and each only once."""

from typing import Any

from msgspec.structs import replace

from schemas.accounts import Account, Grant
from schemas.commands import CaptureHold, Correct, Envelope, GivenBack, RefundTopUp
from schemas.events import Usage
from schemas.facts import Fact
from schemas.times import DAY_MS
from streams.core.booking import available
from streams.core.fold import IntakeItem, fold
from streams.core.replies import Kept
from tests.core.builders import CREDIT, START_MS, addressed, admit, create_project, top_up, untold, usage
from tests.core.test_ledger import Bench


def grant_of(bench: Bench, fact: Fact) -> Grant:
    """The grant of a charge, made from the fact that granted it, as the history tells it."""
    told = next(each for each in bench.facts if each.kind == "grant" and each.grant_id == fact.grant_id)
    renews_at_ms = bench.account.renews_at_ms if told.reason == "allowance" else 0
    return Grant(told.grant_id, told.reason, told.environment, told.amount, 0, told.occurred_at_ms, renews_at_ms)


def given_back(bench: Bench, grants: dict[str, Grant] | None = None) -> list[GivenBack]:
    """The charges of the last event, all of them, to be given back."""
    last = [fact for fact in bench.facts if fact.kind == "charge"][-1]
    charges = [fact for fact in bench.facts if fact.kind == "charge" and fact.event_id == last.event_id]
    return [
        GivenBack(
            (grants or {}).get(fact.grant_id) or grant_of(bench, fact),
            fact.operation,
            fact.quantity,
            -fact.amount,
            fact.price_version,
        )
        for fact in charges
    ]


def correct(bench: Bench, back: list[GivenBack], used: Usage | None = None, at_ms: int = START_MS, **fields: Any):
    fields = {"source": "/test", "event_id": "e1", "sequence": 0, "metadata": '{"reason":"wrong"}'} | fields
    return bench.do(Correct, at_ms, given_back=back, usage=used, **fields)


def corrections(bench: Bench) -> list[tuple[str, str, int, int]]:
    return [(f.operation, f.reason, f.quantity, f.amount) for f in bench.facts if f.kind == "correction"]


def test_what_was_charged_is_given_back_to_the_grants_it_came_from() -> None:
    bench = Bench()
    bench.top_up(20)
    before = [(grant.id, grant.remaining) for grant in bench.account.grants]
    bench.charge("website", 2)
    reply = correct(bench, given_back(bench))
    assert (reply.amount, reply.available) == (480 * CREDIT, 4_250 * CREDIT)
    assert [(grant.id, grant.remaining) for grant in bench.account.grants] == before
    assert corrections(bench) == [
        ("website", "given_back", -2, 250 * CREDIT),
        ("website", "given_back", 0, 230 * CREDIT),
    ]
    assert bench.facts[-1].metadata == '{"reason":"wrong"}'
    assert bench.entries_sum() == 4_250 * CREDIT


def test_an_event_is_charged_anew_at_the_price_of_its_time() -> None:
    bench = Bench()
    bench.charge("website")
    reply = correct(bench, given_back(bench), usage("e1", operation="image"))
    assert (reply.amount, reply.available) == ((240 - 32) * CREDIT, 218 * CREDIT)
    assert corrections(bench) == [("website", "given_back", -1, 240 * CREDIT), ("image", "charged", 1, -32 * CREDIT)]
    assert [fact.price_version for fact in untold(bench.facts)[-2:]] == ["2026-01", "2026-01"]


def test_what_is_given_back_counts_towards_what_is_charged_anew() -> None:
    bench = Bench()
    bench.charge("website")
    assert correct(bench, given_back(bench), usage("e1", operation="image", quantity=7)).status == 200
    assert available(bench.account, "production") == 26 * CREDIT


def test_a_correction_that_credits_do_not_cover_changes_nothing() -> None:
    bench = Bench()
    bench.charge("website")
    before = len(bench.facts)
    reply = correct(bench, given_back(bench), usage("e1", operation="image", quantity=8))
    assert (reply.status, reply.code) == (402, "out_of_credits")
    assert correct(bench, given_back(bench), usage("e1", operation="nothing")).code == "unknown_operation"
    assert correct(bench, []).code == "invalid_request"
    assert (len(bench.facts), available(bench.account, "production")) == (before, 10 * CREDIT)


def test_credits_of_a_bundle_that_was_used_up_bring_it_back() -> None:
    bench = Bench()
    bench.top_up(20, "preview")
    bundle = bench.grant("top_up")
    bench.charge("website", 16, environment="preview")
    bench.charge("content_plan", 16, environment="preview")
    assert bundle.id not in [grant.id for grant in bench.account.grants], "it was used up, and forgotten"
    reply = correct(bench, given_back(bench))
    assert reply.available == 160 * CREDIT
    again = bench.grant("top_up")
    assert (again.id, again.granted, again.remaining, again.granted_at_ms) == (
        bundle.id,
        4_000 * CREDIT,
        160 * CREDIT,
        START_MS,
    )
    assert bench.do(RefundTopUp, grant_id=again.id, reason="").code == "not_refundable", "it is as used as it was"


def test_credits_of_an_allowance_that_has_expired_come_back_as_a_promotional_grant() -> None:
    bench = Bench()
    bench.charge("website")
    back = given_back(bench)
    renews_at_ms = bench.account.renews_at_ms
    bench.top_up(20, at_ms=renews_at_ms)
    reply = correct(bench, back, at_ms=renews_at_ms + DAY_MS)
    assert reply.available == (250 + 240 + 4_000) * CREDIT
    promotional = bench.grant("promotional")
    assert (promotional.remaining, promotional.expires_at_ms) == (240 * CREDIT, bench.account.renews_at_ms)
    assert [grant.kind for grant in bench.account.grants] == ["allowance", "promotional", "top_up"]
    bench.charge("image", 8, at_ms=renews_at_ms + DAY_MS)
    assert [grant.remaining // CREDIT for grant in bench.account.grants] == [0, 234, 4_000]
    bench.booking(bench.account.renews_at_ms)
    assert bench.entries("expiry")[-1] == ("expiry", "promotional", -234 * CREDIT, 0)


def test_an_allowance_of_this_month_gets_its_credits_back_even_if_all_was_spent() -> None:
    bench = Bench()
    bench.charge("chat.message", 250)
    reply = correct(bench, given_back(bench))
    assert reply.available == 250 * CREDIT
    assert [(grant.kind, grant.remaining) for grant in bench.account.grants] == [("allowance", 250 * CREDIT)]


class Log:
    """A log of one project's commands and events, decided by the owner's fold."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.seen: dict[bytes, int] = {}
        self.kept = Kept()
        self.offset = -1
        self.facts: list[Fact] = []
        self.at_ms = START_MS
        self.apply(create_project())

    def apply(self, body: Any) -> str:
        """Decide the next record, and return the code of its reply."""
        self.offset += 1
        effects = fold(0, [IntakeItem(self.offset, self.at_ms, body)], self.accounts, self.seen, self.kept, "intake")
        self.facts += effects.facts
        return effects.replies[0][1].code if effects.replies else ""

    def correct(
        self,
        event_id: str,
        sequence: int,
        used: Usage | None,
        back: list[GivenBack] | None = None,
        refused_offset: int = -1,
    ) -> str:
        fields = addressed(f"c{self.offset}")
        command = Correct(
            project="p1",
            source="/test",
            event_id=event_id,
            sequence=sequence,
            given_back=back or [],
            usage=used,
            metadata="",
            refused_offset=refused_offset,
            **fields,
        )
        return self.apply(command)


def test_an_event_that_came_too_late_is_taken_once_whichever_way_it_comes() -> None:
    log = Log()
    log.at_ms = START_MS + 40 * DAY_MS
    late = usage("late", operation="image")
    assert log.correct("late", 0, late) == ""
    assert log.correct("late", 0, late) == "already_corrected"
    log.apply(Envelope([late]))
    assert [fact.kind for fact in log.facts[-2:]] == ["correction", "duplicate"]
    log.apply(Envelope([usage("known")]))
    assert log.correct("known", 0, usage("known")) == "already_corrected", "it was billed; it takes another correction"
    assert available(log.accounts["p1"], "production") == (250 - 32 - 1) * CREDIT


def test_a_refused_event_is_charged_by_a_correction_that_knows_of_its_refusal() -> None:
    """A correction that does not know of the refusal charges nothing: the event may have been charged since."""
    log = Log()
    used = usage("big", operation="website", quantity=2)
    log.apply(Envelope([used]))
    refused_offset = log.offset
    assert (log.facts[-1].kind, log.facts[-1].reason) == ("refusal", "out_of_credits")
    log.apply(top_up(20))
    assert log.correct("big", 0, used) == "already_corrected"
    assert log.correct("big", 0, used, refused_offset=refused_offset - 1) == "already_corrected"
    assert log.correct("big", 0, used, refused_offset=refused_offset) == ""
    assert log.correct("big", 0, used, refused_offset=refused_offset) == "already_corrected"
    log.apply(Envelope([used]))
    assert log.facts[-1].kind == "duplicate"
    assert available(log.accounts["p1"], "production") == (4_250 - 480) * CREDIT


def test_a_refused_request_that_ran_after_all_is_not_charged_by_its_correction_too() -> None:
    log = Log()
    used = usage("big", operation="website", quantity=2)
    assert log.apply(admit(used)) == "out_of_credits"
    refused_offset = log.offset
    log.apply(top_up(20))
    log.apply(Envelope([used]))
    assert log.facts[-1].kind == "charge"
    assert log.correct("big", 0, used, refused_offset=refused_offset) == "already_corrected"


def test_what_was_charged_in_part_is_not_charged_again_by_whoever_knows_of_its_refusal() -> None:
    """An event captures what is held for it, and what it has more is refused: the whole of it must not be charged on
    top, whatever its correction says was refused."""
    log = Log()
    job = usage("job", operation="image", job_id="j1")
    log.apply(admit(job, "h1", hold_seconds=60))
    log.apply(Envelope([replace(job, quantity=201)]))
    refused_offset = log.offset
    assert [(fact.kind, fact.reason) for fact in log.facts[-3:]][-1] == ("refusal", "out_of_credits")
    assert ("charge", "captured") in [(fact.kind, fact.reason) for fact in log.facts if fact.offset == refused_offset]
    log.apply(top_up(100))
    before = available(log.accounts["p1"], "production")
    for used in (job, replace(job, quantity=201), replace(job, quantity=200), usage("job", operation="chat.message")):
        assert log.correct("job", 0, used, refused_offset=refused_offset) == "already_corrected"
    log.apply(Envelope([replace(job, quantity=201)]))
    assert (log.facts[-1].kind, log.facts[-1].reason) == ("duplicate", "")
    assert available(log.accounts["p1"], "production") == before


def test_an_event_that_credits_are_held_for_is_not_late() -> None:
    log = Log()
    job = usage("job", operation="image", job_id="j1")
    log.apply(admit(job, "h1", hold_seconds=60))
    hold_id = log.facts[-1].offset
    assert log.correct("job", 0, job) == "event_held"
    log.apply(CaptureHold(project="p1", hold_id=f"0-{hold_id}-0", environment="", **addressed("h2")))
    assert available(log.accounts["p1"], "production") == (250 - 32) * CREDIT
    assert log.correct("job", 0, job) == "already_corrected"


def test_two_corrections_of_one_event_at_a_time_are_one() -> None:
    """A correction that was made before another was booked is refused: its sender must look at the event again."""
    log = Log()
    log.apply(Envelope([usage("e1", operation="website")]))
    charged = untold(log.facts)[-1]
    allowance = log.accounts["p1"].grants[0]
    back = [GivenBack(allowance, "website", 1, -charged.amount)]
    assert log.correct("e1", 0, None, back) == ""
    assert log.correct("e1", 0, None, back) == "already_corrected"
    assert log.correct("e1", 1, usage("e1", operation="image"), []) == ""
    assert available(log.accounts["p1"], "production") == (250 - 32) * CREDIT
