"""Facts: what a decision states, immutable, as the journal and ClickHouse keep it; and what each kind of them means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeVar, get_args

import msgspec

Kind = Literal[
    "charge",
    "grant",
    "expiry",
    "refund",
    "correction",
    "hold",
    "release",
    "refusal",
    "duplicate",
    "request",
    "shadow",
    "limits",
    "subscription",
    "project",
    "plan",
    "standing",
    "key",
    "billing_account",
    "transfer",
    "item",
    "recharge",
    "price_book",
    "price_withdrawal",
    "erasure",
    "portal",
    "endpoint",
    "notice",
]
# The reasons that have a name of their own; "" is none. All others are of one of the sets below.
Reason = Literal[
    "",
    "captured",
    "recurring",
    "given_back",
    "charged",
    "extended",
    "held",
    "released",
    "expired",
    "set",
    "shadow",
    "raise_planned",
    "raise_begun",
    "raise_ended",
    "closed",
    "reopened",
    "badge_on",
    "badge_off",
    "good",
    "bad",
    "created",
    "revoked",
    "rotated",
    "opened",
    "changed",
    "joined",
    "moved_out",
    "moved_in",
    "on",
    "off",
    "requested",
    "failed",
    "booked",
    "cap_reached",
    "limited_at_edge",
    "customer",
    "project",
    "paused",
    "resumed",
    "deleted",
    "disabled",
    "tested",
    "replayed",
    "credits_low",
    "credits_exhausted",
    "credits_recovered",
    "time_to_empty",
    "rules",
    "ended",
]
# `schemas.problems` has the codes, `streams.core.plans` the plans, `streams.core.grants` the kinds of grants; a price
# book's version is its own.
ReasonSet = Literal["problem code", "plan", "grant kind", "price version"]

# The reason of a refusal that stands for `quantity` requests at once; any other stands for one.
LIMITED_AT_EDGE: Final = "limited_at_edge"

if TYPE_CHECKING:
    _KindAsRead = Kind
else:
    # Any text: whoever reads facts that a newer version has stated passes over the kinds that it does not know.
    _KindAsRead = str


class Fact(msgspec.Struct, array_like=True, gc=False):
    """A fact states one thing that happened. With its journal partition, (offset, index) orders and names it for good.

    `FACT_KINDS` says what its `kind` and `reason` mean. `amount` is signed microcredits; `held` the signed change of
    what is held; `balance` the environment's balance after it, held credits included. `cents` is money due for it,
    negative where it is given back, on the invoice of `billing_account`.
    `surcharge` is what a refused, repeated or held use would have been charged beside its operation, or "".
    """

    offset: int
    index: int
    kind: _KindAsRead
    project: str
    environment: str
    operation: str
    quantity: int
    amount: int
    balance: int
    grant_id: str
    reason: str
    price_version: str
    source: str
    event_id: str
    job_id: str
    key_id: str
    occurred_at_ms: int
    booked_at_ms: int
    metadata: str
    held: int = 0
    cents: int = 0
    billing_account: str = ""
    surcharge: str = ""


class FactHead(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The first fields of a fact: for whoever passes over most facts, since all of it takes four times as long to
    decode."""

    offset: int
    index: int
    kind: _KindAsRead
    project: str


F = TypeVar("F")


class FactPack(msgspec.Struct, Generic[F], array_like=True, frozen=True, gc=False):
    """A journal record: facts in order, after a head that tells a reader enough to pass them on undecoded.

    `first` and `last` are the (offset, index) of its first and last fact; every fact was booked between
    `booked_from_ms` and `booked_to_ms`. `facts` is a list[Fact], a list[FactHead], or
    a msgspec.Raw where they are left undecoded.
    """

    first: tuple[int, int]
    last: tuple[int, int]
    booked_from_ms: int
    booked_to_ms: int
    count: int
    facts: F


@dataclass(frozen=True, slots=True, kw_only=True)
class FactKind:
    """One kind of fact: what it says, and which facts of it there may be.

    `says` is a sentence for people. `reasons` are those that a fact of the kind may bear by name, each with what it
    says then; any other is of the set `reasons_from`. `stated_by` are the modules of `streams.core` that state it.
    Only the `amount` of a ledger entry (`is_entry`) may be other than 0, and it is on one grant then; `is_usage` is for
    those entries that say what was used and what it costs. A kind that `is_passing` moves nothing and is kept for some
    time only. Only where it `bears_held` or `bears_cents` may `held` or
    `cents` be other than 0.
    """

    says: str
    reasons: Mapping[Reason, str]
    reasons_from: ReasonSet | None = None
    stated_by: tuple[str, ...]
    is_entry: bool = False
    is_usage: bool = False
    bears_held: bool = False
    bears_cents: bool = False
    is_passing: bool = False


