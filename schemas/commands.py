"""What may stand on the intake log: an envelope of usage, or a command. MessagePack arrays, told apart by a tag."""

from __future__ import annotations

import msgspec

from schemas.events import Usage
from schemas.ledger import Reply


class Envelope(msgspec.Struct, tag="usage", array_like=True, frozen=True):
    """Accepted events of one partition, in the order they are to be applied."""

    events: list[Usage]


class Command(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """What every command carries.

    `idempotency_key` is the caller's, or "" where none was given; `correlation` is unique to the request. The reply
    goes to `reply_partition` of the replies topic, for `reply_instance`.
    """

    project: str
    idempotency_key: str
    correlation: str
    reply_instance: str
    reply_partition: int


class CreateProject(Command, tag="project.create", array_like=True, frozen=True, kw_only=True):
    """Open a project's account on a plan; its sign-up day becomes its renewal day.

    `contract_allowance`, in microcredits a month, counts on the enterprise plan only.
    """

    name: str
    plan: str
    contract_allowance: int


class CloseProject(Command, tag="project.close", array_like=True, frozen=True, kw_only=True):
    """Let a project spend nothing more. Its bundles stay; its allowance is not renewed."""

    reason: str


class ReopenProject(Command, tag="project.reopen", array_like=True, frozen=True, kw_only=True):
    """Let a closed project go on, with this month's allowance if it has not had it."""


class CreateKey(Command, tag="key.create", array_like=True, frozen=True, kw_only=True):
    """Add an API key; only the hash of its secret is ever written."""

    key_id: str
    key_hash: bytes
    environment: str
    scopes: list[str]


class RevokeKey(Command, tag="key.revoke", array_like=True, frozen=True, kw_only=True):
    """End an API key at once."""

    key_id: str


class TopUp(Command, tag="top_up", array_like=True, frozen=True, kw_only=True):
    """Grant the credits of the bundle that costs `bundle_usd` to one environment's budget."""

    environment: str
    bundle_usd: int
    reference: str


class RefundTopUp(Command, tag="top_up.refund", array_like=True, frozen=True, kw_only=True):
    """Take back what is left of a bundle, whose money is given back. `reason` is kept with the entry."""

    grant_id: str
    reason: str


class ChangePlan(Command, tag="plan.change", array_like=True, frozen=True, kw_only=True):
    """Put a project on another plan: at once if that gives it more, at its renewal if less.

    `contract_allowance`, in microcredits a month, counts on the enterprise plan only.
    """

    plan: str
    contract_allowance: int


class SetStanding(Command, tag="standing", array_like=True, frozen=True, kw_only=True):
    """Say whether a project is in good standing; one that is not gets no refunds."""

    is_good: bool
    reason: str


class Admit(Command, tag="admit", array_like=True, frozen=True, kw_only=True):
    """Decide one request and charge it at once."""

    usage: Usage


AnyCommand = (
    CreateProject
    | CloseProject
    | ReopenProject
    | CreateKey
    | RevokeKey
    | TopUp
    | RefundTopUp
    | ChangePlan
    | SetStanding
    | Admit
)
IntakeRecord = Envelope | AnyCommand


class ReplyRecord(msgspec.Struct, array_like=True, frozen=True):
    """A reply on its way to the API process that asked."""

    instance: str
    correlation: str
    reply: Reply
