"""A story in which every command is done and refused, with all that the core says of it: `story.txt`.

Each step is what came, its reply, the facts it led to, and what changed in its account; what is as always is left out.
`uv run python -m tests.core.story` writes it anew: read what changed in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from schemas.accounts import Account, Grant, Limits
from schemas.commands import (
    Admit,
    AnyCommand,
    BillDelivery,
    CaptureHold,
    ChangePlan,
    CloseProject,
    Correct,
    CountRefused,
    CountRequest,
    CreateKey,
    CreateProject,
    DeleteEndpoint,
    DisableEndpoint,
    EndPortals,
    EndRaise,
    Envelope,
    Erase,
    ExtendHold,
    GivenBack,
    GrantPromotional,
    OpenBillingAccount,
    OpenPortal,
    PublishPrices,
    PutEndpoint,
    RaiseLimits,
    RefundTopUp,
    ReleaseHold,
    ReopenProject,
    ReplayNotices,
    RevokeKey,
    RotateEndpoint,
    RotateKey,
    SetAutoRecharge,
    SetBadge,
    SetBillingAccount,
    SetItem,
    SetLimits,
    SetNoticeRules,
    SetStanding,
    SettleRecharge,
    TestEndpoint,
    Tick,
    TopUp,
    WithdrawPrices,
)
from schemas.events import Usage
from schemas.prices import FIRST_PRICE_BOOK
from streams.core.fold import IntakeItem, fold
from streams.core.marks import Seen
from streams.core.replies import Kept
from tests.core.builders import CREDIT, START_MS, addressed, usage

TEXT = Path(__file__).parent / "story.txt"
DAY, MINUTE = 86_400, 60


class Story:
    """One partition that is told everything at once, and what it says."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.known: dict[str, dict[str, Any]] = {}
        self.seen: Seen = {}
        self.kept = Kept()
        self.at_ms = START_MS
        self.offset = 0
        self.lines: list[str] = []

    def wait(self, seconds: float) -> None:
        self.at_ms += round(seconds * 1000)

    def say(self, kind: type[AnyCommand], /, project: str = "a", key: str = "", **fields: Any) -> None:
        """A command comes."""
        self.tell(kind(project=project, actor="key_1", **addressed(f"c{self.offset}", key), **fields))

    def admit(
        self, event_id: str, operation: str, hold: int = 0, key: str = "", after: float = 20, **said: Any
    ) -> None:
        """An admission comes, so many seconds after what was before."""
        self.wait(after)
        used = self.usage(event_id, operation, **said)
        self.say(Admit, used.project, key, usage=used, hold_seconds=hold)

    def usage(self, event_id: str, operation: str, project: str = "a", ago: float = 0, **said: Any) -> Usage:
        """A use of so many seconds ago."""
        return usage(event_id, project, operation, occurred_at_ms=self.at_ms - round(ago * 1000), **said)

    def tell(self, body: Any) -> None:
        """A record comes. It is folded, and what it leads to is noted."""
        self.lines += ["", f"{self.offset} at {self.at_ms - START_MS} ms: {text_of(body)}"]
        effects = fold(0, [IntakeItem(self.offset, self.at_ms, body)], self.accounts, self.seen, self.kept, "intake")
        self.seen |= effects.seen
        self.kept.update(effects.kept)
        self.accounts |= effects.accounts
        self.lines += [f"  says   {text_of(reply)}" for _, reply in effects.replies]
        self.lines += [f"  states {text_of(fact)}" for fact in effects.facts]
        self.lines += [f"  buries {text_of(letter)}" for letter in effects.dead_letters]
        for name in sorted(effects.accounts):
            before, now = self.known.get(name, {}), fields_of(effects.accounts[name])
            changed = {field: now.get(field, "gone") for field in before | now if before.get(field) != now.get(field)}
            self.lines.append(f"  keeps  {name}: {json.dumps(changed, default=repr)}")
            self.known[name] = now
        self.offset += 1

    def use(self, *events: Usage) -> None:
        """Usage events come, from Kafka."""
        self.tell(Envelope(list(events)))


