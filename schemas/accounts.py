"""An account and its parts: all that is kept of one project. Amounts are integer microcredits, times Unix ms, UTC."""

from __future__ import annotations

import msgspec

from schemas.prices import PriceBook


class Grant(msgspec.Struct, array_like=True, gc=False):
    """A grant is credits that were given at once. `kind`: allowance, top_up or promotional; `expires_at_ms` 0 is never.

    `held` of the remaining credits are kept for jobs: `remaining - held` can be spent. Credits that are held when
    their grant expires stay until their job is resolved. `contract_cents` are the US cents that a top_up cost by
    contract; 0 in a bundle, whose price is known.
    """

    id: str
    kind: str
    environment: str
    granted: int
    remaining: int
    granted_at_ms: int
    expires_at_ms: int
    held: int = 0
    contract_cents: int = 0


class Line(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A line of a price: `quantity` units of an operation at `rate` microcredits each."""

    operation: str
    quantity: int
    rate: int


class HeldPart(msgspec.Struct, array_like=True, gc=False):
    """Microcredits of one grant that a hold keeps."""

    grant_id: str
    amount: int


class Hold(msgspec.Struct, array_like=True):
    """A hold keeps credits for a job until the job is resolved. `id` is the public id of the first fact it left.

    `lines` and `price_version` are those of the time it was made: a capture costs what was held, even if prices have
    changed since.
    """

    id: str
    environment: str
    job_id: str
    source: str
    event_id: str
    key_id: str
    metadata: str
    occurred_at_ms: int
    price_version: str
    lines: list[Line]
    parts: list[HeldPart]
    held_at_ms: int
    expires_at_ms: int


class Accrual(msgspec.Struct, array_like=True, gc=False):
    """Unit-hours of a recurring item under one price version, and the microcredits not yet paid for them.

    `billed_for_ms` is the end of the month that they were billed for, or 0 while that month is not over.
    """

    price_version: str
    unit_hours: int
    amount: int
    billed_for_ms: int = 0


class RecurringItem(msgspec.Struct, array_like=True):
    """A recurring line item, metered at every full hour, UTC. `accruals` hold its unit-hours up to `metered_to_ms`."""

    operation: str
    quantity: int
    metered_to_ms: int
    accruals: list[Accrual]


class AutoRecharge(msgspec.Struct, array_like=True):
    """Auto-recharge buys a bundle when less than `threshold` microcredits are available.

    At most `cap_cents` are spent in a calendar month (UTC). `spent_cents` is what was spent in `month` (year * 100 +
    month), a pending purchase included. `pending_id` names the purchase under way, or is "". After a failed purchase
    nothing is bought before `blocked_until_ms`. `capped_month` is the month in which the cap last stopped a purchase.
    """

    is_on: bool
    threshold: int
    bundle_usd: int
    cap_cents: int
    payment_method: str
    month: int = 0
    spent_cents: int = 0
    pending_id: str = ""
    pending_cents: int = 0
    failures: int = 0
    blocked_until_ms: int = 0
    capped_month: int = 0


class Limits(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Limits: requests a minute, how many may come at once after a rest (burst), and microcredits a minute.

    Where limits are laid over others (a contract's, a raise's, a trial's), 0 leaves that one of the three as it is.
    """

    requests_per_minute: int
    burst: int
    cost_ceiling: int


class Window(msgspec.Struct, array_like=True, gc=False):
    """A project's window: what it asked for in the last 60 seconds.

    `arrivals` are Unix ms and the number of requests, alternately, the oldest first, and `requests` is their sum.
    `spent` is the burst tokens that are spent, in 60,000ths, as of `at_ms`. `costs` are Unix ms and the microcredits
    that requests cost, alternately, and `cost` is their sum.
    """

    arrivals: list[int]
    spent: int
    at_ms: int
    costs: list[int] = []
    requests: int = 0
    cost: int = 0


class LimitRaise(msgspec.Struct, array_like=True):
    """A raise: higher limits from `starts_at_ms` until `ends_at_ms`; they count while `is_on`. `id` is the public id of
    the fact that planned it."""

    id: str
    limits: Limits
    starts_at_ms: int
    ends_at_ms: int
    is_on: bool = False


class Shadow(msgspec.Struct, array_like=True):
    """Limits on trial stop nothing; facts state what they would have stopped. They have a window of their own."""

    limits: Limits
    window: Window


class AnnouncedBook(msgspec.Struct, array_like=True):
    """A price book, and where it was announced: by the command at `slot` of the intake record at `offset`. Records and
    commands before that one do not know the book.

    A book that was withdrawn, at `withdrawn_at_ms`, stays here, so that its version is given to no other; the command
    at `withdrawn_slot` of the record at `withdrawn_offset` did it. Later records and commands price as if it had never
    been announced. `withdrawn_at_ms` 0 is a book that holds.
    """

    offset: int
    book: PriceBook
    slot: int = 0
    withdrawn_at_ms: int = 0
    withdrawn_offset: int = 0
    withdrawn_slot: int = 0


class PastSpan(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A span of a project's past: its plan, and whether it was closed, from the end of the span before it, or from the
    sign-up, until `until_ms`. A `plan` of "" stands for all spans before, which are forgotten."""

    until_ms: int
    plan: str
    is_closed: bool = False


class Billed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Money that a project was billed within a month on the invoice of a billing account, or, with "", on its own.
    `paid_cents` of it a card has paid."""

    billing_account: str
    cents: int
    paid_cents: int = 0


class ApiKey(msgspec.Struct, array_like=True):
    """An API key of a project; `hash` is the SHA-256 of its secret. `revoked_at_ms` 0 means it is in use. `ends_at_ms`,
    where it is not 0, is when it ends by itself: another key has taken its place. `name` is for people, or ""."""

    id: str
    hash: bytes
    environment: str
    scopes: list[str]
    created_at_ms: int
    revoked_at_ms: int
    name: str = ""
    ends_at_ms: int = 0


class Endpoint(msgspec.Struct, array_like=True):
    """An endpoint hears of notices: `kind` is webhook, slack or email, and `target` a URL, or an address. `event_types`
    are names, "project.*" and the like, or "*" for all; `environments` those it hears of, [] all. With `is_ordered` the
    next notice waits for the one before it.

    Its signing secret is stored nowhere, but follows from its id and `secret_version`; the version before counts for a
    day after `rotated_at_ms`. `state` is active, paused (by its owner) or disabled (it failed for too long).
    """

    id: str
    kind: str
    target: str
    event_types: list[str]
    environments: list[str]
    is_ordered: bool
    created_at_ms: int
    secret_version: int = 1
    rotated_at_ms: int = 0
    state: str = "active"
    description: str = ""


class NoticeRule(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A notice rule of a project's own: tell it when an environment's available credits fall to `threshold`, in
    microcredits, or in percent of what the plan grants a month."""

    id: str
    environment: str
    is_percent: bool
    threshold: int


class Watch(msgspec.Struct, array_like=True):
    """A watch over an environment's available credits. `crossed` has the ids of the rules whose threshold they have
    fallen to and are not above again; `is_told` says that people were told of one. Nothing is to be told while
    `falls_to` < available, and available <= `rises_above` where any is crossed. It takes some 20 bytes.

    `spent` are the microcredits of each hour from `first_hour` (of Unix time) on, 25 at most. They are looked at next
    at `look_at_ms`, 0 being never; `is_told_dry` says that the last look found that they end before the renewal.
    """

    environment: str
    crossed: list[str]
    falls_to: int = -1
    rises_above: int = 0
    is_told: bool = False
    first_hour: int = 0
    spent: list[int] = []
    look_at_ms: int = 0
    is_told_dry: bool = False


class Account(msgspec.Struct, array_like=True):
    """An account holds all that a decision about one project consults. `grants` stand in burn-down order.

    `allowance` is what each month grants. `opened_offset` is the intake record that opened the account, `last_offset`
    the last record applied to it, `last_at_ms` the time of that record. `next_plan`, where there is one, begins at the
    renewal. `closed_at_ms` 0 means open. `price_cents` is what the plan costs a month. `month_ends_at_ms` is when
    recurring items are next billed, 0 where there are none.
    `window` is None until the project's first request. `month_begun_to_ms` is the end of the plan's latest month that
    has begun, whose allowance is granted and whose price is due. `limits` are the contract's, over the plan's. Nothing
    happens by itself before `due_at_ms`. `past` has what the project was before, the oldest first; it ends where its
    present plan and state begin. `billed` is what the project was billed by invoice in `billed_month` (year * 100 +
    month, UTC), the latest in which money was due. `watches` has one watch for each environment that had credits once.
    `endpoints` hear of its notices, the oldest first. Portal links that were made before the intake record at
    `portals_ended_offset` are ended, and so are their sessions.

    Billing accounts and price lists are no projects, but are kept as accounts too, under ids that no project can have
    (docs/decisions/0013): a billing account has a name and an `email`, and a partition's price list has `books`. So is
    the platform, whose `endpoints` hear of every project.
    """

    project: str
    name: str
    plan: str
    allowance: int
    signed_up_at_ms: int
    renews_at_ms: int
    grants: list[Grant]
    keys: list[ApiKey]
    opened_offset: int
    last_offset: int
    last_at_ms: int
    next_plan: str = ""
    next_allowance: int = 0
    is_in_good_standing: bool = True
    closed_at_ms: int = 0
    price_cents: int = 0
    next_price_cents: int = 0
    billing_account: str = ""
    holds: list[Hold] = []
    items: list[RecurringItem] = []
    month_ends_at_ms: int = 0
    auto_recharge: AutoRecharge | None = None
    badge_off: bool = False
    due_at_ms: int = 0
    window: Window | None = None
    month_begun_to_ms: int = 0
    email: str = ""
    books: list[AnnouncedBook] = []
    limits: Limits | None = None
    raises: list[LimitRaise] = []
    shadow: Shadow | None = None
    past: list[PastSpan] = []
    billed_month: int = 0
    billed: list[Billed] = []
    notice_rules: list[NoticeRule] = []
    watches: list[Watch] = []
    endpoints: list[Endpoint] = []
    portals_ended_offset: int = -1
