"""Intake records: envelopes of usage, ticks, and commands. They are MessagePack arrays, told apart by a tag."""

from __future__ import annotations

import msgspec

from schemas.accounts import Grant, Limits
from schemas.events import Usage
from schemas.prices import PriceBook
from schemas.replies import Reply

# The source of an admission that names no event of its own.
ADMISSION_SOURCE = "/admissions"
HOLD_SECONDS_MAX = 7 * 86_400
HOLD_SECONDS_DEFAULT = 3_600
# Notice rules of one's own, for each environment.
RULES_MAX = 10


class Envelope(msgspec.Struct, tag="usage", array_like=True, frozen=True):
    """An envelope carries accepted events of one partition, in the order in which they are to be applied."""

    events: list[Usage]


class Tick(msgspec.Struct, tag="tick", array_like=True, frozen=True):
    """A tick names projects of one partition in which something is due: a renewal, an expiring hold, a month's end."""

    projects: list[str]


class Command(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """The fields that every command carries.

    `idempotency_key` is the caller's, or "" where none was given; `correlation` is unique to the request. The reply
    goes to `reply_partition` of the replies topic, for the process `reply_instance`. `actor` is the id of the API key
    that the command came with, or "".
    """

    project: str
    idempotency_key: str
    correlation: str
    reply_instance: str
    reply_partition: int
    actor: str = ""


class CreateProject(Command, tag="project.create", array_like=True, frozen=True, kw_only=True):
    """Open a project's account on a plan; its sign-up day becomes its renewal day.

    `contract_allowance`, in microcredits a month, and `contract_cents` count on the enterprise plan only.
    """

    name: str
    plan: str
    contract_allowance: int
    contract_cents: int = 0
    billing_account: str = ""


class CloseProject(Command, tag="project.close", array_like=True, frozen=True, kw_only=True):
    """Let a project spend nothing more. Its bundles stay; its allowance is not renewed."""

    reason: str


class ReopenProject(Command, tag="project.reopen", array_like=True, frozen=True, kw_only=True):
    """Open a closed project again, and grant this month's allowance if it has not been granted yet."""


class CreateKey(Command, tag="key.create", array_like=True, frozen=True, kw_only=True):
    """Add an API key; only the hash of its secret is ever written."""

    key_id: str
    key_hash: bytes
    environment: str
    scopes: list[str]
    name: str = ""


class RevokeKey(Command, tag="key.revoke", array_like=True, frozen=True, kw_only=True):
    """End an API key at once."""

    key_id: str


class RotateKey(Command, tag="key.rotate", array_like=True, frozen=True, kw_only=True):
    """Make a key `new_key_id` of the name, environment and scopes of `key_id`, which ends `grace_ms` from now."""

    key_id: str
    new_key_id: str
    key_hash: bytes
    grace_ms: int


class TopUp(Command, tag="top_up", array_like=True, frozen=True, kw_only=True):
    """Grant credits that were bought to one environment's budget: those of the bundle that costs `bundle_usd`, or,
    where that is 0, `amount` microcredits that cost `cents` by contract."""

    environment: str
    bundle_usd: int
    reference: str
    amount: int = 0
    cents: int = 0


class RefundTopUp(Command, tag="top_up.refund", array_like=True, frozen=True, kw_only=True):
    """Take back what is left of credits that were bought, and give their money back. `reason` is kept with the
    entry."""

    grant_id: str
    reason: str


class GrantPromotional(Command, tag="grant.promotional", array_like=True, frozen=True, kw_only=True):
    """Give `amount` microcredits to one environment's budget until `expires_at_ms`, for a `reason` that is kept with
    the entry. No money is due for them."""

    environment: str
    amount: int
    expires_at_ms: int
    reason: str


class ChangePlan(Command, tag="plan.change", array_like=True, frozen=True, kw_only=True):
    """Put a project on another plan: at once if that gives it more, at its renewal if less.

    `contract_allowance`, in microcredits a month, and `contract_cents` count on the enterprise plan only.
    """

    plan: str
    contract_allowance: int
    contract_cents: int = 0


class SetStanding(Command, tag="standing", array_like=True, frozen=True, kw_only=True):
    """Say whether a project is in good standing; one that is not gets no refunds."""

    is_good: bool
    reason: str


class Erase(Command, tag="erase", array_like=True, frozen=True, kw_only=True):
    """Take the metadata of a project's events, or of those of one `customer` of it, out of the history. A `customer` of
    "" is all of the project. `reason` is kept with the fact."""

    customer: str
    reason: str


class OpenPortal(Command, tag="portal.open", array_like=True, frozen=True, kw_only=True):
    """Open a portal link for a session `session_id`. The link's id is the `idempotency_key`, so that it opens once, and
    whoever made it is the `actor`. Its maker knew the account as of the intake record at `known_offset`;
    `customer_sha256` names the customer whom it shows, as an erasure does, or "" for all of the project."""

    environment: str
    session_id: str
    customer_sha256: str
    known_offset: int
    expires_at_ms: int


class EndPortals(Command, tag="portal.end", array_like=True, frozen=True, kw_only=True):
    """End all portal links of a project that were made before, and the sessions that came of them. `reason` is kept
    with the fact."""

    reason: str


class SetBadge(Command, tag="badge", array_like=True, frozen=True, kw_only=True):
    """Turn a project's "Built with" badge off, or on again; a free project shows it whatever is set."""

    is_off: bool


class Admit(Command, tag="admit", array_like=True, frozen=True, kw_only=True):
    """Decide one request and charge it at once, or, where `hold_seconds` is above 0, hold its credits that long."""

    usage: Usage
    hold_seconds: int = 0


class CountRequest(Command, tag="request", array_like=True, frozen=True, kw_only=True):
    """Count one request to our own API in its project's window. `operation` is the call, as in "GET /v1/balance", and
    `actor` the key it was made with. The reply is not kept: the same command sent again is another request."""

    operation: str
    environment: str


class CountRefused(Command, tag="request.refused", array_like=True, frozen=True, kw_only=True):
    """State that an API process refused `count` requests by itself, between two times by its clock, since the owner
    would have: the window was full. They are of one key (`actor`) and one `operation`, as of `CountRequest`. Nobody
    waits for the reply, and it is not kept."""

    operation: str
    environment: str
    count: int
    first_at_ms: int
    last_at_ms: int


class SetLimits(Command, tag="limits", array_like=True, frozen=True, kw_only=True):
    """Set limits of a project that hold over its plan's from now on, or, where `is_shadow`, limits on trial. Limits
    that are all 0 end the contract or the trial."""

    limits: Limits
    is_shadow: bool
    reason: str


class RaiseLimits(Command, tag="limits.raise", array_like=True, frozen=True, kw_only=True):
    """Raise a project's limits for a window of time; `starts_at_ms` 0 is now."""

    limits: Limits
    starts_at_ms: int
    ends_at_ms: int
    reason: str


class EndRaise(Command, tag="limits.raise.end", array_like=True, frozen=True, kw_only=True):
    """End a raise before its time, or take back one that has not begun."""

    raise_id: str


class CaptureHold(Command, tag="hold.capture", array_like=True, frozen=True, kw_only=True):
    """Charge a hold, or `amount` microcredits of it, and release the rest; -1 is all of it.

    `environment` is that of the key that the command comes with, or "" for any.
    """

    hold_id: str
    environment: str
    amount: int = -1


class ReleaseHold(Command, tag="hold.release", array_like=True, frozen=True, kw_only=True):
    """Give a hold's credits back to the grants they came from."""

    hold_id: str
    environment: str
    reason: str


class ExtendHold(Command, tag="hold.extend", array_like=True, frozen=True, kw_only=True):
    """Let a hold expire `seconds` from now."""

    hold_id: str
    environment: str
    seconds: int


class SetItem(Command, tag="item", array_like=True, frozen=True, kw_only=True):
    """Set how many units of a recurring line item a project has from now on; 0 ends the item."""

    operation: str
    quantity: int


class SetAutoRecharge(Command, tag="recharge.set", array_like=True, frozen=True, kw_only=True):
    """Turn auto-recharge on with these terms, or off. `threshold` is microcredits."""

    is_on: bool
    threshold: int
    bundle_usd: int
    cap_cents: int
    payment_method: str


class SettleRecharge(Command, tag="recharge.settle", array_like=True, frozen=True, kw_only=True):
    """Settle a purchase of auto-recharge: it was paid, and the bundle is granted, or it failed, as `detail` says."""

    recharge_id: str
    is_paid: bool
    reference: str
    detail: str


class SetBillingAccount(Command, tag="billing.set", array_like=True, frozen=True, kw_only=True):
    """Put a project on a billing account's invoice from now on; "" gives it an invoice of its own. With
    `is_from_month_start` what this calendar month has billed on other invoices moves to that one."""

    billing_account: str
    is_from_month_start: bool = False


class SetNoticeRules(Command, tag="notice_rules.set", array_like=True, frozen=True, kw_only=True):
    """Set the notice rules of one's own in one environment: each (is it in percent, percent or microcredits)."""

    environment: str
    rules: list[tuple[bool, int]]


class OpenBillingAccount(Command, tag="billing.open", array_like=True, frozen=True, kw_only=True):
    """Open a billing account, or, where `is_change`, change the name and address of one. `project` is `billing:` and
    its id."""

    name: str
    email: str
    is_change: bool = False


class PublishPrices(Command, tag="prices", array_like=True, frozen=True, kw_only=True):
    """Announce a price book; the command is sent to every partition. `project` is `prices:`. `after` is the version
    that must be the latest so far, or "" for any: so every partition has the same books in the same order."""

    book: PriceBook
    after: str = ""


class WithdrawPrices(Command, tag="prices.withdraw", array_like=True, frozen=True, kw_only=True):
    """Withdraw a price book before it takes effect; the command is sent to every partition, as `PublishPrices` is. The
    first partition decides. Where it has (`is_decided`), the others follow, whatever the time, and also where the book
    was never announced to them."""

    book: PriceBook
    is_decided: bool = False


class GivenBack(msgspec.Struct, array_like=True, frozen=True):
    """Microcredits that an event was charged on one grant, to be given back. The grant and the price version are as the
    history tells them."""

    grant: Grant
    operation: str
    quantity: int
    amount: int
    price_version: str = ""


class Correct(Command, tag="correct", array_like=True, frozen=True, kw_only=True):
    """Put an event right: give back what it was charged, and charge what it should have been, if anything.

    `sequence` counts the corrections of this event before this one. Where `given_back` is empty, the event came too
    late to be taken any other way, or, where `refused_offset` is not -1, the record at that offset refused it.
    `metadata` is that of the event as it was charged, with the correction's reason, as a JSON object. It goes with the
    entries that give credits back; those that charge have the usage's own metadata.
    """

    source: str
    event_id: str
    sequence: int
    given_back: list[GivenBack]
    usage: Usage | None
    metadata: str
    refused_offset: int = -1


class PutEndpoint(Command, tag="endpoint.put", array_like=True, frozen=True, kw_only=True):
    """Make an endpoint that hears of notices, or, where `is_change`, change what of it is not None here. `project` is
    `platform:` for one that hears of every project. The fields are those of `schemas.accounts.Endpoint`; the `kind` is
    never changed, and a `state` is "active" or "paused"."""

    endpoint_id: str
    is_change: bool = False
    kind: str | None = None
    target: str | None = None
    event_types: list[str] | None = None
    environments: list[str] | None = None
    is_ordered: bool | None = None
    description: str | None = None
    state: str | None = None


class RotateEndpoint(Command, tag="endpoint.rotate", array_like=True, frozen=True, kw_only=True):
    """Give a webhook the next secret; the one before signs too for a day."""

    endpoint_id: str


class DeleteEndpoint(Command, tag="endpoint.delete", array_like=True, frozen=True, kw_only=True):
    """Delete an endpoint: it hears of nothing more."""

    endpoint_id: str


class DisableEndpoint(Command, tag="endpoint.disable", array_like=True, frozen=True, kw_only=True):
    """Disable an endpoint that failed for too long, or that asked for no more. The courier sends it; `reason` is kept
    with the fact."""

    endpoint_id: str
    reason: str


class TestEndpoint(Command, tag="endpoint.test", array_like=True, frozen=True, kw_only=True):
    """Send a test notice to one endpoint alone."""

    # Not a test of pytest's.
    __test__ = False

    endpoint_id: str


class ReplayNotices(Command, tag="endpoint.replay", array_like=True, frozen=True, kw_only=True):
    """Send notices to an endpoint again: that of an id, or, where `notice_id` is "", all since `since_ms`, or of these
    only those that it never took (`only_failed`)."""

    endpoint_id: str
    since_ms: int = 0
    only_failed: bool = False
    notice_id: str = ""


class BillDelivery(Command, tag="delivery", array_like=True, frozen=True, kw_only=True):
    """Charge a project the retry of a webhook, once for each `attempt_id`. The courier sends it before the attempt.
    `environment` is the notice's, or "" for production."""

    environment: str
    attempt_id: str
    endpoint_id: str


AnyCommand = (
    CreateProject
    | CloseProject
    | ReopenProject
    | CreateKey
    | RevokeKey
    | RotateKey
    | TopUp
    | RefundTopUp
    | GrantPromotional
    | ChangePlan
    | SetStanding
    | Erase
    | OpenPortal
    | EndPortals
    | SetBadge
    | Admit
    | CountRequest
    | CountRefused
    | SetLimits
    | RaiseLimits
    | EndRaise
    | CaptureHold
    | ReleaseHold
    | ExtendHold
    | SetItem
    | SetAutoRecharge
    | SettleRecharge
    | SetBillingAccount
    | SetNoticeRules
    | OpenBillingAccount
    | PublishPrices
    | WithdrawPrices
    | Correct
    | PutEndpoint
    | RotateEndpoint
    | DeleteEndpoint
    | DisableEndpoint
    | TestEndpoint
    | ReplayNotices
    | BillDelivery
)


class Commands(msgspec.Struct, tag="commands", array_like=True, frozen=True):
    """Commands of one partition that one process sent together, in the order in which they are to be applied."""

    commands: list[AnyCommand]


IntakeRecord = Envelope | Tick | Commands | AnyCommand


class Replies(msgspec.Struct, array_like=True, frozen=True):
    """Replies on their way to `instance`, the process that asked, each with its command's correlation."""

    instance: str
    replies: list[tuple[str, Reply]]
