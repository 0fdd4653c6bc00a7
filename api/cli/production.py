"""Checks of production, for `meterline doctor --production`: they look at Kafka, ClickHouse and the settings,
and says of each thing that is wrong how to put it right."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import ClusterAuthorizationFailedError, for_code
from pydantic import SecretStr

from streams.clickhouse.client import ClickHouse
from streams.clickhouse.migrations import MIGRATIONS_DIR, read_migrations
from streams.kafka.clock import now_ms
from streams.kafka.topics import kafka_client_settings, topics_of
from streams.settings import Settings

# Whether all is as it should be, what was seen, and the remedy.
Seen = tuple[bool, str, str]

REPLICAS_MIN = 3
IN_SYNC_MIN = 2
# Clocks that time servers set are closer by far.
CLOCKS_APART_MS_MAX = 5_000
SECONDS_MAX = 20.0
# Of 32 random hex digits fewer than 8 are different once in ten million times.
KEY_CHARACTERS_MIN = 8

_HASH = re.compile(r"[0-9a-f]{64}")
_RIGHTS = ("SELECT", "INSERT", "ALTER", "CREATE TABLE", "CREATE VIEW")


def production_checks(settings: Settings) -> Iterator[tuple[str, Callable[[Settings], Seen]]]:
    """Yield the checks of what production needs. Without addresses, those that need them say so."""
    yield "admin keys", admin_keys
    yield "webhook key", webhook_key
    yield "session key", session_key
    yield "payments", payments
    for name, ask in (
        ("encryption", _encryption),
        ("access lists", _access_lists),
        ("replication", _replication),
        ("workers", _workers),
        ("historians", _historians),
        ("kafka's clock", _kafka_clock),
    ):
        yield name, _kafka_check(ask)
    for name, look in (
        ("clickhouse rights", clickhouse_rights),
        ("clickhouse schema", clickhouse_schema),
        ("clickhouse's clock", clickhouse_clock),
    ):
        yield name, _clickhouse_check(look)


def admin_keys(settings: Settings) -> Seen:
    """Check that there are admin keys, and that each is known by what can be its hash."""
    hashes, remedy = settings.admin_key_hashes, "`meterline keys admin` makes a key, and prints the hash to put there."
    if not hashes:
        return False, "METERLINE_ADMIN_KEY_HASHES names none", remedy
    for number, each in enumerate(hashes, 1):
        if not _HASH.fullmatch(each):
            what = "is the key itself" if each.startswith("mtl_admin_") else "is no SHA-256 in 64 lower-case hex digits"
            return False, f"number {number} of METERLINE_ADMIN_KEY_HASHES {what}", remedy
        if each == sha256(b"").hexdigest():
            return False, f"number {number} of METERLINE_ADMIN_KEY_HASHES is the hash of nothing", remedy
    if len(set(hashes)) < len(hashes):
        return False, "METERLINE_ADMIN_KEY_HASHES has a hash twice", "Name each once."
    return True, f"{len(hashes)} known by their hashes", ""


def webhook_key(settings: Settings) -> Seen:
    """Check that there is a key that the secrets of webhooks follow from, and that it is no word or pattern."""
    remedy = (
        "Set METERLINE_WEBHOOK_KEY, the same at every API and courier, to what `openssl rand -hex 32` prints; another "
        "one changes the secret of every endpoint."
    )
    return _key("METERLINE_WEBHOOK_KEY", settings.webhook_key, "webhooks are signed", remedy)


def session_key(settings: Settings) -> Seen:
    """Check that there is a key that signs the sessions of the dashboard, and that it is no word or pattern."""
    remedy = (
        "Set METERLINE_SESSION_KEY, the same at every API, to what `openssl rand -hex 32` prints; without one, a "
        "session ends with its API, and other APIs do not know it. Another one ends all sessions."
    )
    return _key("METERLINE_SESSION_KEY", settings.session_key, "sessions are signed", remedy)


def _key(name: str, key: SecretStr | None, good: str, remedy: str) -> Seen:
    if key is None:
        return False, f"{name} is not set", remedy
    if len(set(key.get_secret_value())) < KEY_CHARACTERS_MIN:
        return False, f"{name} can be guessed: it has few different characters", remedy
    return True, good, ""


def payments(settings: Settings) -> Seen:
    """Check that money for auto-recharge is really taken."""
    remedy = (
        "Set METERLINE_PAYMENTS=stripe and METERLINE_STRIPE_SECRET_KEY, at the cashier, or leave auto-recharge off."
    )
    return settings.payments != "local", f"METERLINE_PAYMENTS is {settings.payments}", remedy


Ask = Callable[[Settings, AIOKafkaAdminClient], Awaitable[Seen]]


def _kafka_check(ask: Ask) -> Callable[[Settings], Seen]:
    async def asked(settings: Settings) -> Seen:
        admin = AIOKafkaAdminClient(**kafka_client_settings(settings))
        async with asyncio.timeout(SECONDS_MAX):
            await admin.start()
            try:
                return await ask(settings, admin)
            finally:
                await admin.close()

    def check(settings: Settings) -> Seen:
        if settings.kafka_url is None:
            return False, "not looked at: the embedded Kafka is for a laptop", "Set METERLINE_KAFKA_URL to a cluster."
        return asyncio.run(asked(settings))

    return check


async def _encryption(settings: Settings, _admin: AIOKafkaAdminClient) -> Seen:
    protocol = settings.kafka_security_protocol
    remedy = "Set METERLINE_KAFKA_SECURITY_PROTOCOL=SASL_SSL, with METERLINE_KAFKA_SASL_USERNAME and …_PASSWORD."
    return protocol in ("SSL", "SASL_SSL"), f"METERLINE_KAFKA_SECURITY_PROTOCOL is {protocol}", remedy


async def _access_lists(_settings: Settings, admin: AIOKafkaAdminClient) -> Seen:
    broker = (await admin.describe_cluster())["brokers"][0]["node_id"]
    asked = ConfigResource(ConfigResourceType.BROKER, str(broker), {"authorizer.class.name": None})
    (answer,) = await admin.describe_configs([asked])
    ((error, _message, _kind, _name, entries),) = answer.resources
    if for_code(error) is ClusterAuthorizationFailedError:
        return True, "Kafka authorizes: it does not let this user read its settings", ""
    if error:
        raise for_code(error)
    authorizer = next((entry[1] for entry in entries if entry[0] == "authorizer.class.name"), "")
    return (
        bool(authorizer),
        f"Kafka's authorizer.class.name is {authorizer or 'not set: whoever reaches it may forge a top-up'}",
        "Turn Kafka's authorizer on, and run what `meterline topics --acls` prints.",
    )


async def _replication(settings: Settings, admin: AIOKafkaAdminClient) -> Seen:
    names = list(topics_of(settings).configs())
    few: list[str] = []
    behind: list[str] = []
    for topic in await admin.describe_topics(names):
        if topic["error_code"]:
            return False, f"{topic['topic']}: {for_code(topic['error_code']).__name__}", "Run `meterline topics`."
        if any(len(each["replicas"]) < REPLICAS_MIN for each in topic["partitions"]):
            few.append(topic["topic"])
        if any(len(each["isr"]) < len(each["replicas"]) for each in topic["partitions"]):
            behind.append(topic["topic"])
    if few:
        remedy = (
            f"Set METERLINE_REPLICATION_FACTOR={REPLICAS_MIN} before `meterline topics` makes them; those that are "
            "there take kafka-reassign-partitions.sh."
        )
        return False, f"fewer than {REPLICAS_MIN} replicas: {_some(few)}", remedy
    if behind:
        return False, f"replicas are behind: {_some(behind)}", "See which broker is away or slow."
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, {"min.insync.replicas": None}) for name in names]
    (answer,) = await admin.describe_configs(asked)
    # A topic whose settings this user may not read has no entries.
    loose = [
        name
        for _error, _message, _kind, name, entries in answer.resources
        for entry in entries
        if entry[0] == "min.insync.replicas" and int(entry[1]) < IN_SYNC_MIN
    ]
    remedy = f"Set min.insync.replicas={IN_SYNC_MIN} at the brokers: what is acknowledged must outlive one of them."
    return not loose, f"min.insync.replicas is 1: {_some(loose)}" if loose else "three replicas, all in sync", remedy


async def _members(admin: AIOKafkaAdminClient, group: str) -> Sequence[Any]:
    (answer,) = await admin.describe_consumer_groups([group])
    return [member for each in answer.groups for member in each[5]]


async def _workers(settings: Settings, admin: AIOKafkaAdminClient) -> Seen:
    topics = topics_of(settings)
    members = await _members(admin, topics.worker_app)
    remedy = "Run `meterline worker` under a supervisor, two at least, each with a METERLINE_WORKER_NAME of its own."
    if len(members) < 2:
        return False, f"{len(members)} are there; where one is away, nobody takes its place", remedy
    owned = {
        number
        for member in members
        for topic, numbers in (ConsumerProtocolMemberAssignment.decode(member[4]).assignment if member[4] else ())
        if topic == topics.intake
        for number in numbers
    }
    without = sorted(set(range(settings.partitions)) - owned)
    if without:
        return (
            False,
            f"nobody has partition {', '.join(map(str, without))}",
            "Wait a moment, then see the workers' logs.",
        )
    names = sorted(member[1].partition("@")[0] for member in members)
    if len(set(names)) < len(names):
        return False, f"two have one name: {', '.join(names)}", "Give each worker its own METERLINE_WORKER_NAME."
    return True, f"{len(names)} are there: {_some(names)}", ""


async def _historians(settings: Settings, admin: AIOKafkaAdminClient) -> Seen:
    topics = topics_of(settings)
    there = len(await _members(admin, topics.historian_group_of("facts")))
    return there > 0, f"{there} write history", "Run `meterline historian` under a supervisor."


async def _kafka_clock(settings: Settings, _admin: AIOKafkaAdminClient) -> Seen:
    intake = topics_of(settings).intake
    consumer = AIOKafkaConsumer(**kafka_client_settings(settings))
    await consumer.start()
    try:
        places = [TopicPartition(intake, number) for number in range(settings.partitions)]
        found = await consumer.offsets_for_times(dict.fromkeys(places, now_ms() + CLOCKS_APART_MS_MAX))
    finally:
        await consumer.stop()
    ahead = [place.partition for place, first in found.items() if first is not None]
    return (
        not ahead,
        f"partition {_some(ahead)} of intake has records that are dated ahead of this machine's clock"
        if ahead
        else "no record is dated ahead of this machine's clock",
        "Have a time server set the clocks of this machine and of Kafka's (docs/operators.md, Clocks).",
    )


def _clickhouse_check(look: Callable[[ClickHouse], Seen]) -> Callable[[Settings], Seen]:
    def check(settings: Settings) -> Seen:
        if settings.clickhouse_url is None:
            return False, "not looked at: the embedded engine is for a laptop", "Set METERLINE_CLICKHOUSE_URL."
        clickhouse = ClickHouse(settings)
        try:
            return look(clickhouse)
        finally:
            clickhouse.close()

    return check


def clickhouse_rights(clickhouse: ClickHouse) -> Seen:
    """Check that this user may read, write and migrate the history."""
    ((database, user),) = clickhouse.query("SELECT currentDatabase(), currentUser()")
    lacks = []
    for right in _RIGHTS:
        ((is_granted,),) = clickhouse.query(f"CHECK GRANT {right} ON `{database}`.*")
        if not int(is_granted):
            lacks.append(right)
    remedy = f"As an administrator: GRANT {', '.join(lacks)} ON {database}.* TO {user}"
    return not lacks, f"{user} lacks {', '.join(lacks)}" if lacks else f"{user} may do all that is needed", remedy


def clickhouse_schema(clickhouse: ClickHouse) -> Seen:
    """Check that all migrations have been applied."""
    applied = {
        row[0]
        for (there,) in clickhouse.query("EXISTS TABLE schema_migrations")
        if int(there)
        for row in clickhouse.query("SELECT DISTINCT version FROM schema_migrations")
    }
    missing = (
        [each.file_name for each in read_migrations(MIGRATIONS_DIR) if each.version not in applied] if applied else []
    )
    what = f"not applied: {_some(missing)}" if missing else f"{len(applied)} migrations are applied"
    return bool(applied) and not missing, what, "Run `meterline migrate`."


def clickhouse_clock(clickhouse: ClickHouse) -> Seen:
    """Check that ClickHouse's clock shows what this machine's does."""
    before = now_ms()
    ((there,),) = clickhouse.query("SELECT toUnixTimestamp64Milli(now64(3))")
    apart_ms = max(before - int(there), int(there) - now_ms(), 0)
    return (
        apart_ms <= CLOCKS_APART_MS_MAX,
        f"{apart_ms / 1000:.1f} s apart from this machine's",
        "Have a time server set both clocks: the history would be removed too early, or too late.",
    )


def _some(names: Sequence[Any], shown: int = 5) -> str:
    return ", ".join(map(str, names[:shown])) + (f" and {len(names) - shown} more" if len(names) > shown else "")
