"""The life of an agency, to be replayed: its 40 projects on all plans, and what happens to them in 13 months.

The same seed gives the same life. A life is what the intake log would hold: commands and usage, each with its time.
"""

from __future__ import annotations

import json
import random
from calendar import monthrange
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from schemas.accounts import Account
from schemas.commands import (
    Admit,
    AnyCommand,
    CaptureHold,
    ChangePlan,
    CloseProject,
    CreateProject,
    Envelope,
    IntakeRecord,
    OpenBillingAccount,
    PublishPrices,
    RefundTopUp,
    ReleaseHold,
    ReopenProject,
    SetBillingAccount,
    SetItem,
    Tick,
    TopUp,
)
from schemas.events import Usage
from schemas.facts import Fact, entry_id
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from streams.core.acceptance import dedup_hash
from streams.core.fold import IntakeItem, fold
from streams.core.price_list import PRICES_ID
from streams.core.replies import Kept
from streams.kafka.topics import partition_of

START = datetime(2025, 1, 1, tzinfo=UTC)
MONTHS = 13
PROJECTS = 40
PLANS = ("free", "hobby", "build", "scale", "enterprise")
CREDIT = 1_000_000

_OPERATIONS = (
    ("chat.message", 1, 40),
    ("page.edit", 1, 20),
    ("social_post.text", 1, 15),
    ("translation", 1, 5),
    ("image", 1, 3),
    ("blog_post", 1, 2),
    ("webhook.delivery", 1, 50),
    ("read", 1, 100),
    ("video.premium", 1, 1),
)


@dataclass(order=True)
class Moment:
    """A moment is one intake record: its time, partition and body. `number` keeps the order of records at one time."""

    at_ms: int
    number: int
    partition: int = field(compare=False)
    body: IntakeRecord = field(compare=False)


