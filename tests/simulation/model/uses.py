"""Uses: admissions, counted requests, and what an event costs."""

from __future__ import annotations

from msgspec.structs import replace

from schemas.commands import Admit, CountRefused, CountRequest
from schemas.events import Usage
from schemas.prices import PriceBook
from tests.simulation.model.accounts import Project
from tests.simulation.model.answers import STATUS, Answer, Refused
from tests.simulation.model.burn_down import spend
from tests.simulation.model.holds import place
from tests.simulation.model.identities import claims_of, content_of, job
from tests.simulation.model.limits import try_limits
from tests.simulation.model.partition import Partition
from tests.simulation.model.past import plan_when_used
from tests.simulation.model.plans import RANK
from tests.simulation.model.prices import book_at
from tests.simulation.model.recharge import recharge_if_low
from tests.simulation.model.times import WEEK_SECONDS
from tests.simulation.model.waits import passes_at
from tests.simulation.model.windows import Ceilings, Window


def admit(partition: Partition, project: Project, command: Admit) -> Answer:
    usage, index = command.usage, partition.index
    if not 0 <= command.hold_seconds <= WEEK_SECONDS:
        raise Refused("invalid_request")
    limits, window = open_window(partition, project)
    is_decided = any(partition.is_seen(claim) for claim in claims_of(command))
    if not window.take(limits):
        return stopped(partition, project, usage, limits, window, None if is_decided else command)
    asked, (event, *_) = content_of(usage), claims_of(command)
    found = code = ""
    for claim in claims_of(command):
        if partition.is_other(claim, asked):
            code = code or f"{claim[0]}_id_reused"
    for hold in project.holds:
        of_event = (hold.usage.source, hold.usage.event_id) == (usage.source, usage.event_id)
        of_job = command.hold_seconds and usage.job_id and job(hold.usage) == job(usage)
        if of_event or of_job:
            found = found or hold.id
            if content_of(hold.usage) != asked:
                code = code or ("event_id_reused" if of_event else "job_id_reused")
    amount, wait_ms = 0, 0
    if code:
        partition.state_use(project, "duplicate", usage, reason=code)
        found = ""
    elif found or is_decided:
        code = partition.decided[event][1] if partition.is_seen(event) else ""
        found = "" if code else found
        partition.state_use(project, "duplicate", usage, reason="held" if found else "")
    else:
        open_holds_max = 1_000 if command.hold_seconds else None
        code, book, lines = priced(partition, project, usage, open_holds_max, (limits, window))
        cost = sum(rate for _, rate in lines) * usage.quantity
        if code == "rate_limited":
            wait_ms = wait_of(partition, project, command)
        elif not code:
            amount = cost
            window.add_cost(cost)
            if command.hold_seconds:
                found = place(partition, project, usage, book, lines, command.hold_seconds)
            else:
                charge_lines(partition, project, usage, book, lines)
                partition.mark(event, asked)
    left = project.available(usage.environment)
    told = window.told(limits, wait_ms)
    shadow = try_limits(partition, project, usage, amount)
    return Answer(STATUS.get(code, 409), code, amount, left, partition.entry_id(index), found, told, shadow)


def count_request(partition: Partition, project: Project, command: CountRequest) -> Answer:
    index, now_ms = partition.index, partition.now(project)
    named = (command.operation, 1, "", command.environment, now_ms, "", command.actor, "")
    usage = Usage(project.name, b"", "", "", *named)
    limits, window = open_window(partition, project)
    if not window.take(limits):
        return stopped(partition, project, usage, limits, window)
    partition.state_use(project, "request", usage)
    left, told = project.available(usage.environment), window.told(limits, 0)
    return Answer(200, "", 0, left, partition.entry_id(index), "", told, try_limits(partition, project, usage, 0))


def count_repeat(partition: Partition, project: Project, command: Admit, given: Answer) -> Answer:
    """Count a request that was answered before under its key: it gets that answer, with the window as it is now."""
    now_ms = partition.now(project)
    named = (command.usage.operation, 1, "", command.usage.environment, now_ms, "", command.actor, "")
    usage = Usage(project.name, b"", "", "", *named)
    limits, window = open_window(partition, project)
    if not window.take(limits):
        return stopped(partition, project, usage, limits, window)
    partition.state_use(project, "request", usage)
    try_limits(partition, project, usage, 0)
    return given._replace(rate=window.told(limits, 0))