def fields_of(value: Any) -> Any:
    """A struct as its fields that are not empty; bytes as hexadecimal."""
    if isinstance(value, msgspec.Struct):
        fields = {name: fields_of(getattr(value, name)) for name in value.__struct_fields__}
        return {name: each for name, each in fields.items() if each is None or each}
    if isinstance(value, (list, tuple)):
        return [fields_of(each) for each in value]
    return value.hex() if isinstance(value, bytes) else value


def text_of(value: msgspec.Struct) -> str:
    """A struct in one line, without what nobody can choose."""
    fields = fields_of(value)
    for name in ("correlation", "reply_instance"):
        fields.pop(name, None)
    if "book" in fields:
        fields["book"] = {name: fields["book"][name] for name in ("version", "effective_at_ms")}
    return f"{type(value).__name__} {json.dumps(fields, default=repr, ensure_ascii=False)}"


def told() -> str:
    """The story in text."""
    story = Story()
    for part in (opened, charged, held, limited, renewed, corrected, bought, priced, closed, delivered):
        story.lines += ["", f"# {(part.__doc__ or '').strip()}"]
        part(story)
    return "\n".join(story.lines).lstrip() + "\n"


def opened(story: Story) -> None:
    """Projects, keys and billing accounts are opened."""
    say = story.say
    say(CreateProject, name="A", plan="hobby", contract_allowance=0, key="k1")
    say(CreateProject, name="A", plan="hobby", contract_allowance=0, key="k1")
    say(CreateProject, name="B", plan="hobby", contract_allowance=0, key="k1")
    say(CreateProject, name="A", plan="hobby", contract_allowance=0)
    say(CreateProject, "b", name="B", plan="gold", contract_allowance=0)
    say(CreateProject, "b", name="B", plan="enterprise", contract_allowance=9_000 * CREDIT, contract_cents=99_900)
    say(CreateProject, "c", name="C", plan="free", contract_allowance=0, billing_account="acme")
    say(SetBadge, "ghost", is_off=True)
    for _ in range(2):
        say(OpenBillingAccount, "billing:acme", name="Acme", email="a@acme.example")
    say(OpenBillingAccount, "billing:acme", name="Acme Inc", email="a@acme.example", is_change=True)
    say(OpenBillingAccount, "billing:other", name="O", email="", is_change=True)
    say(CreateProject, "c", name="C", plan="free", contract_allowance=0, billing_account="acme")
    say(SetBillingAccount, billing_account="acme")
    say(SetBillingAccount, billing_account="")
    say(SetBillingAccount, billing_account="acme", is_from_month_start=True)
    say(SetBillingAccount, billing_account="", is_from_month_start=True)
    for key, environment, scopes in (
        ("key_1", "production", ["content:write", "usage:read"]),
        ("key_1", "production", ["content:write"]),
        ("key_2", "preview", ["usage:read"]),
        ("key_2", "preview", ["content:write"]),
    ):
        say(CreateKey, key_id=key, key_hash=b"\x01" * 32, environment=environment, scopes=scopes)
    say(RotateKey, key_id="key_1", new_key_id="key_3", key_hash=b"\x03" * 32, grace_ms=DAY * 1000)
    say(RotateKey, key_id="key_1", new_key_id="key_3", key_hash=b"\x03" * 32, grace_ms=0)
    say(RotateKey, key_id="key_1", new_key_id="key_4", key_hash=b"\x04" * 32, grace_ms=31 * DAY * 1000)
    say(RevokeKey, key_id="key_2")
    say(RevokeKey, key_id="key_2")
    say(RotateKey, key_id="key_2", new_key_id="key_4", key_hash=b"\x04" * 32, grace_ms=0)
    say(SetBadge, is_off=True)
    say(SetBadge, is_off=False)
    say(SetBadge, "c", is_off=True)


