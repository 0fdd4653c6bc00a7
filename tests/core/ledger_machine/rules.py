"""The rules of the machine: every command, events, time that passes, and all that goes wrong."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from msgspec.structs import replace

from schemas.accounts import Limits
from schemas.commands import (
    Admit,
    CaptureHold,
    ChangePlan,
    CloseProject,
    Correct,
    CountRefused,
    CountRequest,
    CreateKey,
    CreateProject,
    EndRaise,
    Envelope,
    Erase,
    ExtendHold,
    GrantPromotional,
    OpenBillingAccount,
    PublishPrices,
    PutEndpoint,
    RaiseLimits,
    RefundTopUp,
    ReleaseHold,
    ReopenProject,
    RevokeKey,
    RotateKey,
    SetAutoRecharge,
    SetBadge,
    SetBillingAccount,
    SetItem,
    SetLimits,
    SetNoticeRules,
    SetStanding,
    SettleRecharge,
    Tick,
    TopUp,
    WithdrawPrices,
)
from schemas.prices import PriceBook
from streams.core.price_list import PRICES_ID
from streams.core.projects import BILLING_PREFIX
from tests.core.builders import CREDIT, addressed
from tests.core.ledger_machine.callers import DAY_MS, HOUR_MS, Callers, pick
from tests.simulation.endpoint_clients import EndpointAsks
from tests.simulation.portal_clients import next_of_portals

PROJECTS = ("a", "b")
OPERATIONS = ("chat.message", "image", "website", "blog_post", "video.premium", "read", "webhook.delivery", "no.price")
ITEMS = ("domain", "account", "storage", "no.price")

numbers = st.integers(0, 1_000)
projects = st.sampled_from((*PROJECTS * 5, "nobody"))
environments = st.sampled_from(("production", "production", "production", "production", "preview"))
often = st.sampled_from((True, True, True, False))
# Of payments: most have none, and others may come again.
references = st.sampled_from(("", "", "", "r1", "r2"))
seldom = st.sampled_from((False, False, False, True))


class LedgerMachine(Callers):
    """The whole machine: any rule may come at any time."""

    @initialize(
        plans=st.tuples(*[st.sampled_from(("free", "hobby", "build", "enterprise"))] * len(PROJECTS)),
        sizes=st.lists(st.sampled_from((1, 1, 1, 3, 6)), min_size=1, max_size=4),
        record_size=st.sampled_from((1, 1, 2, 6, 40)),
        has_prices=often,
    )
    def open(self, plans: tuple[str, ...], sizes: list[int], record_size: int, has_prices: bool) -> None:
        self.record_size = record_size
        for project, plan in zip(PROJECTS, plans, strict=True):
            self.send(CreateProject, project, name="", plan=plan, contract_allowance=900 * CREDIT, contract_cents=90_00)
        if has_prices:
            self.publish(0, 0, "same")
        self.batch_sizes = sizes

    # Time.

    @rule(ms=st.sampled_from((1, 20_000, 60_000, HOUR_MS, HOUR_MS, 7 * HOUR_MS, DAY_MS, DAY_MS, 9 * DAY_MS, -5_000)))
    def time_passes(self, ms: int) -> None:
        self.step()
        self.end_record()
        self.at_ms += ms

    @rule(days=st.sampled_from((20, 31, 70)))
    def months_pass(self, days: int) -> None:
        self.step()
        self.end_record()
        self.at_ms += days * DAY_MS

    @rule(project=st.sampled_from(PROJECTS), ms=st.sampled_from((-1, 0, 0, 1)))
    def something_is_almost_due(self, project: str, ms: int) -> None:
        self.step()
        self.end_record()
        self.at_ms = max(self.at_ms, self.model.projects[project].due_at_ms() + ms)

    @rule(one=often, other=often)
    def tick(self, one: bool, other: bool) -> None:
        self.step()
        due = [name for name in PROJECTS if self.model.projects[name].due_at_ms() <= self.at_ms]
        self.note("Tick", "" if due else "nothing due")
        self.append(Tick([name for name, ticks in zip(PROJECTS, (one, other), strict=True) if ticks]))

    # Uses.

    @rule(
        which=st.lists(st.tuples(projects, st.sampled_from(OPERATIONS), numbers), min_size=1, max_size=3),
        environment=environments,
    )
    def usage_comes(self, which: list[tuple[str, str, int]], environment: str) -> None:
        self.step()
        before = len(self.model.lines)
        self.append(Envelope([self.use(*each, environment) for each in which]))
        for line in self.model.lines[before:]:
            if line.kind in ("charge", "refusal") and line.event_id:
                self.note("Envelope", "" if line.kind == "charge" else line.reason)

    @rule(
        project=projects,
        operation=st.sampled_from(OPERATIONS),
        number=numbers,
        environment=environments,
        hours=st.sampled_from((0, 0, 24, 168, 168, 168, 169, -1)),
        is_once=often,
    )
    def admit(self, project: str, operation: str, number: int, environment: str, hours: int, is_once: bool) -> None:
        """Charge it at once, or hold it for some hours; and perhaps it is asked for by two."""
        self.step()
        event = self.use(project, operation, number, environment)
        for _ in range(1 if is_once else 2):
            self.send(Admit, project, usage=event, hold_seconds=hours * 3_600)

    @precondition(lambda self: self.uses)
    @rule(
        number=numbers,
        what=st.sampled_from(("same", "same", "operation", "quantity", "surcharge", "environment", "job", "source")),
        way=st.sampled_from(("event", "event", "charge", "hold")),
    )
    def an_id_is_used_again(self, number: int, what: str, way: str) -> None:
        """A use comes again, as an event or as a request, or another one under its id or under its job's."""
        self.step()
        holds = [hold.usage for known in self.model.projects.values() for hold in known.holds]
        before = pick([*self.uses[-30:], *holds], number)
        changed = {
            "operation": {"operation": pick(OPERATIONS, number)},
            "quantity": {"quantity": before.quantity + pick((-1, 1, 7), number) or 2},
            "surcharge": {"surcharge": "" if before.surcharge else "social_post.image"},
            "environment": {"environment": "production" if before.environment == "preview" else "preview"},
            "job": {"job_id": f"j{number % 11}"},
        }.get(what, {})
        if what == "source":
            event = self.use(before.project, before.operation, number, before.environment, is_new=True)
            again = replace(event, job_id=before.job_id, quantity=before.quantity, surcharge=before.surcharge)
        else:
            again = replace(before, **changed)
        self.note("An id used again", what)
        if way == "event":
            self.append(Envelope([again]))
        else:
            self.send(Admit, again.project, usage=again, hold_seconds=3_600 if way == "hold" else 0)

    @rule(project=projects, environment=environments)
    def count_request(self, project: str, environment: str) -> None:
        self.step()
        self.send(CountRequest, project, operation="GET /v1/balance", environment=environment)

    @rule(project=projects, environment=environments, count=st.sampled_from((1, 1, 3, 61, 1_000, 0)))
    def the_api_refuses_by_itself(self, project: str, environment: str, count: int) -> None:
        self.step()
        times = {"first_at_ms": self.at_ms, "last_at_ms": self.at_ms}
        self.send(CountRefused, project, operation="POST *", environment=environment, count=count, **times)

    @rule(number=numbers, more=st.integers(0, 3), is_counted=st.booleans(), is_together=often)
    def a_script_runs_away(self, number: int, more: int, is_counted: bool, is_together: bool) -> None:
        """Send as many requests at once as a rested project may send, or some more: 60 on the free plan."""
        self.step()
        project = min(PROJECTS, key=lambda name: self.model.projects[name].limits().burst)
        burst = self.model.projects[project].limits().burst
        if burst > 60:
            return
        self.end_record()
        self.record_size = 64 if is_together else 1
        for each in range(max(1, burst - 2) + more):
            if is_counted:
                self.send(CountRequest, project, operation="GET /v1/balance", environment="production")
            else:
                event = self.use(project, "read", each, "production", is_new=True)
                self.send(Admit, project, usage=event, hold_seconds=0)
        self.end_record()

    @rule(project=st.sampled_from(PROJECTS), operations=st.lists(st.sampled_from(OPERATIONS[:-1]), max_size=3))
    def jobs_are_queued(self, project: str, operations: list[str]) -> None:
        self.step()
        for operation in ["image", *operations]:
            event = self.use(project, operation, 3, "production", is_new=True)
            self.send(Admit, project, usage=event, hold_seconds=7 * 86_400)

    @precondition(lambda self: self.has_holds())
    @rule(number=numbers, how=st.sampled_from((-1, -1, 0, 1, 2, 3, 4, 9, 9, *["released"] * 6)))
    def job_ends(self, number: int, how: int | str) -> None:
        """Charge all of a job's hold, or so many quarters, or release it; and perhaps queue the job again."""
        self.step()
        project, hold_id, environment, hold = self.open_hold(number)
        total = hold.total()
        if how == "released":
            self.send(ReleaseHold, project, hold_id=hold_id, environment=environment, reason="failed")
        else:
            amount = -1 if how < 0 else how * (total or 1) // 4
            self.send(CaptureHold, project, hold_id=hold_id, environment=environment, amount=amount)
        if number % 4 == 0:
            self.send(Admit, project, usage=hold.usage, hold_seconds=3_600)
        if number % 4 == 1:
            self.send(CaptureHold, project, hold_id=hold_id, environment=environment, amount=-1)

    @precondition(lambda self: self.has_holds())
    @rule(number=numbers, more=st.sampled_from((0, 0, 0, 0, -1, 1, 5, 200)), is_captured=often)
    def the_event_of_a_job_comes(self, number: int, more: int, is_captured: bool) -> None:
        """The event of an open hold comes, of as much as was held, of less or of more; and then the job ends too."""
        self.step()
        project, hold_id, environment, hold = self.open_hold(number)
        self.append(Envelope([replace(hold.usage, quantity=max(1, hold.usage.quantity + more), job_id="")]))
        if is_captured:
            self.send(CaptureHold, project, hold_id=hold_id, environment=environment, amount=-1)
        else:
            self.send(ReleaseHold, project, hold_id=hold_id, environment=environment, reason="")

    @precondition(lambda self: self.has_holds())
    @rule(number=numbers, seconds=st.sampled_from((0, 1, 3_600, 7 * 86_400)))
    def job_takes_longer(self, number: int, seconds: int) -> None:
        self.step()
        project, hold_id, environment, _ = self.open_hold(number)
        self.send(ExtendHold, project, hold_id=hold_id, environment=environment, seconds=seconds)

    # Limits.

    @rule(
        project=projects,
        requests=st.sampled_from((0, 0, 0, 1, 3, 3, 5, 1_000_001)),
        burst=st.sampled_from((0, 0, 0, 1, 4, 8, 61, -1)),
        credits=st.sampled_from((0, 0, 5, 50, 250, 5_000)),
        is_shadow=st.booleans(),
    )
    def set_limits(self, project: str, requests: int, burst: int, credits: int, is_shadow: bool) -> None:
        """Set a contract, or a trial."""
        self.step()
        limits = Limits(requests, burst, credits * CREDIT)
        self.send(SetLimits, project, limits=limits, is_shadow=is_shadow, reason="")

    @rule(
        project=projects,
        limits=st.sampled_from(((0, 0, 0), (6, 0, 0), (0, 9, 0), (6, 7, 0), (0, 0, 400), (80, 90, 500), (0, -1, 0))),
        starts_in_ms=st.sampled_from((None, None, 0, 1, 60_000, HOUR_MS, DAY_MS)),
        lasts_ms=st.sampled_from((1, 60_000, HOUR_MS, HOUR_MS, DAY_MS, 300 * DAY_MS, 366 * DAY_MS, 0)),
    )
    def raise_limits(self, project: str, limits: tuple[int, int, int], starts_in_ms: int | None, lasts_ms: int) -> None:
        self.step()
        starts_at_ms = 0 if starts_in_ms is None else self.at_ms + starts_in_ms
        requests, burst, credits = limits
        self.send(
            RaiseLimits,
            project,
            limits=Limits(requests, burst, credits * CREDIT),
            starts_at_ms=starts_at_ms,
            ends_at_ms=max(self.at_ms, starts_at_ms) + lasts_ms,
            reason="launch",
        )

    @precondition(lambda self: self.raises)
    @rule(number=numbers)
    def end_raise(self, number: int) -> None:
        self.step()
        project, raise_id = pick(self.raises[-3:], number)
        self.send(EndRaise, project, raise_id=raise_id)

    # Credits.

    @rule(
        project=projects,
        environment=environments,
        usd=st.sampled_from((20, 20, 20, 20, 100, 7, 0, 0)),
        amount=st.sampled_from((1, 7 * CREDIT + 1, 300 * CREDIT, 9_000 * CREDIT, 10**15, 10**15 + 1, 0)),
        cents=st.sampled_from((1, 99, 2_000, 3_333, 10**9, 10**9 + 1, 0)),
        reference=references,
    )
    def top_up(self, project: str, environment: str, usd: int, amount: int, cents: int, reference: str) -> None:
        self.step()
        terms = {"bundle_usd": usd, "amount": amount, "cents": cents}
        self.send(TopUp, project, environment=environment, reference=reference, **terms)

    @rule(
        project=projects,
        environment=environments,
        credits=st.sampled_from((1, 3, 40, 40, 300, 5_000, 10_000_000, 10_000_001, 0)),
        lasts_ms=st.sampled_from((1, 60_000, HOUR_MS, DAY_MS, 9 * DAY_MS, 40 * DAY_MS, 1_830 * DAY_MS, 0, 1)),
        with_the_month=seldom,
        is_sound=often,
    )
    def grant_promotional(
        self, project: str, environment: str, credits: int, lasts_ms: int, with_the_month: bool, is_sound: bool
    ) -> None:
        """Give credits for a time, which may end with the plan's month; or give them for no reason, or for too long."""
        self.step()
        known = self.model.projects.get(project)
        ends_ms = self.at_ms + lasts_ms
        if with_the_month and known is not None:
            ends_ms = known.renews_at_ms()
        if not is_sound and lasts_ms == 1_830 * DAY_MS:
            ends_ms += 1
        reason = pick(("", " \u00a0", "x" * 201), credits) if not is_sound and lasts_ms < HOUR_MS else "launch"
        terms = {"amount": credits * CREDIT, "expires_at_ms": ends_ms, "reason": reason}
        self.send(GrantPromotional, project, environment=environment, **terms)

    @precondition(lambda self: any(grant.kind == "top_up" for grant in self.model.all_grants()))
    @rule(number=numbers)
    def refund(self, number: int) -> None:
        self.step()
        bundles = [
            (name, grant.id)
            for name, known in self.model.projects.items()
            for grant in known.grants
            if grant.kind == "top_up"
        ]
        project, grant_id = pick([*bundles[-4:], ("a", "top_up-999999-0")], number)
        self.send(RefundTopUp, project, grant_id=grant_id, reason="")

    @rule(
        project=projects,
        what=st.sampled_from(("on", "on", *["paid"] * 6, "failed", "failed", "paid again", "off")),
        threshold=st.sampled_from((4_000, 4_000, 20_000, 200, 100_001)),
        usd=st.sampled_from((20, 20, 20, 20, 20, 100, 100, 7)),
        bundles=st.sampled_from((*[1] * 8, 2, 100, 0)),
        reference=references,
    )
    def recharge(self, project: str, what: str, threshold: int, usd: int, bundles: int, reference: str) -> None:
        """Set the terms of auto-recharge, or settle a purchase: one under way, or one that has ended."""
        self.step()
        pending = self.pending()
        if what == "paid again" or (pending and what in ("paid", "failed")):
            ended = [each for each in self.recharges if each not in pending]
            project, recharge_id = [("a", "recharge-0-0-0"), *ended, *pending][
                -1 if what != "paid again" else len(ended)
            ]
            outcome = {"is_paid": what != "failed", "reference": reference, "detail": "no"}
            self.send(SettleRecharge, project, recharge_id=recharge_id, **outcome)
        else:
            terms = {"threshold": threshold * CREDIT, "bundle_usd": usd, "cap_cents": usd * 100 * bundles}
            self.send(SetAutoRecharge, project, is_on=what != "off", **terms, payment_method="card")

    @rule(project=projects, is_paid=often)
    def recharge_beyond_the_cap(self, project: str, is_paid: bool) -> None:
        """Have a bundle bought, and then ask for a larger one, which the month's cap has no room for."""
        self.step()
        small, large = (
            {"threshold": usd * 200 * CREDIT, "bundle_usd": usd, "cap_cents": usd * 100, "payment_method": "card"}
            for usd in (20, 100)
        )
        self.send(SetAutoRecharge, project, is_on=True, **small)
        for name, recharge_id in self.pending():
            if name == project:
                outcome = {"is_paid": is_paid, "reference": "", "detail": "no"}
                self.send(SettleRecharge, project, recharge_id=recharge_id, **outcome)
        self.send(SetAutoRecharge, project, is_on=True, **large)

    @rule(project=projects)
    def book_by_hand_what_is_being_bought(self, project: str) -> None:
        """Have a bundle bought, and book its payment by hand before the purchase is settled."""
        self.step()
        terms = {"threshold": 4_000 * CREDIT, "bundle_usd": 20, "cap_cents": 1_000_000, "payment_method": "card"}
        self.send(SetAutoRecharge, project, is_on=True, **terms)
        for name, recharge_id in self.pending():
            if name == project:
                reference = f"payment-{self.sent}"
                self.send(TopUp, project, environment="production", bundle_usd=20, reference=reference)
                outcome = {"is_paid": True, "reference": reference, "detail": ""}
                self.send(SettleRecharge, project, recharge_id=recharge_id, **outcome)

    @precondition(lambda self: self.charged)
    @rule(
        number=numbers,
        kind=st.sampled_from(
            ("back", "back", "back", "anew", "anew", "same", "same", "late", "late", "refused", "held", "nothing")
        ),
        operation=st.sampled_from(OPERATIONS),
        environment=environments,
        is_fresh=often,
    )
    def correct(self, number: int, kind: str, operation: str, environment: str, is_fresh: bool) -> None:
        """Give an event's charges back; charge it anew, or the same again; or take an event that came too late, was
        refused, or is held."""
        self.step()
        event = pick(list(self.charged)[-12:], number)
        project, source, event_id = event
        new = self.use(project, operation, number, environment, is_new=True)
        refused_offset = -1
        if kind == "late":
            source, event_id = new.source, new.event_id
        held_now = [hold.usage for name, known in self.model.projects.items() for hold in known.holds]
        if kind == "held" and held_now:
            held_use = pick(held_now, number)
            event = project, source, event_id = held_use.project, held_use.source, held_use.event_id
        if kind == "refused" and self.refused:
            event = project, source, event_id = pick(list(self.refused)[-12:], number)
            refused_offset = self.refused[event] if is_fresh else -1
        if kind == "same":
            new = next((each for each in self.uses if (each.project, each.event_id) == (project, event_id)), new)
        self.send(
            Correct,
            project,
            source=source,
            event_id=event_id,
            sequence=self.corrections[event] if is_fresh else max(0, self.corrections[event] - 1),
            given_back=self.to_give_back(event) if kind in ("back", "anew", "same") else [],
            usage=replace(new, project=project, source=source, event_id=event_id)
            if kind in ("anew", "same", "late", "refused", "held")
            else None,
            metadata="",
            refused_offset=refused_offset,
        )

    # What a project is.

    @rule(project=projects, plan=st.sampled_from(("free", "hobby", "build", "scale", "enterprise", "gold")), n=numbers)
    def change_plan(self, project: str, plan: str, n: int) -> None:
        self.step()
        self.send(ChangePlan, project, plan=plan, contract_allowance=n * 100 * CREDIT, contract_cents=n * 100)

    @rule(project=projects, is_likely=often)
    def close_or_reopen(self, project: str, is_likely: bool) -> None:
        self.step()
        known = self.model.projects.get(project)
        is_closed = known is not None and known.closed_ms is not None
        if is_closed == is_likely:
            self.send(ReopenProject, project)
        else:
            self.send(CloseProject, project, reason="")

    @rule(
        project=st.sampled_from((*PROJECTS * 3, "nobody")),
        what=st.sampled_from(
            (
                "create",
                "badge",
                "badge",
                *["standing"] * 4,
                *["erase", "portal", "portal", "portal"],
                *["join"] * 4,
                "billing account",
                "billing account",
            )
        ),
        number=numbers,
        is_so=often,
    )
    def set_something(self, project: str, what: str, number: int, is_so: bool) -> None:
        self.step()
        account = f"{BILLING_PREFIX}{number % 3}"
        if what == "create":
            plan = pick(("free", "scale", "gold"), number)
            name = project if is_so else f"late{number}"
            terms = {"plan": plan, "contract_allowance": 0, "billing_account": account}
            self.send(CreateProject, name, name="n", **terms)
        elif what == "badge":
            self.send(SetBadge, project, is_off=is_so)
        elif what == "standing":
            self.send(SetStanding, project, is_good=is_so, reason="")
        elif what == "erase":
            self.send(Erase, project if is_so else "nobody", customer=pick(("", "c"), number), reason="")
        elif what == "portal":
            for asked in range(3):
                kind, fields = next_of_portals(f"{number} {self.sent} {asked}", self.offset, self.at_ms)
                self.send(kind, project, **fields)
        elif what == "join":
            account = pick(("", account, account), number)
            self.send(SetBillingAccount, project, billing_account=account, is_from_month_start=is_so)
        else:
            self.send(OpenBillingAccount, account, name="n", email="e", is_change=is_so)

    @rule(
        project=projects,
        environment=environments,
        rules=st.lists(
            st.sampled_from(((True, 90), (True, 50), (True, 20), (True, 1), (False, 1), (False, 40 * CREDIT))),
            max_size=4,
        ),
    )
    def set_notice_rules(self, project: str, environment: str, rules: list[tuple[bool, int]]) -> None:
        self.step()
        self.send(SetNoticeRules, project, environment=environment, rules=rules)

    @rule(project=projects, key=st.sampled_from("xyz"), is_new=st.booleans(), environment=environments)
    def set_key(self, project: str, key: str, is_new: bool, environment: str) -> None:
        self.step()
        if is_new:
            self.send(CreateKey, project, key_id=key, key_hash=b"", environment=environment, scopes=[])
        else:
            self.send(RevokeKey, project, key_id=key)

    @rule(project=projects, key=st.sampled_from("xyz"), new=st.sampled_from("wxyz"), hours=st.sampled_from((0, 24, -1)))
    def rotate_key(self, project: str, key: str, new: str, hours: int) -> None:
        self.step()
        self.send(RotateKey, project, key_id=key, new_key_id=new, key_hash=b"", grace_ms=hours * HOUR_MS)

    @rule(number=st.integers(1, 2), is_decided=seldom)
    def withdraw(self, number: int, is_decided: bool) -> None:
        """Withdraw the last price book, or the one before it, or the first, which nobody announced."""
        self.step()
        book = self.model.books[max(len(self.model.books) - number, 0)]
        self.send(WithdrawPrices, PRICES_ID, book=book, is_decided=is_decided and len(self.model.books) > number)

    @rule(project=projects, operation=st.sampled_from(ITEMS), quantity=st.sampled_from((0, 1, 3, 50, 2_000, -1)))
    def set_item(self, project: str, operation: str, quantity: int) -> None:
        self.step()
        self.send(SetItem, project, operation=operation, quantity=quantity)

    @rule(
        days=st.sampled_from((0, 0, 1, 29, 30, 31, 45)),
        announced_days_ago=st.sampled_from((0, 0, 0, 0, 3, -1)),
        change=st.sampled_from(
            ("dearer", "cheaper", "same", "gone", "back", "gated", "free", "again", "renamed", "empty")
        ),
    )
    def publish(self, days: int, announced_days_ago: int, change: str) -> None:
        self.step()
        last = self.model.books[-1]
        rates, hourly, gates = dict(last.rates), dict(last.hourly), dict(last.plan_required)
        if len(self.model.books) == 1:
            hourly = {"domain": 1_000, "account": 33_333, "storage": 7}
        announced_at_ms = self.at_ms - announced_days_ago * DAY_MS
        book = PriceBook(f"v{self.offset}", self.at_ms + days * DAY_MS, rates, gates, hourly, announced_at_ms, "")
        if change == "again":
            book = last
        elif change == "renamed":
            book = PriceBook(last.version, book.effective_at_ms, rates, gates, hourly, announced_at_ms, "")
        elif change == "gone":
            rates.pop("blog_post", None)
            hourly.pop("storage", None)
        elif change == "back":
            rates["blog_post"] = rates.get("blog_post", (61 - days) * CREDIT)
            hourly["storage"] = hourly.get("storage", days)
        elif change == "gated":
            gates["image"] = gates["social_post.video"] = "hobby"
        elif change == "free":
            rates["image"] = 0
            hourly["domain"] = 0
        elif change == "empty":
            rates.clear()
            gates.clear()
        elif change != "same":
            factor = 3 if change == "dearer" else 1
            rates |= {name: rate * factor // 2 for name, rate in rates.items()}
            hourly |= {name: rate * factor // 2 for name, rate in hourly.items()}
        self.send(PublishPrices, PRICES_ID, book=book)

    @rule(project=projects, number=numbers, is_known=often)
    def something_about_an_endpoint(self, project: str, number: int, is_known: bool) -> None:
        """Ask about an endpoint of a project, or of the platform, or bill an attempt: the same again now and then."""
        self.step()
        asks = EndpointAsks(f"{number} {self.sent}", 2 if is_known else 40)
        if is_known:
            made = {"endpoint_id": "whe_0", "kind": "webhook", "target": "https://acme.example"}
            self.send(PutEndpoint, project, **made)
        for _ in range(5):
            kind, whose, fields = asks.next(project, self.at_ms)
            self.send(kind, whose, **fields)

    # What goes wrong.

    @precondition(lambda self: self.asked)
    @rule(number=numbers, is_the_same=often)
    def ask_again(self, number: int, is_the_same: bool) -> None:
        """An answer that never came is asked for again; or a key is used for something else."""
        self.step()
        command = pick(self.asked[-40:], number)
        self.note(type(command).__name__, "asked again" if is_the_same else "key reused")
        if is_the_same:
            self.append(replace(command, correlation=self.correlation()))
        else:
            other = addressed(self.correlation(), command.idempotency_key)
            self.append(SetStanding(project=command.project, is_good=True, reason=f"{self.sent}", **other))

    @rule(size=st.sampled_from((1, 2, 3, 6, 40)))
    def commands_share_records(self, size: int) -> None:
        """Commands sent at the same time share a record from now on, so many at most."""
        self.step()
        self.end_record()
        self.record_size = size

    @rule(crash=st.sampled_from(("all lost", "index kept", "first kept", "last kept", "all kept")))
    def crash_at_the_next_batch(self, crash: str) -> None:
        """Crash at the next batch: so much of what was written is there when the batch is delivered again."""
        self.step()
        self.crash = crash
