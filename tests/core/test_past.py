"""Uses are judged as of when they occurred, whichever way they come, and whenever; closed is closed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.accounts import Account, Limits, PastSpan
from schemas.commands import (
    Admit,
    AnyCommand,
    BillDelivery,
    CaptureHold,
    ChangePlan,
    CloseProject,
    Correct,
    CountRefused,
    CountRequest,
    CreateKey,
    CreateProject,
    DeleteEndpoint,
    DisableEndpoint,
    EndPortals,
    EndRaise,
    Envelope,
    Erase,
    ExtendHold,
    GrantPromotional,
    OpenBillingAccount,
    OpenPortal,
    PublishPrices,
    PutEndpoint,
    RaiseLimits,
    RefundTopUp,
    ReleaseHold,
    ReopenProject,
    ReplayNotices,
    RevokeKey,
    RotateEndpoint,
    RotateKey,
    SetAutoRecharge,
    SetBadge,
    SetBillingAccount,
    SetItem,
    SetLimits,
    SetNoticeRules,
    SetStanding,
    SettleRecharge,
    TestEndpoint,
    TopUp,
    WithdrawPrices,
)
from schemas.events import Usage
from schemas.facts import Fact
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from schemas.times import DAY_MS, HOUR_MS, MINUTE_MS
from streams.core import decisions, past
from streams.core.fold import IntakeItem, fold
from streams.core.plans import PLANS
from streams.core.price_list import PRICES_ID
from streams.core.replies import Kept
from streams.kafka.codecs import decode_account, encode_account
from tests.core.builders import CREDIT, START_MS, addressed, admit, create_project, usage

COMMANDS = AnyCommand.__args__
HOURLY = PriceBook("hourly", START_MS, FIRST_PRICE_BOOK.rates, FIRST_PRICE_BOOK.plan_required, {"domain": CREDIT})


class Log:
    """A log of one project, decided by the owner's fold."""

    def __init__(self, plan: str = "free", at_ms: int = START_MS) -> None:
        self.accounts: dict[str, Account] = {}
        self.seen: dict[bytes, int] = {}
        self.kept = Kept()
        self.offset = -1
        self.facts: list[Fact] = []
        self.at_ms = at_ms
        self.apply(PublishPrices(project=PRICES_ID, book=HOURLY, **addressed("prices")))
        self.apply(create_project(plan=plan))

    @property
    def account(self) -> Account:
        return self.accounts["p1"]

    def apply(self, body: Any) -> str:
        """Decide the next record; gives the code of its reply, or of the refusal of the one event in it."""
        self.offset += 1
        item = IntakeItem(self.offset, self.at_ms, body)
        effects = fold(0, [item], self.accounts, self.seen, self.kept, "intake")
        self.facts += effects.facts
        if effects.replies:
            return effects.replies[0][1].code
        return next((fact.reason for fact in effects.facts if fact.kind == "refusal"), "")

    def do(self, kind: type[Any], /, at_ms: int | None = None, **fields: Any) -> str:
        self.at_ms = self.at_ms if at_ms is None else at_ms
        return self.apply(kind(project="p1", **fields, **addressed(f"c{self.offset}")))

    def report(self, way: str, used: Usage, at_ms: int | None = None) -> str:
        """Report a use in one of the ways there are; gives the code it is refused with, or ""."""
        self.at_ms = self.at_ms if at_ms is None else at_ms
        if way == "event":
            return self.apply(Envelope([used]))
        if way in ("admission", "hold"):
            return self.apply(admit(used, f"c{self.offset}", hold_seconds=60 if way == "hold" else 0))
        return self.apply(late(used, f"c{self.offset}"))


WAYS = ("event", "admission", "hold", "correction")


def late(used: Usage, correlation: str = "late", **changes: Any) -> Correct:
    fields = {"sequence": 0, "given_back": [], "usage": used, "metadata": ""} | changes
    return Correct(project="p1", source=used.source, event_id=used.event_id, **fields, **addressed(correlation))


