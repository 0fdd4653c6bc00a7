"""Projects: their plan and its price, whether they are open, their standing, badge, keys and billing account."""

from __future__ import annotations

from schemas.accounts import Account, ApiKey, Billed
from schemas.commands import (
    ChangePlan,
    CloseProject,
    CreateKey,
    CreateProject,
    OpenBillingAccount,
    RevokeKey,
    RotateKey,
    SetBadge,
    SetBillingAccount,
    SetStanding,
)
from schemas.facts import Reason
from schemas.problems import Rejection
from schemas.replies import Reply
from schemas.times import DAY_MS
from streams.core.billed import billed_elsewhere
from streams.core.booking import Booking, available, note
from streams.core.grants import grant_credits
from streams.core.items import end_all
from streams.core.limits import before_change
from streams.core.past import check_open, note_past
from streams.core.plans import PLANS, Plan, renewal_after

KEYS_MAX = 100
KEY_NAME_CHARS_MAX = 100
GRACE_DAYS_MAX = 30
# A billing account is kept under this and its id; no project can have such an id.
BILLING_PREFIX = "billing:"
NEVER_MS = 1 << 52


def new_project(command: CreateProject, offset: int, at_ms: int) -> Account:
    """The account of a project that is about to be opened. Raises Rejection."""
    plan = plan_named(command.plan)
    allowance, cents = _terms(plan, command.contract_allowance, command.contract_cents)
    return Account(
        project=command.project,
        name=command.name,
        plan=plan.name,
        allowance=allowance,
        signed_up_at_ms=at_ms,
        renews_at_ms=renewal_after(at_ms, at_ms),
        grants=[],
        keys=[],
        opened_offset=offset,
        last_offset=-1,
        last_at_ms=at_ms,
        price_cents=cents,
        billing_account=command.billing_account,
    )


def open_project(booking: Booking) -> Reply:
    """Open a new project, with its first allowance."""
    account = booking.account
    fact_id = booking.state("project", reason=account.plan)
    begin_month(booking, booking.at_ms)
    return Reply(201, "", "", account.allowance, account.allowance, fact_id)


def new_billing_account(command: OpenBillingAccount, offset: int, at_ms: int) -> Account:
    """The account of a billing account that is about to be opened. Raises Rejection `unknown_billing_account` where the
    command was to change one."""
    if command.is_change:
        raise Rejection("unknown_billing_account", f"There is no billing account {_billing_id(command)!r}")
    return account_of_no_project(command.project, offset, at_ms, name=command.name, email=command.email)


def account_of_no_project(account_id: str, offset: int, at_ms: int, *, name: str = "", email: str = "") -> Account:
    """The account of what is kept like a project and is none: it has no credits, and no month that ends."""
    return Account(
        project=account_id,
        name=name,
        plan="free",
        allowance=0,
        signed_up_at_ms=at_ms,
        renews_at_ms=NEVER_MS,
        grants=[],
        keys=[],
        opened_offset=offset,
        last_offset=-1,
        last_at_ms=at_ms,
        email=email,
    )


def open_billing_account(booking: Booking) -> Reply:
    """Open a new billing account."""
    return Reply(201, "", "", 0, 0, booking.state("billing_account", reason="opened"))


def change_billing_account(booking: Booking, command: OpenBillingAccount) -> Reply:
    """Change the name and address of a billing account. Raises Rejection `billing_account_exists` where the command was
    to open one."""
    if not command.is_change:
        raise Rejection("billing_account_exists", f"Billing account {_billing_id(command)!r} exists")
    booking.account.name, booking.account.email = command.name, command.email
    return Reply(200, "", "", 0, 0, booking.state("billing_account", reason="changed"))


def begin_month(booking: Booking, at_ms: int) -> None:
    """Begin a plan's month: its price is due, and its allowance is granted until the renewal."""
    account = booking.account
    account.month_begun_to_ms = account.renews_at_ms
    _subscribe(booking, account.price_cents, at_ms)
    if account.allowance:
        grant_credits(booking, "allowance", "production", account.allowance, at_ms, account.renews_at_ms)


def change_plan(booking: Booking, command: ChangePlan) -> Reply:
    """Change a project's plan, at once or at the renewal. Raises Rejection.

    A plan that gives more of anything, and less of nothing, begins at once: the difference in allowance is granted for
    the rest of the month, and the difference in price is due. Any other plan waits for the renewal, and the project
    keeps what it has paid for until then. So an allowance only rises within a month, and going back and forth gains
    nothing.
    """
    account = booking.account
    plan = plan_named(command.plan)
    allowance, cents = _terms(plan, command.contract_allowance, command.contract_cents)
    if plan.rank < PLANS[account.plan].rank or allowance < account.allowance:
        account.next_plan, account.next_allowance, account.next_price_cents = plan.name, allowance, cents
        fact_id = _state_plan(booking, plan.name, account.renews_at_ms)
        return Reply(200, "", "", 0, available(account, "production"), fact_id)
    more, more_cents = allowance - account.allowance, cents - account.price_cents
    fact_id = move_to_plan(booking, plan.name, allowance, cents, booking.at_ms)
    if more_cents > 0:
        _subscribe(booking, more_cents, booking.at_ms)
    if more:
        grant_credits(booking, "allowance", "production", more, booking.at_ms, account.renews_at_ms)
    return Reply(200, "", "", more, available(account, "production"), fact_id)