def charged(story: Story) -> None:
    """Credits come and are spent, by admissions and by events."""
    story.wait(MINUTE)
    for bundle in (20, 33, 100):
        story.say(TopUp, environment="production", bundle_usd=bundle, reference=f"inv-{bundle}", key=f"t{bundle}")
    story.say(TopUp, environment="preview", bundle_usd=20, reference="")
    for credits, cents in ((1_000, 333), (0, 333), (1_000, 0)):
        terms = {"amount": credits * CREDIT, "cents": cents}
        story.say(TopUp, environment="preview", bundle_usd=0, reference=f"po-{credits}-{cents}", **terms)
    month_ms = story.at_ms + 20 * DAY * 1000
    for amount, expires_ms, reason in (
        (50 * CREDIT, month_ms, "sorry"),
        (7 * CREDIT, story.at_ms + 2 * DAY * 1000, "trial"),
        (0, month_ms, "none"),
        (CREDIT, story.at_ms, "past"),
        (CREDIT, month_ms, " "),
    ):
        story.say(
            GrantPromotional,
            environment="production",
            amount=amount,
            expires_at_ms=expires_ms,
            reason=reason,
            key=reason,
        )
    story.admit("e1", "image", key="q1", metadata='{"customer_id":"cus_1"}')
    story.admit("e1", "image", key="q1", metadata='{"customer_id":"cus_1"}')
    story.admit("e1", "image", metadata='{"customer_id":"cus_1"}')
    story.admit("e1", "blog_post")
    story.admit("e2", "image", key="q1")
    story.admit("e3", "social_post.text", surcharge="social_post.image", job_id="j1", key_id="key_1")
    story.admit("e4", "image", job_id="j1")
    story.admit("e5", "video.premium")
    story.admit("e6", "hologram")
    story.admit("e7", "read")
    story.admit("e8", "image", environment="preview", quantity=2)
    story.admit("e9", "image", ago=2 * DAY)
    story.admit("e10", "website", project="c")
    story.admit("e10", "website", project="c")
    story.use(
        story.usage("u1", "image", quantity=3, ago=5),
        story.usage("u1", "image", quantity=3, ago=5),
        story.usage("u1", "image", quantity=4, ago=5),
        story.usage("u2", "translation", quantity=4, metadata='{"x":1}'),
        story.usage("u3", "video.premium"),
        story.usage("u4", "no.price"),
        story.usage("u5", "website", project="c"),
        story.usage("u6", "image", project="ghost"),
        story.usage("u7", "image", ago=3 * DAY),
    )


def held(story: Story) -> None:
    """Jobs hold credits."""
    story.wait(MINUTE)
    ids = []
    for number in range(6):
        ids.append(f"0-{story.offset}-0")
        story.admit(f"h{number}", "image", hold=600, job_id=f"job{number}", quantity=2)
    story.admit("h0", "image", hold=600, job_id="job0", quantity=2)
    story.admit("h9", "image", hold=600, job_id="job0", quantity=2)
    story.admit("h10", "image", hold=700_000)
    story.admit("h11", "social_post.text", hold=30, surcharge="social_post.video")
    story.admit("h12", "read", hold=30)
    say = story.say
    say(CaptureHold, hold_id=ids[0], environment="", key="cap")
    say(CaptureHold, hold_id=ids[0], environment="", key="cap")
    say(CaptureHold, hold_id=ids[0], environment="")
    say(CaptureHold, hold_id=ids[1], environment="production", amount=3 * CREDIT)
    say(CaptureHold, hold_id=ids[2], environment="production", amount=999 * CREDIT)
    say(CaptureHold, hold_id=ids[2], environment="preview")
    say(ReleaseHold, hold_id=ids[2], environment="", reason="gave up")
    say(ExtendHold, hold_id=ids[3], environment="", seconds=900)
    say(ExtendHold, hold_id=ids[3], environment="", seconds=0)
    story.use(story.usage("h4", "image", quantity=1, job_id="job4"), story.usage("h5", "blog_post", job_id="job5"))
    story.use(story.usage("h5", "image", quantity=3, job_id="job5"))
    story.wait(20 * MINUTE)
    story.tell(Tick(["a", "b"]))


