"""A project as the model keeps it: its grants, holds, items, raises and auto-recharge."""

from __future__ import annotations

from collections import Counter
from typing import Any

from schemas.accounts import Limits
from schemas.events import Usage
from tests.simulation.model.answers import Answer
from tests.simulation.model.times import months_after
from tests.simulation.model.windows import LIMITS, Ceilings, Window


class Grant:
    """Credits of one gift: what is left of it, and how much of that is held. `expires_at_ms` may be None."""

    def __init__(
        self, grant_id: str, kind: str, environment: str, given: int, granted_at_ms: int, expires_at_ms: int | None
    ) -> None:
        self.id = grant_id
        self.kind = kind
        self.environment = environment
        self.given = given
        self.left = given
        self.held = 0
        self.granted_at_ms = granted_at_ms
        self.expires_at_ms = expires_at_ms
        # What it cost by contract.
        self.contract_cents = 0
        # Its end has come, and what was left but held is gone.
        self.is_over = False

    def has_expired(self, at_ms: int) -> bool:
        return self.expires_at_ms is not None and self.expires_at_ms <= at_ms


class Hold:
    """Credits kept for a job. `kept` has (grant, microcredits), `lines` (operation, rate)."""

    def __init__(
        self, hold_id: str, usage: Usage, lines: list[tuple[str, int]], version: str, expires_at_ms: int
    ) -> None:
        self.id = hold_id
        self.usage = usage
        self.lines = lines
        self.version = version
        self.kept: list[tuple[Grant, int]] = []
        self.expires_at_ms = expires_at_ms

    def total(self) -> int:
        return sum(amount for _, amount in self.kept)


class Raise:
    """Higher limits for a while."""

    def __init__(self, raise_id: str, limits: Limits, starts_ms: int, ends_ms: int) -> None:
        self.id = raise_id
        self.limits = limits
        self.starts_ms = starts_ms
        self.ends_ms = ends_ms
        self.is_on = False


class Bill:
    """Hours of a recurring item at one price, in one month: `month_end_ms` is None while it runs."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.hours = 0
        self.owed = 0
        self.month_end_ms: int | None = None


class Item:
    """A recurring item."""

    def __init__(self, from_ms: int) -> None:
        self.quantity = 0
        self.counted_to_ms = from_ms
        self.bills: list[Bill] = []


class Recharge:
    """Auto-recharge. `spent` counts cents by month, `pending` is (id, cents, month)."""

    def __init__(self) -> None:
        self.is_on = False
        self.threshold = self.bundle_usd = self.cap_cents = 0
        self.terms: tuple[int, int, int, str] | None = None
        self.spent: dict[str, int] = {}
        self.pending: tuple[str, int, str] | None = None
        self.failures = 0
        self.paused_until_ms = 0
        self.capped: set[str] = set()


class Project:
    """One account. `answers` are those given, under a key or a correlation: (when, what was asked, answer)."""

    def __init__(self, name: str, at_ms: int, plan: str = "free", credits: int = 0, cents: int = 0) -> None:
        self.name = name
        self.plan = plan
        self.allowance = credits
        self.cents = cents
        self.next_plan: tuple[str, int, int] | None = None
        self.closed_ms: int | None = None
        # The record that ended all portal links that were made before it.
        self.portals_end: int | None = None
        # What it was, each from a time on: its plan, and whether it was closed.
        self.states: list[tuple[int, str, bool]] = [(at_ms, plan, False)]
        self.signed_up_at_ms = at_ms
        self.renewals = 0
        self.clock_ms = at_ms
        self.months_begun: set[int] = set()
        self.window: Window | None = None
        self.contract: Limits | None = None
        self.raises: list[Raise] = []
        self.trial: tuple[Limits, Window] | None = None
        self.grants: list[Grant] = []
        self.holds: list[Hold] = []
        self.items: dict[str, Item] = {}
        self.month_end_ms: int | None = None
        self.recharge: Recharge | None = None
        self.is_in_good_standing = True
        self.badge_off = False
        self.billing_account = ""
        # Cents by (month, billing account).
        self.billed: Counter[tuple[str, str]] = Counter()
        self.keys: dict[str, str] = {}
        self.key_ends: dict[str, int] = {}
        self.endpoints: dict[str, Any] = {}
        # Own notice thresholds by environment, as asked for; those that are crossed, by environment that had credits
        # once; the environments in which people were told of one.
        self.rules: dict[str, list[tuple[bool, int]]] = {}
        self.below: dict[str, set[tuple[bool, int]]] = {}
        self.told: set[str] = set()
        # What was charged, as (environment, when, how much); when each environment is looked at next; which were told
        # that they run dry.
        self.spent: list[tuple[str, int, int]] = []
        self.looks: dict[str, int] = {}
        self.dry: set[str] = set()
        self.answers: dict[tuple[str, str], tuple[int, Any, Answer]] = {}

    @property
    def is_project(self) -> bool:
        """Not a billing account, nor the price list."""
        return ":" not in self.name

    def balance(self, environment: str) -> int:
        return sum(grant.left for grant in self.grants if grant.environment == environment)

    def available(self, environment: str) -> int:
        return sum(grant.left - grant.held for grant in self.grants if grant.environment == environment)

    def renews_at_ms(self) -> int:
        return months_after(self.signed_up_at_ms, self.renewals + 1)

    def limits(self) -> Ceilings:
        """The limits that hold now: of raises the highest."""
        plan = LIMITS[self.plan]
        held = plan.under(self.contract) if self.contract is not None else plan
        raised = [each.limits for each in self.raises if each.is_on]
        requests = max([held.requests, *(each.requests_per_minute for each in raised)])
        burst = max([held.burst, requests, *(each.burst for each in raised)])
        return Ceilings(requests, burst, max([held.cost, *(each.cost_ceiling for each in raised)]))

    def next_due(self) -> tuple[int, int, int]:
        """The next thing that time brings: (when, which of the six kinds, which hold or raise)."""
        due = [(hold.expires_at_ms, 0, number) for number, hold in enumerate(self.holds)]
        if self.month_end_ms is not None:
            due.append((self.month_end_ms, 1, 0))
        due += [(each.ends_ms if each.is_on else each.starts_ms, 2, number) for number, each in enumerate(self.raises)]
        due += [(at_ms, 3, 0) for at_ms in self.looks.values()]
        due += [(each.expires_at_ms, 4, 0) for each in self.grants if each.expires_at_ms and not each.is_over]
        return min([*due, (self.renews_at_ms(), 5, 0)])

    def due_at_ms(self) -> int:
        """The time at which something happens by itself next."""
        return self.next_due()[0]