def count_refused(partition: Partition, project: Project, command: CountRefused) -> Answer:
    if command.count <= 0:
        raise Refused("invalid_request")
    index, now_ms = partition.index, partition.now(project)

    def calls(many: int) -> Usage:
        named = (command.operation, many, "", command.environment, now_ms, "", command.actor, "")
        return Usage(project.name, b"", "", "", *named)

    partition.state_use(project, "refusal", calls(command.count), reason="limited_at_edge")
    refused = 0
    if project.trial is not None:
        limits, window = project.limits().under(project.trial[0]), project.trial[1]
        window.move_to(now_ms, limits)
        refused = sum(not window.take(limits) for _ in range(command.count))
    if refused:
        partition.state_use(project, "shadow", calls(refused), reason="rate_limited")
    left = project.available(command.environment)
    return Answer(200, "", 0, left, partition.entry_id(index), shadow="rate_limited" if refused else "")


def open_window(partition: Partition, project: Project) -> tuple[Ceilings, Window]:
    """The limits and the request window of a project, as of now."""
    now_ms, limits = partition.now(project), project.limits()
    window = project.window = project.window or Window(now_ms)
    window.move_to(now_ms, limits)
    return limits, window


def hold_of(project: Project, command: Admit) -> str:
    """The id of the open hold of the same event, or of the same job where one is to be held; or ""."""
    usage = command.usage
    for hold in project.holds:
        of_job = command.hold_seconds and usage.job_id and job(hold.usage) == job(usage)
        if of_job or (hold.usage.source, hold.usage.event_id) == (usage.source, usage.event_id):
            return hold.id
    return ""


def wait_of(partition: Partition, project: Project, command: Admit | None) -> int:
    """The time at which a request that is stopped now would pass: an admission, or one that costs nothing."""

    def is_stopped(ahead: Partition, known: Project, later_ms: int) -> bool:
        limits, window = open_window(ahead, known)
        if window.wait_for_request(limits):
            return True
        if command is None or hold_of(known, command):
            return False
        usage = replace(command.usage, occurred_at_ms=command.usage.occurred_at_ms + later_ms)
        return (
            priced(ahead, known, usage, 1_000 if command.hold_seconds else None, (limits, window))[0] == "rate_limited"
        )

    return passes_at(partition, project, is_stopped, command.usage.occurred_at_ms if command is not None else 0)


def stopped(
    partition: Partition,
    project: Project,
    usage: Usage,
    limits: Ceilings,
    window: Window,
    command: Admit | None = None,
) -> Answer:
    """A request that the window stops; `command` is the admission that it is, unless that costs nothing."""
    index = partition.index
    partition.state_use(project, "refusal", usage, reason="rate_limited")
    left, told = project.available(usage.environment), window.told(limits, wait_of(partition, project, command))
    shadow = try_limits(partition, project, usage, 0)
    return Answer(429, "rate_limited", 0, left, partition.entry_id(index), "", told, shadow)


def priced(
    partition: Partition,
    project: Project,
    usage: Usage,
    open_holds_max: int | None = None,
    within: tuple[Ceilings, Window] | None = None,
) -> tuple[str, PriceBook, list[tuple[str, int]]]:
    """Price a use: why it may not be, or "", and its lines of (operation, rate) in the price book of its time."""
    book = book_at(partition, usage.occurred_at_ms)
    lines = [(name, book.rates.get(name, -1)) for name in (usage.operation, usage.surcharge) if name]
    rank = max(RANK[book.plan_required.get(name, "free")] for name, _ in lines)
    cost = sum(rate for _, rate in lines) * usage.quantity
    code = ""
    try:
        plan = plan_when_used(project, usage.occurred_at_ms)
    except Refused as refused:
        code, plan = str(refused), ""
    if code:
        pass
    elif RANK[plan] < rank:
        code = "plan_required"
    elif any(rate < 0 for _, rate in lines):
        code = "unknown_operation"
    elif cost > project.available(usage.environment):
        code = "out_of_credits"
    elif open_holds_max is not None and len(project.holds) >= open_holds_max:
        code = "too_many_holds"
    elif within is not None and cost > within[0].cost:
        code = "over_cost_ceiling"
    elif within is not None and within[1].wait_for_cost(within[0], cost):
        code = "rate_limited"
    if code:
        partition.state_use(project, "refusal", usage, reason=code, price_version=book.version)
    if code == "out_of_credits":
        recharge_if_low(partition, project)
    return code, book, lines


def charge_lines(
    partition: Partition, project: Project, usage: Usage, book: PriceBook, lines: list[tuple[str, int]]
) -> None:
    for operation, rate in lines:
        fields = {"operation": operation, "price_version": book.version}
        spend(partition, project, "charge", usage, usage.quantity, rate * usage.quantity, **fields)
    recharge_if_low(partition, project)