def limited(story: Story) -> None:
    """Requests meet their limits."""
    story.wait(MINUTE)
    say = story.say
    say(SetLimits, limits=Limits(2, 3, 30 * CREDIT), is_shadow=False, reason="contract")
    say(SetLimits, limits=Limits(1, 1, 8 * CREDIT), is_shadow=True, reason="trial")
    say(SetLimits, limits=Limits(2_000_000, 0, 0), is_shadow=False, reason="")
    for number in range(5):
        story.admit(f"l{number}", "image" if number % 2 else "chat.message", key=f"l{number}", after=1)
    say(CountRequest, operation="GET /v1/balance", environment="production")
    say(CountRefused, operation="GET /v1/balance", environment="production", count=7, first_at_ms=5, last_at_ms=9)
    say(CountRefused, operation="GET /v1/balance", environment="production", count=0, first_at_ms=5, last_at_ms=9)
    story.wait(70)
    story.admit("l10", "website")
    story.admit("l11", "image", quantity=2)
    story.admit("l12", "content_plan")
    raised = f"0-{story.offset}-0"
    ends_ms = story.at_ms + 3_600_000
    say(RaiseLimits, limits=Limits(9, 0, 0), starts_at_ms=0, ends_at_ms=ends_ms, reason="launch")
    say(RaiseLimits, limits=Limits(0, 20, 0), starts_at_ms=ends_ms, ends_at_ms=ends_ms + 1_000, reason="later")
    say(RaiseLimits, limits=Limits(0, 0, 0), starts_at_ms=0, ends_at_ms=ends_ms, reason="none")
    say(RaiseLimits, limits=Limits(9, 0, 0), starts_at_ms=0, ends_at_ms=5, reason="past")
    say(CountRequest, operation="GET /v1/usage", environment="preview")
    say(EndRaise, raise_id=raised)
    say(EndRaise, raise_id=raised)
    story.wait(2 * 3_600)
    story.tell(Tick(["a"]))
    for is_shadow in (True, False):
        say(SetLimits, limits=Limits(0, 0, 0), is_shadow=is_shadow, reason="over")


def renewed(story: Story) -> None:
    """Items accrue, plans change, months begin."""
    say = story.say
    for item, quantity in (("custom_domain", 2), ("custom_domain", -1), ("unheard.of", 1), ("account", 1)):
        say(SetItem, operation=item, quantity=quantity)
    say(ChangePlan, plan="build", contract_allowance=0)
    say(ChangePlan, plan="free", contract_allowance=0)
    say(ChangePlan, plan="nope", contract_allowance=0)
    story.wait(3 * DAY)
    story.tell(Tick(["a", "b", "c"]))
    story.wait(14 * DAY)
    story.tell(Tick(["a", "b", "c"]))
    story.wait(17 * DAY)
    story.tell(Tick(["a", "b", "c"]))
    say(SetItem, operation="custom_domain", quantity=0)
    say(ChangePlan, "b", plan="enterprise", contract_allowance=100 * CREDIT, contract_cents=5)
    story.wait(31 * DAY)
    story.tell(Tick(["a", "b", "c"]))