FACT_KINDS: Final[dict[Kind, FactKind]] = {
    "charge": FactKind(
        says="Credits are spent",
        reasons={
            "": "a use that was reported or admitted",
            "captured": "a job's that were held for it",
            "recurring": "a month of a recurring item",
        },
        stated_by=("ledger", "holds", "items"),
        is_entry=True,
        is_usage=True,
        bears_held=True,
    ),
    "grant": FactKind(
        says="Credits come: a plan's allowance, those that were bought, or promotional credits with an end",
        reasons={},
        reasons_from="grant kind",
        stated_by=("grants",),
        is_entry=True,
        bears_cents=True,
    ),
    "expiry": FactKind(
        says="What is left of a grant that has ended is gone",
        reasons={},
        reasons_from="grant kind",
        stated_by=("ledger", "holds"),
        is_entry=True,
    ),
    "refund": FactKind(
        says="What is left of credits that were bought is taken back, and their money returned",
        reasons={},
        reasons_from="grant kind",
        stated_by=("grants",),
        is_entry=True,
        bears_cents=True,
    ),
    "correction": FactKind(
        says="An event is put right",
        reasons={
            "given_back": "what it was charged comes back",
            "charged": "what it should have been charged is spent",
        },
        stated_by=("corrections",),
        is_entry=True,
        is_usage=True,
    ),
    "hold": FactKind(
        says="Credits are kept for a job",
        reasons={
            "": "they can't be spent otherwise",
            "extended": "as many are kept, until another time",
        },
        stated_by=("holds",),
        bears_held=True,
    ),
    "release": FactKind(
        says="Credits that were kept for a job are free again",
        reasons={
            "captured": "the job cost less",
            "released": "the job is not charged",
            "expired": "nobody resolved the hold in time",
        },
        stated_by=("holds",),
        bears_held=True,
    ),
    "refusal": FactKind(
        says="What was asked for did not run, or a month of a recurring item is still to be paid",
        reasons={LIMITED_AT_EDGE: "so many requests were refused by an API process, since the window was full"},
        reasons_from="problem code",
        stated_by=("admission", "ledger", "items"),
        is_passing=True,
    ),
    "duplicate": FactKind(
        says="What was decided before was asked for or reported again",
        reasons={
            "": "it was charged, or refused, before: nothing is charged",
            "held": "its credits are held still: nothing is charged, and the hold stays",
        },
        # `event_id_reused` or `job_id_reused`: the id is that of another content. Nothing is charged or allowed.
        reasons_from="problem code",
        stated_by=("ledger",),
        is_passing=True,
    ),
    "request": FactKind(
        says="A request to Meterline's own API is counted in its project's window",
        reasons={"": "it costs nothing"},
        stated_by=("admission",),
        is_passing=True,
    ),
    "shadow": FactKind(
        says="Limits on trial would have refused a request; what became of it is a fact beside it",
        reasons={},
        reasons_from="problem code",
        stated_by=("admission",),
        is_passing=True,
    ),
    "limits": FactKind(
        says="A project's limits change",
        reasons={
            "set": "a contract's, over its plan's",
            "shadow": "those on trial",
            "raise_planned": "a raise is agreed on, from when until when",
            "raise_begun": "a raise begins",
            "raise_ended": "a raise ends",
        },
        stated_by=("limits",),
    ),
    "subscription": FactKind(
        says="What a plan's month costs is due, or what a dearer plan costs more",
        reasons={},
        reasons_from="plan",
        stated_by=("projects",),
        bears_cents=True,
    ),
    "project": FactKind(
        says="A project is opened on a plan, or changes",
        reasons={
            "closed": "what is used from then on is refused",
            "reopened": "it may be used again",
            "badge_on": "it shows the badge",
            "badge_off": "it does not show the badge",
        },
        reasons_from="plan",
        stated_by=("projects",),
    ),
    "plan": FactKind(
        says="A project is on another plan, from `occurred_at` on",
        reasons={},
        reasons_from="plan",
        stated_by=("projects",),
    ),
    "standing": FactKind(
        says="A project's standing is decided on",
        reasons={"good": "its bundles may be refunded", "bad": "its bundles may not be refunded"},
        stated_by=("projects",),
    ),
    "key": FactKind(
        says="An API key is made or ended",
        reasons={
            "created": "it may be used",
            "revoked": "it may not be used any more",
            "rotated": "another takes its place, and it ends",
        },
        stated_by=("projects",),
    ),
    "billing_account": FactKind(
        says="A billing account, or whose invoice a project is on, changes",
        reasons={
            "opened": "there is a new one",
            "changed": "it has another name or address",
            "joined": "a project is on its invoice now, or on its own again",
        },
        stated_by=("projects",),
    ),
    "transfer": FactKind(
        says="What a project was billed this month moves from one invoice to another, by two facts that sum to zero",
        reasons={"moved_out": "from this invoice", "moved_in": "to this invoice"},
        stated_by=("projects",),
        bears_cents=True,
    ),
    "item": FactKind(
        says="A project has so many units of a recurring item",
        reasons={"set": "from now on"},
        stated_by=("items",),
    ),
    "recharge": FactKind(
        says="Auto-recharge buys, or does not",
        reasons={
            "on": "it is turned on, or has new terms",
            "off": "it is turned off, or has failed too often",
            "requested": "a bundle is to be bought",
            "failed": "a bundle could not be bought",
            "booked": "a bundle was paid by a payment that had been booked before: nothing is granted for it again",
            "cap_reached": "a bundle would be above what it may spend in a month",
        },
        stated_by=("recharge",),
    ),
    "price_book": FactKind(
        says="A price book is announced",
        reasons={},
        reasons_from="price version",
        stated_by=("price_announcements",),
    ),
    "price_withdrawal": FactKind(
        says="A price book is withdrawn before it takes effect",
        reasons={},
        reasons_from="price version",
        stated_by=("price_announcements",),
    ),
    "erasure": FactKind(
        says="The metadata of events before it is taken out of the history",
        reasons={"customer": "that of one customer", "project": "all of the project's"},
        stated_by=("erasures",),
    ),
    "portal": FactKind(
        says="A link to a project's pages is opened, or they are all ended",
        reasons={
            "opened": "its session may look at the project, or at one customer of it",
            "ended": "no link or session of before is of use any more",
        },
        stated_by=("portals",),
    ),
    "endpoint": FactKind(
        says="An endpoint that hears of notices is made, or something is done to it",
        reasons={
            "created": "it hears of notices from now on, of a test notice first",
            "changed": "it has another target, or hears of others",
            "rotated": "it has another secret",
            "paused": "it hears of nothing for now",
            "resumed": "it hears of notices again",
            "deleted": "it is gone",
            "disabled": "it failed for too long, or asked for no more",
            "tested": "a test notice goes to it",
            "replayed": "notices go to it again",
        },
        stated_by=("endpoints",),
    ),
    "notice": FactKind(
        says="A project is told how its available credits stand",
        reasons={
            "credits_low": "they have fallen to a threshold",
            "credits_exhausted": "there are none",
            "credits_recovered": "they are above all thresholds again",
            "time_to_empty": "at the rate of the last 24 hours nothing is left before the renewal",
            "rules": "at which thresholds it is told has changed",
        },
        stated_by=("crossings", "spending"),
    ),
}

