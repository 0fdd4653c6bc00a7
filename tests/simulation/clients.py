"""The clients of a world: producers, the API and its callers. They send, send again, and send nonsense."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from schemas.accounts import Grant, Limits
from schemas.commands import (
    Admit,
    AnyCommand,
    CaptureHold,
    ChangePlan,
    CloseProject,
    Correct,
    CountRefused,
    CountRequest,
    CreateKey,
    CreateProject,
    EndRaise,
    Erase,
    ExtendHold,
    GivenBack,
    GrantPromotional,
    OpenBillingAccount,
    PublishPrices,
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
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from schemas.times import DAY_MS, utc
from streams.core.acceptance import accept_event, moment_of
from streams.core.packed_usage import packed_event
from streams.core.plans import renewal_after
from streams.core.price_list import PRICES_ID
from streams.core.projects import BILLING_PREFIX
from streams.kafka.codecs import encode_commands, encode_envelope, encode_intake, encode_usage, packed
from streams.kafka.topics import partition_of
from tests.simulation.endpoint_clients import EndpointAsks
from tests.simulation.portal_clients import next_of_portals
from tests.simulation.requests import Request

if TYPE_CHECKING:
    from tests.simulation.world import World

_OPERATIONS: list[dict[str, Any]] = [
    {"operation": "chat.message"},
    {"operation": "chat.message", "quantity": 7},
    {"operation": "image"},
    {"operation": "website"},
    {"operation": "website", "quantity": 2},
    {"operation": "blog_post"},
    {"operation": "social_post", "media_type": "image"},
    {"operation": "translation", "target_languages": 4},
    {"operation": "video", "tier": "premium"},
    {"operation": "webhook.delivery", "attempts": 3},
    {"operation": "read"},
    {"operation": "blog_post", "environment": "preview"},
]
_MALFORMED = [b"", b"{", b"[1]", b'{"specversion":"1.0"}', b'[{"specversion":"1.0","id":""}]']


# The kinds of things that clients send, and their weights.
_CHOICES = {
    "usage": 24,
    "http": 14,
    "admit": 16,
    "hold": 12,
    "resolve": 16,
    "top_up": 8,
    "promotional": 5,
    "refund": 4,
    "recharge": 4,
    "purchase": 6,
    "correct": 5,
    "plan": 4,
    "close": 1,
    "open": 3,
    "create": 10,
    "set": 6,
    "item": 8,
    "prices": 4,
    "count": 8,
    "refused": 2,
    "limits": 5,
    "raise": 4,
    "end_raise": 3,
    "tick": 6,
    "again": 20,
    "malformed": 3,
    "junk": 1,
}
# Kinds that can't share a record of commands.
_NO_COMMANDS = ("usage", "http", "tick", "malformed", "junk")
_CREDIT = 1_000_000
_NOTICE_RULES = ((True, 20), (True, 90), (True, 35), (False, 100 * _CREDIT))
_PAYMENTS = ("", "", "", "payment-1", "payment-2")


class Clients:
    """The clients: all who write to the usage and intake topics, but for accept."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.rng
        # Draws what few worlds have, so that all others stay as they were: some break a rule that few worlds try.
        self.aside = random.Random(world.seed)
        self.endpoints = EndpointAsks(world.seed)
        self.projects = [f"p{number}" for number in range(self.rng.randint(1, 4))]
        self.events: list[dict[str, Any]] = []
        self.requests: list[Request] = []
        self.arrived: set[tuple[str, str, str]] = set()
        self.malformed: set[tuple[str, int, int, int]] = set()
        self.books: list[PriceBook] = []
        self._attempts = 0
        # By partition, commands that wait for others to share a record with.
        self._together: dict[int, list[AnyCommand]] | None = None

    def act(self) -> None:
        """Send one thing, or several commands that share records."""
        rng = self.rng
        if rng.random() < 0.75:
            self._act(rng.choices(list(_CHOICES), list(_CHOICES.values()))[0])
            return
        commands = {choice: weight for choice, weight in _CHOICES.items() if choice not in _NO_COMMANDS}
        self._together = {}
        for choice in rng.choices(list(commands), list(commands.values()), k=rng.choice([2, 3, 3, 4, 6])):
            self._act(choice)
        for partition in range(self.world.partitions):
            self._send_together(partition)
        self._together = None

    def _act(self, choice: str) -> None:
        rng = self.rng
        project = rng.choice(self.projects)
        if choice == "usage":
            self._send_usage([self._event() for _ in range(rng.choice([1, 1, 2, 4]))])
        elif choice == "http":
            self._post([self._event() for _ in range(rng.choice([1, 1, 2, 4]))])
        elif choice == "admit":
            self._admit()
        elif choice == "top_up":
            environment = rng.choice(["production", "production", "preview"])
            terms = self.aside.choice([(20, 0, 0), (20, 0, 0), (0, 900 * _CREDIT + 1, 333)])
            terms = dict(zip(("bundle_usd", "amount", "cents"), terms, strict=True))
            self._ask(TopUp, project, environment=environment, reference=rng.choice(_PAYMENTS), **terms)
        elif choice == "promotional":
            self._give(project)
        elif choice == "refund":
            self._refund()
        elif choice == "plan":
            self._ask(ChangePlan, project, plan=rng.choice(["free", "hobby", "build"]), contract_allowance=0)
        elif choice == "close":
            self._request(CloseProject(project=project, reason="", **self._addressed(self._key())))
        elif choice == "open":
            self._request(ReopenProject(project=project, **self._addressed(self._key())))
        elif choice == "create":
            self._create(project)
        elif choice == "hold":
            self._hold()
        elif choice == "resolve":
            self._resolve_hold()
        elif choice == "recharge":
            is_on = rng.random() < 0.8
            terms = {"threshold": rng.choice([200, 4_000, 4_001]) * _CREDIT, "bundle_usd": 20, "payment_method": "p"}
            cap_cents = rng.choice([20_00, 60_00, 10_00])
            self._ask(SetAutoRecharge, project, is_on=is_on, cap_cents=cap_cents, **terms)
        elif choice == "purchase":
            self._end_purchase()
        elif choice == "correct":
            self._correct()
        elif choice == "set":
            self._set_something(project)
        elif choice == "item":
            operation = rng.choice(["domain", "domain", "storage", "none"])
            self._ask(SetItem, project, operation=operation, quantity=rng.choice([0, 1, 7, 3_000]))
        elif choice == "prices":
            self._publish()
            if self.books and self.aside.random() < 0.4:
                self._withdraw()
        elif choice in ("count", "refused"):
            (self._count_request if choice == "count" else self._count_refused)(project)
        elif choice == "limits":
            self._ask(SetLimits, project, limits=self._limits(), is_shadow=rng.random() < 0.5, reason="")
        elif choice == "raise":
            self._raise(project)
        elif choice == "end_raise":
            self._end_raise()
        elif choice == "tick":
            partition = rng.randrange(self.world.partitions)
            due = [name for name in self.projects if partition_of(name, self.world.partitions) == partition]
            self.world.append(self.world.topics.intake, partition, encode_intake(Tick([*due, "nobody"])))
        elif choice == "again":
            self._again()
        elif choice == "malformed":
            self._malformed()
        else:
            partition = rng.randrange(self.world.partitions)
            self.world.append(self.world.topics.intake, partition, b"\xc1junk")

    def create_some(self) -> None:
        """Open some of the projects at the beginning, and perhaps announce prices by the hour."""
        for project in self.projects:
            if self.rng.random() < 0.7:
                self._create(project)
        if self.rng.random() < 0.6:
            self._publish([0])

    def ask_again(self, request: Request) -> None:
        """Send a request again, after an answer that never came. Without an idempotency key that is another request."""
        addressed = self._addressed(request.command.idempotency_key)
        request.correlations.append(addressed["correlation"])
        self._write(msgspec.structs.replace(request.command, **addressed), request.partition)

    def _create(self, project: str) -> None:
        plan = self.rng.choice(["free", "free", "free", "hobby"])
        self._request(
            CreateProject(project=project, name="", plan=plan, contract_allowance=0, **self._addressed(self._key()))
        )

    def _give(self, project: str) -> None:
        """Give promotional credits; some for no reason, some that end at once."""
        rng = self.rng
        lasts_ms = rng.choice([1_000, 60_000, DAY_MS, 20 * DAY_MS, 0])
        terms = {"amount": rng.choice([3, 40, 400]) * _CREDIT, "expires_at_ms": self.world.now_ms + lasts_ms}
        environment = rng.choice(["production", "production", "preview"])
        reason = rng.choice(["sorry", "sorry", "sorry", " "])
        self._ask(GrantPromotional, project, environment=environment, reason=reason, **terms)

    def _refund(self) -> None:
        """Ask for the refund of a bundle that was asked for, and may have been granted by now."""
        asked = [request for request in self.requests if isinstance(request.command, TopUp)]
        if asked:
            request = self.rng.choice(asked)
            grant_id = f"top_up-{request.offset}-{request.index + self.rng.choice([0, 0, 0, 1])}"
            self._ask(RefundTopUp, request.command.project, grant_id=grant_id, reason="")

    def _admit(self) -> None:
        event = self._event()
        usage = accept_event(json.dumps(event).encode(), self.world.now_ms, FIRST_PRICE_BOOK.rates)
        self._request(Admit(project=usage.project, usage=usage, **self._addressed(self._key())))
        if self.rng.random() < 0.5:
            # The platform ran the request, admitted or not, and its service sends the usage event.
            self.rng.choice([self._send_usage, self._post])([event])

    def _hold(self) -> None:
        rng = self.rng
        event = self._event()
        usage = accept_event(json.dumps(event).encode(), self.world.now_ms, FIRST_PRICE_BOOK.rates)
        job_id = rng.choice(["", "j1", f"j-{usage.event_id}", f"j-{usage.event_id}"])
        usage = msgspec.structs.replace(usage, job_id=job_id)
        self._ask(Admit, usage.project, usage=usage, hold_seconds=rng.choice([1, 60, 3_600, 86_400, 7 * 86_400]))
        if self._together is None and rng.random() < 0.4:
            # The job's service reports what it did, of as much as was held or not, whether or not anybody captures it.
            data = event["data"]
            if data["operation"] in ("chat.message", "image", "website") and rng.random() < 0.3:
                data = data | {"quantity": rng.choice([1, 2, 9])}
            rng.choice([self._send_usage, self._post])([event | {"data": data}])

    def _resolve_hold(self) -> None:
        """Capture, release or extend a hold that was asked for, and may be open, resolved already, or never placed."""
        rng = self.rng
        asked = [each for each in self.requests if isinstance(each.command, Admit) and each.command.hold_seconds]
        if not asked:
            return
        request = rng.choice(asked)
        project = request.command.project
        index = request.index + rng.choice([0, 0, 0, 0, 1, 3])
        hold = {"hold_id": f"{request.partition}-{request.offset}-{index}", "environment": ""}
        roll = rng.random()
        if roll < 0.5:
            self._ask(CaptureHold, project, amount=rng.choice([-1, -1, 0, 1, 3 * _CREDIT, 900 * _CREDIT]), **hold)
        elif roll < 0.8:
            self._ask(ReleaseHold, project, reason="", **hold)
        else:
            self._ask(ExtendHold, project, seconds=rng.choice([1, 3_600, 7 * 86_400]), **hold)

    def _count_request(self, project: str) -> None:
        """Have a call of our own API counted, made with some key."""
        addressed = self._addressed("") | {"actor": self.rng.choice(["k0", "k1"])}
        self._request(CountRequest(project=project, operation="GET /v1/balance", environment="production", **addressed))

    def _count_refused(self, project: str) -> None:
        """Have calls counted that an API process refused by itself."""
        now_ms, count = self.world.now_ms, self.rng.choice([1, 2, 7, 70, 0])
        addressed = self._addressed("") | {"actor": self.rng.choice(["k0", "k1"])}
        called = {"operation": "GET *", "environment": "production", "count": count}
        self._request(CountRefused(project=project, first_at_ms=now_ms - 900, last_at_ms=now_ms, **called, **addressed))

    def _limits(self) -> Limits:
        """Limits so low that a few requests reach them, or no limits, or wrong ones."""
        rng = self.rng
        requests, burst = rng.choice([(0, 0), (2, 0), (2, 4), (3, 3), (5, 7), (0, 61), (-1, 0)])
        return Limits(requests, burst, rng.choice([0, 10, 33, 100, 500]) * _CREDIT)

    def _raise(self, project: str) -> None:
        rng, now_ms = self.rng, self.world.now_ms
        starts_at_ms = rng.choice([0, 0, now_ms + 500, now_ms + DAY_MS])
        ends_at_ms = now_ms + rng.choice([1_000, 3_000, 3_000, 2 * DAY_MS, 400 * DAY_MS])
        limits = Limits(rng.choice([0, 4, 40]), rng.choice([0, 9]), rng.choice([0, 50, 900]) * _CREDIT)
        self._ask(RaiseLimits, project, limits=limits, starts_at_ms=starts_at_ms, ends_at_ms=ends_at_ms, reason="go")

    def _end_raise(self) -> None:
        """End a raise that was asked for, and may be planned, on, over, or refused."""
        asked = [each for each in self.requests if isinstance(each.command, RaiseLimits)]
        if asked:
            request = self.rng.choice(asked)
            raise_id = f"{request.partition}-{request.offset}-{request.index}"
            self._ask(EndRaise, request.command.project, raise_id=raise_id)

    def _end_purchase(self) -> None:
        """Settle a purchase that the history knows of; its cashier may do so twice."""
        wanted = [row for row in self._history("recharge") if row["reason"] == "requested"]
        if wanted:
            row = self.rng.choice(wanted[-3:])
            recharge_id = f"recharge-{row['partition']}-{row['offset']}-{row['position']}"
            outcome = {"is_paid": self.rng.random() < 0.7, "reference": self.rng.choice(_PAYMENTS), "detail": ""}
            self._ask(SettleRecharge, row["project"], recharge_id=recharge_id, **outcome)

    def _correct(self) -> None:
        """Correct an event: one that the history has charges of is given back or charged anew, or one came too late."""
        rng = self.rng
        rows = [row for row in self._history("charge") if row["event_id"] and row["grant_id"]]
        new = self._event()
        usage = accept_event(json.dumps(new).encode(), self.world.now_ms, FIRST_PRICE_BOOK.rates)
        source, event_id, project, given_back = usage.source, usage.event_id, usage.project, []
        if rows and rng.random() < 0.8:
            row = rng.choice(rows)
            source, event_id, project = row["source"], row["event_id"], row["project"]
            same = [each for each in rows if _of_event(each) == _of_event(row)]
            given_back = [
                GivenBack(grant, each["operation"], each["quantity"], -each["amount"], each["price_version"])
                for each in same
                if (grant := self._grant(each)) is not None
            ]
        refused = [row for row in self._history("refusal") if row["event_id"]]
        refused_offset = -1
        if refused and rng.random() < 0.1:
            row, given_back = rng.choice(refused), []
            source, event_id, project = row["source"], row["event_id"], row["project"]
            refused_offset = rng.choice([row["offset"], row["offset"], -1])
        is_charged = rng.random() < 0.5
        again = msgspec.structs.replace(usage, project=project, source=source, event_id=event_id)
        sequence = len({each["offset"] for each in self._history("correction") if each["event_id"] == event_id})
        self._ask(
            Correct,
            project,
            source=source,
            event_id=event_id,
            sequence=rng.choice([sequence, sequence, 0]),
            given_back=given_back,
            usage=again if is_charged else None,
            metadata="",
            refused_offset=refused_offset,
        )

    def _grant(self, charge: dict[str, Any]) -> Grant | None:
        """The grant that a charge drew on, as the history tells it."""
        for row in self._history("grant"):
            if (row["partition"], row["grant_id"]) == (charge["partition"], charge["grant_id"]):
                opened = next(each for each in self._history("project") if each["project"] == row["project"])
                told = json.loads(row["metadata"] or "{}")
                granted_at_ms, ends_ms = row["occurred_at"], told.get("expires_at_ms", 0)
                if row["reason"] == "allowance":
                    ends_ms = renewal_after(opened["occurred_at"], granted_at_ms)
                known = row["grant_id"], row["reason"], row["environment"], row["amount"], 0, granted_at_ms, ends_ms
                return Grant(*known, contract_cents=row["cents"] if "by_contract" in told else 0)
        return None

    def _history(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.world.history.rows["facts"] if row["kind"] == kind]

    def _set_something(self, project: str) -> None:
        rng = self.rng
        kind = rng.choice([SetBadge, SetStanding, SetBillingAccount, OpenBillingAccount, CreateKey, RevokeKey])
        if kind is RevokeKey and self.aside.random() < 0.5:
            kind = RotateKey
        account, key_id = f"{BILLING_PREFIX}{rng.randrange(2)}", f"k{rng.randrange(3)}"
        if kind is SetBadge:
            is_off = rng.random()
            if is_off < 0.8:
                kind, project, fields = self.endpoints.next(project, self.world.now_ms)
                self._ask(kind, project, **fields)
            else:
                self._ask(SetBadge, project, is_off=is_off < 0.95)
        elif kind is SetStanding and self.aside.random() < 0.3:
            self._ask(Erase, project, customer=self.aside.choice(["", "c"]), reason="")
        elif kind is SetStanding and self.aside.random() < 0.5:
            rules = self.aside.sample(_NOTICE_RULES, self.aside.randrange(3))
            self._ask(SetNoticeRules, project, environment=self.aside.choice(["production", "preview"]), rules=rules)
        elif kind is SetStanding:
            self._ask(SetStanding, project, is_good=rng.random() < 0.7, reason="")
        elif kind is SetBillingAccount:
            is_from_start = rng.random() < 0.5
            self._ask(SetBillingAccount, project, billing_account=account, is_from_month_start=is_from_start)
        elif kind is OpenBillingAccount:
            self._ask(OpenBillingAccount, account, name="", email=f"{rng.randrange(9)}", is_change=rng.random() < 0.5)
        elif kind is CreateKey and self.aside.random() < 0.5:
            newest = self.world.kafka.log(self.world.topics.intake, 0).end
            kind, fields = next_of_portals(self.aside.random(), newest, self.world.now_ms)
            self._ask(kind, project, **fields)
        elif kind is CreateKey:
            self._ask(CreateKey, project, key_id=key_id, key_hash=b"", environment="preview", scopes=[])
        elif kind is RotateKey:
            new_key_id, grace_ms = f"k{self.aside.randrange(9)}", self.aside.choice([0, DAY_MS])
            self._ask(RotateKey, project, key_id=key_id, new_key_id=new_key_id, key_hash=b"", grace_ms=grace_ms)
        else:
            self._ask(RevokeKey, project, key_id=key_id)

    def _publish(self, in_ms: Sequence[int] = (0, 1_000, DAY_MS, 31 * DAY_MS)) -> None:
        """Announce a price book to every partition, or only to some, since the one who announces may die halfway."""
        rng, now_ms = self.rng, self.world.now_ms
        if self.books and rng.random() < 0.3:
            book = rng.choice(self.books)
        else:
            rate = rng.choice([_CREDIT // 100, 3, 50_000])
            book = PriceBook(
                f"v{len(self.books)}",
                now_ms + rng.choice(in_ms),
                FIRST_PRICE_BOOK.rates | {"image": rng.choice([1, 32, 40]) * _CREDIT},
                FIRST_PRICE_BOOK.plan_required,
                {"domain": rate, "storage": 7},
                now_ms,
            )
            self.books.append(book)
        key = self._key()
        after = rng.choice(["", "", FIRST_PRICE_BOOK.version, "another"])
        for partition in range(self.world.partitions):
            if rng.random() < 0.9:
                command = PublishPrices(project=PRICES_ID, book=book, after=after, **self._addressed(key))
                self._request(command, partition)

    def _withdraw(self) -> None:
        """Withdraw a price book by the first partition, or tell partitions of it, of which some may be left out."""
        rng = self.aside
        book, is_decided = rng.choice(self.books[-2:]), rng.random() < 0.3
        key = f"withdraw-{rng.randrange(9)}" if rng.random() < 0.5 else ""
        for partition in range(self.world.partitions):
            if partition == 0 or is_decided and rng.random() < 0.9:
                addressed = self._addressed(key)
                command = WithdrawPrices(project=PRICES_ID, book=book, is_decided=is_decided, **addressed)
                self._request(command, partition)

    def _again(self) -> None:
        keyed = [each for each in self.requests if each.command.idempotency_key]
        if not keyed:
            return
        request = self.rng.choice(keyed)
        if self.rng.random() < 0.9 or ":" in request.command.project:
            self.ask_again(request)
        else:
            # Another request under the same key.
            command = request.command
            terms = {"environment": "preview", "bundle_usd": 100, "reference": "other"}
            addressed = self._addressed(command.idempotency_key)
            self._request(TopUp(project=command.project, **terms, **addressed))

    def _ask(self, kind: type[AnyCommand], /, project: str, **fields: Any) -> None:
        self._request(kind(project=project, **fields, **self._addressed(self._key())))

    def _request(self, command: AnyCommand, partition: int | None = None) -> None:
        if partition is None:
            partition = partition_of(command.project, self.world.partitions)
        offset, index = self._write(command, partition)
        self.requests.append(Request(command, partition, [command.correlation], offset, index))

    def _write(self, command: AnyCommand, partition: int) -> tuple[int, int]:
        """Write a command, at once or together with others, and return its place on intake: the offset of its record,
        and the index of its first fact."""
        together = self._together.setdefault(partition, []) if self._together is not None else []
        offset = self.world.kafka.log(self.world.topics.intake, partition).end
        index = len(together) * 4096
        together.append(command)
        if self._together is None:
            self._write_all(together, partition)
        return offset, index

    def _send_together(self, partition: int) -> None:
        """Write the commands that wait for a partition, before anything else is written there."""
        if self._together and (commands := self._together.pop(partition, None)):
            self._write_all(commands, partition)

    def _write_all(self, commands: list[AnyCommand], partition: int) -> None:
        record = self.world.append(self.world.topics.intake, partition, encode_commands(commands))
        self.world.say(
            lambda: " ".join(
                f"api: {type(command).__name__} {command.correlation} key={command.idempotency_key!r} "
                f"{command.project} -> intake-{partition}@{record.offset}"
                for command in commands
            )
        )

    def _event(self) -> dict[str, Any]:
        """A new event, or one that was sent before, or one with the id of such an event and other content."""
        rng = self.rng
        if self.events and rng.random() < 0.35:
            event = rng.choice(self.events[-8:] if rng.random() < 0.7 else self.events)
            if "time" not in event or moment_of(event["time"]) > self.world.now_ms - 30 * DAY_MS:
                return event if rng.random() < 0.9 else event | {"data": rng.choice(_OPERATIONS)}
        event = {
            "specversion": "1.0",
            "id": f"e{len(self.events)}",
            "source": rng.choice(["/a", "/a", "/b"]),
            "type": "usage",
            "subject": rng.choice(self.projects),
            "data": rng.choice(_OPERATIONS),
        }
        if rng.random() < 0.3:
            # It is sent late, or its producer's clock is ahead.
            used_ms = self.world.now_ms - rng.choice([1, 1_000, 60_000, 4 * 3_600_000, DAY_MS, 6 * DAY_MS, -60_000])
            event["time"] = utc(used_ms).isoformat()
        self.events.append(event)
        return event

    def _send_usage(self, events: list[dict[str, Any]]) -> None:
        """Send events straight to Kafka, on any partition, as one record or several."""
        partition = self.rng.randrange(self.world.partitions)
        batched = len(events) > 1 and self.rng.random() < 0.7
        for value in [events] if batched else events:
            record = self.world.append(self.world.topics.usage, partition, self._usage_record(value, partition))
            self.world.say(
                lambda record=record: f"producer: {_ids(events)} -> usage-{record.partition}@{record.offset}"
            )
        self.arrived |= {_identity(event) for event in events}

    def _usage_record(self, value: list[dict[str, Any]] | dict[str, Any], partition: int) -> bytes:
        """Events as JSON, or as every other record has them, packed."""
        if self.world.kafka.log(self.world.topics.usage, partition).end % 2:
            return json.dumps(value).encode()
        events = value if isinstance(value, list) else [value]
        return encode_usage([packed_event(json.dumps(event).encode())[1] for event in events])

    def _post(self, events: list[dict[str, Any]]) -> None:
        """Send events through the API, which accepts and packs as accept does."""
        by_partition: dict[int, list[Any]] = {}
        for event in events:
            usage = accept_event(json.dumps(event).encode(), self.world.now_ms, FIRST_PRICE_BOOK.rates)
            by_partition.setdefault(partition_of(usage.project, self.world.partitions), []).append(usage)
        for partition, usages in by_partition.items():
            self._send_together(partition)
            for value in packed(usages, encode_envelope):
                record = self.world.append(self.world.topics.intake, partition, value)
                self.world.say(
                    lambda record=record: f"api: {_ids(events)} -> intake-{record.partition}@{record.offset}"
                )
        self.arrived |= {_identity(event) for event in events}

    def _malformed(self) -> None:
        partition = self.rng.randrange(self.world.partitions)
        record = self.world.append(self.world.topics.usage, partition, self.rng.choice(_MALFORMED))
        self.malformed.add((record.topic, partition, record.offset, 0))

    def _key(self) -> str:
        """An idempotency key, mostly, or none; each request has its own."""
        return f"k{len(self.requests)}" if self.rng.random() < 0.8 else ""

    def _addressed(self, key: str) -> dict[str, Any]:
        self._attempts += 1
        return {
            "idempotency_key": key,
            "correlation": f"c{self._attempts}",
            "reply_instance": "api",
            "reply_partition": self.rng.randrange(self.world.partitions),
            "actor": self.rng.choice(["", "k0"]),
        }


def _of_event(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["project"], row["source"], row["event_id"]


def _identity(event: dict[str, Any]) -> tuple[str, str, str]:
    return event["subject"], event["source"], event["id"]


def _ids(events: list[dict[str, Any]]) -> str:
    return " ".join(f"{event['subject']}{event['source']}/{event['id']}" for event in events)
