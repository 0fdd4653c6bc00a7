"""The past of a project: its plan at an earlier moment, and whether it was open then. The one guard of closed projects.

An event may come weeks after the use that it tells of, and a correction later still. Each is judged as of that use:
whoever sends it, whichever way, and whenever, gets the same answer.
"""

from __future__ import annotations

from schemas.accounts import Account, PastSpan
from schemas.events import Usage
from schemas.prices import PriceBook
from schemas.problems import Rejection
from schemas.times import utc
from streams.core.plans import PLANS

# Changes of plan, closings and reopenings that an account remembers. They are made by hand, so that these are years.
PAST_MAX = 64
FORGOTTEN = ""


def note_past(account: Account, at_ms: int) -> None:
    """Note what a project was up to now: its plan, and whether it was open. Call it before either changes."""
    past = account.past
    since_ms = past[-1].until_ms if past else account.signed_up_at_ms
    if account.closed_at_ms > since_ms:
        # It was closed by a version that kept no past.
        past.append(PastSpan(account.closed_at_ms, account.plan))
        since_ms = account.closed_at_ms
    if at_ms > since_ms:
        past.append(PastSpan(at_ms, account.plan, account.closed_at_ms > 0))
    while len(past) > PAST_MAX:
        del past[0]
        past[0] = PastSpan(past[0].until_ms, FORGOTTEN)


def check_open(account: Account, at_ms: int) -> str:
    """Check that a project was open at a time; gives its plan of that time. Whatever can charge a project passes here.

    Raises Rejection: `project_closed`; `time_out_of_range` where it was not opened yet, or where that is not remembered
    any more.
    """
    project = account.project
    if at_ms < account.signed_up_at_ms:
        opened_at = utc(account.signed_up_at_ms).isoformat(timespec="milliseconds")
        detail = f"Project {project} was opened at {opened_at}; what was used before that is never charged"
        raise Rejection("time_out_of_range", detail, "time")
    for span in account.past:
        if at_ms < span.until_ms:
            if span.plan == FORGOTTEN:
                detail = f"`time` is before the last {PAST_MAX - 1} changes of project {project}, which are remembered"
                raise Rejection("time_out_of_range", detail, "time")
            if span.is_closed:
                detail = f"Project {project} was closed at that time; what was used then is never charged"
                raise Rejection("project_closed", detail)
            return span.plan
    if 0 < account.closed_at_ms <= at_ms:
        raise Rejection("project_closed", f"Project {project} is closed")
    # An event may be some minutes ahead of us, and of a change of plan that waits for the renewal.
    return account.next_plan if account.next_plan and at_ms >= account.renews_at_ms else account.plan


def judged_anew_at_ms(account: Account, at_ms: int) -> int | None:
    """The next time after this at which `check_open` may have another answer; None where there is none."""
    changes_ms = [account.signed_up_at_ms, account.closed_at_ms, *(span.until_ms for span in account.past)]
    if account.next_plan:
        changes_ms.append(account.renews_at_ms)
    return min((change_ms for change_ms in changes_ms if change_ms > at_ms), default=None)


def check_use(account: Account, usage: Usage, book: PriceBook) -> None:
    """Check all that stands against a use but credits, as of when it occurred; `book` is the price book of that time.

    Raises Rejection as `check_open` does, then `plan_required`, then `unknown_operation`.
    """
    plan = check_open(account, usage.occurred_at_ms)
    for operation in (usage.operation, usage.surcharge):
        needed_plan = book.plan_required.get(operation)
        if needed_plan is not None and PLANS[plan].rank < PLANS[needed_plan].rank:
            raise Rejection("plan_required", f"{operation} needs the {needed_plan} plan or a higher one", "operation")
    if usage.operation not in book.rates or (usage.surcharge and usage.surcharge not in book.rates):
        # The event was accepted since another price book has its operation; the book in force at its time has not.
        detail = f"Price book {book.version} has no price for {usage.operation} {usage.surcharge}".rstrip()
        raise Rejection("unknown_operation", detail, "operation")
