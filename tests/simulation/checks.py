"""The checks of a world that has come to rest: log, state, journal, history and replies agree with the model."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

import msgspec

from schemas.accounts import Account, Window
from schemas.commands import CountRefused, CountRequest, Envelope
from schemas.events import Usage
from schemas.facts import Fact
from streams.core.acceptance import dedup_hash
from streams.core.foreign import UnreadableError
from streams.core.projects import NEVER_MS
from streams.kafka.codecs import decode_account, decode_dead_letter, decode_facts, decode_intake, decode_kept_reply
from streams.worker.tables import PartitionedStore
from tests.core.stated import check_stated
from tests.simulation.disk import Disk, apply_changelog
from tests.simulation.model.accounts import Project
from tests.simulation.model.answers import Answer, answer_of
from tests.simulation.model.identities import identity_names
from tests.simulation.model.lines import Line
from tests.simulation.model.records import Model
from tests.simulation.model.windows import Window as ModelWindow
from tests.simulation.world import World, in_place_of_real_parts

ENVIRONMENTS = ("production", "preview")
# The source under which requests are named among the kept replies.
REQUEST = "meterline:request"


def simulate(seed: int, hazards: frozenset[str] = frozenset(), trace: Callable[[str], None] | None = None) -> World:
    """Run the world of one seed until it comes to rest, and check it. Raises AssertionError, saying what differs."""
    world = World(seed, hazards, trace)
    with in_place_of_real_parts(world):
        world.run()
        check(world)
    return world


def check(world: World) -> None:
    """Check a world at rest against the model. Raises AssertionError, saying what differs."""
    models = {partition: _model(world, partition) for partition in range(world.partitions)}
    for partition, model in models.items():
        lines = _check_journal(world, partition, model)
        _check_state(world, partition, model, lines)
        _check_history(world, partition, lines)
    _check_charges(world)
    _check_uses(world)
    _check_replies(world, models)
    _check_dead_letters(world, models)
    _check_arrivals(world)


def _model(world: World, partition: int) -> Model:
    model = Model(partition, world.kept_for, world.dedup_days)
    for record in world.kafka.log(world.topics.intake, partition).records:
        try:
            body = decode_intake(record.value)
        except UnreadableError:
            body = None  # type: ignore[assignment]
        model.apply(record.offset, record.at_ms, body)
    return model


def _journal(world: World, partition: int) -> Iterable[Fact]:
    for record in world.kafka.log(world.topics.journal, partition).records:
        yield from decode_facts(record.value)


def _check_journal(world: World, partition: int, model: Model) -> list[Line]:
    """The journal without its repeats is what the model states, and a repeat states the same again."""
    mark = (-1, -1)
    lines: list[Line] = []
    stated: dict[tuple[int, int], Fact] = {}
    for fact in _journal(world, partition):
        place = (fact.offset, fact.index)
        first = stated.setdefault(place, fact)
        _equal(f"journal-{partition} {place} stated again", fact, first)
        assert fact.balance >= 0, f"a balance below zero: {fact}"
        check_stated([fact])
        if place > mark:
            mark = place
            lines.append(_line(fact))
    _equal_lists(f"journal-{partition} (below-mark repeats dropped) and the model", lines, model.lines)
    return lines


def _check_state(world: World, partition: int, model: Model, lines: list[Line]) -> None:
    """A fresh read of the changelogs, the owner's own tables, and the journal's sums all have the model's balances."""
    fresh = Disk(lambda: None, lambda: False)
    recovered = fresh.tables(world.dedup_days, world.kept_for)
    for name, topic in world.changelogs.items():
        records = world.kafka.log(topic, partition).records
        if records:
            apply_changelog(recovered[name], records)
    owner = world.group.owners[partition].tables
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for line in lines:
        both = sums[line.project, line.environment]
        both[0] += line.amount
        both[1] += line.held
    changelog, local = _accounts(recovered["accounts"], partition), _accounts(owner["accounts"], partition)
    _equal(f"projects in the changelog of {partition}", sorted(changelog), sorted(model.projects))
    for name, project in model.projects.items():
        for environment in ENVIRONMENTS:
            balance, available = project.balance(environment), project.available(environment)
            assert available >= 0
            _equal(f"{environment} balance and held of {name}", sums[name, environment], [balance, balance - available])
        expected = _kept(project)
        _equal(f"{name} in the changelog", _stored(changelog[name]), expected)
        _equal(f"{name} in its owner's table", _stored(local[name]), expected)
    for where, tables in (("changelogs", recovered), ("owner's tables", owner)):
        _check_seen(world, partition, model, where, tables["seen"])
        _check_kept(world, partition, model, where, tables)