EntryKind = Literal["charge", "grant", "expiry", "refund", "correction"]
ENTRY_KINDS: Final[tuple[EntryKind, ...]] = get_args(EntryKind)
assert [*ENTRY_KINDS] == [kind for kind, each in FACT_KINDS.items() if each.is_entry]
USAGE_KINDS: Final = tuple(kind for kind, each in FACT_KINDS.items() if each.is_usage)
PASSING_KINDS: Final = tuple(kind for kind, each in FACT_KINDS.items() if each.is_passing)


# A fact's place, alone or in the id of the purchase it asked for; and a grant's id, which leaves the partition out.
PLACE_ID: Final = re.compile(r"(?:recharge-)?(\d{1,19})-(\d{1,19})-(\d{1,19})", re.ASCII)
GRANT_ID: Final = re.compile(r"(?:allowance|promotional|top_up)-(\d{1,19})-(\d{1,19})", re.ASCII)


def is_decision_id(text: str) -> bool:
    """Whether a text is the id of an entry, a hold, a purchase or a grant. Nothing else may look like one."""
    return bool(PLACE_ID.fullmatch(text) or GRANT_ID.fullmatch(text))


def entry_id(partition: int, offset: int, index: int) -> str:
    """The public id of a fact. It is never stored, since it follows from the fact's place in the log."""
    return f"{partition}-{offset}-{index}"
