"""One identity, one decision: what comes again under an id gets the first answer, and another content gets none."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.commands import CaptureHold, CloseProject, Correct, Envelope, ReleaseHold, Tick
from schemas.events import Usage
from schemas.facts import Fact
from schemas.replies import Reply
from schemas.times import DAY_MS
from streams.core.booking import available, held
from streams.core.fold import Effects, IntakeItem, fold
from streams.core.marks import Claim, Seen
from streams.core.replies import Kept
from tests.core.builders import CREDIT, START_MS, addressed, admit, create_project, usage

IMAGE = {"operation": "image", "quantity": 2}
# Everything that can make a use another one.
OTHERS = (
    {"operation": "blog_post"},
    {"operation": "video.premium", "quantity": 100},
    {"quantity": 1},
    {"quantity": 3},
    {"surcharge": "social_post.image"},
    {"environment": "preview"},
)


class Log:
    """A partition with one project on the free plan, whose records come a second after another."""

    def __init__(self, plan: str = "free") -> None:
        self.accounts: dict[str, Any] = {}
        self.seen: Seen = {}
        self.kept = Kept()
        self.facts: list[Fact] = []
        self.offset = -1
        # Uses occur at START_MS: when the project is opened, and not before.
        self.at_ms = START_MS - 1_000
        self.send(create_project(plan=plan))

    def fold(self, body: Any, wait_ms: int = 1_000) -> Effects:
        self.offset, self.at_ms = self.offset + 1, self.at_ms + wait_ms
        item = IntakeItem(self.offset, self.at_ms, body)
        effects = fold(0, [item], self.accounts, self.seen, self.kept, "intake")
        self.facts += effects.facts
        return effects

    def send(self, command: Any, wait_ms: int = 1_000) -> Reply:
        (_, reply), *_ = self.fold(command, wait_ms).replies
        return reply

    def report(self, *uses: Usage) -> list[Fact]:
        return self.fold(Envelope(list(uses))).facts

    def admit(self, event: Usage, seconds: int = 0, key: str = "") -> Reply:
        return self.send(admit(event, f"c{self.offset}", key, seconds))

    def capture(self, hold_id: str, amount: int = -1, environment: str = "") -> Reply:
        fields = addressed(f"c{self.offset}")
        return self.send(CaptureHold(project="p1", hold_id=hold_id, environment=environment, amount=amount, **fields))

    def release(self, hold_id: str) -> Reply:
        fields = addressed(f"c{self.offset}")
        return self.send(ReleaseHold(project="p1", hold_id=hold_id, environment="", reason="", **fields))

    @property
    def left(self) -> tuple[int, int]:
        """Available and held credits."""
        account = self.accounts["p1"]
        return available(account, "production") // CREDIT, held(account, "production") // CREDIT

    @property
    def charged(self) -> int:
        return -sum(fact.amount for fact in self.facts if fact.kind == "charge") // CREDIT


def kinds(facts: list[Fact]) -> list[tuple[str, str]]:
    return [(fact.kind, fact.reason) for fact in facts]


# An event while its hold is open.


@pytest.mark.parametrize("job_id", ["", "j1"])
@pytest.mark.parametrize("after", ["nothing", "capture", "part", "release", "expiry", "resend", "hold again", "admit"])
def test_an_event_that_comes_while_its_hold_is_open_is_charged_once_whatever_follows(job_id: str, after: str) -> None:
    log, use = Log(), usage(**IMAGE, job_id=job_id)
    hold = log.admit(use, 60)
    assert kinds(log.report(use)) == [("charge", "captured")]
    assert log.left == (186, 0)
    if after in ("capture", "part"):
        reply = log.capture(hold.hold_id, -1 if after == "capture" else 5 * CREDIT)
        assert (reply.status, reply.amount, reply.already_decided) == (200, 64 * CREDIT, True)
    elif after == "release":
        assert log.release(hold.hold_id).code == "unknown_hold"
    elif after == "expiry":
        log.fold(Tick(["p1"]), DAY_MS)
    elif after == "resend":
        assert kinds(log.report(use, use)) == [("duplicate", ""), ("duplicate", "")]
    elif after in ("hold again", "admit"):
        reply = log.admit(use, 60 if after == "hold again" else 0)
        assert (reply.status, reply.amount, reply.hold_id, reply.already_decided) == (200, 0, "", True)
    assert (log.left, log.charged) == ((186, 0), 64)


@pytest.mark.parametrize(("quantity", "charged", "left"), [(1, 32, 218), (2, 64, 186), (3, 96, 154)])
def test_an_event_is_charged_what_it_had_and_the_rest_is_released(quantity: int, charged: int, left: int) -> None:
    log = Log()
    log.admit(usage(**IMAGE), 60)
    log.report(usage(operation="image", quantity=quantity))
    assert (log.charged, log.left) == (charged, (left, 0))
    assert kinds(log.report(usage(operation="image", quantity=quantity))) == [("duplicate", "")]


def test_what_is_above_the_held_quantity_and_not_covered_is_refused_and_not_lost() -> None:
    log = Log()
    log.admit(usage(**IMAGE), 60)
    facts = log.report(usage(operation="image", quantity=100))
    assert kinds(facts) == [("charge", "captured"), ("refusal", "out_of_credits")]
    assert [fact.quantity for fact in facts] == [2, 98]
    assert log.left == (186, 0)


def test_an_events_surcharge_is_captured_line_by_line() -> None:
    log = Log()
    post = {"operation": "social_post.text", "surcharge": "social_post.image"}
    log.admit(usage(**post, quantity=4), 60)
    facts = log.report(usage(**post, quantity=3))
    lines = [(fact.operation, fact.quantity, fact.amount // CREDIT) for fact in facts if fact.kind == "charge"]
    assert lines == [("social_post.text", 3, -15), ("social_post.image", 3, -96)]
    assert log.left == (139, 0)


@pytest.mark.parametrize("ending", ["release", "expiry"])
def test_after_a_release_or_an_expiry_the_event_is_charged_and_the_job_may_be_queued_again(ending: str) -> None:
    log, use = Log(), usage(**IMAGE, job_id="j1")

    def end(hold_id: str) -> None:
        if ending == "release":
            log.release(hold_id)
        else:
            log.fold(Tick(["p1"]), 61_000)

    end(log.admit(use, 60).hold_id)
    again = log.admit(use, 60)
    assert (again.amount, again.already_decided, bool(again.hold_id)) == (64 * CREDIT, False, True)
    end(again.hold_id)
    assert kinds([fact for fact in log.report(use) if fact.kind != "release"]) == [("charge", "")]
    assert (log.left, log.charged) == ((186, 0), 64)


def test_what_finds_a_hold_does_not_claim_its_id() -> None:
    """An admission finds the hold, then it expires: nothing was charged, and the event is charged like any other."""
    for seconds in (0, 60):
        log, use = Log(), usage(**IMAGE, job_id="j1")
        first = log.admit(use, 30)
        found = log.admit(use, seconds)
        assert (found.hold_id, found.amount, found.already_decided) == (first.hold_id, 0, True)
        log.fold(Tick(["p1"]), 61_000)
        assert kinds(log.report(use)) == [("charge", "")]


def test_a_capture_finds_a_hold_captured_in_its_own_environment_alone() -> None:
    log = Log()
    hold_id = log.admit(usage(**IMAGE), 60).hold_id
    log.report(usage(**IMAGE))
    assert log.capture(hold_id, environment="preview").code == "unknown_hold"
    assert log.capture(hold_id, environment="production").amount == 64 * CREDIT
    assert log.capture("0-999-0").code == "unknown_hold"


def test_a_second_capture_finds_the_first() -> None:
    log = Log()
    hold_id = log.admit(usage(**IMAGE), 60).hold_id
    assert log.capture(hold_id, 10 * CREDIT).amount == 10 * CREDIT
    again = log.capture(hold_id)
    assert (again.status, again.amount, again.already_decided, log.charged) == (200, 10 * CREDIT, True, 10)


def test_a_job_that_was_captured_for_nothing_is_decided() -> None:
    log = Log()
    hold_id = log.admit(usage(**IMAGE), 60).hold_id
    assert log.capture(hold_id, 0).amount == 0
    again = log.capture(hold_id)
    assert (again.amount, again.already_decided) == (0, True)
    assert kinds(log.report(usage(**IMAGE))) == [("duplicate", "")]
    assert log.left == (250, 0)


# The same id, and another content.


def decide_first(log: Log, way: str, use: Usage) -> None:
    if way == "event":
        log.report(use)
    elif way == "admission":
        log.admit(use)
    elif way == "late":
        log.send(late(log, use))
    else:
        hold_id = log.admit(use, 60).hold_id
        if way == "captured":
            log.capture(hold_id)
        elif way == "captured by its event":
            log.report(use)


def late(log: Log, use: Usage) -> Correct:
    names = {"project": "p1", "source": use.source, "event_id": use.event_id, "metadata": ""}
    return Correct(**names, sequence=0, given_back=[], usage=use, **addressed(f"c{log.offset}"))


WAYS = ("event", "admission", "late", "held", "captured", "captured by its event")


@pytest.mark.parametrize("other", OTHERS, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_an_id_for_another_content_is_refused_however_it_comes(way: str, other: dict[str, Any]) -> None:
    log, use = Log(), usage(**IMAGE)
    decide_first(log, way, use)
    spent, left = log.charged, log.left
    for seconds in (0, 60):
        reply = log.admit(usage(**IMAGE | other), seconds)
        assert (reply.status, reply.code, reply.field) == (409, "event_id_reused", "id")
        assert (reply.amount, reply.hold_id, reply.rate is not None) == (0, "", True)
    if way != "held" or "quantity" not in other or "operation" in other:
        assert kinds(log.report(usage(**IMAGE | other))) == [("duplicate", "event_id_reused")]
        assert (log.charged, log.left) == (spent, left)


@pytest.mark.parametrize("other", [each for each in OTHERS if "environment" not in each], ids=str)
@pytest.mark.parametrize("way", ["held", "captured", "captured by its event"])
def test_a_job_for_another_content_is_refused(way: str, other: dict[str, Any]) -> None:
    log = Log()
    decide_first(log, way, usage("e1", **IMAGE, job_id="j1"))
    left = log.left
    reply = log.admit(usage("e2", **IMAGE | other, job_id="j1"), 60)
    assert (reply.status, reply.code, reply.field, reply.hold_id) == (409, "job_id_reused", "job_id", "")
    same = log.admit(usage("e3", **IMAGE, job_id="j1"), 60)
    assert (same.status, same.amount, same.already_decided) == (200, 0, True)
    assert log.left == left


@pytest.mark.parametrize("way", WAYS)
def test_the_same_content_gets_the_first_answer_also_on_a_closed_project(way: str) -> None:
    log, use = Log(), usage(**IMAGE)
    decide_first(log, way, use)
    spent = log.charged
    log.send(CloseProject(project="p1", reason="", **addressed("close")))
    reply = log.admit(use)
    assert (reply.status, reply.amount, reply.already_decided, log.charged) == (200, 0, True, spent)
    assert log.admit(usage(operation="blog_post")).code == "event_id_reused"
    assert log.admit(usage("new", **IMAGE, occurred_at_ms=log.at_ms)).code == "project_closed"


@pytest.mark.parametrize(
    ("use", "code"),
    [
        ({"operation": "website", "quantity": 2}, "out_of_credits"),
        ({"operation": "video.premium"}, "plan_required"),
    ],
)
def test_a_use_that_was_refused_as_an_event_is_allowed_by_no_admission(use: dict[str, Any], code: str) -> None:
    log = Log()
    assert kinds(log.report(usage(**use))) == [("refusal", code)]
    for seconds in (0, 60):
        reply = log.admit(usage(**use), seconds)
        assert (reply.status, reply.code, reply.amount, reply.hold_id) == (402, code, 0, "")
    assert log.admit(usage(operation="chat.message")).code == "event_id_reused"
    assert kinds(log.report(usage(**use))) == [("duplicate", "")]


def test_an_admission_that_was_refused_is_no_decision_on_its_id() -> None:
    log = Log()
    assert log.admit(usage(operation="website", quantity=2)).code == "out_of_credits"
    assert log.admit(usage(**IMAGE)).status == 200


def test_an_id_that_an_older_version_claimed_counts_as_before() -> None:
    log = Log()
    log.report(usage(**IMAGE))
    log.seen.update({name: Claim(claim.offset) for name, claim in log.seen.items()})
    reply = log.admit(usage(operation="blog_post"))
    assert (reply.status, reply.amount, reply.already_decided) == (200, 0, True)
    assert kinds(log.report(usage(operation="blog_post"))) == [("duplicate", "")]