CLOSED_MS = START_MS + 2 * HOUR_MS
TERMS = {"threshold": 4_000 * CREDIT, "bundle_usd": 20, "cap_cents": 20_00, "payment_method": "card"}
LIMITS = {"limits": Limits(900, 0, 0), "reason": "launch"}
ENDPOINT = {"endpoint_id": "e1", "kind": "webhook", "target": "https://acme.example/hook"}
PORTAL = {"environment": "production", "session_id": "s", "customer_sha256": "", "known_offset": 0, "expires_at_ms": 0}
BEFORE = {"occurred_at_ms": CLOSED_MS - 1}
AFTER = {"occurred_at_ms": CLOSED_MS}

# What a closed project says to each command there is: "" where it takes it. A new command needs a line here, and in
# `CHARGE_NOTHING` of `streams.core.decisions` where it can't charge anything.
TOLD_WHILE_CLOSED: dict[type, list[tuple[dict[str, Any], str]]] = {
    CreateProject: [({"name": "", "plan": "free", "contract_allowance": 0}, "project_exists")],
    CloseProject: [({"reason": ""}, "project_closed")],
    ReopenProject: [({}, "")],
    CreateKey: [({"key_id": "k2", "key_hash": b"", "environment": "production", "scopes": []}, "")],
    RevokeKey: [({"key_id": "k1"}, "")],
    RotateKey: [({"key_id": "k1", "new_key_id": "k3", "key_hash": b"", "grace_ms": 0}, "")],
    TopUp: [
        ({"environment": "production", "bundle_usd": 20, "reference": ""}, "project_closed"),
        ({"environment": "preview", "bundle_usd": 500, "reference": ""}, "project_closed"),
    ],
    GrantPromotional: [
        (
            {"environment": "preview", "amount": CREDIT, "reason": "sorry", "expires_at_ms": CLOSED_MS + DAY_MS},
            "project_closed",
        )
    ],
    RefundTopUp: [({"grant_id": "bundle", "reason": ""}, "")],
    ChangePlan: [
        ({"plan": "scale", "contract_allowance": 0}, "project_closed"),
        ({"plan": "free", "contract_allowance": 0}, "project_closed"),
    ],
    SetNoticeRules: [({"environment": "production", "rules": []}, "")],
    SetStanding: [({"is_good": False, "reason": ""}, "")],
    SetBadge: [({"is_off": True}, "")],
    Erase: [({"customer": "", "reason": ""}, "")],
    OpenPortal: [(PORTAL, "project_closed")],
    EndPortals: [({"reason": ""}, "")],
    Admit: [
        ({"usage": usage("new", **AFTER)}, "project_closed"),
        ({"usage": usage("new", operation="read", **AFTER)}, "project_closed"),
        ({"usage": usage("new", job_id="new", **AFTER), "hold_seconds": 60}, "project_closed"),
        ({"usage": usage("new", **BEFORE)}, ""),
    ],
    CountRequest: [({"operation": "GET /v1/balance", "environment": "production"}, "")],
    CountRefused: [
        ({"operation": "GET *", "environment": "production", "count": 1, "first_at_ms": 0, "last_at_ms": 1}, "")
    ],
    SetLimits: [(LIMITS | {"is_shadow": False}, "")],
    RaiseLimits: [(LIMITS | {"starts_at_ms": 0, "ends_at_ms": CLOSED_MS + DAY_MS}, "")],
    EndRaise: [({"raise_id": "raise"}, "")],
    CaptureHold: [({"hold_id": "hold", "environment": ""}, "")],
    ReleaseHold: [({"hold_id": "hold", "environment": "", "reason": ""}, "")],
    ExtendHold: [({"hold_id": "hold", "environment": "", "seconds": 60}, "")],
    SetItem: [
        ({"operation": "domain", "quantity": 1}, "project_closed"),
        ({"operation": "domain", "quantity": 0}, ""),
    ],
    SetAutoRecharge: [(TERMS | {"is_on": True}, "project_closed"), (TERMS | {"is_on": False}, "")],
    SettleRecharge: [
        ({"recharge_id": "purchase", "is_paid": paid, "reference": "", "detail": ""}, "") for paid in (1, 0)
    ],
    SetBillingAccount: [({"billing_account": "billing:1"}, "")],
    OpenBillingAccount: [({"name": "", "email": "", "is_change": True}, "")],
    PublishPrices: [({"book": HOURLY}, "price_version_exists")],
    WithdrawPrices: [({"book": HOURLY}, "price_book_in_force")],
    PutEndpoint: [({"endpoint_id": "e2", "kind": "email", "target": "a@b.example"}, "")],
    RotateEndpoint: [({"endpoint_id": "e1"}, "")],
    DeleteEndpoint: [({"endpoint_id": "e1"}, "")],
    DisableEndpoint: [({"endpoint_id": "e1", "reason": ""}, "")],
    TestEndpoint: [({"endpoint_id": "e1"}, "")],
    ReplayNotices: [({"endpoint_id": "e1", "notice_id": "ntc-0-1-0"}, "")],
    BillDelivery: [({"environment": "", "attempt_id": "e1.ntc-0-1-0.2", "endpoint_id": "e1"}, "")],
    Correct: [
        ({"usage": usage("late", **AFTER)}, "project_closed"),
        ({"usage": usage("late", **BEFORE)}, ""),
    ],
}