def corrected(story: Story) -> None:
    """Charges are put right."""
    say = story.say
    story.admit("r1", "image", quantity=2)
    paid = next(grant for grant in story.accounts["a"].grants if grant.kind == "top_up")
    back = GivenBack(msgspec.structs.replace(paid, remaining=0, held=0), "image", 1, 8 * CREDIT, "2026-01")
    late = Grant("old-0-1", "allowance", "production", 10 * CREDIT, 0, START_MS, story.at_ms - 1_000)
    for fields in (
        {"event_id": "r1", "sequence": 0, "given_back": [back], "usage": None},
        {"event_id": "r1", "sequence": 0, "given_back": [back], "usage": None},
        {"event_id": "r1", "sequence": 1, "given_back": [back], "usage": story.usage("r1", "chat.message", quantity=2)},
        {"event_id": "r2", "sequence": 0, "given_back": [], "usage": None},
        {"event_id": "r3", "sequence": 0, "given_back": [], "usage": story.usage("r3", "blog_post", ago=40 * DAY)},
        {"event_id": "r4", "sequence": 0, "given_back": [], "usage": story.usage("r4", "website", quantity=10_000)},
        {"event_id": "r5", "sequence": 0, "given_back": [], "usage": story.usage("r5", "read", ago=60)},
        {
            "event_id": "r6",
            "sequence": 0,
            "given_back": [GivenBack(late, "image", 2, 5 * CREDIT, "2026-01")],
            "usage": None,
        },
    ):
        say(Correct, source="/test", metadata='{"reason":"wrong"}', **fields)
    story.admit("r7", "image", hold=60)
    say(Correct, source="/test", metadata="", event_id="r7", sequence=0, given_back=[back], usage=None)
    for grant_id in (paid.id, paid.id, "top_up-9-9"):
        say(RefundTopUp, grant_id=grant_id, reason="asked")


def bought(story: Story) -> None:
    """Bundles are bought automatically and refunded."""
    say = story.say
    terms = {"threshold": 300 * CREDIT, "bundle_usd": 20, "cap_cents": 4_000, "payment_method": "pm_1"}
    wrong = (
        {"bundle_usd": 7},
        {"threshold": 0},
        {"threshold": 9_999_999 * CREDIT},
        {"cap_cents": 5},
        {"payment_method": ""},
    )
    for each in wrong:
        say(SetAutoRecharge, "c", is_on=True, **(terms | each))
    say(SetAutoRecharge, "c", is_on=False, **terms)
    say(SetAutoRecharge, "c", is_on=True, **terms)
    pending = f"recharge-0-{story.offset - 1}-1"
    say(SetAutoRecharge, "c", is_on=True, **terms)
    say(SettleRecharge, "c", recharge_id="recharge-9", is_paid=True, reference="r", detail="")
    say(SettleRecharge, "c", recharge_id=pending, is_paid=True, reference="ch_1", detail="")
    say(SettleRecharge, "c", recharge_id=pending, is_paid=True, reference="ch_1", detail="")
    for number in range(12):
        story.wait(MINUTE)
        story.admit(f"b{number}", "website", project="c")
        account = story.accounts["c"]
        assert account.auto_recharge is not None
        if account.auto_recharge.pending_id:
            recharge_id = account.auto_recharge.pending_id
            say(SettleRecharge, "c", recharge_id=recharge_id, is_paid=False, reference="", detail="declined")
            story.wait(8 * 3_600)
    bundle = next(grant for grant in story.accounts["b"].grants)
    say(TopUp, "b", environment="production", bundle_usd=20, reference="")
    mine = f"top_up-0-{story.offset - 1}-0"
    say(SetStanding, "b", is_good=False, reason="chargeback")
    say(RefundTopUp, "b", grant_id=mine, reason="asked")
    say(SetStanding, "b", is_good=True, reason="")
    say(Erase, "b", customer="", reason="the contract ended")
    say(SetNoticeRules, "b", environment="production", rules=[(True, 90), (False, 40 * 1_000_000)])
    say(SetNoticeRules, "b", environment="preview", rules=[(True, 20)])
    say(Erase, "b", customer="cus_1", reason="")
    say(Erase, "nobody", customer="cus_1", reason="")
    link = {"environment": "production", "session_id": "ses_1", "customer_sha256": "aa", "known_offset": story.offset}
    link |= {"expires_at_ms": story.at_ms + MINUTE * 1000}
    say(OpenPortal, "b", key="link-1", **link)
    say(OpenPortal, "b", key="link-1", **(link | {"session_id": "ses_2"}))
    say(OpenPortal, "b", **link)
    say(OpenPortal, "nobody", key="link-2", **link)
    say(OpenPortal, "b", key="link-2", **(link | {"expires_at_ms": story.at_ms}))
    say(EndPortals, "b", reason="the laptop was lost")
    say(OpenPortal, "b", key="link-3", **link)
    say(OpenPortal, "b", key="link-4", **(link | {"known_offset": story.offset - 2, "customer_sha256": ""}))
    say(RefundTopUp, "b", grant_id=mine, reason="asked")
    say(RefundTopUp, "b", grant_id=bundle.id, reason="asked")
    for grant in list(story.accounts["b"].grants):
        say(RefundTopUp, "b", grant_id=grant.id, reason="asked")


