"""The owner's fold: deduplication, redelivery, idempotency. However records are batched, the facts are the same."""

import copy
from collections import defaultdict

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas.accounts import Account
from schemas.commands import Envelope
from schemas.facts import Fact
from schemas.problems import Rejection
from schemas.replies import KEPT_FOR, Reply
from schemas.times import DAY_MS
from streams.core.booking import available
from streams.core.fold import Effects, IntakeItem, Unreadable, fold
from streams.core.replies import Kept
from tests.core.builders import CREDIT, START_MS, admit, create_project, top_up, usage


class State:
    """The state of an owner: the contents of its tables, and the facts that it has published."""

    def __init__(self) -> None:
        self.accounts: dict[str, bytes] = {}
        self.seen: dict[bytes, int] = {}
        self.kept = Kept()
        self.facts: list[Fact] = []

    def fold(self, *items: IntakeItem) -> Effects:
        accounts = {name: msgspec.msgpack.decode(value, type=Account) for name, value in self.accounts.items()}
        kept = Kept(dict(self.kept.by_key), dict(self.kept.by_request))
        return fold(0, items, accounts, dict(self.seen), kept, "intake")

    def store(self, effects: Effects) -> Effects:
        self.facts += effects.facts
        self.accounts |= {name: msgspec.msgpack.encode(account) for name, account in effects.accounts.items()}
        self.seen |= effects.seen
        self.kept.update(effects.kept)
        return effects

    def apply(self, *items: IntakeItem) -> Effects:
        return self.store(self.fold(*items))

    def available(self, project: str = "p1") -> int:
        return available(msgspec.msgpack.decode(self.accounts[project], type=Account), "production")


def item(offset: int, body) -> IntakeItem:
    return IntakeItem(offset, START_MS + offset, body)


def opened(plan: str = "free") -> State:
    state = State()
    state.apply(item(0, create_project(plan=plan)))
    return state


def kinds(effects: Effects) -> list[str]:
    return [fact.kind for fact in effects.facts]


def replies(effects: Effects) -> list[tuple[int, str, int]]:
    return [(r.status, r.code, r.amount) for _, r in effects.replies]


def test_the_same_event_in_another_record_is_a_duplicate() -> None:
    state = opened()
    assert kinds(state.apply(item(1, Envelope([usage("a")])))) == ["charge"]
    assert kinds(state.apply(item(2, Envelope([usage("a"), usage("b")])))) == ["duplicate", "charge"]
    assert state.available() == 248 * CREDIT


def test_the_same_event_twice_in_one_record_is_billed_once() -> None:
    state = opened()
    assert kinds(state.apply(item(1, Envelope([usage("a"), usage("a")])))) == ["charge", "duplicate"]


def test_the_same_id_from_another_source_or_project_is_another_event() -> None:
    state = opened()
    state.apply(item(1, create_project("p2")))
    from streams.core.acceptance import dedup_hash

    other_source = usage("a", dedup_hash=dedup_hash("p1", "/other", "a"), source="/other")
    events = [usage("a"), other_source, usage("a", project="p2", occurred_at_ms=START_MS + 1)]
    assert kinds(state.apply(item(2, Envelope(events)))) == ["charge"] * 3


def test_a_redelivered_record_changes_nothing_and_writes_the_stored_values_again() -> None:
    state = opened()
    first = state.apply(item(1, Envelope([usage("a"), usage("a"), usage("b")])))
    again = state.fold(item(1, Envelope([usage("a"), usage("a"), usage("b")])))
    assert again.facts == []
    assert msgspec.msgpack.encode(again.accounts["p1"]) == state.accounts["p1"]
    assert again.seen == first.seen


def test_a_refusal_from_before_an_account_was_opened_is_told_again() -> None:
    """A regression that the simulation found: such a refusal became "unknown project" once another command had opened
    the account."""
    state = State()
    records = [
        item(0, top_up(correlation="early")),
        item(1, create_project(plan="gold", correlation="wrong")),
        item(2, create_project(correlation="right")),
    ]
    first = state.apply(*records)
    assert replies(first) == [(404, "unknown_project", 0), (422, "invalid_request", 0), (201, "", 250 * CREDIT)]
    again = state.apply(*records)
    assert (again.facts, again.replies) == ([], first.replies)


def test_a_repeat_whose_changelogs_were_lost_states_the_same_facts_under_the_same_names() -> None:
    state = opened()
    record = item(1, Envelope([usage("a"), usage("a"), usage("b", operation="website"), usage("c")]))
    lost = state.fold(record)
    assert state.fold(record).facts == lost.facts


def test_a_repeat_where_only_the_dedup_index_was_written_still_bills() -> None:
    state = opened()
    record = item(1, Envelope([usage("a"), usage("a")]))
    state.seen |= state.fold(record).seen
    assert kinds(state.apply(record)) == ["charge", "duplicate"]


def test_a_repeat_where_only_the_account_was_written_writes_the_dedup_index_again() -> None:
    state = opened()
    record = item(1, Envelope([usage("a")]))
    effects = state.fold(record)
    state.accounts["p1"] = msgspec.msgpack.encode(effects.accounts["p1"])
    assert state.apply(record).facts == []
    assert kinds(state.apply(item(2, Envelope([usage("a")])))) == ["duplicate"]


