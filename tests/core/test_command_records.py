"""Commands that share a record are each decided as if alone in it, and a repeat of the record decides the same."""

import copy
from collections.abc import Sequence
from itertools import chain

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.accounts import Limits
from schemas.commands import (
    AnyCommand,
    BillDelivery,
    CaptureHold,
    Commands,
    CountRequest,
    CreateKey,
    EndPortals,
    Envelope,
    Erase,
    OpenPortal,
    PublishPrices,
    PutEndpoint,
    RaiseLimits,
    SetLimits,
    SetStanding,
)
from schemas.facts import Fact
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from streams.core.booking import FACTS_PER_SLOT
from streams.core.fold import Effects, IntakeItem
from streams.core.price_list import PRICES_ID
from tests.core.builders import CREDIT, START_MS, addressed, admit, create_project, top_up, usage
from tests.core.test_fold import State, kinds, opened, replies

MONTH_MS = 31 * 86_400_000


def record(offset: int, *commands: AnyCommand, at_ms: int = START_MS) -> IntakeItem:
    return IntakeItem(offset, at_ms, Commands(list(commands)))


def told(effects: Effects) -> list[tuple[str, int, str, int]]:
    """The replies, each as (correlation, status, code, amount)."""
    return [(command.correlation, reply.status, reply.code, reply.amount) for command, reply in effects.replies]


def said(facts: Sequence[Fact]) -> list[tuple[str, str, str, str, int, str]]:
    """The contents of facts, without their place in the log."""
    return [(fact.kind, fact.project, fact.reason, fact.event_id, fact.amount, fact.key_id) for fact in facts]


def test_a_fact_is_named_by_its_commands_place() -> None:
    state = opened()
    effects = state.apply(record(1, admit(usage("a"), "a"), top_up(correlation="t"), admit(usage("b"), "b")))
    assert [(fact.kind, fact.index) for fact in effects.facts] == [
        ("charge", 0),
        ("grant", FACTS_PER_SLOT),
        ("charge", 2 * FACTS_PER_SLOT),
    ]
    assert [reply.entry_id for _, reply in effects.replies] == [
        "0-1-0",
        f"0-1-{FACTS_PER_SLOT}",
        f"0-1-{2 * FACTS_PER_SLOT}",
    ]


def test_two_commands_with_one_idempotency_key_act_once() -> None:
    state = opened()
    effects = state.apply(record(1, top_up(correlation="1", key="k"), top_up(correlation="2", key="k")))
    assert told(effects) == [("1", 200, "", 4_000 * CREDIT), ("2", 200, "", 4_000 * CREDIT)]
    assert kinds(effects) == ["grant"]
    assert state.available() == 4_250 * CREDIT


def test_one_idempotency_key_for_two_things_is_refused() -> None:
    state = opened()
    effects = state.apply(record(1, top_up(20, correlation="1", key="k"), top_up(100, correlation="2", key="k")))
    assert told(effects)[1] == ("2", 409, "idempotency_key_reused", 0)
    assert state.available() == 4_250 * CREDIT


def between(number: int) -> list[AnyCommand]:
    return [admit(usage(f"b{each}", operation="read"), f"b{each}") for each in range(number)]


def test_a_key_acts_once_however_many_replies_came_between() -> None:
    state = opened("scale")
    effects = state.apply(record(1, top_up(correlation="1", key="k"), *between(50), top_up(correlation="2", key="k")))
    assert told(effects)[-1] == ("2", 200, "", 4_000 * CREDIT)
    assert [kind for kind in kinds(effects) if kind == "grant"] == ["grant"]


def test_one_event_in_two_commands_is_charged_once() -> None:
    state = opened("scale")
    commands = [admit(usage("a"), "1"), *between(2), admit(usage("a"), "2")]
    effects = state.apply(record(1, *commands))
    assert [told(effects)[0], told(effects)[-1]] == [("1", 200, "", CREDIT), ("2", 200, "", 0)]
    assert effects.facts[-1].kind == "duplicate"
    assert sum(fact.amount for fact in effects.facts) == -CREDIT


def test_one_job_in_two_commands_is_held_once() -> None:
    state = opened("scale")
    first = admit(usage("a", operation="image", job_id="j"), "1", hold_seconds=60)
    second = admit(usage("b", operation="image", job_id="j"), "2", hold_seconds=60)
    effects = state.apply(record(1, first, *between(2), second))
    holds = [reply.hold_id for command, reply in effects.replies if command.correlation in ("1", "2")]
    assert holds == ["0-1-0", "0-1-0"]
    assert sum(fact.held for fact in effects.facts) == 32 * CREDIT