def closed_project() -> tuple[Log, dict[str, str]]:
    """A project that had all that one can have, and was closed; and the ids of what it has."""
    log = Log("hobby")
    log.do(TopUp, environment="preview", bundle_usd=20, reference="")
    log.do(CreateKey, key_id="k1", key_hash=b"", environment="production", scopes=[])
    log.do(PutEndpoint, **ENDPOINT)
    log.do(SetItem, operation="domain", quantity=1)
    log.apply(admit(usage("job", operation="image", job_id="job"), hold_seconds=7 * 86_400))
    log.do(RaiseLimits, **LIMITS, starts_at_ms=0, ends_at_ms=START_MS + 9 * DAY_MS)
    log.apply(Envelope([usage("some", operation="website", quantity=5)]))
    log.do(SetAutoRecharge, is_on=True, **TERMS)
    log.do(ChangePlan, START_MS + 1, plan="hobby", contract_allowance=0)
    log.do(CloseProject, CLOSED_MS, reason="")
    account = log.account
    assert account.auto_recharge is not None
    names = {
        "bundle": next(grant.id for grant in account.grants if grant.kind == "top_up"),
        "hold": account.holds[0].id,
        "raise": account.raises[0].id,
        "purchase": account.auto_recharge.pending_id,
    }
    assert all(names.values())
    return log, names


def test_every_command_there_is_has_its_line_in_the_table() -> None:
    assert set(TOLD_WHILE_CLOSED) == set(COMMANDS)
    sets = (decisions.CHARGE_A_USE, decisions.CHARGE_NOTHING, decisions.CHARGES_ANYWAY)
    named = frozenset().union(*sets)
    assert named < set(COMMANDS) and len(named) == sum(len(each) for each in sets)
    # Whatever is not named is refused, so that what is forgotten here charges nothing.
    charging = {kind for kind, told in TOLD_WHILE_CLOSED.items() if "project_closed" in {code for _, code in told}}
    assert set(COMMANDS) - named == charging - {Admit, Correct, CloseProject}


