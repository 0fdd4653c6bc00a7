"""A Booking is a decision in the making: an account, a place in the log, the prices that hold, the facts stated so far.

Every rule of the core takes a Booking. A rule either changes the account and states facts, or refuses and changes
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from schemas.accounts import Account, Grant
from schemas.events import Usage
from schemas.facts import Fact, Kind, entry_id
from schemas.problems import Rejection
from streams.core.billed import note_billed
from streams.core.marks import Claim
from streams.core.price_list import Prices

_CREDITS = re.compile(r"\d{1,12}(\.\d{1,6})?", re.ASCII)

# The most facts that one event or command may state, together with those that `settle` states before it. All open
# holds expiring at once (`holds.PARTS_MAX`) fit, with many years of missed renewals.
FACTS_PER_SLOT = 4096


class Booking:
    """A decision in the making on one account.

    `slot` is the event's place in its record. A fact's index follows from the slot alone, so a repeat of
    the record gives the same facts the same names. `actor` is the key that a command came with; a fact of that command
    bears it unless the fact names another. `made` has, for each of the command's claims (`streams.core.claims`), the
    one that was made before it, or None.
    """

    __slots__ = ("account", "actor", "at_ms", "facts", "made", "next_index", "offset", "partition", "prices")

    def __init__(
        self,
        account: Account,
        partition: int,
        offset: int,
        slot: int,
        at_ms: int,
        facts: list[Fact],
        prices: Prices,
    ) -> None:
        self.partition = partition
        self.offset = offset
        self.facts = facts
        self.prices = prices
        self.actor = ""
        self.made: Sequence[Claim | None] = ()
        self.move_to(account, slot, at_ms)

    def move_to(self, account: Account, slot: int, at_ms: int) -> None:
        """Move on to another event of the same record."""
        self.account = account
        self.next_index = slot * FACTS_PER_SLOT
        # The log's clock may step back when a broker takes over; an account's never does.
        self.at_ms = at_ms if at_ms > account.last_at_ms else account.last_at_ms

    def state(
        self,
        kind: Kind,
        *,
        environment: str = "",
        operation: str = "",
        quantity: int = 0,
        amount: int = 0,
        grant_id: str = "",
        reason: str = "",
        price_version: str = "",
        source: str = "",
        event_id: str = "",
        job_id: str = "",
        key_id: str = "",
        occurred_at_ms: int | None = None,
        metadata: str = "",
        held: int = 0,
        cents: int = 0,
        paid_cents: int = 0,
        surcharge: str = "",
    ) -> str:
        """State one fact and return its id. Change the account first: the fact bears the balance after the change. What
        of `cents` a card has paid is `paid_cents`."""
        index = self.next_index
        self.next_index = index + 1
        account = self.account
        if cents or paid_cents:
            note_billed(account, self.at_ms, cents, paid_cents)
        self.facts.append(
            Fact(
                offset=self.offset,
                index=index,
                kind=kind,
                project=account.project,
                environment=environment,
                operation=operation,
                quantity=quantity,
                amount=amount,
                balance=balance(account, environment) if environment else 0,
                grant_id=grant_id,
                reason=reason,
                price_version=price_version,
                source=source,
                event_id=event_id,
                job_id=job_id,
                key_id=key_id or self.actor,
                occurred_at_ms=self.at_ms if occurred_at_ms is None else occurred_at_ms,
                booked_at_ms=self.at_ms,
                metadata=metadata,
                held=held,
                cents=cents,
                billing_account=account.billing_account,
                surcharge=surcharge,
            )
        )
        return entry_id(self.partition, self.offset, index)

    def state_usage(self, kind: Kind, usage: Usage, *, reason: str = "", price_version: str = "") -> str:
        """State what became of an event, other than its charge."""
        return self.state(
            kind,
            environment=usage.environment,
            operation=usage.operation,
            quantity=usage.quantity,
            reason=reason,
            price_version=price_version,
            source=usage.source,
            event_id=usage.event_id,
            job_id=usage.job_id,
            key_id=usage.key_id,
            occurred_at_ms=usage.occurred_at_ms,
            metadata=usage.metadata,
            surcharge=usage.surcharge,
        )

    def draw(self, environment: str, amount: int) -> Iterator[tuple[Grant, int]]:
        """Take `amount` microcredits out of the grants in burn-down order, as far as they go. Yields each
        grant with the microcredits taken from it. Call `drop_spent` afterwards."""
        for grant in self.account.grants:
            free = grant.remaining - grant.held
            if grant.environment == environment and free and amount:
                drawn = amount if amount < free else free
                grant.remaining -= drawn
                amount -= drawn
                yield grant, drawn


def available(account: Account, environment: str) -> int:
    """Microcredits that this environment's budget can still spend."""
    left = 0
    for grant in account.grants:
        if grant.environment == environment:
            left += grant.remaining - grant.held
    return left


def balance(account: Account, environment: str) -> int:
    """Microcredits of this environment's budget, held ones included: the sum of its ledger entries."""
    return sum(grant.remaining for grant in account.grants if grant.environment == environment)


def held(account: Account, environment: str) -> int:
    """Microcredits of this environment's budget that are kept for jobs."""
    return sum(grant.held for grant in account.grants if grant.environment == environment)


def drop_spent(account: Account, at_ms: int) -> None:
    """Forget each grant that nothing is left of, unless its month still runs."""
    account.grants = [grant for grant in account.grants if grant.remaining or grant.expires_at_ms > at_ms]


def note(**values: object) -> str:
    """The metadata of a fact, for which there is no column: a JSON object without the empty values, or ""."""
    said = {name: value for name, value in values.items() if value not in ("", None)}
    return msgspec.json.encode(said).decode() if said else ""


def parse_credits(text: str, field: str) -> int:
    """Microcredits of a decimal string such as "0.02". Raises Rejection `invalid_request` naming the field."""
    if not _CREDITS.fullmatch(text):
        raise Rejection("invalid_request", "Credits are a decimal string with at most 6 decimals", field)
    whole, _, fraction = text.partition(".")
    return int(whole) * 1_000_000 + int(fraction.ljust(6, "0"))


def format_credits(microcredits: int) -> str:
    """Credits as a plain decimal string, exact: 20000 is "0.02"."""
    sign = "-" if microcredits < 0 else ""
    whole, fraction = divmod(abs(microcredits), 1_000_000)
    return f"{sign}{whole}.{fraction:06d}".rstrip("0") if fraction else f"{sign}{whole}"