def move_to_plan(booking: Booking, plan: str, allowance: int, price_cents: int, at_ms: int) -> str:
    """Put a project on another plan from now on; gives the fact's id."""
    account = booking.account
    before_change(account, at_ms)
    if plan != account.plan:
        note_past(account, at_ms)
    fact_id = _state_plan(booking, plan, at_ms)
    account.plan, account.allowance, account.price_cents = plan, allowance, price_cents
    account.next_plan, account.next_allowance, account.next_price_cents = "", 0, 0
    return fact_id


def close(booking: Booking, command: CloseProject) -> Reply:
    """Close a project: what is used from now on is never charged.

    Jobs that were queued before are done: their holds are captured, extended, released or expire as ever. Recurring
    items end, and are billed at the month's end. Raises Rejection `project_closed`.
    """
    account = booking.account
    check_open(account, booking.at_ms)
    note_past(account, booking.at_ms)
    account.closed_at_ms = booking.at_ms
    end_all(booking)
    fact_id = booking.state("project", reason="closed", metadata=note(reason=command.reason))
    return Reply(200, "", "", 0, available(account, "production"), fact_id)


def check_not_closed(account: Account) -> None:
    """Check that a project is open now. Raises Rejection `project_closed`."""
    if account.closed_at_ms:
        raise Rejection("project_closed", f"Project {account.project} is closed")


def reopen(booking: Booking) -> Reply:
    """Reopen a project; its bundles are as they were. A plan's month begins once, however often a project is closed and
    reopened. Raises Rejection `project_open`."""
    account = booking.account
    if not account.closed_at_ms:
        raise Rejection("project_open", f"Project {account.project!r} is not closed")
    note_past(account, booking.at_ms)
    account.closed_at_ms = 0
    fact_id = booking.state("project", reason="reopened")
    granted = 0
    if account.month_begun_to_ms != account.renews_at_ms:
        granted = account.allowance
        begin_month(booking, booking.at_ms)
    return Reply(200, "", "", granted, available(account, "production"), fact_id)


def set_standing(booking: Booking, command: SetStanding) -> Reply:
    """Set a project's standing: good or bad."""
    booking.account.is_in_good_standing = command.is_good
    fact_id = booking.state(
        "standing", reason="good" if command.is_good else "bad", metadata=note(reason=command.reason)
    )
    return Reply(200, "", "", 0, available(booking.account, "production"), fact_id)


def set_badge(booking: Booking, command: SetBadge) -> Reply:
    """Turn a project's badge on or off. Raises Rejection `plan_required` where a free project would turn it off."""
    account = booking.account
    if command.is_off and not PLANS[account.plan].rank:
        raise Rejection("plan_required", "A free project carries the badge")
    account.badge_off = command.is_off
    fact_id = booking.state("project", reason="badge_off" if command.is_off else "badge_on")
    return Reply(200, "", "", 0, available(account, "production"), fact_id)


def set_billing_account(booking: Booking, command: SetBillingAccount) -> Reply:
    """Put a project on a billing account's invoice from now on; facts stated before stay on the old account's.

    From the month's start: what this month has billed on each other invoice is taken off there and put on this one.
    """
    account = booking.account
    before, account.billing_account = account.billing_account, command.billing_account
    fact_id = booking.state("billing_account", reason="joined", metadata=note(before=before))
    if command.is_from_month_start:
        for each in billed_elsewhere(account, booking.at_ms, command.billing_account):
            _transfer(booking, each, command.billing_account)
    return Reply(200, "", "", 0, available(account, "production"), fact_id)


def create_key(booking: Booking, command: CreateKey) -> Reply:
    """Add an API key to a project. Raises Rejection."""
    keys = booking.account.keys
    if len(command.name) > KEY_NAME_CHARS_MAX:
        raise Rejection("invalid_request", f"A key's name has at most {KEY_NAME_CHARS_MAX} characters", "name")
    if command.environment == "preview" and any(not scope.startswith("content:") for scope in command.scopes):
        raise Rejection("invalid_request", "A preview key has content scopes only", "scopes")
    _check_new(keys, command.key_id)
    key = ApiKey(command.key_id, command.key_hash, command.environment, command.scopes, booking.at_ms, 0, command.name)
    keys.append(key)
    fact_id = _state_key(booking, command.environment, command.key_id, "created")
    return Reply(200, "", "", 0, available(booking.account, command.environment), fact_id)