@pytest.mark.parametrize(
    ("kind", "fields", "code"),
    [(kind, fields, code) for kind, told in TOLD_WHILE_CLOSED.items() for fields, code in told],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_nothing_that_can_charge_is_taken_by_a_closed_project(kind: type, fields: dict[str, Any], code: str) -> None:
    log, names = closed_project()
    fields = {name: names.get(value, value) if isinstance(value, str) else value for name, value in fields.items()}
    if kind is Correct:
        command: Any = late(fields["usage"])
    else:
        command = kind(project="p1", **fields, **addressed("now"))
    before, first = encode_account(log.account), len(log.facts)
    log.at_ms = CLOSED_MS + HOUR_MS
    assert log.apply(command) == code
    account, stated = log.account, log.facts[first:]
    spent = [fact for fact in stated if fact.kind in ("charge", "correction", "hold", "subscription")]
    if kind not in (CaptureHold, ExtendHold, ReopenProject, BillDelivery) and not (
        kind in (Admit, Correct) and not code
    ):
        assert not spent
    if code:
        assert [fact.kind for fact in stated] == (["refusal"] if kind is Admit else [])
        # A request is counted all the same.
        old = decode_account(before)
        changes = {"last_offset": account.last_offset, "last_at_ms": account.last_at_ms, "window": account.window}
        assert msgspec.structs.replace(old, **changes) == account


def test_a_closed_project_is_charged_nothing_by_an_event_nor_by_time() -> None:
    log, _ = closed_project()
    spent = -sum(fact.amount for fact in log.facts if fact.kind == "charge")
    assert log.report("event", usage("after", **AFTER), CLOSED_MS + 1) == "project_closed"
    assert log.report("event", usage("before", **BEFORE), CLOSED_MS + 1) == ""
    for months in range(1, 4):
        log.apply(Envelope([usage(f"m{months}", occurred_at_ms=CLOSED_MS + months * 31 * DAY_MS)]))
        log.do(SetStanding, CLOSED_MS + months * 31 * DAY_MS, is_good=True, reason="")
    charged = [(fact.operation, fact.quantity) for fact in log.facts if fact.kind == "charge"]
    # The domain was there for two hours before, and as each of them struck.
    assert charged[1:] == [("chat.message", 1), ("domain", 2)]
    assert -sum(fact.amount for fact in log.facts if fact.kind == "charge") == spent + 3 * CREDIT
    assert len([fact for fact in log.facts if fact.kind == "subscription"]) == 1


# One clock.

PREMIUM = {"operation": "video.premium"}


@pytest.mark.parametrize("way", WAYS)
def test_a_clip_made_before_a_downgrade_passes_after_it_and_the_reverse_is_refused(way: str) -> None:
    log = Log("build")
    log.do(TopUp, environment="production", bundle_usd=20, reference="")
    log.do(ChangePlan, plan="hobby", contract_allowance=0)
    downgraded_ms = log.account.renews_at_ms
    minute = MINUTE_MS
    before = usage("before", occurred_at_ms=downgraded_ms - minute, **PREMIUM)
    after = usage("after", occurred_at_ms=downgraded_ms, **PREMIUM)
    # The clock of its producer is ahead: the change of plan is known already.
    ahead = usage("ahead", occurred_at_ms=downgraded_ms + minute, **PREMIUM)
    assert log.report(way, ahead, downgraded_ms - minute) == "plan_required"
    assert log.report(way, before, downgraded_ms + minute) == ""
    assert log.report(way, after, downgraded_ms + minute) == "plan_required"
    log.do(ChangePlan, downgraded_ms + HOUR_MS, plan="build", contract_allowance=0)
    unpaid = usage("unpaid", occurred_at_ms=downgraded_ms + HOUR_MS - 1, **PREMIUM)
    paid = usage("paid", occurred_at_ms=downgraded_ms + HOUR_MS, **PREMIUM)
    assert log.report(way, unpaid, downgraded_ms + HOUR_MS + minute) == "plan_required"
    assert log.report(way, paid, downgraded_ms + HOUR_MS + minute) == ""


@pytest.mark.parametrize("way", WAYS)
def test_a_use_while_it_was_closed_is_refused_after_a_reopening_too(way: str) -> None:
    log = Log("hobby")
    log.do(CloseProject, CLOSED_MS, reason="")
    log.do(ReopenProject, CLOSED_MS + DAY_MS)
    log.do(CloseProject, CLOSED_MS + 2 * DAY_MS, reason="")
    log.do(ReopenProject, CLOSED_MS + 3 * DAY_MS)
    told = {
        days: log.report(
            way, usage(f"e{days}", occurred_at_ms=CLOSED_MS + round(days * DAY_MS)), CLOSED_MS + 9 * DAY_MS
        )
        for days in (-0.01, 0, 0.9, 1, 1.9, 2, 2.9, 3)
    }
    closed = "project_closed"
    assert list(told.values()) == ["", closed, closed, "", "", closed, closed, ""]


@pytest.mark.parametrize("way", WAYS)
def test_what_was_before_the_project_was_there_is_refused_whenever_it_comes(way: str) -> None:
    log = Log()
    for days in (0, 1, 40):
        for number, before_ms in enumerate((1, MINUTE_MS, 20 * DAY_MS)):
            used = usage(f"e{days}-{number}", occurred_at_ms=START_MS - before_ms)
            assert log.report(way, used, START_MS + days * DAY_MS) == "time_out_of_range"
        assert log.report(way, usage(f"e{days}"), START_MS + days * DAY_MS) == ""


@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from((0, 1, HOUR_MS, 5 * DAY_MS, 40 * DAY_MS)),
            st.sampled_from(("close", "reopen", "free", "hobby", "build", "scale")),
        ),
        max_size=8,
    ),
    uses=st.lists(
        st.tuples(st.integers(-DAY_MS, 60 * DAY_MS), st.sampled_from(WAYS), st.sampled_from((0, 1, 2, 30))), max_size=8
    ),
)
def test_the_answer_to_a_use_depends_on_when_it_was_used_and_on_nothing_else(
    changes: list[tuple[int, str]], uses: list[tuple[int, str, int]]
) -> None:
    log = Log("build")
    log.do(TopUp, environment="production", bundle_usd=500, reference="")
    log.do(SetLimits, limits=Limits(1_000_000, 2_000_000, 1_000_000 * CREDIT), is_shadow=False, reason="")
    for gap_ms, what in changes:
        log.at_ms += gap_ms
        if what == "close":
            log.do(CloseProject, reason="")
        elif what == "reopen":
            log.do(ReopenProject)
        else:
            log.do(ChangePlan, plan=what, contract_allowance=0)
    # By the end the last renewal has passed, so that all that waited for it has come about.
    end_ms = log.at_ms + 32 * DAY_MS
    log.do(SetStanding, end_ms, is_good=True, reason="")
    changed = [
        (fact.occurred_at_ms, fact.reason)
        for fact in log.facts
        if fact.kind in ("project", "plan") and fact.occurred_at_ms <= fact.booked_at_ms
    ]

    def expected(used_ms: int) -> str:
        """The answer by the facts of what had come about by then."""
        if used_ms < START_MS:
            return "time_out_of_range"
        reasons = [reason for at_ms, reason in changed if at_ms <= used_ms]
        if [reason for reason in reasons if reason not in PLANS][-1:] == ["closed"]:
            return "project_closed"
        plan = [reason for reason in reasons if reason in PLANS][-1]
        return "" if PLANS[plan].rank >= 2 else "plan_required"

    for number, (used_ms, way, days) in enumerate(uses):
        used = usage(f"u{number}", occurred_at_ms=min(START_MS + used_ms, end_ms), **PREMIUM)
        assert log.report(way, used, end_ms + days * DAY_MS) == expected(used.occurred_at_ms)
        end_ms = log.at_ms


