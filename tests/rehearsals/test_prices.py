"""Rehearsals of prices on the real history come out as the same life does under the other price book."""

from __future__ import annotations

import msgspec
import pytest

from schemas.accounts import Account
from schemas.commands import CaptureHold, ChangePlan, CloseProject, Correct, Envelope, ReopenProject
from schemas.prices import PriceBook
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.core.price_list import Prices
from streams.history import facts
from streams.history.past_balance import account_at
from streams.rehearsals import prices
from streams.rehearsals.prices import check_proposal, rehearse, replay_project, replay_projects
from tests.core.builders import START_MS, addressed, admit, top_up, usage
from tests.history.lives import BOOK, DAY_MS, Life, insert_facts


def left(account: Account | None) -> dict[str, tuple[int, int]]:
    assert account is not None
    return {grant.id: (grant.remaining, grant.held) for grant in account.grants if grant.remaining}


@pytest.mark.parametrize("seed", range(12))
def test_under_the_same_book_nothing_differs(embedded: ClickHouse, seed: int) -> None:
    life = Life(seed)
    life.live(220)
    migrate(embedded)
    insert_facts(embedded, life.facts)
    span_ms = life.at_ms - START_MS
    for since_ms in (0, START_MS + span_ms // 3, START_MS + life.random.randrange(span_ms), life.at_ms - DAY_MS):
        replayed = replay_project(embedded, life.project, BOOK, since_ms, life.at_ms)
        assert replayed is not None
        outcome, account = replayed
        where = f"seed {seed}, from {since_ms - START_MS} ms"
        assert (outcome.charged_proposed, outcome.refused_proposed) == (outcome.charged, outcome.refused), where
        assert left(account) == left(account_at(embedded, life.project, life.at_ms)), where


DEARER = msgspec.structs.replace(
    BOOK,
    version="dearer",
    rates={operation: rate * 3 // 2 for operation, rate in BOOK.rates.items()} | {"read": 500_000},
    plan_required={"video.premium": "hobby", "website": "hobby"},
)
CHEAPER = msgspec.structs.replace(
    BOOK, version="cheaper", rates={operation: rate // 3 for operation, rate in BOOK.rates.items()}, plan_required={}
)


@pytest.mark.parametrize("book", [DEARER, CHEAPER], ids=["dearer", "cheaper"])
@pytest.mark.parametrize("seed", range(6))
def test_it_comes_out_as_that_life_does_under_the_other_book(embedded: ClickHouse, book: PriceBook, seed: int) -> None:
    life = Life(seed, plain=True)
    life.at_ms += 1_000
    life.live(150)
    migrate(embedded)
    insert_facts(embedded, life.facts)
    replayed = replay_project(embedded, life.project, book, 0, life.at_ms)
    assert replayed is not None
    outcome, account = replayed
    other = life.under(book)
    charged = -sum(fact.amount for fact in other.facts if fact.kind in ("charge", "correction"))
    refused = sum(fact.kind == "refusal" for fact in other.facts)
    assert (outcome.charged_proposed, outcome.refused_proposed) == (charged, refused)
    assert kept(account) == kept(other.account)
    assert outcome.difference != 0


def kept(account: Account) -> list[tuple[str, str, int, int, int]]:
    """The grants of an account with anything left, without their ids, which differ where a renewal was booked among
    other facts."""
    return [
        (grant.kind, grant.environment, grant.granted_at_ms, grant.remaining, grant.held)
        for grant in account.grants
        if grant.remaining
    ]


def test_those_who_would_run_out_come_first_then_those_who_would_pay_more(embedded: ClickHouse) -> None:
    lives = [Life(1, project=name, plain=True) for name in ("idle", "pays", "out", "refused")]
    idle, pays, out, refused = lives
    assert {life.account.plan for life in lives} == {"free"}, "250 credits each"
    hour_ms = 3_600_000

    def use(life: Life, event_id: str, operation: str, hour: int) -> None:
        life.at_ms = START_MS + hour * hour_ms
        life.apply(Envelope([usage(event_id, life.project, operation, occurred_at_ms=life.at_ms)]))

    use(pays, "a", "image", 1)
    for number in range(5):
        use(out, f"a{number}", "image", number + 1)
    for number in range(2):
        use(refused, f"a{number}", "website", number + 1)
    migrate(embedded)
    for partition, life in enumerate(lives):
        insert_facts(embedded, life.facts, partition)
    dearer = msgspec.structs.replace(BOOK, version="dearer", rates=BOOK.rates | {"image": 80_000_000})
    told: list[tuple[int, int]] = []
    now_ms = START_MS + DAY_MS
    found = rehearse(embedded, pays.prices, dearer, 30, now_ms, 2, lambda done, of: told.append((done, of)))
    assert [(one.project, one.refused, one.refused_proposed, one.difference // 1_000_000) for one in found.worst] == [
        ("out", 0, 2, 80),
        ("pays", 0, 0, 48),
    ]
    assert found.worst[0].first_out_at_ms == START_MS + 4 * hour_ms
    assert found.worst[1].first_out_at_ms is None
    assert (found.projects, found.projects_hurt, found.needs_notice) == (3, 2, ["image"])
    total = found.total
    assert (total.charged, total.charged_proposed) == (432_000_000, 560_000_000)
    assert (total.refused, total.refused_proposed) == (1, 3)
    assert told == [(1, 3), (2, 3), (3, 3)]
    same = rehearse(embedded, pays.prices, BOOK, 30, now_ms)
    assert (same.projects_hurt, same.total.difference, same.needs_notice) == (0, 0, [])


def test_many_projects_at_once_come_out_as_each_by_itself(
    embedded: ClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    since_ms, until_ms = START_MS + 5 * DAY_MS, START_MS + 60 * DAY_MS
    lives = [Life(seed, f"long-{seed}", start_ms=START_MS + seed * DAY_MS) for seed in range(9)]
    for life in lives:
        life.live(60)
    # A decision of each is at the same offset of the same partition, and theirs are next to each other.
    once = [Life(5, name, plain=True) for name in ("once-a", "once-b")]
    for life in once:
        life.at_ms = since_ms + 1
        life.apply(Envelope([usage("a", life.project, "image", occurred_at_ms=life.at_ms)]))
    # This one used something when it was opened.
    soon = Life(1, "soon", plain=True, start_ms=since_ms + DAY_MS)
    soon.apply(Envelope([usage("a", soon.project, "image", occurred_at_ms=soon.at_ms)]))
    later = Life(1, "later", start_ms=until_ms + 1)
    lives += [*once, soon, Life(2, "idle", start_ms=START_MS + DAY_MS), later]
    migrate(embedded)
    insert_facts(embedded, [fact for life in lives for fact in life.facts])
    names = [life.project for life in lives] + ["nobody"]
    alone = {name: replay_project(embedded, name, DEARER, since_ms, until_ms) for name in names}
    assert [name for name, replayed in alone.items() if replayed is None] == ["later", "nobody"]
    assert sum(replayed is not None and replayed[0].difference != 0 for replayed in alone.values()) > 8
    monkeypatch.setattr(facts, "FACTS_A_PAGE", 17)
    assert list(replay_projects(embedded, names, DEARER, since_ms, until_ms)) == sorted(alone.items())
    used = {name: replayed[0] for name, replayed in alone.items() if replayed is not None and name != "idle"}
    for projects_at_once, kept_at_once in ((3, 1_000), (100, 20)):
        monkeypatch.setattr(prices, "PROJECTS_AT_ONCE", projects_at_once)
        monkeypatch.setattr(prices, "KEPT_AT_ONCE", kept_at_once)
        found = rehearse(embedded, lives[0].prices, DEARER, 55, until_ms, len(names))
        assert {each.project: each for each in found.worst} == used


def test_the_history_is_asked_no_oftener_for_many_projects_than_for_few(
    embedded: ClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(embedded)
    asked: list[str] = []
    query = ClickHouse.query
    monkeypatch.setattr(ClickHouse, "query", lambda self, sql, *more: [asked.append(sql), query(self, sql, *more)][1])
    counts = []
    for some in (range(2), range(2, 12)):
        lives = [Life(1, f"p{number}", plain=True) for number in some]
        for life in lives:
            life.at_ms += 1_000
            life.apply(Envelope([usage("a", life.project, "image", occurred_at_ms=life.at_ms)]))
        insert_facts(embedded, [fact for life in lives for fact in life.facts])
        asked.clear()
        assert rehearse(embedded, Prices([BOOK]), DEARER, 1, START_MS + DAY_MS).projects == some.stop
        counts.append(len(asked))
    assert counts[0] == counts[1]


def test_what_would_never_have_been_held_is_not_given_back(embedded: ClickHouse) -> None:
    """A job was captured and then voided: where the proposed book has no price for it, there is nothing to void."""
    life = Life(1, plain=True)
    life.at_ms += 1_000
    job = usage("job", life.project, "image", occurred_at_ms=life.at_ms, job_id="j1")
    life.apply(admit(job, "h1", hold_seconds=600))
    common = {"project": life.project, "hold_id": life.account.holds[0].id, "environment": ""}
    life.apply(CaptureHold(**common, **addressed("h2")))
    void = {"source": "/test", "event_id": "job", "sequence": 0, "given_back": life.charged_for("job")}
    life.apply(Correct(project=life.project, **void, usage=None, metadata="", **addressed("h3")))
    migrate(embedded)
    insert_facts(embedded, life.facts)
    without = {operation: rate for operation, rate in BOOK.rates.items() if operation != "image"}
    replayed = replay_project(embedded, life.project, msgspec.structs.replace(BOOK, rates=without), 0, life.at_ms)
    assert replayed is not None
    outcome, account = replayed
    assert (outcome.charged, outcome.charged_proposed) == (0, 0)
    assert left(account) == left(account_at(embedded, life.project, life.at_ms))


def test_a_rehearsal_needs_the_notice_that_the_announcement_would(embedded: ClickHouse) -> None:
    migrate(embedded)
    cheap = msgspec.structs.replace(
        BOOK, version="cheap", effective_at_ms=START_MS + DAY_MS, rates=BOOK.rates | {"image": 1}
    )
    found = rehearse(embedded, Prices([BOOK, cheap]), msgspec.structs.replace(BOOK, version="back"), 1, START_MS)
    assert found.needs_notice == ["image"], "by then it is cheaper than it is now"


def test_a_use_that_was_refused_and_ran_later_is_charged_once(embedded: ClickHouse) -> None:
    life = Life(1, plain=True)
    assert life.account.plan == "free"
    life.at_ms += 1_000
    life.apply(admit(usage("big", operation="blog_post", quantity=5, occurred_at_ms=life.at_ms), "first"))
    life.apply(top_up(20, correlation="money"))
    life.apply(admit(usage("big", operation="blog_post", quantity=5, occurred_at_ms=life.at_ms), "second"))
    migrate(embedded)
    insert_facts(embedded, life.facts)
    replayed = replay_project(embedded, life.project, CHEAPER, 0, life.at_ms)
    assert replayed is not None
    outcome = replayed[0]
    assert (outcome.charged, outcome.charged_proposed) == (300_000_000, 100_000_000)
    assert (outcome.refused, outcome.refused_proposed) == (1, 0)


@pytest.mark.parametrize("since_hour", [0, 4])
def test_a_late_use_is_judged_as_of_when_it_occurred(embedded: ClickHouse, since_hour: int) -> None:
    """The changes that decide are in the rehearsed time, or before it."""
    life = Life(1, plain=True)
    assert life.account.plan == "free"
    hour_ms = 3_600_000

    def tell(hour: int, kind: type, **fields: object) -> None:
        life.at_ms = START_MS + hour * hour_ms
        life.apply(kind(project=life.project, **fields, **addressed(f"c{life.offset}")))

    tell(1, ChangePlan, plan="build", contract_allowance=0)
    tell(2, CloseProject, reason="")
    tell(3, ReopenProject)
    life.at_ms = START_MS + 5 * hour_ms
    uses = {"early": -0.5, "free": 0.5, "build": 1.5, "closed": 2.5, "again": 3.5}
    for name, hour in uses.items():
        at_ms = START_MS + round(hour * hour_ms)
        life.apply(Envelope([usage(name, life.project, "video.premium", occurred_at_ms=at_ms)]))
    refused = {fact.event_id: fact.reason for fact in life.facts if fact.kind == "refusal"}
    assert refused == {"early": "time_out_of_range", "free": "plan_required", "closed": "project_closed"}
    migrate(embedded)
    insert_facts(embedded, life.facts)
    # CHEAPER needs no plan, so that the use from before the upgrade passes; what was closed stays closed.
    for book, passed in ((BOOK, 2), (CHEAPER, 3)):
        replayed = replay_project(embedded, life.project, book, START_MS + since_hour * hour_ms, life.at_ms)
        assert replayed is not None
        outcome = replayed[0]
        assert (outcome.charged, outcome.refused) == (2 * BOOK.rates["video.premium"], 3)
        assert (outcome.charged_proposed, outcome.refused_proposed) == (
            passed * book.rates["video.premium"],
            5 - passed,
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": "no spaces please"},
        {"rates": {}},
        {"rates": {"Image": 1}},
        {"rates": {"image": -1}},
        {"plan_required": {"hologram": "build"}},
        {"hourly": {"image": 5}},
    ],
)
def test_what_could_never_be_announced_is_not_rehearsed(wrong: dict) -> None:
    check_proposal(DEARER, Prices([BOOK]))
    check_proposal(BOOK, Prices([BOOK]))
    with pytest.raises(Rejection) as caught:
        check_proposal(msgspec.structs.replace(BOOK, **wrong), Prices([BOOK]))
    assert caught.value.code == "invalid_request"
