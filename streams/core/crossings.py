"""Crossings: what is available falls to a threshold, and is stated, once; above it again, the threshold is armed again.

A crossing is decided in the step that moves the balance: by `settle` for each instant, by the fold for each event, and
by `decisions.command_reply` for each command (docs/decisions/0061). No rule has to call for it.
"""

from __future__ import annotations

from schemas.accounts import Account, NoticeRule, Watch
from schemas.commands import RULES_MAX, SetNoticeRules
from schemas.problems import Rejection
from schemas.replies import Reply
from streams.core.booking import FACTS_PER_SLOT, Booking, available, format_credits, note

THRESHOLD_MAX = 10**15
LOW_PERCENT = 20
# The rules that every project has.
LOW, EXHAUSTED = "low", "exhausted"
# A step states no more where its facts would not fit into one event's; the next step states what it left.
_ROOM = FACTS_PER_SLOT - 64


def look(booking: Booking, at_ms: int | None = None) -> None:
    """State what the step so far has crossed, in each environment that had credits once. `at_ms` is when it happened,
    where that was not now."""
    account = booking.account
    for environment in dict.fromkeys(grant.environment for grant in account.grants):
        if all(each.environment != environment for each in account.watches):
            left = available(account, environment)
            if left:
                # Credits that come for the first time cross nothing.
                account.watches.append(_aimed(account, Watch(environment, []), left))
    for watch in account.watches:
        _turn(booking, watch, at_ms)


def look_after_use(booking: Booking) -> None:
    """State what the charge of one use has crossed; the fold calls it for every event, so it is two comparisons."""
    account = booking.account
    if not account.watches:
        # An older version has kept the account until now.
        look(booking)
    for watch in account.watches:
        # As `available` says, without a call: it is the owner's most frequent question.
        environment, left = watch.environment, 0
        for grant in account.grants:
            if grant.environment == environment:
                left += grant.remaining - grant.held
        if left <= watch.falls_to or (watch.crossed and left > watch.rises_above):
            _turn(booking, watch)


def thresholds(account: Account, environment: str) -> list[tuple[int, str]]:
    """The thresholds of an environment, the highest first: (microcredits, the rule's id). A percentage is of what the
    plan grants a month; where it grants nothing, there is none."""
    monthly = account.allowance if environment == "production" else 0
    found = [(0, EXHAUSTED)]
    if monthly:
        found.append((monthly * LOW_PERCENT // 100, LOW))
    for rule in account.notice_rules:
        threshold = monthly * rule.threshold // 100 if rule.is_percent else rule.threshold
        if rule.environment == environment and threshold:
            found.append((threshold, rule.id))
    return sorted(found, reverse=True)


def set_rules(booking: Booking, command: SetNoticeRules) -> Reply:
    """Set an environment's own rules, in place of those it has. A threshold that is crossed already is not told of
    until it is crossed again. Raises Rejection."""
    account, environment = booking.account, command.environment
    left = available(account, environment)
    if len(command.rules) > RULES_MAX:
        raise Rejection("invalid_request", f"An environment has at most {RULES_MAX} rules of its own", "rules")
    rules = [NoticeRule(rule_id(*each), environment, *each) for each in command.rules]
    if len({rule.id for rule in rules}) < len(rules):
        raise Rejection("invalid_request", "Two of the rules are the same", "rules")
    for rule in rules:
        if not 1 <= rule.threshold <= (100 if rule.is_percent else THRESHOLD_MAX):
            detail = "A threshold is 1 to 100 percent, or more than 0 and at most 1000000000 credits"
            raise Rejection("invalid_request", detail, "rules")
        if rule.is_percent and rule.threshold == LOW_PERCENT:
            detail = f"Every project is told at {LOW_PERCENT} percent; leave this rule out"
            raise Rejection("invalid_request", detail, "rules")
    known = {rule.id for rule in account.notice_rules if rule.environment == environment}
    account.notice_rules = [rule for rule in account.notice_rules if rule.environment != environment] + rules
    new = {rule.id for rule in rules} - known
    for watch in account.watches:
        if watch.environment == environment:
            below = [name for amount, name in thresholds(account, environment) if left <= amount]
            watch.crossed += [name for name in below if name in new]
            watch.is_told = watch.is_told and bool(below)
    metadata = note(rules=[rule.id for rule in rules])
    return Reply(
        200, "", "", 0, left, booking.state("notice", environment=environment, reason="rules", metadata=metadata)
    )


def rule_id(is_percent: bool, threshold: int) -> str:
    """The id of a rule of one's own, which says what it is: `percent-35`, `credits-12.5`."""
    return f"percent-{threshold}" if is_percent else f"credits-{format_credits(threshold)}"


def _turn(booking: Booking, watch: Watch, at_ms: int | None = None) -> None:
    """State each threshold that has been reached since the last look, and, above all of them, that it is over."""
    account, environment = booking.account, watch.environment
    left = available(account, environment)
    if booking.next_index % FACTS_PER_SLOT > _ROOM:
        return
    below = [(amount, name) for amount, name in thresholds(account, environment) if left <= amount]
    for amount, name in below:
        if name not in watch.crossed:
            watch.is_told = True
            reason = "credits_exhausted" if name == EXHAUSTED else "credits_low"
            _state(booking, environment, at_ms, reason, name, amount)
    if watch.is_told and not below:
        watch.is_told = False
        _state(booking, environment, at_ms, "credits_recovered")
    _aimed(account, watch, left)


def _aimed(account: Account, watch: Watch, left: int) -> Watch:
    """The watch, told which thresholds are crossed, and between which amounts nothing is."""
    every = thresholds(account, watch.environment)
    watch.crossed = [name for amount, name in every if left <= amount]
    watch.falls_to = max((amount for amount, _ in every if left > amount), default=-1)
    watch.rises_above = min((amount for amount, _ in every if left <= amount), default=0)
    return watch


def _state(
    booking: Booking,
    environment: str,
    at_ms: int | None,
    reason: str,
    rule: str = "",
    threshold: int | None = None,
) -> None:
    booking.state(
        "notice",
        environment=environment,
        reason=reason,
        occurred_at_ms=at_ms,
        metadata=note(
            rule=rule,
            threshold_microcredits=threshold,
            available_microcredits=available(booking.account, environment),
        ),
    )
