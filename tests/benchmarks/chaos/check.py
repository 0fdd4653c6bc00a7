"""The check after a chaos run compares what the history holds with what the load was told. All figures must be 0."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from streams.clickhouse.client import ClickHouse
from tests.benchmarks.chaos.load import EVENT_SOURCE, Book, Told

_FACTS = (
    "SELECT partition, offset, position, kind, project, quantity, amount, balance, reason, source, event_id, metadata "
    "FROM facts WHERE NOT has({probes:Array(String)}, project) ORDER BY partition, offset, position"
)
_BUDGET_KINDS = frozenset({"charge", "grant", "expiry", "refund", "refusal", "duplicate"})
EXAMPLES_MAX = 10


@dataclass(slots=True)
class ChargedUse:
    """The decisions that the history holds on one (source, event id)."""

    charges: int = 0
    refusals: int = 0
    amount: int = 0
    entry_ids: set[str] = field(default_factory=set)
    balance_at_refusal: int = 0


@dataclass(slots=True)
class History:
    """The history of a run, its facts summed up. `lowest` is each project's lowest balance ever, `sums` its balance at
    the end."""

    decided: dict[tuple[str, str], ChargedUse] = field(default_factory=lambda: defaultdict(ChargedUse))
    top_ups: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    sums: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    lowest: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    facts: int = 0
    repeated_rows: int = 0
    wrong_balances: int = 0


def read_history(clickhouse: ClickHouse, probes: Sequence[str]) -> History:
    """Read the history from ClickHouse, without the projects of the probe, whose requests nobody counts."""
    return fold_history(clickhouse.query(_FACTS, {"probes": list(probes)}))


def fold_history(rows: Iterable[Sequence[Any]]) -> History:
    """Sum up the rows that `_FACTS` selects, which come in the order in which they were decided."""
    history = History()
    last: tuple[int, int, int] | None = None
    for (
        partition,
        offset,
        position,
        kind,
        project,
        quantity,
        amount,
        balance,
        reason,
        source,
        event_id,
        metadata,
    ) in rows:
        history.facts += 1
        place = (partition, offset, position)
        history.repeated_rows += place == last
        last = place
        history.sums[project] += amount
        if kind in _BUDGET_KINDS:
            history.wrong_balances += balance != history.sums[project]
            history.lowest[project] = min(history.lowest[project], balance, history.sums[project])
        if kind == "grant" and reason == "top_up":
            history.top_ups[msgspec.json.decode(metadata)["reference"]].append(project)
        if kind in ("charge", "refusal"):
            decided = history.decided[source, event_id]
            decided.entry_ids.add(f"{partition}-{offset}-{position}")
            if kind == "charge":
                # A line may be paid from two grants, by two entries; only the first of them has the quantity.
                decided.charges += quantity > 0
                decided.amount -= amount
            else:
                decided.refusals += 1
                decided.balance_at_refusal = balance
    return history


def compare(book: Book, history: History, available: dict[str, tuple[int, int]]) -> tuple[dict[str, int], list[str]]:
    """The figures that must be zero, and examples of what is wrong.

    `available` is what each project can spend, as (its owner's figure, the API's). The figures `lost` and
    `billed_twice` count events, admissions and top-ups; figures that end in `_microcredits` are microcredits.
    """
    figures: dict[str, int] = dict.fromkeys(
        ("lost", "billed_twice", "wrong_answers", "wrong_microcredits", "refused_with_credits", "not_asked_for"), 0
    )
    examples: list[str] = []

    def wrong(figure: str, what: object, by: int = 1) -> None:
        figures[figure] += by
        if len(examples) < EXAMPLES_MAX:
            examples.append(f"{figure}: {what}")

    def check_decision(name: object, found: ChargedUse | None, cost: int) -> None:
        if found is None or not found.charges + found.refusals:
            wrong("lost", name)
            return
        if found.charges + found.refusals > 1:
            wrong("billed_twice", (name, found), found.charges + found.refusals - 1)
        if found.amount != (cost if found.charges else 0):
            wrong("wrong_microcredits", (name, found, cost), abs(found.amount - (cost if found.charges else 0)))
        if found.refusals and found.balance_at_refusal >= cost:
            wrong("refused_with_credits", (name, found, cost))

    for event_id, (_, cost) in book.events.items():
        check_decision(event_id, history.decided.get((EVENT_SOURCE, event_id)), cost)
    for place, told in book.admissions.items():
        found = history.decided.get(place)
        check_decision(place, found, told.cost)
        if found is not None and not _as_told(told, found):
            wrong("wrong_answers", (place, told, found))
    for reference in book.top_ups:
        granted = history.top_ups.get(reference, [])
        if not granted:
            wrong("lost", reference)
        elif len(granted) > 1:
            wrong("billed_twice", reference, len(granted) - 1)
    asked = book.admissions.keys() | {(EVENT_SOURCE, event_id) for event_id in book.events}
    for place in history.decided.keys() - asked:
        wrong("not_asked_for", place)
    for reference in history.top_ups.keys() - book.top_ups.keys():
        wrong("not_asked_for", reference)
    stranded = 0
    for project, (by_owner, by_api) in available.items():
        difference = max(abs(history.sums[project] - by_owner), abs(history.sums[project] - by_api))
        if difference:
            stranded += difference
            examples.append(f"stranded: {project} has {history.sums[project]}, {by_owner} and {by_api} are said")
    figures |= {
        "overspent_microcredits": -sum(history.lowest.values()),
        "stranded_microcredits": stranded,
        "wrong_balances": history.wrong_balances,
        "repeated_rows": history.repeated_rows,
        "unexpected_answers": len(book.unexpected),
    }
    return figures, [*examples, *book.unexpected[:EXAMPLES_MAX]]


def _as_told(told: Told, found: ChargedUse) -> bool:
    if told.status == 200:
        return found.charges == 1 and found.amount == told.microcredits and told.entry_id in found.entry_ids
    if told.status == 402:
        return found.refusals == 1 and not found.charges and told.entry_id in found.entry_ids
    return True