class Life:
    """A life: `moments` are all that happens, in order of time; `signed_up` is the first moment of each project."""

    def __init__(self, partitions: int, seed: int = 13) -> None:
        self.partitions = partitions
        self.rng = random.Random(seed)
        self.moments: list[Moment] = []
        self.signed_up: dict[str, datetime] = {}
        self.plans: dict[str, str] = {}
        self._attempts = 0
        self._agency()
        for number in range(PROJECTS):
            self._project(f"prj_{number:02}", PLANS[number % len(PLANS)], number)
        self._ticks()
        self.moments.sort()

    def written(self) -> tuple[list[tuple[int, int, IntakeRecord]], dict[int, list[Fact]]]:
        """The records of the log as (partition, at_ms, body), and by partition the facts they lead to.

        A hold or a bundle is named by where it stands in the log, so the core is asked along the way.
        """
        records: list[tuple[int, int, IntakeRecord]] = []
        facts: dict[int, list[Fact]] = defaultdict(list)
        accounts: dict[int, dict[str, Account]] = defaultdict(dict)
        seen: dict[int, dict[bytes, int]] = defaultdict(dict)
        kept: dict[int, Kept] = defaultdict(Kept)
        offsets: Counter[int] = Counter()
        names: dict[str, str] = {}
        for moment in self.moments:
            body, partition = moment.body, moment.partition
            if isinstance(body, CaptureHold | ReleaseHold):
                body = msgspec.structs.replace(body, hold_id=names.get(body.project + body.hold_id, "none"))
            elif isinstance(body, RefundTopUp):
                body = msgspec.structs.replace(body, grant_id=names.get(body.project + body.grant_id, "none"))
            offset = offsets[partition]
            offsets[partition] += 1
            item = IntakeItem(offset, moment.at_ms, body)
            effects = fold(partition, [item], accounts[partition], seen[partition], kept[partition], "intake")
            for fact in effects.facts:
                if fact.kind == "hold":
                    names.setdefault(fact.project + fact.job_id, entry_id(partition, fact.offset, fact.index))
                elif fact.kind == "grant" and "reference" in fact.metadata:
                    names[fact.project + json.loads(fact.metadata)["reference"]] = fact.grant_id
            facts[partition] += effects.facts
            records.append((partition, moment.at_ms, body))
        return records, facts

    def _agency(self) -> None:
        for account, name in (("northwind", "Northwind Agency"), ("contoso", 'Contoso "Studios" & Söhne')):
            opened = OpenBillingAccount(
                project=f"billing:{account}", name=name, email=f"billing@{account}.example", **self._addressed()
            )
            self._at(START, opened)
        prices = FIRST_PRICE_BOOK
        announced = START + timedelta(days=3)
        second = PriceBook(
            "2025-02",
            _ms(START + timedelta(days=31)),
            prices.rates | {"image": 30 * CREDIT},
            prices.plan_required,
            {"custom_domain": 50_000, "connected_account": 12_345, "storage_gb": 777},
            _ms(announced),
            "Images are cheaper; recurring items have a price",
        )
        third = PriceBook(
            "2025-07",
            _ms(START + timedelta(days=190, hours=7, minutes=30)),
            second.rates | {"chat.message": 1_250_000},
            second.plan_required,
            second.hourly | {"custom_domain": 60_001},
            _ms(START + timedelta(days=150)),
            "Chat and domains are dearer, announced 40 days before",
        )
        for book in (second, third):
            for partition in range(self.partitions):
                publish = PublishPrices(project=PRICES_ID, book=book, **self._addressed())
                self._add(book.announced_at_ms, partition, publish)

    def _project(self, name: str, plan: str, number: int) -> None:
        rng = self.rng
        # The sign-up days are of all kinds, the last days of long months among them.
        day = (31, 30, 29, 28, 1, 15, 5, 31)[number % 8]
        signed_up = START.replace(day=day) + timedelta(minutes=rng.randrange(1, 1439), milliseconds=rng.randrange(1000))
        self.signed_up[name] = signed_up
        self.plans[name] = plan
        account = "northwind" if number % 4 else "contoso"
        self._at(
            signed_up,
            CreateProject(
                project=name,
                name=f"Project {number:02}",
                plan=plan,
                contract_allowance=250_000 * CREDIT,
                contract_cents=650_00,
                billing_account=account,
                **self._addressed(),
            ),
        )
        end = _months_later(START, MONTHS)
        at = signed_up
        while (at := at + timedelta(hours=rng.uniform(20, 90))) < end:
            self._usage(name, plan, at)
            if rng.random() < 0.12:
                self._job(name, at)
        for month in range(MONTHS):
            begin = max(_months_later(START, month), signed_up + timedelta(hours=1))
            if rng.random() < 0.25:
                self._bundle(name, begin + timedelta(hours=rng.uniform(0, 400)))
            if rng.random() < 0.12 and month:
                to = rng.choice(PLANS)
                self._at(
                    begin + timedelta(hours=rng.uniform(0, 600)),
                    ChangePlan(
                        project=name,
                        plan=to,
                        contract_allowance=300_000 * CREDIT,
                        contract_cents=750_00,
                        **self._addressed(),
                    ),
                )
        if number % 3 == 0:
            self._items(name, end)
        if number % 10 == 7:
            closed = START + timedelta(days=100 + number)
            self._at(closed, CloseProject(project=name, reason="a pause", **self._addressed()))
            self._at(closed + timedelta(days=50), ReopenProject(project=name, **self._addressed()))
        if number % 10 == 3:
            # In the middle of a month the project moves to the other account's invoice.
            other = "contoso" if account == "northwind" else "northwind"
            self._at(
                START + timedelta(days=200, hours=number),
                SetBillingAccount(project=name, billing_account=other, **self._addressed()),
            )

    def _usage(self, name: str, plan: str, at: datetime) -> None:
        rng = self.rng
        scale = {"free": 1, "hobby": 4, "build": 15, "scale": 40, "enterprise": 90}[plan]
        events = []
        for number in range(rng.randint(1, 8)):
            operation, low, high = rng.choice(_OPERATIONS)
            event_id = f"{_ms(at)}-{number}"
            # Some uses happened shortly before they come; now and then the event before is sent again.
            occurred = at - timedelta(minutes=rng.choice((0, 0, 5, 600)))
            if number and rng.random() < 0.1:
                events.append(events[-1])
                continue
            events.append(
                Usage(
                    name,
                    dedup_hash(name, "/platform", event_id),
                    "/platform",
                    event_id,
                    operation,
                    rng.randint(low, high * scale // 4 + 1),
                    "social_post.image" if operation == "social_post.text" and rng.random() < 0.3 else "",
                    "production",
                    max(_ms(occurred), _ms(self.signed_up[name])),
                    "",
                    "",
                    f'{{"customer_id":"c{rng.randrange(5)}"}}',
                )
            )
        self._add(_ms(at), partition_of(name, self.partitions), Envelope(events))

    def _job(self, name: str, at: datetime) -> None:
        """A job is held, and then captured, captured in part, released, or forgotten. The id of its hold follows from
        the log, so `written` fills it in."""
        rng = self.rng
        job = f"job-{_ms(at)}"
        event_id = f"hold-{job}"
        operation, surcharge = rng.choice(
            (("blog_post", ""), ("website", ""), ("social_post.text", "social_post.video"))
        )
        usage = Usage(
            name, dedup_hash(name, "/jobs", event_id), "/jobs", event_id, operation, 1, surcharge, "production",
            _ms(at), job, "", "",
        )  # fmt: skip
        self._at(at, Admit(project=name, usage=usage, hold_seconds=7200, **self._addressed()))
        soon = at + timedelta(minutes=rng.randint(1, 110))
        what = rng.random()
        if what < 0.5:
            self._at(soon, CaptureHold(project=name, hold_id=job, environment="", **self._addressed()))
        elif what < 0.65:
            self._at(
                soon, CaptureHold(project=name, hold_id=job, environment="", amount=5 * CREDIT, **self._addressed())
            )
        elif what < 0.85:
            self._at(
                soon, ReleaseHold(project=name, hold_id=job, environment="", reason="timeout", **self._addressed())
            )

    def _bundle(self, name: str, at: datetime) -> None:
        rng = self.rng
        usd = rng.choice((20, 20, 100, 500))
        self._at(
            at,
            TopUp(
                project=name, environment="production", bundle_usd=usd, reference=f"pay-{_ms(at)}", **self._addressed()
            ),
        )
        if rng.random() < 0.3:
            back = at + timedelta(days=rng.uniform(0, 35))
            # The bundle's grant id follows from the log, so `written` fills it in.
            self._at(back, RefundTopUp(project=name, grant_id=f"pay-{_ms(at)}", reason="asked", **self._addressed()))

    def _items(self, name: str, end: datetime) -> None:
        rng = self.rng
        for operation in ("custom_domain", "connected_account", "storage_gb"):
            at = START + timedelta(days=32, hours=rng.uniform(0, 600))
            while at < end:
                self._at(
                    at,
                    SetItem(project=name, operation=operation, quantity=rng.randint(0, 4), **self._addressed()),
                )
                at += timedelta(hours=rng.uniform(300, 2500))

    def _ticks(self) -> None:
        """Ticks come once a day for every other project, and at the end for all. The rest is settled when a project is
        touched."""
        by_partition: dict[int, list[str]] = {}
        for number, name in enumerate(self.signed_up):
            if number % 2:
                by_partition.setdefault(partition_of(name, self.partitions), []).append(name)
        at, end = START + timedelta(hours=1), _months_later(START, MONTHS)
        while at < end:
            for partition, names in by_partition.items():
                self._add(_ms(at), partition, Tick(names))
            at += timedelta(days=1)
        for partition in range(self.partitions):
            names = [name for name in self.signed_up if partition_of(name, self.partitions) == partition]
            self._add(_ms(end), partition, Tick(names))

    def _at(self, at: datetime, command: AnyCommand) -> None:
        self._add(_ms(at), partition_of(command.project, self.partitions), command)

    def _add(self, at_ms: int, partition: int, body: IntakeRecord) -> None:
        self.moments.append(Moment(at_ms, len(self.moments), partition, body))

    def _addressed(self) -> dict:
        self._attempts += 1
        return {
            "idempotency_key": "",
            "correlation": f"life-{self._attempts}",
            "reply_instance": "",
            "reply_partition": 0,
        }


def renewal_days(signed_up: datetime, until: datetime) -> list[datetime]:
    """The days on which a project's allowance is due, the sign-up first; written without the product's own rule."""
    days = []
    for months in range(MONTHS + 1):
        year, month = divmod(signed_up.year * 12 + signed_up.month - 1 + months, 12)
        last = monthrange(year, month + 1)[1]
        at = signed_up.replace(year=year, month=month + 1, day=min(signed_up.day, last))
        if at < until:
            days.append(at)
    return days


def _months_later(at: datetime, months: int) -> datetime:
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    return at.replace(year=year, month=month + 1)


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
