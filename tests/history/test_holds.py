"""Settled holds are told as they were settled, from the facts of the real core in the real history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from schemas.accounts import Hold
from schemas.commands import CaptureHold, Envelope, ReleaseHold
from schemas.events import Usage
from schemas.facts import Fact
from schemas.http.holds import SettledHold
from schemas.problems import Rejection
from schemas.times import DAY_MS, utc
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.core.booking import format_credits
from streams.history.holds import SettledHoldsQuestion, settled_hold_page
from streams.kafka.codecs import decode_account
from tests.core.builders import addressed, admit, top_up, usage
from tests.history.lives import Life, insert_facts

# What says whose a use is; `hold` is a customer's own word, and names no hold.
METADATA = ('{"customer_id":"c1"}', '{"customer_id":"c\'2\\\\\\"","hold":"0-1-2"}', "")
CUSTOMERS = ("c1", "c'2\\\"", "")


class WatchedLife(Life):
    """A WatchedLife notes the holds that each record settled, as they were before it, with the record's facts."""

    def __init__(self, seed: int) -> None:
        self.settled: list[tuple[Hold, list[Fact]]] = []
        super().__init__(seed, recurring=False)

    def apply(self, body: Any) -> None:
        before = decode_account(self.states[-1][1]).holds if self.states else []
        known = len(self.facts)
        super().apply(body)
        left = {each.id for each in self.account.holds} if self.states else set()
        self.settled += [(each, self.facts[known:]) for each in before if each.id not in left]

    def _usage(self) -> Usage:
        made = super()._usage()
        return msgspec.structs.replace(made, metadata=METADATA[self.random.randrange(len(METADATA))])

    def expected(self) -> list[SettledHold]:
        """The settled holds as they are to be told, the newest first."""
        told = [self._told(hold, facts) for hold, facts in self.settled]
        return [each for *_, each in sorted(told, key=lambda each: each[:2], reverse=True)]

    def _told(self, hold: Hold, facts: Sequence[Fact]) -> tuple[int, int, SettledHold]:
        releases = [
            each for each in facts if each.kind == "release" and msgspec.json.decode(each.metadata)["hold"] == hold.id
        ]
        charges = [
            each
            for each in facts
            if (each.kind, each.reason, each.source, each.event_id)
            == ("charge", "captured", hold.source, hold.event_id)
        ]
        ended = [each for each in releases if each.reason != "captured"]
        mine = ended or [*charges, *releases]
        held = sum(part.amount for part in hold.parts)
        captured = 0 if ended else -sum(each.amount for each in charges)
        told = SettledHold(
            hold_id=hold.id,
            job_id=hold.job_id,
            environment=hold.environment,  # type: ignore[arg-type]
            operation=hold.lines[0].operation,
            quantity=hold.lines[0].quantity,
            state=ended[0].reason if ended else "captured",  # type: ignore[arg-type]
            credits=format_credits(held),
            captured=format_credits(captured),
            given_back=format_credits(held - captured),
            price_version=hold.price_version,
            source=hold.source,
            event_id=hold.event_id,
            customer_id=CUSTOMERS[METADATA.index(hold.metadata)],
            reason=msgspec.json.decode(ended[0].metadata).get("why", "") if ended else "",
            held_at=utc(hold.held_at_ms),
            settled_at=utc(mine[0].booked_at_ms),
        )
        return mine[0].offset, mine[0].index, told


def paged(clickhouse: ClickHouse, limit: int, **asked: Any) -> list[SettledHold]:
    """All settled holds that are asked for, read page by page, each page full but the last."""
    found: list[SettledHold] = []
    cursor = None
    while True:
        page, cursor = settled_hold_page(clickhouse, SettledHoldsQuestion("p1", limit, cursor, **asked))
        found += page
        if cursor is None:
            return found
        assert len(page) == limit