def priced(story: Story) -> None:
    """Price books are announced and take effect."""
    rates = FIRST_PRICE_BOOK.rates
    effective_ms = story.at_ms + 40 * DAY * 1000
    for change, after in (
        ({"version": "two", "rates": rates | {"image": 9 * CREDIT}, "effective_at_ms": effective_ms}, ""),
        ({"version": "two", "rates": rates, "effective_at_ms": effective_ms}, ""),
        ({"version": "three", "rates": rates, "effective_at_ms": effective_ms + 1}, "2026-01"),
        ({"version": "soon", "rates": rates | {"image": 99 * CREDIT}, "effective_at_ms": story.at_ms + 5}, ""),
        ({"version": "bad version", "rates": rates, "effective_at_ms": effective_ms + 5}, ""),
        ({"version": "empty", "rates": {}, "effective_at_ms": effective_ms + 5}, ""),
        ({"version": "name", "rates": {"A b": 1}, "effective_at_ms": effective_ms + 5}, ""),
        ({"version": "low", "rates": {"image": -1}, "effective_at_ms": effective_ms + 5}, ""),
    ):
        book = msgspec.structs.replace(FIRST_PRICE_BOOK, **change)
        story.say(PublishPrices, "prices:", book=book, after=after)
    later = msgspec.structs.replace(FIRST_PRICE_BOOK, version="later", effective_at_ms=effective_ms + 9)
    cheaper = {"rates": rates | {"image": 9 * CREDIT}, "effective_at_ms": effective_ms}
    two = msgspec.structs.replace(FIRST_PRICE_BOOK, version="two", **cheaper)
    story.say(WithdrawPrices, "prices:", book=later)
    story.say(PublishPrices, "prices:", book=later)
    story.say(WithdrawPrices, "prices:", book=two)
    story.say(WithdrawPrices, "prices:", book=later)
    story.say(WithdrawPrices, "prices:", book=later, is_decided=True)
    story.say(PublishPrices, "prices:", book=msgspec.structs.replace(later, effective_at_ms=effective_ms + 10))
    story.admit("p1", "image")
    story.admit("p2", "image", hold=3_600)
    story.wait(41 * DAY)
    story.say(WithdrawPrices, "prices:", book=two)
    story.tell(Tick(["a", "b", "c", "prices:"]))
    story.admit("p3", "image", quantity=2)
    story.use(story.usage("p4", "image", ago=2 * DAY), story.usage("p2", "image", ago=41 * DAY))


def closed(story: Story) -> None:
    """Projects are closed and opened again."""
    say = story.say
    say(SetItem, operation="custom_domain", quantity=1)
    say(CloseProject, reason="fraud", key="close")
    say(CloseProject, reason="fraud")
    story.wait(10)
    story.admit("z1", "image")
    say(SetItem, operation="custom_domain", quantity=2)
    say(TopUp, environment="production", bundle_usd=20, reference="")
    story.use(story.usage("z2", "image", ago=5), story.usage("z3", "image", ago=15))
    say(ReopenProject)
    say(ReopenProject)
    story.wait(10)
    story.use(story.usage("z4", "image", ago=15), story.usage("z5", "image"))
    story.wait(40 * DAY)
    story.tell(Tick(["a", "b", "c"]))