def _kept(project: Project) -> tuple[Any, ...]:
    """The parts of the model's project that a stored account must have: what each grant has left and held, the open
    holds, when something is next due, the raises, and the use of the windows."""
    due_at_ms = project.due_at_ms() if project.is_project else None
    grants = sorted((grant.id, grant.left, grant.held) for grant in project.grants if grant.left)
    raises = [(each.id, each.is_on) for each in project.raises]
    trial = project.trial[1] if project.trial is not None else None
    return grants, sorted(hold.id for hold in project.holds), due_at_ms, raises, used(project.window), used(trial)


def used(window: ModelWindow | None) -> tuple[Any, ...] | None:
    """The use of a window of the model: (requests, their cost, burst tokens spent, as of when)."""
    if window is None:
        return None
    return len(window.requests), sum(cost for _, cost in window.costs), window.spent, window.at_ms


def _stored(account: Account) -> tuple[Any, ...]:
    due_at_ms = account.due_at_ms if account.due_at_ms < NEVER_MS else None
    grants = sorted((grant.id, grant.remaining, grant.held) for grant in account.grants if grant.remaining)
    raises = [(each.id, each.is_on) for each in account.raises]
    windows = (account.window, account.shadow.window if account.shadow is not None else None)
    return grants, sorted(hold.id for hold in account.holds), due_at_ms, raises, *map(stored_use, windows)


def stored_use(window: Window | None) -> tuple[Any, ...] | None:
    """The use of a window of a stored account, in the form of `used`; its lists have those sums, and are short."""
    if window is None:
        return None
    sums = sum(window.arrivals[1::2]), sum(window.costs[1::2])
    _equal("the sums that a window keeps", (window.requests, window.cost), sums)
    assert max(len(window.arrivals), len(window.costs)) <= 2 * 64, window
    return *sums, Fraction(window.spent, 60_000), window.at_ms


def _check_seen(world: World, partition: int, model: Model, where: str, table: PartitionedStore) -> None:
    """The ids that were decided within the dedup window are in the index."""
    today = (world.now_ms - max(world.skew_ms.values())) // 86_400_000
    seen = table.partition_file(partition)
    for identity, day in model.first_day.items():
        if day > today - world.dedup_days:
            known = seen.get_many([dedup_hash(*identity_names(identity))])[0]
            assert known is not None, f"{identity} was decided, and is not seen in the {where} of {partition}"


def _check_kept(world: World, partition: int, model: Model, where: str, tables: Mapping[str, PartitionedStore]) -> None:
    """The answers that may be asked for again are kept, as they were given."""
    for project in model.projects.values():
        for (kind, name), (given_ms, _, answer) in project.answers.items():
            table, kept_ms = (
                ("replies", world.kept_for.key_ms) if kind == "key" else ("recent_replies", world.kept_for.request_ms)
            )
            if world.now_ms - given_ms < kept_ms:
                row = dedup_hash(project.name, "meterline:idempotency-key" if kind == "key" else REQUEST, name)
                (value,) = tables[table].partition_file(partition).get_many([row])
                assert value is not None, f"the answer to {name} of {project.name} is not in the {where} of {partition}"
                kept = decode_kept_reply(value)
                _equal(
                    f"the answer kept for {name} in the {where}",
                    (kept.at_ms, answer_of(kept.reply)),
                    (given_ms, answer),
                )


def _check_history(world: World, partition: int, lines: list[Line]) -> None:
    """ClickHouse holds the model's facts, each once, in the journal's order."""
    rows = [row for row in world.history.rows["facts"] if row["partition"] == partition]
    _equal_lists(f"history of {partition} and the journal", [_row_line(row) for row in rows], lines)


