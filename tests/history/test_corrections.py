"""Corrections are made from what the history holds, and decided by the core: whatever comes between, nothing drifts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from schemas.commands import Correct, Envelope
from schemas.events import UsageData
from schemas.http.corrections import CorrectionRequest
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.core.booking import available
from streams.core.replies import fingerprint
from streams.history.corrections import charged_for, correction_of
from streams.history.usage import UsageQuestion, usage_page
from tests.core.builders import CREDIT, START_MS, addressed, top_up, usage
from tests.history.lives import DAY_MS, Life, insert_facts

FOREVER = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


class Corrected(Life):
    """A life whose facts are in the history at once, so that its events can be corrected from there."""

    def __init__(self, clickhouse: ClickHouse, seed: int = 1) -> None:
        super().__init__(seed, recurring=False)
        self.clickhouse = clickhouse
        self._inserted = 0
        migrate(clickhouse)

    def command(self, event_id: str, action: str, data: UsageData | None = None, when: str = "") -> Correct:
        insert_facts(self.clickhouse, self.facts[self._inserted :])
        self._inserted = len(self.facts)
        asked = CorrectionRequest("/test", event_id, action, "a test", data, when)  # type: ignore[arg-type]
        charged = charged_for(self.clickhouse, self.project, "/test", event_id)
        fields = addressed(f"correct {self.offset}")
        return correction_of(self.clickhouse, self.account, asked, charged, self.prices, "admin", "", fields)

    def correct(self, event_id: str, action: str, data: UsageData | None = None, when: str = "") -> list:
        before = len(self.facts)
        self.apply(self.command(event_id, action, data, when))
        return [fact for fact in self.facts[before:] if fact.kind == "correction"]

    def use(self, event_id: str, operation: str, **more: object) -> None:
        self.apply(Envelope([usage(event_id, self.project, operation, occurred_at_ms=self.at_ms, **more)]))


def test_credits_of_a_month_that_is_over_come_back_once_until_the_next_renewal(embedded: ClickHouse) -> None:
    life = Corrected(embedded)
    life.use("old", "image")
    life.at_ms = life.account.renews_at_ms + DAY_MS
    life.use("new", "chat.message")
    before = available(life.account, "production")
    (entry,) = life.correct("old", "void")
    assert entry.grant_id.startswith("promotional-")
    assert available(life.account, "production") == before + 32 * CREDIT
    with pytest.raises(Rejection, match="Nothing of this event is charged any more"):
        life.command("old", "void")
    # The next correction charges the promotional grant of the first, and the one after gives back to that grant: a
    # chain of corrections never counts the old month's charge again.
    life.correct("old", "amend", UsageData("chat.message", quantity=3))
    back, charged = life.correct("old", "amend", UsageData("content_plan"))
    assert (back.amount, back.quantity, charged.amount) == (3 * CREDIT, -3, -10 * CREDIT)
    life.correct("old", "void")
    assert available(life.account, "production") == before + 32 * CREDIT
    life.at_ms = life.account.renews_at_ms
    life.use("later", "read")
    assert available(life.account, "production") == life.account.allowance, "what was given back lasted that month"


def test_a_late_event_may_be_of_any_age_that_its_project_has(embedded: ClickHouse) -> None:
    life = Corrected(embedded)
    life.at_ms += 200 * DAY_MS
    life.use("touch", "read")
    when = datetime.fromtimestamp(START_MS / 1000 + 3_600, UTC).isoformat()
    (entry,) = life.correct("forgotten", "late", UsageData("image"), when)
    assert (entry.amount, entry.occurred_at_ms) == (-32 * CREDIT, START_MS + 3_600_000)
    assert life.correct("forgotten", "void")[0].amount == 32 * CREDIT


def test_a_correction_that_is_asked_for_again_is_the_same_whatever_was_spent_since(embedded: ClickHouse) -> None:
    """A repeat must have the fingerprint of the first, or its idempotency key would seem to be used for another
    request."""
    life = Corrected(embedded)
    life.use("event", "image")
    first = life.command("event", "amend", UsageData("website", quantity=500))
    life.apply(first)
    assert life.facts[-1].kind == "charge", "it was refused"
    life.use("since", "chat.message")
    again = life.command("event", "amend", UsageData("website", quantity=500))
    assert fingerprint(again) == fingerprint(first)


def test_an_event_that_was_refused_is_charged_after_all_and_keeps_its_time(embedded: ClickHouse) -> None:
    """A correction charges a refused event. The usage event sent again would not: its first decision stands."""
    life = Corrected(embedded)
    used_at_ms = life.at_ms
    life.use("refused", "website", quantity=100)
    assert life.facts[-1].kind == "refusal"
    life.at_ms += DAY_MS
    life.apply(top_up(500, life.project))
    (entry,) = life.correct("refused", "late", UsageData("website"))
    assert (entry.amount, entry.occurred_at_ms) == (-240 * CREDIT, used_at_ms)
    with pytest.raises(Rejection, match="charged already"):
        life.command("refused", "late", UsageData("website"))


def test_an_event_that_is_charged_anew_after_it_was_voided_keeps_its_own_time_and_price(embedded: ClickHouse) -> None:
    life = Corrected(embedded)
    used_at_ms = life.at_ms
    life.use("event", "image", job_id="job-1", key_id="key-1")
    life.at_ms += DAY_MS
    (void,) = life.correct("event", "void")
    assert void.price_version == life.book.version, "what is given back is what that book's price was"
    (entry,) = life.correct("event", "amend", UsageData("blog_post"))
    assert (entry.occurred_at_ms, entry.job_id, entry.key_id) == (used_at_ms, "job-1", "key-1")


@pytest.mark.parametrize("seed", range(3))
def test_after_everything_is_voided_no_usage_is_left(embedded: ClickHouse, seed: int) -> None:
    life = Corrected(embedded, seed)
    life.live(120)
    events = {fact.event_id for fact in life.facts if fact.kind == "charge" and fact.source}
    assert len(events) > 40
    for event_id in sorted(events):
        try:
            life.correct(event_id, "void")
        except Rejection as rejection:
            assert rejection.code == "already_corrected"
    with pytest.raises(Rejection):
        life.command("nothing", "void")
    rows, *_ = usage_page(embedded, UsageQuestion(life.project, ["operation"], *FOREVER))
    assert rows and {tuple(row[1:4]) for row in rows} == {(0, 0, 0)}, rows
    assert sum(fact.amount for fact in life.facts) == sum(grant.remaining for grant in life.account.grants)
