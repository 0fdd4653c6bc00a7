"""A receipt says why a decision was made and what the account was before and after it, from the history alone."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import msgspec
import pytest

from api.cli.explain import explain_text
from schemas.accounts import Account
from schemas.commands import CaptureHold, ChangePlan, CloseProject, Envelope, ReopenProject, Tick
from schemas.facts import entry_id
from schemas.http.receipts import Budget, Receipt
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import migrate
from streams.core.booking import FACTS_PER_SLOT, available, balance, format_credits, held
from streams.history.receipts import find_decision, receipt_of, receipts_of_event
from tests.core.builders import CREDIT, admit, usage
from tests.history.lives import DAY_MS, Life, asker, insert_facts

ENVIRONMENTS = ("production", "preview")


def receipt(clickhouse: ClickHouse, life: Life, fact_id: str, project: str | None = None) -> Receipt:
    decision, position = asyncio.run(find_decision(asker(clickhouse), project, fact_id, 1))
    return receipt_of(clickhouse, life.prices, decision, position)


def budget(account: Account, environment: str) -> Budget:
    return Budget(
        balance=format_credits(balance(account, environment)),
        held=format_credits(held(account, environment)),
        available=format_credits(available(account, environment)),
    )


def filled(clickhouse: ClickHouse, life: Life) -> ClickHouse:
    migrate(clickhouse)
    insert_facts(clickhouse, life.facts)
    return clickhouse


def test_every_fact_of_a_life_has_a_receipt_that_agrees_with_the_account(embedded: ClickHouse) -> None:
    life = Life(0)
    after_record: dict[int, Account] = {}
    for _ in range(100):
        life.live(1)
        after_record[life.account.last_offset] = life.state_at(life.at_ms)
    clickhouse = filled(embedded, life)
    outcomes = set()
    kinds = set()
    for number, fact in enumerate(life.facts):
        # A receipt takes a few queries: of what there are many, every third has its turn.
        kind = fact.kind, fact.reason
        if fact.project != life.project or (kind in kinds and number % 3):
            continue
        kinds.add(kind)
        found = receipt(clickhouse, life, entry_id(0, fact.offset, fact.index))
        outcomes.add(found.outcome)
        assert entry_id(0, fact.offset, fact.index) in [entry.id for entry in found.entries]
        text = explain_text(found.model_dump(mode="json"))
        assert found.id in text and found.summary in text
        following = life.facts[number + 1] if number + 1 < len(life.facts) else None
        ends_record = following is None or following.offset != fact.offset
        if ends_record and found.after is not None and fact.offset in after_record:
            environment = next(entry.environment for entry in found.entries if entry.environment)
            assert found.after == budget(after_record[fact.offset], environment), found
        if found.outcome == "charged":
            assert found.price is not None
            lines = [Decimal(line.rate or "0") * line.quantity for line in found.price.lines]
            assert Decimal(found.price.total) == sum(lines) == -sum(Decimal(entry.amount) for entry in found.entries)
    assert {"charged", "refused", "held", "corrected", "duplicate"} <= outcomes, outcomes


def test_what_time_brought_is_named_apart_from_the_use_that_woke_the_account(embedded: ClickHouse) -> None:
    life = Life(1, recurring=False)
    life.apply(Envelope([usage("first", occurred_at_ms=life.at_ms)]))
    life.at_ms = life.account.renews_at_ms + DAY_MS
    life.apply(Envelope([usage("second", operation="image", occurred_at_ms=life.at_ms)]))
    clickhouse = filled(embedded, life)
    charged = receipt(clickhouse, life, entry_id(0, life.facts[-1].offset, life.facts[-1].index))
    assert (charged.outcome, [entry.kind for entry in charged.entries]) == ("charged", ["charge"])
    assert [each.outcome for each in charged.booked_with] == ["renewed"]
    granted = life.account.allowance
    assert charged.before is not None and charged.before.balance == format_credits(granted)
    renewed = receipt(clickhouse, life, charged.booked_with[0].entries[0].id)
    assert renewed.outcome == "renewed"
    assert renewed.before is not None and renewed.after is not None
    assert (renewed.before.balance, renewed.after.balance) == (
        format_credits(granted - CREDIT),
        format_credits(granted),
    )
    assert f"{format_credits(granted - CREDIT)} credits that were left expired" in renewed.summary


def test_a_refusal_is_explained_as_of_when_it_was_used(embedded: ClickHouse) -> None:
    life = Life(1, recurring=False)
    assert life.account.plan == "free"
    start_ms = life.at_ms
    life.at_ms += 1_000
    life.apply(ChangePlan(project="p1", plan="build", contract_allowance=0, **life._addressed()))
    life.at_ms += 1_000
    life.apply(CloseProject(project="p1", reason="", **life._addressed()))
    life.at_ms += 1_000
    life.apply(ReopenProject(project="p1", **life._addressed()))
    explained = {}
    for offset_ms in (-1, 0, 2_000):
        used = usage(f"at {offset_ms}", operation="video.premium", occurred_at_ms=start_ms + offset_ms)
        life.apply(Envelope([used]))
        explained[offset_ms] = entry_id(0, life.facts[-1].offset, life.facts[-1].index)
    clickhouse = filled(embedded, life)
    refusals = [receipt(clickhouse, life, fact_id).refusal for fact_id in explained.values()]
    assert [(each.code, each.status, each.detail) for each in refusals if each is not None] == [
        (
            "time_out_of_range",
            422,
            "video.premium was used before the project was opened, or too long ago to judge",
        ),
        (
            "plan_required",
            402,
            "video.premium needs the build plan or a higher one; this project was on free",
        ),
        ("project_closed", 403, "The project was closed when video.premium was used"),
    ]


def test_a_hold_its_partial_capture_and_its_expiry(embedded: ClickHouse) -> None:
    life = Life(1, recurring=False)
    for event in ("kept", "left"):
        asked = usage(event, operation="image", quantity=2, occurred_at_ms=life.at_ms)
        life.apply(msgspec.structs.replace(admit(asked, correlation=event), hold_seconds=60))
    kept, left = (hold.id for hold in life.account.holds)
    life.apply(CaptureHold(project="p1", hold_id=kept, environment="", amount=40 * CREDIT, **life._addressed()))
    captured_id = entry_id(0, life.facts[-1].offset, life.facts[-1].index)
    life.at_ms += 100_000
    life.apply(Tick([life.project]))
    clickhouse = filled(embedded, life)
    placed = receipt(clickhouse, life, kept)
    assert (placed.outcome, placed.hold_id) == ("held", kept)
    assert placed.price is not None and placed.price.lines[0].text == "2 × 32 = 64"
    captured = receipt(clickhouse, life, captured_id)
    assert (captured.outcome, captured.hold_id) == ("captured", kept)
    assert captured.summary == f"Charged 40 credits of hold {kept}; 24 were given back"
    assert captured.before is not None and captured.after is not None
    assert (captured.before.held, captured.after.held) == ("128", "64")
    of_event = receipts_of_event(clickhouse, life.prices, "p1", "left", None, False)
    assert [each.outcome for each in of_event.decisions] == ["held", "hold expired"]
    assert of_event.decisions[1].summary.startswith("A hold expired unresolved; 64 credits were given back")
    assert left in of_event.decisions[1].summary


def test_a_refusal_names_what_was_needed_with_its_surcharge_and_what_there_was(embedded: ClickHouse) -> None:
    life = Life(5, recurring=False)
    life.apply(
        Envelope(
            [
                usage("post", operation="social_post.text", surcharge="social_post.video", quantity=10_000),
                usage("preview", operation="image", environment="preview"),
            ]
        )
    )
    clickhouse = filled(embedded, life)
    offset = life.facts[-1].offset
    post = receipt(clickhouse, life, entry_id(0, offset, 0))
    assert post.refusal is not None and post.after is not None
    assert (post.outcome, post.refusal.status, post.refusal.needed) == ("refused", 402, "450000")
    assert post.refusal.available == post.after.available == format_credits(life.account.allowance)
    assert post.price is not None
    assert [line.text for line in post.price.lines] == ["10000 × 5 = 50000", "10000 × 40 = 400000"]
    preview = receipt(clickhouse, life, entry_id(0, offset, FACTS_PER_SLOT))
    assert preview.summary == "Refused: image costs 32 credits; 0 were available"


def test_what_is_not_there_is_unknown_at_once_where_the_history_is_past_it(embedded: ClickHouse) -> None:
    life = Life(1, recurring=False)
    life.live(5)
    clickhouse = filled(embedded, life)
    last = life.facts[-1]
    mine = entry_id(0, last.offset, last.index)
    for project, wrong in (
        ("another", mine),
        (None, entry_id(0, 0, 900)),
        (None, "0-0"),
        (None, "9-9-9-9"),
        (None, "x"),
        # Also where the history is not past the id yet, if it is far from it.
        (None, "0-5000000-0"),
        (None, "1-5000000-0"),
        (None, "2-0-0"),
    ):
        with pytest.raises(Rejection, match="There is no decision"):
            asyncio.run(asyncio.wait_for(find_decision(asker(clickhouse), project, wrong, 2), 1.0))
    assert receipt(clickhouse, life, mine, "p1").project == "p1"
