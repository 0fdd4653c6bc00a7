"""The last resort of a fold: what fails for a reason nobody foresaw is a dead letter; its neighbours lose nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from schemas.commands import Commands, Envelope
from schemas.facts import Fact
from streams.core import fold as fold_module
from streams.core.fold import Effects, IntakeItem, fold
from tests.core.builders import admit, create_project, top_up, usage
from tests.core.test_fold import State, item, kinds, opened

Fault = Callable[..., None]


def raise_deep(*_arguments: object) -> None:
    raise RecursionError("maximum recursion depth exceeded")


def spoil_and_raise(booking: Any, *_arguments: object) -> None:
    """A rule that breaks off in the middle: the account has lost its grants, and a fact says so."""
    booking.account.grants.clear()
    booking.facts.append("half a fact")
    raise KeyError("no such grant")


def state_the_unwritable(booking: Any, *_arguments: object) -> None:
    """A rule that ends well, and leaves a number that no encoder takes."""
    booking.account.grants[0].balance = 10**30


FAULTS: dict[str, Fault] = {
    "it is nested too deeply": raise_deep,
    "it breaks off halfway": spoil_and_raise,
    "what it says can't be written": state_the_unwritable,
}


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fault:
    """A fault of ours, met by the event `poison` and by the command of the correlation `poison`."""
    fault = FAULTS[request.param]

    def spoilt(name: str, is_poison: Callable[[Any], bool]) -> None:
        rule = getattr(fold_module, name)

        def apply(booking: Any, asked: Any, *rest: Any) -> Any:
            if is_poison(asked):
                fault(booking)
            return rule(booking, asked, *rest)

        monkeypatch.setattr(fold_module, name, apply)

    spoilt("charge", lambda usage: usage.event_id == "poison")
    spoilt("command_reply", lambda command: command.correlation == "poison")
    return fault


def decided(state: State, *items: IntakeItem) -> Effects:
    """The effects of items as the worker has them: with care once they failed without."""
    try:
        effects = state.fold(*items)
        msgspec.msgpack.encode((effects.facts, list(effects.accounts.values())))
        return effects
    except Exception:
        accounts = {name: fold_module._decode_account(value) for name, value in state.accounts.items()}
        return fold(0, items, accounts, dict(state.seen), "intake", is_careful=True)


def written(facts: list[Fact], leaving_out: int) -> list[Any]:
    return [msgspec.to_builtins(fact) for fact in facts if fact.index // 4096 != leaving_out]


def test_an_event_that_fails_costs_those_beside_it_nothing(fault: Fault) -> None:
    state, twin = opened(), opened()
    both = [usage("a"), usage("poison"), usage("b"), usage("c", project="p2")]
    for each in (state, twin):
        each.apply(item(1, create_project("p2")))
    effects = decided(state, item(2, Envelope(both)), item(3, Envelope([usage("d")])))
    assert [(letter.code, letter.offset, letter.index) for letter in effects.dead_letters] == [
        ("unprocessable_record", 2, 1)
    ]
    assert '"poison"' in effects.dead_letters[0].event
    assert kinds(effects) == ["charge"] * 4
    # All is as if the event had not been there, but that its id is taken.
    both[1] = usage("ghost's", project="ghost")
    without = twin.fold(item(2, Envelope(both)), item(3, Envelope([usage("d")])))
    assert written(effects.facts, -1) == written(without.facts, -1)
    assert effects.accounts == without.accounts
    assert effects.seen.keys() - without.seen.keys() == {usage("poison").dedup_hash}


def test_a_command_that_fails_is_answered_and_those_beside_it_are_decided(fault: Fault) -> None:
    state, twin = opened(), opened()
    commands = [top_up(correlation="t"), admit(usage("x"), "poison", key="k"), admit(usage("y"), "a")]
    effects = decided(state, item(1, Commands(commands)))
    assert [(r.status, r.code) for _, r in effects.replies] == [(200, ""), (500, "internal_error"), (200, "")]
    (letter,) = effects.dead_letters
    assert (letter.code, letter.offset, letter.index) == ("unprocessable_record", 1, 1)
    without = twin.fold(item(1, Commands([commands[0], admit(usage("x", project="ghost"), "a"), commands[2]])))
    assert written(effects.facts, -1) == written(without.facts, -1)
    assert effects.accounts == without.accounts
    # It may be sent again under its key, once this is mended.
    state.store(effects)
    again = state.fold(item(2, admit(usage("x"), "again", key="k")))
    assert [(r.status, r.code) for _, r in again.replies] == [(200, "")]


def test_a_project_whose_opening_fails_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_module, "reschedule", raise_deep)
    effects = decided(State(), item(0, create_project()))
    assert (effects.accounts, effects.facts, effects.seen) == ({}, [], {})
    assert [r.status for _, r in effects.replies] == [500]


def test_redelivered_records_give_the_same_facts_and_no_dead_letter_of_another_name(fault: Fault) -> None:
    state = opened()
    items = [
        item(1, Envelope([usage("a"), usage("poison")])),
        item(2, Commands([admit(usage("b"), "a", key="1"), admit(usage("c"), "poison"), admit(usage("d"), "e")])),
    ]
    first = decided(state, *items)
    assert decided(state, *items) == first
    # A crash left the ids behind, and then the accounts too.
    state.seen |= first.seen
    assert decided(state, *items).facts == first.facts
    state.store(first)
    again = decided(state, *items)
    assert again.facts == []
    assert {(each.offset, each.index) for each in again.dead_letters} <= {(1, 1), (2, 1)}
    assert again.accounts == first.accounts


def test_care_changes_nothing_where_nothing_fails() -> None:
    state = opened()
    items = [
        item(1, Envelope([usage("a"), usage("b"), usage("a"), usage("x", project="ghost")])),
        item(2, Commands([admit(usage("b"), "a", key="1"), top_up(correlation="2"), create_project("p3")])),
        item(3, Envelope([usage("d", project="p3"), usage("e")])),
    ]
    accounts = {name: fold_module._decode_account(value) for name, value in state.accounts.items()}
    assert fold(0, items, accounts, dict(state.seen), "intake", is_careful=True) == state.fold(*items)


def test_memory_that_is_short_is_no_fault_of_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(fold_module, "charge", short)
    accounts = {name: fold_module._decode_account(value) for name, value in opened().accounts.items()}
    with pytest.raises(MemoryError):
        fold(0, [item(1, Envelope([usage("a")]))], accounts, {}, "intake", is_careful=True)
