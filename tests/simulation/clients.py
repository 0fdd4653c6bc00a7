"""Producers, the API and its callers: they send, send again, and send nonsense."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from schemas.commands import (
    Admit,
    AnyCommand,
    ChangePlan,
    CloseProject,
    CreateProject,
    RefundTopUp,
    ReopenProject,
    TopUp,
)
from schemas.prices import FIRST_PRICE_BOOK
from streams.codecs import encode, encode_envelope, packed
from streams.core.acceptance import accept_event
from streams.topics import partition_of

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


# What is sent, and how often.
_CHOICES = {
    "usage": 24,
    "http": 14,
    "admit": 20,
    "top_up": 8,
    "refund": 4,
    "plan": 4,
    "close": 1,
    "open": 3,
    "create": 10,
    "again": 20,
    "malformed": 3,
    "junk": 1,
}


@dataclass(slots=True)
class Request:
    """A command that someone wants an answer to; each attempt has a correlation of its own."""

    command: AnyCommand
    correlations: list[str] = field(default_factory=list)
    # Of its first attempt, on intake.
    offset: int = -1


class Clients:
    """Everyone who writes usage and intake."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.rng
        self.projects = [f"p{number}" for number in range(self.rng.randint(1, 4))]
        self.events: list[dict[str, Any]] = []
        self.requests: list[Request] = []
        self.arrived: set[tuple[str, str, str]] = set()
        self.malformed: set[tuple[str, int, int, int]] = set()
        self._attempts = 0

    def act(self) -> None:
        """Send one thing."""
        rng = self.rng
        choice = rng.choices(list(_CHOICES), list(_CHOICES.values()))[0]
        project = rng.choice(self.projects)
        if choice == "usage":
            self._send_usage([self._event() for _ in range(rng.choice([1, 1, 2, 4]))])
        elif choice == "http":
            self._post([self._event() for _ in range(rng.choice([1, 1, 2, 4]))])
        elif choice == "admit":
            self._admit()
        elif choice == "top_up":
            self._request(
                TopUp(
                    project=project,
                    environment=rng.choice(["production", "production", "preview"]),
                    bundle_usd=20,
                    reference="",
                    **self._addressed(self._key()),
                )
            )
        elif choice == "refund":
            self._refund()
        elif choice == "plan":
            plan = rng.choice(["free", "hobby", "build"])
            self._request(ChangePlan(project=project, plan=plan, contract_allowance=0, **self._addressed(self._key())))
        elif choice == "close":
            self._request(CloseProject(project=project, reason="", **self._addressed(self._key())))
        elif choice == "open":
            self._request(ReopenProject(project=project, **self._addressed(self._key())))
        elif choice == "create":
            self._create(project)
        elif choice == "again":
            self._again()
        elif choice == "malformed":
            self._malformed()
        else:
            partition = rng.randrange(self.world.partitions)
            self.world.append(self.world.topics.intake, partition, b"\xc1junk")

    def create_some(self) -> None:
        """Most projects are there from the beginning."""
        for project in self.projects:
            if self.rng.random() < 0.7:
                self._create(project)

    def ask_again(self, request: Request) -> None:
        """Another attempt, after an answer that never came; without a key it would be another request."""
        command = request.command
        addressed = self._addressed(command.idempotency_key)
        fields = {name: getattr(command, name) for name in command.__struct_fields__} | addressed
        request.correlations.append(addressed["correlation"])
        self._write(type(command)(**fields))

    def _create(self, project: str) -> None:
        plan = self.rng.choice(["free", "free", "free", "hobby"])
        self._request(
            CreateProject(project=project, name="", plan=plan, contract_allowance=0, **self._addressed(self._key()))
        )

    def _refund(self) -> None:
        """Of a bundle that was asked for, and may have been granted by now."""
        asked = [request for request in self.requests if isinstance(request.command, TopUp)]
        if asked:
            request = self.rng.choice(asked)
            grant_id = f"top_up-{request.offset}-{self.rng.choice([0, 0, 0, 1])}"
            project = request.command.project
            self._request(RefundTopUp(project=project, grant_id=grant_id, reason="", **self._addressed(self._key())))

    def _admit(self) -> None:
        event = self._event()
        usage = accept_event(json.dumps(event).encode(), self.world.now_ms, FIRST_PRICE_BOOK.rates)
        self._request(Admit(project=usage.project, usage=usage, **self._addressed(self._key())))
        if self.rng.random() < 0.5:
            # The platform ran it, admitted or not, and its service says so.
            self.rng.choice([self._send_usage, self._post])([event])

    def _again(self) -> None:
        keyed = [request for request in self.requests if request.command.idempotency_key]
        if not keyed:
            return
        request = self.rng.choice(keyed)
        if self.rng.random() < 0.9:
            self.ask_again(request)
        else:
            # Another request under the same key.
            command = request.command
            self._request(
                TopUp(
                    project=command.project,
                    environment="preview",
                    bundle_usd=100,
                    reference="other",
                    **self._addressed(command.idempotency_key),
                )
            )

    def _request(self, command: AnyCommand) -> None:
        self.requests.append(Request(command, [command.correlation], self._write(command)))

    def _write(self, command: AnyCommand) -> int:
        partition = partition_of(command.project, self.world.partitions)
        record = self.world.append(self.world.topics.intake, partition, encode(command))
        self.world.say(
            lambda: (
                f"api: {type(command).__name__} {command.correlation} key={command.idempotency_key!r} "
                f"{command.project} -> intake-{partition}@{record.offset}"
            )
        )
        return record.offset

    def _event(self) -> dict[str, Any]:
        """A new event, or one that was sent before, or what only looks like one that was."""
        rng = self.rng
        if self.events and rng.random() < 0.35:
            event = rng.choice(self.events[-8:] if rng.random() < 0.7 else self.events)
            return event if rng.random() < 0.9 else event | {"data": rng.choice(_OPERATIONS)}
        event = {
            "specversion": "1.0",
            "id": f"e{len(self.events)}",
            "source": rng.choice(["/a", "/a", "/b"]),
            "type": "usage",
            "subject": rng.choice(self.projects),
            "data": rng.choice(_OPERATIONS),
        }
        self.events.append(event)
        return event

    def _send_usage(self, events: list[dict[str, Any]]) -> None:
        """Straight to Kafka, on any partition, as one record or several."""
        partition = self.rng.randrange(self.world.partitions)
        batched = len(events) > 1 and self.rng.random() < 0.7
        for value in [events] if batched else events:
            record = self.world.append(self.world.topics.usage, partition, json.dumps(value).encode())
            self.world.say(
                lambda record=record: f"producer: {_ids(events)} -> usage-{record.partition}@{record.offset}"
            )
        self.arrived |= {_identity(event) for event in events}

    def _post(self, events: list[dict[str, Any]]) -> None:
        """Through the API, which accepts and packs as accept does."""
        by_partition: dict[int, list[Any]] = {}
        for event in events:
            usage = accept_event(json.dumps(event).encode(), self.world.now_ms, FIRST_PRICE_BOOK.rates)
            by_partition.setdefault(partition_of(usage.project, self.world.partitions), []).append(usage)
        for partition, usages in by_partition.items():
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
        """A key, mostly; each request has its own."""
        return f"k{len(self.requests)}" if self.rng.random() < 0.8 else ""

    def _addressed(self, key: str) -> dict[str, Any]:
        self._attempts += 1
        return {
            "idempotency_key": key,
            "correlation": f"c{self._attempts}",
            "reply_instance": "api",
            "reply_partition": self.rng.randrange(self.world.partitions),
        }


def _identity(event: dict[str, Any]) -> tuple[str, str, str]:
    return event["subject"], event["source"], event["id"]


def _ids(events: list[dict[str, Any]]) -> str:
    return " ".join(f"{event['subject']}{event['source']}/{event['id']}" for event in events)
