"""Access lists: who may do what with which topic and group, as `meterline topics --acls` prints it.

The lists are for a Kafka that authorizes, with `allow.everyone.if.no.acl.found` left false: what is not listed is
refused. Kafka 3 and later let whoever may write a topic be an idempotent producer, so nobody needs more for that.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from streams.kafka.topics import Topics

Role = Literal["worker", "api", "historian", "cashier", "courier", "operator", "producer", "gateway"]
Resource = Literal["topic", "group", "cluster", "transactional-id"]

# A gateway is one that asks by Kafka: it writes intake, and so could forge a top-up. An operator runs
# `meterline topics`, `verify` and `doctor`.
# These look at every topic before they start: are all there, with the right partitions?
CHECKING: tuple[Role, ...] = ("worker", "api", "historian", "cashier", "courier", "operator")


@dataclass(frozen=True, slots=True)
class TopicUse:
    """A topic's readers and writers, and why nobody else may."""

    topic: str
    readers: tuple[Role, ...]
    writers: tuple[Role, ...]
    why: str


@dataclass(frozen=True, slots=True)
class AccessRule:
    """A rule that allows a principal some operations on a resource; a prefixed one on all whose names begin so."""

    principal: str
    resource: Resource
    name: str
    operations: tuple[str, ...]
    is_prefix: bool = False

    def as_json(self) -> dict[str, Any]:
        """The rule as a JSON object."""
        return asdict(self)

    def command(self, bootstrap: str) -> str:
        """The command that makes the rule."""
        words = ["kafka-acls.sh", "--bootstrap-server", bootstrap, "--add", "--allow-principal", self.principal]
        for operation in self.operations:
            words += ["--operation", operation]
        words += [f"--{self.resource}"] if self.resource == "cluster" else [f"--{self.resource}", self.name]
        if self.is_prefix:
            words += ["--resource-pattern-type", "prefixed"]
        return shlex.join(words)


def topic_uses(topics: Topics) -> list[TopicUse]:
    """Every topic with its readers and writers."""
    return [
        TopicUse(topics.usage, ("worker",), ("producer",), "open to producers; nothing in it is trusted"),
        TopicUse(
            topics.intake,
            ("worker", "operator"),
            ("worker", "api", "cashier", "courier", "gateway"),
            "what is here is decided: a top-up forged here needs no key",
        ),
        TopicUse(
            topics.journal,
            ("worker", "api", "historian", "cashier", "courier", "operator"),
            ("worker",),
            "facts: what is forged here is in the history and on invoices",
        ),
        TopicUse(
            topics.replies, ("api", "cashier", "courier", "gateway"), ("worker",), "answers to commands, with balances"
        ),
        TopicUse(topics.dead_letters, ("historian", "operator"), ("worker",), "refused events, with their texts"),
        TopicUse(topics.answers, ("historian",), ("api",), "what callers were told, with balances"),
        TopicUse(topics.deliveries, ("historian",), ("courier",), "attempts to deliver notices, with answers"),
        TopicUse(
            topics.courier_changelog,
            ("courier",),
            ("courier",),
            "notices that wait: what is forged here is sent, and signed",
        ),
        TopicUse(
            topics.accounts_changelog,
            ("worker", "api", "courier", "operator"),
            ("worker",),
            "every account: what is forged here is a balance",
        ),
        TopicUse(topics.seen_changelog, ("worker",), ("worker",), "ids that were billed"),
        TopicUse(topics.replies_changelog, ("worker",), ("worker",), "answers kept for a repeat, with balances"),
        TopicUse(topics.recent_replies_changelog, ("worker",), ("worker",), "the same, for some minutes"),
    ]


def group_uses(topics: Topics) -> list[tuple[str, tuple[Role, ...], tuple[Role, ...]]]:
    """Every consumer group, with who may be its member, and who may look how far it is."""
    onlookers: tuple[Role, ...] = ("api", "operator")
    return [
        (topics.worker_app, ("worker",), onlookers),
        (f"{topics.historian_group}-facts", ("historian",), onlookers),
        (f"{topics.historian_group}-dead_letters", ("historian",), onlookers),
        (f"{topics.historian_group}-answers", ("historian",), onlookers),
        (f"{topics.historian_group}-deliveries", ("historian",), onlookers),
        (topics.cashier_group, ("cashier",), onlookers),
        (topics.courier_group, ("courier",), onlookers),
    ]


def access_rules(
    topics: Topics, principals: Mapping[Role, str], producers_have_transactions: bool = False
) -> Iterator[AccessRule]:
    """The rules for these principals; a role without one has none."""
    for use in topic_uses(topics):
        for role, principal in principals.items():
            operations = ["Read"] * (role in use.readers) + ["Write"] * (role in use.writers)
            if operations or role in CHECKING:
                operations += ["Describe"]
            if role == "operator":
                operations += ["Create"]
            if operations:
                yield AccessRule(principal, "topic", use.topic, tuple(operations))
    for group, members, onlookers in group_uses(topics):
        for role, principal in principals.items():
            if role in members or role in onlookers:
                yield AccessRule(principal, "group", group, ("Read", "Describe") if role in members else ("Describe",))
    if "api" in principals:
        # Whoever may describe the cluster is told the bytes of its logs, for the metrics, and can change nothing.
        yield AccessRule(principals["api"], "cluster", "kafka-cluster", ("Describe",))
    if producers_have_transactions and "producer" in principals:
        name = f"{topics.usage}."
        yield AccessRule(principals["producer"], "transactional-id", name, ("Write", "Describe"), is_prefix=True)


def table(topics: Topics) -> list[str]:
    """The rows of the table in docs/operators.md: a topic, who reads it, who writes it, and why nobody else."""
    return [
        f"| `{use.topic}` | {', '.join(use.readers)} | {', '.join(use.writers)} | {use.why} |"
        for use in topic_uses(topics)
    ]