@pytest.mark.parametrize("seed", [3, 4])
def test_each_hold_of_a_life_is_told_once_with_what_became_of_it(embedded: ClickHouse, seed: int) -> None:
    life = WatchedLife(seed)
    life.live(700)
    migrate(embedded)
    insert_facts(embedded, life.facts)
    expected = life.expected()
    assert {each.state for each in expected} == {"captured", "released", "expired"} and len(expected) > 25
    assert any(each.captured != "0" and each.given_back != "0" for each in expected)
    for limit in (1, 7, 1_000):
        assert paged(embedded, limit) == expected
    for state in ("captured", "released", "expired"):
        assert paged(embedded, 3, state=state) == [each for each in expected if each.state == state]
    for customer in CUSTOMERS:
        of_one = [each for each in expected if each.customer_id == customer]
        assert paged(embedded, 2, customer_id=customer) == of_one and of_one
    assert paged(embedded, 9, environment="preview") == [each for each in expected if each.environment == "preview"]
    # From is included, and to is not; a page after another goes on with what was asked for.
    since, until = expected[20].settled_at, expected[3].settled_at
    assert paged(embedded, 5, since=since, until=until) == [
        each for each in expected if since <= each.settled_at < until
    ]
    both = [each for each in expected if each.state == "captured" and each.customer_id == "c1"]
    assert paged(embedded, 2, state="captured", customer_id="c1") == both and both
    assert settled_hold_page(embedded, SettledHoldsQuestion("p2", 5)) == ([], None)


def queued(life: Life, job: str, operation: str = "image", seconds: int = 60, **more: Any) -> str:
    """The id of a new hold of a life, whose event bears the job's name."""
    used = usage(f"event-{job}", operation=operation, job_id=job, occurred_at_ms=life.at_ms, **more)
    life.apply(admit(used, correlation=f"a{life.offset}", hold_seconds=seconds))
    return life.account.holds[-1].id


def test_a_hold_that_its_event_captured_and_those_that_expire_at_once_are_told_one_by_one(
    clickhouse: ClickHouse,
) -> None:
    life = Life(0, recurring=False)
    life.apply(top_up(20))
    life.at_ms += 1_000
    # A job that was released is queued again, under the same names and at the same time: two holds.
    first = queued(life, "again")
    life.apply(ReleaseHold(project="p1", hold_id=first, environment="", reason="upstream timeout", **addressed("r1")))
    second = queued(life, "again")
    ends = [queued(life, f"ends-{number}", "chat.message", 30) for number in range(3)]
    used = usage("event-again", operation="image", job_id="again", occurred_at_ms=life.at_ms)
    life.at_ms += 40_000
    # The event captures its hold; the same decision books that three have expired.
    life.apply(Envelope([used]))
    third = queued(life, "nothing")
    life.at_ms += 1_000
    life.apply(CaptureHold(project="p1", hold_id=third, environment="", amount=0, **addressed("c1")))
    migrate(clickhouse)
    insert_facts(clickhouse, life.facts)
    told = paged(clickhouse, 2)
    assert [(each.hold_id, each.state) for each in told] == [
        (third, "captured"),
        (second, "captured"),
        *((each, "expired") for each in reversed(ends)),
        (first, "released"),
    ]
    assert [(each.credits, each.captured, each.given_back) for each in told[:2]] == [
        ("32", "0", "32"),
        ("32", "32", "0"),
    ]
    assert (told[-1].reason, told[-1].job_id, told[-1].captured) == ("upstream timeout", "again", "0")


def test_a_page_is_looked_for_in_the_newest_days_and_its_holds_by_their_jobs(embedded: ClickHouse) -> None:
    life = Life(0, recurring=False)
    queued(life, "one")
    migrate(embedded)
    insert_facts(embedded, life.facts)
    sql, parameters = SettledHoldsQuestion("p1", 5).sql(1_760_000_000_000)
    assert "booked_at >= " in sql and parameters["since"] == 1_760_000_000_000 - DAY_MS
    with pytest.raises(Rejection, match="cursor"):
        SettledHoldsQuestion("p1", 5, "bm9uc2Vuc2U").sql()
    plan = embedded.query(
        "EXPLAIN indexes = 1 SELECT offset FROM facts WHERE project = 'p1' AND kind = 'hold' "
        "AND job_id IN (SELECT job_id FROM facts WHERE project = 'p1' AND kind = 'release')"
    )
    assert any("job_ids" in str(line) for (line,) in plan), plan