def revoke_key(booking: Booking, command: RevokeKey) -> Reply:
    """Revoke an API key. Raises Rejection."""
    for key in booking.account.keys:
        if key.id == command.key_id:
            key.revoked_at_ms = key.revoked_at_ms or booking.at_ms
            fact_id = _state_key(booking, key.environment, key.id, "revoked")
            return Reply(200, "", "", 0, available(booking.account, key.environment), fact_id)
    raise Rejection("unknown_key", f"Project {command.project!r} has no key {command.key_id!r}", "key_id")


def rotate_key(booking: Booking, command: RotateKey) -> Reply:
    """Rotate an API key: a new one takes its name, environment and scopes, and it ends after the grace. Raises
    Rejection."""
    if not 0 <= command.grace_ms <= GRACE_DAYS_MAX * DAY_MS:
        raise Rejection("invalid_request", f"A grace is from 0 to {GRACE_DAYS_MAX} days", "grace_seconds")
    keys, at_ms = booking.account.keys, booking.at_ms
    old = next((key for key in keys if key.id == command.key_id and not has_ended(key, at_ms)), None)
    if old is None:
        detail = f"Project {command.project!r} has no key {command.key_id!r}, or it has ended"
        raise Rejection("unknown_key", detail, "key_id")
    _check_new(keys, command.new_key_id)
    old.ends_at_ms = min(old.ends_at_ms or NEVER_MS, at_ms + command.grace_ms)
    keys.append(ApiKey(command.new_key_id, command.key_hash, old.environment, old.scopes, at_ms, 0, old.name))
    fact_id = _state_key(booking, old.environment, command.new_key_id, "created")
    booking.state(
        "key",
        environment=old.environment,
        reason="rotated",
        key_id=old.id,
        metadata=note(by=booking.actor, successor=command.new_key_id, ends_at_ms=old.ends_at_ms),
    )
    return Reply(200, "", "", 0, available(booking.account, old.environment), fact_id)


def has_ended(key: ApiKey, at_ms: int) -> bool:
    """Whether a key may not be used any more at a time in Unix milliseconds: it was revoked, or its grace is over."""
    return bool(key.revoked_at_ms) or 0 < key.ends_at_ms <= at_ms


def _check_new(keys: list[ApiKey], key_id: str) -> None:
    if any(key.id == key_id for key in keys):
        raise Rejection("key_exists", f"Key {key_id!r} exists", "key_id")
    if len(keys) >= KEYS_MAX:
        raise Rejection("invalid_request", f"A project has at most {KEYS_MAX} keys, revoked ones too")


def plan_named(name: str) -> Plan:
    """The plan of that name. Raises Rejection."""
    plan = PLANS.get(name)
    if plan is None:
        raise Rejection("invalid_request", f"No plan {name!r}; there are {', '.join(PLANS)}", "plan")
    return plan


def _billing_id(command: OpenBillingAccount) -> str:
    return command.project.removeprefix(BILLING_PREFIX)


def _terms(plan: Plan, contract_allowance: int, contract_cents: int) -> tuple[int, int]:
    """The terms of a plan, (microcredits, cents) a month; those of an enterprise plan are the contract's."""
    return (contract_allowance, contract_cents) if plan.name == "enterprise" else (plan.allowance, plan.price_cents)


def _subscribe(booking: Booking, cents: int, at_ms: int) -> None:
    if cents:
        booking.state("subscription", reason=booking.account.plan, occurred_at_ms=at_ms, cents=cents)


def _transfer(booking: Booking, billed: Billed, to: str) -> None:
    account, cents, paid_cents = booking.account, billed.cents, billed.paid_cents
    account.billing_account = billed.billing_account
    metadata = note(to=to, paid_cents=-paid_cents or None)
    booking.state("transfer", reason="moved_out", cents=-cents, paid_cents=-paid_cents, metadata=metadata)
    account.billing_account = to
    metadata = note(**{"from": billed.billing_account}, paid_cents=paid_cents or None)
    booking.state("transfer", reason="moved_in", cents=cents, paid_cents=paid_cents, metadata=metadata)


def _state_key(booking: Booking, environment: str, key_id: str, what: Reason) -> str:
    """State what was done to a key: the fact's `key_id` is that key, `by` in its metadata the key that did it."""
    return booking.state("key", environment=environment, reason=what, key_id=key_id, metadata=note(by=booking.actor))


def _state_plan(booking: Booking, plan: str, effective_at_ms: int) -> str:
    return booking.state(
        "plan", reason=plan, occurred_at_ms=effective_at_ms, metadata=note(**{"from": booking.account.plan})
    )
