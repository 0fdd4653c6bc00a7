"""Holds: credits kept for a job until it is captured, released or expires."""

from __future__ import annotations

from msgspec.structs import replace

from schemas.commands import CaptureHold, ExtendHold, ReleaseHold
from schemas.events import Usage
from schemas.prices import PriceBook
from tests.simulation.model.accounts import Hold, Project
from tests.simulation.model.answers import Answer, Refused
from tests.simulation.model.burn_down import draw
from tests.simulation.model.identities import content_of, job
from tests.simulation.model.items import pay_bills
from tests.simulation.model.partition import Partition
from tests.simulation.model.recharge import recharge_if_low
from tests.simulation.model.times import DAY_MS, WEEK_SECONDS


def place(
    partition: Partition, project: Project, usage: Usage, book: PriceBook, lines: list[tuple[str, int]], seconds: int
) -> str:
    """Place a hold; returns its id."""
    expires_at_ms = partition.now(project) + seconds * 1000
    hold = Hold(partition.entry_id(partition.index), usage, lines, book.version, expires_at_ms)
    total = sum(rate for _, rate in lines) * usage.quantity
    quantity = usage.quantity
    for grant, kept in draw(partition, project, usage.environment, total):
        grant.held += kept
        hold.kept.append((grant, kept))
        partition.state_hold(project, hold, quantity=quantity, grant_id=grant.id, held=kept)
        quantity = 0
    if not total:
        partition.state_hold(project, hold, quantity=quantity)
    project.holds.append(hold)
    recharge_if_low(partition, project)
    return hold.id


def open_hold(partition: Partition, project: Project, command: CaptureHold | ReleaseHold | ExtendHold) -> Hold:
    for hold in project.holds:
        if hold.id == command.hold_id and command.environment in ("", hold.usage.environment):
            return hold
    raise Refused("unknown_hold")


def capture(partition: Partition, project: Project, command: CaptureHold) -> Answer:
    for environment in [command.environment] if command.environment else ["production", "preview"]:
        known = ("hold", project.name, environment, command.hold_id)
        if partition.is_seen(known):
            charged, _ = partition.decided[known]
            return Answer(200, "", charged, project.available(environment), "")
    hold = open_hold(partition, project, command)
    amount = hold.total() if command.amount < 0 else command.amount
    if amount > hold.total():
        raise Refused("invalid_request")
    index, left = partition.index, amount
    for operation, rate in hold.lines:
        cost = min(left, rate * hold.usage.quantity)
        left -= cost
        capture_line(partition, project, hold, operation, rate, hold.usage.quantity, cost)
    end_captured(partition, project, hold, hold.usage, amount)
    return partition.answer(project, hold.usage.environment, amount, index)


def capture_by_event(partition: Partition, project: Project, hold: Hold, usage: Usage) -> int:
    """The event of a hold has come: so many units as both have are charged at the price of the hold. Gives how many
    more the event has."""
    if content_of(replace(usage, quantity=1)) != content_of(replace(hold.usage, quantity=1)):
        partition.state_use(project, "duplicate", usage, reason="event_id_reused")
        return 0
    units = min(usage.quantity, hold.usage.quantity)
    for operation, rate in hold.lines:
        capture_line(partition, project, hold, operation, rate, units, rate * units)
    end_captured(partition, project, hold, usage, sum(rate for _, rate in hold.lines) * units)
    return usage.quantity - units


def capture_line(
    partition: Partition, project: Project, hold: Hold, operation: str, rate: int, units: int, cost: int
) -> None:
    fields = {"operation": operation, "price_version": hold.version, "reason": "captured"}
    if not rate:
        partition.state(project, "charge", hold.usage, quantity=units, **fields)
    quantity = cost // rate if rate else 0
    still_kept = []
    for grant, kept in hold.kept:
        drawn = min(cost, kept)
        if drawn:
            cost -= drawn
            grant.left -= drawn
            grant.held -= drawn
            fields |= {"quantity": quantity, "amount": -drawn, "held": -drawn, "grant_id": grant.id}
            partition.state(project, "charge", hold.usage, **fields)
            quantity = 0
        still_kept.append((grant, kept - drawn))
    hold.kept = still_kept


def end_captured(partition: Partition, project: Project, hold: Hold, event: Usage, amount: int) -> None:
    """Give the rest of a captured hold back. Its event is decided by what was charged for it, and so are its job and
    the hold itself."""
    let_go(partition, project, hold, "captured", partition.now(project))
    usage = hold.usage
    identities = {
        ("event", usage.project, usage.source, usage.event_id): content_of(event),
        ("hold", usage.project, usage.environment, hold.id): amount,
    }
    if usage.job_id:
        identities["job", *job(usage)] = content_of(usage)
    for identity, content in identities.items():
        partition.first_day[identity] = partition.at_ms // DAY_MS
        partition.decided[identity] = content, ""
        partition.refused_at[identity] = None


def release(partition: Partition, project: Project, command: ReleaseHold) -> Answer:
    hold = open_hold(partition, project, command)
    total, index = hold.total(), partition.index
    let_go(partition, project, hold, "released", partition.now(project))
    return partition.answer(project, hold.usage.environment, total, index)


def extend(partition: Partition, project: Project, command: ExtendHold) -> Answer:
    hold = open_hold(partition, project, command)
    if not 1 <= command.seconds <= WEEK_SECONDS:
        raise Refused("invalid_request")
    hold.expires_at_ms = partition.now(project) + command.seconds * 1000
    index = partition.index
    partition.state_hold(project, hold, reason="extended")
    return partition.answer(project, hold.usage.environment, 0, index)


def let_go(partition: Partition, project: Project, hold: Hold, reason: str, at_ms: int) -> None:
    """Credits still held go back to their grants, and on from those that have expired."""
    project.holds.remove(hold)
    usage = hold.usage
    parts = [(grant, kept) for grant, kept in hold.kept if kept]
    if not parts and reason != "captured":
        parts = [(None, 0)]
    for grant, kept in parts:
        if grant is not None:
            grant.held -= kept
        partition.state(
            project,
            "release",
            environment=usage.environment,
            operation=hold.lines[0][0],
            grant_id=grant.id if grant is not None else "",
            reason=reason,
            price_version=hold.version,
            job_id=usage.job_id,
            key_id=usage.key_id,
            occurred_at_ms=at_ms,
            held=-kept,
        )
        if grant is not None and grant.has_expired(at_ms):
            grant.left -= kept
            partition.state_expiry(project, grant, kept, at_ms)
    pay_bills(partition, project, at_ms)
    if reason == "captured":
        recharge_if_low(partition, project)


def hold_of(project: Project, usage: Usage) -> Hold | None:
    """The open hold of an event."""
    event = (usage.source, usage.event_id)
    return next((hold for hold in project.holds if (hold.usage.source, hold.usage.event_id) == event), None)