# What is remembered.


def test_a_past_costs_a_project_that_has_none_one_byte() -> None:
    account = Log().account
    (value,) = msgspec.msgpack.encode([account.past])[1:]
    assert value == 0x90


def test_as_many_changes_are_remembered_as_an_account_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "PAST_MAX", 4)
    log = Log()
    for day in range(1, 11):
        log.do(
            ReopenProject if day % 2 == 0 else CloseProject,
            START_MS + day * DAY_MS,
            **({"reason": ""} if day % 2 else {}),
        )
    assert len(log.account.past) == 4
    assert log.account.past[0] == PastSpan(START_MS + 7 * DAY_MS, "")
    told = [
        log.report("event", usage(f"e{day}", occurred_at_ms=START_MS + day * DAY_MS), START_MS + 20 * DAY_MS)
        for day in range(12)
    ]
    assert told == ["time_out_of_range"] * 7 + ["project_closed", "", "project_closed", "", ""]


def test_an_account_from_before_there_was_a_past_knows_since_when_it_is_closed() -> None:
    log = Log()
    log.do(CloseProject, CLOSED_MS, reason="")
    log.account.past = []
    assert log.report("event", usage("a", occurred_at_ms=CLOSED_MS - 1)) == ""
    assert log.report("event", usage("b", occurred_at_ms=CLOSED_MS)) == "project_closed"
    log.do(ReopenProject, CLOSED_MS + DAY_MS)
    assert log.report("event", usage("c", occurred_at_ms=CLOSED_MS - 1)) == ""
    assert log.report("event", usage("d", occurred_at_ms=CLOSED_MS)) == "project_closed"
    assert log.report("event", usage("e", occurred_at_ms=CLOSED_MS + DAY_MS)) == ""


def test_a_correction_says_which_field_is_at_fault_and_a_void_is_always_taken() -> None:
    log = Log()
    log.offset += 1
    items = [IntakeItem(log.offset, log.at_ms, late(usage("early", occurred_at_ms=START_MS - 1)))]
    ((_, reply),) = fold(0, items, log.accounts, log.seen, log.kept, "intake").replies
    assert (reply.status, reply.code, reply.field) == (422, "time_out_of_range", "time")
    assert "was opened at 2026-05-28T20:26:40.000+00:00" in reply.detail