def test_a_repeat_whose_dedup_index_knows_a_later_record_decides_the_same() -> None:
    """A regression that the simulation found: a refused admission claims no id, the event after it claims it, and only
    that was written."""
    state = opened()
    batch = [
        item(1, admit(usage("w", operation="website"), correlation="w")),
        item(2, admit(usage("a", operation="image"))),
    ]
    batch.append(item(3, Envelope([usage("a", operation="image")])))
    lost = state.fold(*batch)
    assert kinds(lost) == ["charge", "notice", "refusal", "refusal"]
    state.seen |= lost.seen
    assert state.fold(*batch).facts == lost.facts


def test_unknown_projects_are_dead_lettered_and_cost_their_neighbours_nothing() -> None:
    state = opened()
    effects = state.apply(item(1, Envelope([usage("x", project="ghost"), usage("a")])))
    assert kinds(effects) == ["charge"]
    (letter,) = effects.dead_letters
    assert (letter.code, letter.offset, letter.index) == ("unknown_project", 1, 0)


def test_what_can_not_be_read_is_dead_lettered_and_its_neighbours_are_charged() -> None:
    state = opened()
    effects = state.apply(
        item(1, Unreadable(b"?", Rejection("unreadable_record", "not ours"))), item(2, Envelope([usage("a")]))
    )
    assert [(letter.code, letter.offset, letter.event) for letter in effects.dead_letters] == [
        ("unreadable_record", 1, "?")
    ]
    assert kinds(effects) == ["charge"]


def test_an_operation_that_the_owner_has_no_price_for_is_refused_and_recorded() -> None:
    state = opened()
    effects = state.apply(item(1, Envelope([usage("a", operation="hologram"), usage("b")])))
    assert [(fact.kind, fact.reason) for fact in effects.facts] == [("refusal", "unknown_operation"), ("charge", "")]


def test_an_event_that_came_before_its_project_is_not_held_against_a_later_one() -> None:
    state = State()
    early = item(1, Envelope([usage("a")]))
    state.apply(early)
    state.apply(item(2, create_project()))
    repeated = state.apply(early)
    assert [letter.code for letter in repeated.dead_letters] == ["unknown_project"]
    assert kinds(state.apply(item(3, Envelope([usage("a", occurred_at_ms=START_MS + 2)])))) == ["charge"]


def test_a_repeated_idempotency_key_gets_the_same_reply_and_acts_once() -> None:
    state = opened()
    first = state.apply(item(1, top_up(correlation="1", key="k")))
    second = state.apply(item(2, top_up(correlation="2", key="k")))
    assert replies(first) == replies(second) == [(200, "", 4_000 * CREDIT)]
    assert second.facts == []
    assert state.available() == 4_250 * CREDIT


def test_an_idempotency_key_with_other_content_is_refused() -> None:
    state = opened()
    state.apply(item(1, top_up(20, correlation="1", key="k")))
    assert replies(state.apply(item(2, top_up(100, correlation="2", key="k")))) == [(409, "idempotency_key_reused", 0)]


def test_a_reply_under_a_key_is_kept_for_a_day_however_many_others_come_and_then_the_key_still_acts_once() -> None:
    state = opened("scale")
    first = state.apply(IntakeItem(1, START_MS, top_up(correlation="1", key="k")))
    for number in range(100):
        state.apply(item(2 + number, admit(usage(f"e{number}"), correlation=f"a{number}", key=f"{number}")))
    late = state.apply(IntakeItem(200, START_MS + DAY_MS - 1, top_up(correlation="2", key="k")))
    assert replies(late) == replies(first) and late.facts == []
    last = IntakeItem(201, START_MS + DAY_MS, top_up(correlation="3", key="k"))
    expired = state.apply(last)
    assert replies(expired) == [(409, "idempotency_reply_expired", 0)]
    assert expired.facts == []
    assert state.apply(last).replies == expired.replies


def test_a_reply_without_a_key_is_kept_for_as_long_as_its_sender_may_ask_again() -> None:
    state = opened()
    command = admit(usage("a", operation="image"), correlation="c")
    first = state.apply(IntakeItem(1, START_MS, command))
    again = state.apply(IntakeItem(2, START_MS + KEPT_FOR.request_ms - 1, command))
    assert (again.facts, again.replies) == ([], first.replies)
    late = state.apply(IntakeItem(3, START_MS + KEPT_FOR.request_ms, command))
    assert kinds(late) == ["duplicate"], "it is decided, and charged no second time"