def capture_and_queue_again() -> list[AnyCommand]:
    """Commands of one record: the job that record 1 holds is captured, queued again twice, and reported."""
    event = usage("a", operation="image", job_id="j")
    return [
        CaptureHold(project="p1", hold_id="0-1-0", environment="", **addressed("capture")),
        admit(event, "same event", hold_seconds=60),
        admit(usage("b", operation="image", job_id="j"), "same job", hold_seconds=60),
        admit(event, "reported"),
    ]


def test_a_job_that_was_captured_earlier_in_the_record_is_decided() -> None:
    state = opened()
    state.apply(record(1, admit(usage("a", operation="image", job_id="j"), "hold", hold_seconds=60)))
    effects = state.apply(record(2, *capture_and_queue_again()))
    assert [kind for kind in kinds(effects) if kind != "release"] == ["charge", "duplicate", "duplicate", "duplicate"]
    assert state.available() == 218 * CREDIT
    assert kinds(state.apply(IntakeItem(3, START_MS, Envelope([usage("a", operation="image")])))) == ["duplicate"]


def test_a_project_is_opened_and_used_in_one_record() -> None:
    state = State()
    effects = state.apply(
        record(
            0,
            top_up(correlation="early", key="k"),
            create_project(plan="gold", correlation="wrong"),
            create_project(correlation="open"),
            create_project(correlation="again"),
            top_up(correlation="late", key="k"),
            admit(usage("a"), "a"),
        )
    )
    assert told(effects) == [
        ("early", 404, "unknown_project", 0),
        ("wrong", 422, "invalid_request", 0),
        ("open", 201, "", 250 * CREDIT),
        ("again", 409, "project_exists", 0),
        ("late", 200, "", 4_000 * CREDIT),
        ("a", 200, "", CREDIT),
    ]
    assert kinds(effects) == ["project", "grant", "grant", "charge"]
    assert state.available() == 4_249 * CREDIT


def publish(version: str, price: int, after: str, correlation: str) -> PublishPrices:
    rates = FIRST_PRICE_BOOK.rates | {"image": price * CREDIT}
    book = PriceBook(version, START_MS + len(version), rates, FIRST_PRICE_BOOK.plan_required, {}, START_MS)
    return PublishPrices(project=PRICES_ID, book=book, after=after, **addressed(correlation))


def prices_and_uses() -> list[AnyCommand]:
    """Commands of one record: a price book takes effect between two uses, and later books compete to follow it."""
    first = FIRST_PRICE_BOOK.version
    late = {"operation": "image", "occurred_at_ms": START_MS + 100}
    return [
        admit(usage("a", **late), "before"),
        publish("b", 30, first, "book"),
        admit(usage("b", **late), "after"),
        publish("bb", 20, first, "too late"),
        publish("b", 20, "", "same version"),
        publish("bbb", 10, "b", "next book"),
        admit(usage("c", **late), "last"),
    ]


def test_a_price_book_is_known_to_the_commands_behind_it_and_to_no_other() -> None:
    effects = opened().apply(record(1, *prices_and_uses()))
    assert told(effects) == [
        ("before", 200, "", 32 * CREDIT),
        ("book", 200, "", 0),
        ("after", 200, "", 30 * CREDIT),
        ("too late", 409, "price_list_changed", 0),
        ("same version", 409, "price_version_exists", 0),
        ("next book", 200, "", 0),
        ("last", 200, "", 10 * CREDIT),
    ]


def test_facts_of_a_command_bear_the_key_that_it_came_with_and_what_time_brought_does_not() -> None:
    state = opened()
    held = admit(usage("h", operation="image"), "h", hold_seconds=60)
    state.apply(record(1, msgspec.structs.replace(held, actor="key_h")))
    commands = [
        msgspec.structs.replace(top_up(correlation="t"), actor="key_t"),
        msgspec.structs.replace(admit(usage("a"), "a"), actor="key_a"),
        msgspec.structs.replace(admit(usage("b", key_id="key_of_event"), "b"), actor="key_b"),
        msgspec.structs.replace(admit(usage("w", operation="website", quantity=99), "w"), actor="key_w"),
        admit(usage("n"), "n"),
    ]
    effects = state.apply(record(2, *commands, at_ms=START_MS + MONTH_MS))
    assert [(fact.kind, fact.key_id) for fact in effects.facts] == [
        # The hold that expired, and the renewals, were nobody's act.
        ("release", ""),
        ("expiry", ""),
        ("grant", ""),
        ("grant", "key_t"),
        ("charge", "key_a"),
        ("charge", "key_of_event"),
        ("refusal", "key_w"),
        ("charge", ""),
    ]