def _check_charges(world: World) -> None:
    """No event is charged in two places, as the history alone shows."""
    charged: dict[tuple[str, str, str], set[tuple[int, int]]] = defaultdict(set)
    for row in world.history.rows["facts"]:
        if row["kind"] == "charge" and row["reason"] != "recurring":
            place = (row["offset"], row["position"] // 4096)
            charged[row["project"], row["source"], row["event_id"]].add(place)
    if world.days_max <= world.dedup_days:
        twice = {event: places for event, places in charged.items() if len(places) > 1}
        assert not twice, f"charged twice: {twice}"


def _check_uses(world: World) -> None:
    """No use was accepted and led to nothing: whatever is told to be decided before was charged or refused before."""
    decided: set[tuple[str, ...]] = set()
    held: dict[str, tuple[str, str, str]] = {}
    for row in world.history.rows["facts"]:
        event = (row["project"], row["source"], row["event_id"])
        job = (row["project"], row["environment"], row["job_id"], "job")
        if row["kind"] == "hold":
            held[f"{row['partition']}-{row['offset']}-{row['position']}"] = event
        if row["kind"] in ("charge", "refusal", "correction"):
            decided.add(event)
        if row["kind"] in ("charge", "release") and row["reason"] == "captured":
            # A capture of 0 credits charges nothing, and gives all back.
            decided |= {job} if row["job_id"] else set()
            decided |= {held[json.loads(row["metadata"])["hold"]]} if row["kind"] == "release" else set()
        if row["kind"] == "duplicate" and not row["reason"]:
            assert event in decided or job in decided, f"accepted, and never billed: {row}"


def _check_replies(world: World, models: dict[int, Model]) -> None:
    """The replies are the model's, a repeated one is the same to the letter, and every request has one."""
    expected: dict[str, Answer] = {}
    for model in models.values():
        expected |= model.answers
    given: dict[str, Any] = {}
    for correlation, reply in world.replies():
        _equal(f"a second reply to {correlation}", reply, given.setdefault(correlation, reply))
        _equal(f"the reply to {correlation} and the model's", answer_of(reply), expected[correlation])
    for request in world.clients.requests:
        replies = [given[correlation] for correlation in request.correlations if correlation in given]
        # The reply to a counted request is not kept. It is lost where its record was begun, and had to be taken again.
        place = (world.topics.intake, request.partition, request.offset)
        may_be_lost = isinstance(request.command, CountRequest | CountRefused) and world.taken[place] > 1
        assert replies or may_be_lost, f"nobody answered {request.correlations}"
        # 404, 429 and "no longer kept" decide nothing.
        decisions = [reply for reply in replies if reply.status not in (404, 409, 429)]
        if request.command.idempotency_key and decisions and world.days_max <= world.dedup_days:
            # Each tells the window as it was when that request came.
            decisions = [msgspec.structs.replace(reply, rate=None) for reply in decisions]
            _equal(f"replies to {request.command.idempotency_key}", decisions, decisions[:1] * len(decisions))


def _check_dead_letters(world: World, models: dict[int, Model]) -> None:
    """Dead letters name exactly the events that could not be taken, and the history has each record of them once."""
    intake = world.topics.intake
    expected = set(world.clients.malformed) | {
        (intake, partition, offset, index) for partition, model in models.items() for offset, index, _code in model.dead
    }
    found = set()
    records = Counter[tuple[int, int]]()
    for partition in range(world.partitions):
        for record in world.kafka.log(world.topics.dead_letters, partition).records:
            letter = decode_dead_letter(record.value)
            found.add((letter.topic, letter.partition, letter.offset, letter.index))
            records[partition, record.offset] += 1
    _equal("dead letters", found, expected)
    rows = Counter((row["journal_partition"], row["journal_offset"]) for row in world.history.rows["dead_letters"])
    _equal("dead letters in history", rows, records)


def _check_arrivals(world: World) -> None:
    """Accept lost nothing: all events that clients sent are on intake."""
    arrived = set()
    for partition in range(world.partitions):
        for record in world.kafka.log(world.topics.intake, partition).records:
            try:
                body = decode_intake(record.value)
            except UnreadableError:
                continue
            if isinstance(body, Envelope):
                arrived |= {_identity(usage) for usage in body.events}
    assert world.clients.arrived <= arrived, f"lost on the way: {world.clients.arrived - arrived}"


def _accounts(table: PartitionedStore, partition: int) -> dict[str, Account]:
    accounts = [decode_account(value) for _, value in table.partition_file(partition).items()]
    return {account.project: account for account in accounts}


def _identity(usage: Usage) -> tuple[str, str, str]:
    return usage.project, usage.source, usage.event_id


def _line(fact: Fact) -> Line:
    values = {name: getattr(fact, name) for name in Line._fields}
    return Line(**values)


def _row_line(row: dict[str, Any]) -> Line:
    values = row | {
        "index": row["position"],
        "occurred_at_ms": row["occurred_at"],
        "booked_at_ms": row["booked_at"],
    }
    return Line(**{name: values[name] for name in Line._fields})


def _equal(what: str, found: Any, expected: Any) -> None:
    assert found == expected, f"{what}:\n  {found}\nis not\n  {expected}"


def _equal_lists(what: str, found: list[Line], expected: list[Line]) -> None:
    if found == expected:
        return
    for number, (one, other) in enumerate(zip(found, expected, strict=False)):
        _equal(f"{what} differ at {number}", one, other)
    longer = found if len(found) > len(expected) else expected
    side = "only the first has" if longer is found else "only the second has"
    raise AssertionError(f"{what} differ in length: {side} {longer[min(len(found), len(expected))]}")