def test_a_reply_that_a_crash_left_does_not_count() -> None:
    """A batch of which a crash left all but the accounts decides what it decided, repeated in whole or in part."""
    state = opened()
    batch = [
        item(1, admit(usage("w", operation="website", quantity=2), "1", key="k")),
        item(2, top_up(correlation="2", key="l")),
        item(3, admit(usage("w", operation="website", quantity=2), "3", key="k")),
        item(4, top_up(correlation="4", key="k")),
    ]
    whole = state.fold(*batch)
    assert replies(whole) == [
        (402, "out_of_credits", 0),
        (200, "", 4_000 * CREDIT),
        (402, "out_of_credits", 0),
        (409, "idempotency_key_reused", 0),
    ]
    state.seen |= whole.seen
    state.kept.update(whole.kept)
    for size in (1, 2, 4):
        again = state.fold(*batch[:size])
        assert again.facts == [fact for fact in whole.facts if fact.offset <= size]
        assert again.replies == whole.replies[:size]
    assert again.kept == whole.kept


def test_a_redelivered_command_is_answered_again() -> None:
    state = opened()
    command = item(1, admit(usage("a")))
    first = state.apply(command)
    again = state.apply(command)
    assert again.facts == []
    assert again.replies == first.replies


def test_an_admitted_request_and_its_usage_event_are_billed_once() -> None:
    state = opened()
    assert replies(state.apply(item(1, admit(usage("a"))))) == [(200, "", CREDIT)]
    assert kinds(state.apply(item(2, Envelope([usage("a")])))) == ["duplicate"]
    assert replies(state.apply(item(3, admit(usage("a"), correlation="again")))) == [(200, "", 0)]


def test_a_refused_admission_leaves_its_event_free_to_come_later() -> None:
    state = opened()
    state.apply(item(1, admit(usage("w", operation="website"))))
    assert replies(state.apply(item(2, admit(usage("i", operation="image"), correlation="i")))) == [
        (402, "out_of_credits", 0)
    ]
    state.apply(item(3, top_up()))
    assert kinds(state.apply(item(4, Envelope([usage("i", operation="image")])))) == ["charge", "charge"]


def test_commands_on_no_project_are_answered() -> None:
    assert replies(State().apply(item(1, top_up()))) == [(404, "unknown_project", 0)]
    state = opened()
    assert replies(state.apply(item(1, create_project(correlation="other")))) == [(409, "project_exists", 0)]


events = st.builds(
    lambda number, project, operation: usage(f"e{number}", project=f"p{project}", operation=operation),
    st.integers(0, 12),
    st.integers(1, 3),
    st.sampled_from(["chat.message", "image", "website", "read"]),
)
bodies = st.one_of(
    st.lists(events, min_size=1, max_size=6).map(Envelope),
    st.builds(lambda event, key: admit(event, key=key), events, st.sampled_from(["", *"abcdef"])),
    st.builds(lambda project, key: top_up(project=f"p{project}", key=key), st.integers(1, 3), st.sampled_from("uvw")),
    st.integers(1, 3).map(lambda project: create_project(f"p{project}", correlation=f"open{project}")),
)


def named(body, correlation: str):
    """A body whose command, where it is one, has this correlation."""
    return body if isinstance(body, Envelope) else msgspec.structs.replace(body, correlation=correlation)


@given(st.lists(bodies, max_size=14), st.data())
def test_crashes_anywhere_change_neither_facts_nor_replies_nor_state(log: list, data: st.DataObject) -> None:
    """A run record by record is compared with a run in random batches, each of which may be cut short between any two
    of its effects and delivered again."""
    items = [item(offset, named(copy.deepcopy(body), f"r{offset}")) for offset, body in enumerate(log)]
    reference = State()
    expected = {command.correlation: reply for each in items for command, reply in reference.apply(each).replies}

    crashing = State()
    published: list[Fact] = []
    told: dict[str, list[Reply]] = defaultdict(list)
    at = 0
    crashes = 0
    while at < len(items):
        batch = items[at : at + data.draw(st.integers(1, 4))]
        effects = crashing.fold(*batch)
        published += effects.facts
        for command, reply in effects.replies:
            told[command.correlation].append(reply)
        outcome = data.draw(st.integers(0, 3)) if crashes < 12 else 3
        if outcome == 3:
            crashing.store(effects)
            at += len(batch)
            continue
        crashes += 1
        # The journal is acknowledged; some of the changelogs' records reached the log. Accounts come after the others.
        if outcome == 1:
            for written, own in (
                (effects.seen, crashing.seen),
                (effects.kept.by_key, crashing.kept.by_key),
                (effects.kept.by_request, crashing.kept.by_request),
            ):
                own |= {name: value for name, value in written.items() if data.draw(st.booleans())}
        if outcome == 2:
            crashing.seen |= effects.seen
            crashing.kept.update(effects.kept)
            for name, account in effects.accounts.items():
                if data.draw(st.booleans()):
                    crashing.accounts[name] = msgspec.msgpack.encode(account)
        at = max(0, at - data.draw(st.integers(0, 2)))

    marked: list[Fact] = []
    for fact in published:
        if not marked or (fact.offset, fact.index) > (marked[-1].offset, marked[-1].index):
            marked.append(fact)
    assert marked == reference.facts
    assert crashing.accounts == reference.accounts
    assert crashing.seen == reference.seen
    assert crashing.kept == reference.kept
    assert told == {correlation: [reply] * len(told[correlation]) for correlation, reply in expected.items()}