def test_the_same_request_by_another_key_is_the_same_request() -> None:
    state = opened()
    by_one = msgspec.structs.replace(top_up(correlation="1", key="k"), actor="one")
    by_other = msgspec.structs.replace(top_up(correlation="2", key="k"), actor="other")
    assert replies(state.apply(record(1, by_one, by_other))) == [(200, "", 4_000 * CREDIT)] * 2


def test_a_request_that_was_limited_is_told_so_again_though_its_key_was_answered_later_in_the_record() -> None:
    state = opened()
    limits = Limits(1, 1, 0)
    state.apply(
        record(1, SetLimits(project="p1", limits=limits, is_shadow=False, reason="", **addressed("l"))),
        record(2, admit(usage("x", operation="read"), "x")),
    )
    raised = {"starts_at_ms": 0, "ends_at_ms": START_MS + 60_000, "reason": ""}
    late = record(
        3,
        admit(usage("a"), "limited", key="k"),
        RaiseLimits(project="p1", limits=Limits(9, 0, 0), **raised, **addressed("raise")),
        admit(usage("a"), "passed", key="k"),
        admit(usage("a"), "repeated", key="k"),
    )
    first = state.apply(late)
    assert [status for _, status, _, _ in told(first)] == [429, 200, 200, 200]
    again = state.fold(late)
    assert (again.facts, again.replies) == ([], first.replies)


def crash_cases() -> dict[str, list[AnyCommand]]:
    """The commands of records that are hard to repeat. Each comes after records that open p1 and hold a job there."""
    event = usage("a", operation="image", job_id="j")
    return {
        "captured and queued again": capture_and_queue_again(),
        "prices": prices_and_uses(),
        "several projects": [
            top_up(project="p2", correlation="early", key="k"),
            admit(usage("q"), "1", key="k"),
            create_project("p2", plan="hobby", correlation="open"),
            top_up(project="p2", correlation="late", key="k"),
            admit(usage("q"), "2", key="k"),
            admit(usage("q", project="p2"), "3"),
            admit(usage("r", project="p2"), "4", key="q"),
            admit(usage("r", project="p2"), "5", key="r"),
        ],
        # The second one decides nothing: a later event of its name is charged, whatever crashed before.
        "one key for two things": [top_up(correlation="t", key="k"), admit(usage("z"), "other", key="k")],
        "refused, then done": [
            admit(usage("w", operation="website"), "no", key="k"),
            top_up(correlation="t"),
            admit(usage("w", operation="website"), "yes", key="l"),
            admit(event, "found", hold_seconds=60),
        ],
    }


@pytest.mark.parametrize("commands", crash_cases().values(), ids=crash_cases())
@pytest.mark.parametrize("others_are_kept", [False, True])
def test_a_crash_that_kept_some_of_it_leaves_the_same_facts_and_replies(
    commands: list[AnyCommand], others_are_kept: bool
) -> None:
    """A record comes again after some of its accounts were written: what those hold is not done again, the rest is."""
    before = opened()
    before.apply(record(1, admit(usage("a", operation="image", job_id="j"), "hold", hold_seconds=60)))
    late = record(2, *commands)
    whole = before.fold(late)
    names = sorted(whole.accounts)
    for chosen in range(2 ** len(names)):
        kept = [project for place, project in enumerate(names) if chosen >> place & 1]
        state = State()
        state.accounts = before.accounts | {
            project: msgspec.msgpack.encode(whole.accounts[project]) for project in kept
        }
        state.seen, state.kept = dict(before.seen), copy.deepcopy(before.kept)
        # Accounts are written after the dedup index and the kept replies.
        if others_are_kept or kept:
            state.seen |= whole.seen
            state.kept.update(whole.kept)
        again = state.apply(late)
        assert again.facts == [fact for fact in whole.facts if fact.project not in kept]
        assert again.replies == whole.replies
        assert again.seen == whole.seen
        assert again.kept == whole.kept
        assert state.accounts == before.accounts | {
            project: msgspec.msgpack.encode(account) for project, account in whole.accounts.items()
        }