def delivered(story: Story) -> None:
    """Endpoints hear of notices, and their retries are charged."""
    say, platform = story.say, "platform:"
    hook = {"endpoint_id": "whe_1", "kind": "webhook", "target": "https://acme.example/hook?key=secret"}
    say(PutEndpoint, **hook, event_types=["project.*", "hold.expired", "project.*"], environments=["production"])
    say(PutEndpoint, **hook)
    say(PutEndpoint, **(hook | {"endpoint_id": "whe_2", "kind": "slack"}), is_ordered=True, description="ops")
    for wrong in (
        {"kind": "fax"},
        {"target": ""},
        {"target": "h" * 513},
        {"kind": None},
        {"target": None},
        {"event_types": []},
        {"event_types": ["webhook.test"]},
        {"environments": ["staging"]},
        {"description": "d" * 201},
        {"state": "disabled"},
    ):
        say(PutEndpoint, **(hook | {"endpoint_id": "whe_3"} | wrong))
    for number in range(3, 10):
        say(PutEndpoint, **(hook | {"endpoint_id": f"whe_{number}"}))
    for change in (
        {"kind": "email"},
        {"target": "https://acme.example/other", "event_types": ["*"], "environments": [], "is_ordered": True},
        {"description": "d", "state": "paused"},
        {"state": "paused"},
    ):
        say(PutEndpoint, endpoint_id="whe_1", is_change=True, **change)
    notices: dict[str, Any] = {"endpoint_id": "whe_1", "since_ms": story.at_ms - 60_000}
    for endpoint_id in ("whe_1", "whe_2", "nowhere"):
        say(TestEndpoint, endpoint_id=endpoint_id)
        say(RotateEndpoint, endpoint_id=endpoint_id)
    say(ReplayNotices, **notices)
    say(PutEndpoint, endpoint_id="whe_1", is_change=True, state="active")
    for change in (
        {},
        {"only_failed": True},
        {"since_ms": 0, "notice_id": "ntc-0-7-1"},
        {"notice_id": "ntc-0-7-1"},
        {"since_ms": 0, "notice_id": "seven"},
        {"since_ms": story.at_ms + 1},
        {"since_ms": story.at_ms - 31 * DAY * 1000},
    ):
        say(ReplayNotices, **(notices | change))
    for endpoint_id in ("whe_1", "whe_1", "nowhere"):
        say(DisableEndpoint, endpoint_id=endpoint_id, reason="410 Gone")
    for endpoint_id in ("whe_1", "whe_1"):
        say(DeleteEndpoint, endpoint_id=endpoint_id)
    say(DeleteEndpoint, platform, endpoint_id="whe_1")
    say(PutEndpoint, platform, endpoint_id="whe_1", is_change=True)
    say(PutEndpoint, platform, **hook)
    say(PutEndpoint, "nobody", **hook)
    for attempt, environment, project in (
        ("whe_2.ntc-0-7-1.2", "", "a"),
        ("whe_2.ntc-0-7-1.2", "", "a"),
        ("whe_2.ntc-0-7-1.3", "preview", "a"),
        ("", "", "a"),
        ("whe_2.ntc-0-7-1.2", "", "nobody"),
    ):
        say(BillDelivery, project, attempt_id=attempt, environment=environment, endpoint_id="whe_2")
    say(CloseProject, reason="over")
    say(BillDelivery, attempt_id="whe_2.ntc-0-7-1.4", environment="production", endpoint_id="whe_2")


def steps() -> Iterator[str]:
    """The kinds of commands that the story tells of."""
    for line in TEXT.read_text().splitlines():
        if line and line[0].isdigit():
            yield line.split(": ", 1)[1].split(" ", 1)[0]


if __name__ == "__main__":
    TEXT.write_text(told())