def test_a_record_of_many_commands_that_comes_again_is_answered_to_the_last() -> None:
    state = opened("scale")
    state.apply(record(1, top_up(correlation="0", key="old")))
    late = record(
        2, top_up(correlation="1", key="k"), *between(60), top_up(correlation="2", key="l"), top_up(100, key="old")
    )
    first = state.apply(late)
    again = state.fold(late)
    assert again.facts == []
    assert again.replies == first.replies and len(again.replies) == 63
    asked_again = state.apply(record(3, top_up(correlation="3", key="k")))
    assert told(asked_again) == [("3", 200, "", 4_000 * CREDIT)]


ENDPOINT = {"kind": "webhook", "target": "https://acme.example/hook"}
commands = st.one_of(
    st.builds(
        lambda event, project, key, seconds: admit(
            usage(f"e{event}", f"p{project}", "image", job_id=f"j{event % 3}"), key=key, hold_seconds=seconds
        ),
        st.integers(0, 5),
        st.integers(1, 2),
        st.sampled_from(["", "", "k", "l"]),
        st.sampled_from([0, 0, 60]),
    ),
    st.builds(lambda project, key: top_up(20, f"p{project}", key=key), st.integers(1, 2), st.sampled_from(["", "m"])),
    st.builds(lambda project: create_project(f"p{project}"), st.integers(1, 2)),
    st.builds(
        lambda project: CountRequest(project=f"p{project}", operation="GET /", environment="preview", **addressed()),
        st.integers(1, 2),
    ),
    st.builds(
        lambda limit, is_shadow: SetLimits(
            project="p1", limits=Limits(limit, limit, 40 * CREDIT), is_shadow=is_shadow, reason="", **addressed()
        ),
        st.integers(0, 3),
        st.booleans(),
    ),
    st.just(SetStanding(project="p1", is_good=False, reason="", **addressed())),
    st.builds(lambda name: Erase(project="p1", customer=name, reason="", **addressed()), st.sampled_from(["", "c"])),
    st.just(EndPortals(project="p1", reason="", **addressed())),
    st.builds(
        lambda number, known_offset: OpenPortal(
            project="p1",
            environment="production",
            session_id="s",
            customer_sha256="",
            known_offset=known_offset,
            expires_at_ms=START_MS + 900_000,
            **addressed(idempotency_key=f"link-{number}"),
        ),
        st.integers(1, 2),
        # Before all records, or behind them: theirs are others when they are together.
        st.sampled_from([-1, 1_000]),
    ),
    st.builds(
        lambda number, change: PutEndpoint(
            project="p1", endpoint_id=f"e{number}", **(ENDPOINT if change is None else change), **addressed()
        ),
        st.integers(1, 2),
        st.sampled_from([None, {"is_change": True, "state": "paused"}]),
    ),
    st.builds(
        lambda project, attempt: BillDelivery(
            project=f"p{project}", environment="", attempt_id=f"e1.n.{attempt}", endpoint_id="e1", **addressed()
        ),
        st.integers(1, 2),
        st.integers(2, 3),
    ),
    st.just(CreateKey(project="p2", key_id="k", key_hash=b"", environment="preview", scopes=[], **addressed())),
)


@given(st.lists(commands, min_size=1, max_size=10))
def test_together_they_decide_as_each_would_alone(some: list[AnyCommand]) -> None:
    """Commands in one record and in records of their own give the same facts and replies, but for the facts' ids, and
    the same credits."""
    sent = [
        msgspec.structs.replace(command, correlation=f"c{number}", actor=f"a{number % 2}")
        for number, command in enumerate([create_project(), *some])
    ]
    together, alone = State(), State()
    first = together.apply(record(0, *sent))
    each = [alone.apply(record(offset, command)) for offset, command in enumerate(sent)]
    assert said(first.facts) == said(list(chain.from_iterable(effects.facts for effects in each)))
    assert told(first) == list(chain.from_iterable(told(effects) for effects in each))
    assert set(together.seen) == set(alone.seen)
    assert [together.available(project) for project in together.accounts] == [
        alone.available(project) for project in alone.accounts
    ]
