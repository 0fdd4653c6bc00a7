"""The access lists of `meterline topics --acls`, on a real Kafka that authorizes: each process has all that it needs,
and nobody may write what is not his."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.protocol.admin import CreateAclsRequest

from api.callers.keys import hash_key, new_admin_key
from streams.clickhouse.client import ClickHouse
from streams.client.kafka_producer import KafkaProducer
from streams.embedded import broker as broker_module
from streams.embedded import lifeline
from streams.kafka.acls import Role, access_rules, table, topic_uses
from streams.kafka.topics import Topics, kafka_client_settings, topics_of
from streams.settings import PROJECT_ROOT, Settings
from tests.calls import event, eventually
from tests.command_line import Meterline
from tests.conftest import SESSION_TIMEOUT_SECONDS

ROLES: tuple[Role, ...] = ("worker", "api", "historian", "cashier", "courier", "operator", "producer", "gateway")
# Kafka's own numbers.
RESOURCES = {"topic": 2, "group": 3, "cluster": 4, "transactional-id": 5}
OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8}
LITERAL, PREFIXED, ALLOW = 3, 4, 3


@pytest.fixture(scope="module")
def authorizing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Kafka that lets a user do what a rule allows, and nothing else; each user's password is the name twice."""
    port = lifeline.free_port()
    users = " ".join(f'user_meterline-{role}="{role}{role}"' for role in ROLES)
    properties = (
        broker_module.SERVER_PROPERTIES.replace(
            "listeners=CLIENT:", f"listeners=USERS://127.0.0.1:{port},CLIENT:"
        ).replace("protocol.map=", "protocol.map=USERS:SASL_PLAINTEXT,")
        + f"""\
sasl.enabled.mechanisms=PLAIN
listener.name.users.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {users};
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broker_module, "SERVER_PROPERTIES", properties)
        data = tmp_path_factory.mktemp("authorizing")
        with broker_module.EmbeddedBroker(data, Settings().cache_dir) as running:
            asyncio.run(allow(running.url))
            yield f"127.0.0.1:{port}"


async def allow(unguarded_url: str) -> None:
    """Make the rules that the command prints, with the operator's own tool replaced by its request."""
    admin = AIOKafkaAdminClient(bootstrap_servers=unguarded_url)
    await admin.start()
    principals: dict[Role, str] = {role: f"User:meterline-{role}" for role in ROLES}
    for rule in access_rules(Topics("meterline"), principals):
        for operation in rule.operations:
            pattern = PREFIXED if rule.is_prefix else LITERAL
            request = CreateAclsRequest(
                RESOURCES[rule.resource], rule.name, pattern, rule.principal, "*", OPERATIONS[operation], ALLOW
            )
            (answer,) = (await admin._send_request(request)).creation_responses
            assert answer[0] == 0, (rule, answer)
    await admin.close()


def settings_of(role: Role, url: str, data_dir: Path, **changes: object) -> Settings:
    values: dict[str, object] = {
        "kafka_url": url,
        "kafka_security_protocol": "SASL_PLAINTEXT",
        "kafka_sasl_username": f"meterline-{role}",
        "kafka_sasl_password": role * 2,
        "data_dir": data_dir,
        "partitions": 2,
        "session_timeout_seconds": SESSION_TIMEOUT_SECONDS,
        "tick_seconds": 0.5,
    }
    return Settings.model_validate(values | changes)


def test_every_process_has_all_that_it_needs(
    authorizing: str, over_http: ClickHouse, tmp_path: Path, meterline: Meterline
) -> None:
    key, _ = new_admin_key()
    port = lifeline.free_port()
    shared = {
        "clickhouse_url": over_http._settings.clickhouse_url,
        "api_port": port,
        "admin_key_hashes": [hash_key(key).hex()],
        "webhook_key": "k" * 40,
    }

    def environment(role: Role) -> dict[str, str]:
        return settings_of(role, authorizing, tmp_path, **shared).as_environment()

    done = meterline("topics", **environment("operator"))
    assert done.returncode == 0, done.stderr
    done = meterline("topics", **environment("producer"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    with ExitStack() as running:
        logs = {}
        for role in ("worker", "historian", "cashier", "courier", "api"):
            logs[role] = tmp_path / f"{role}.log"
            command = [sys.executable, "-m", "api.cli", role]
            child = lifeline.start(role, command, log_path=logs[role], env=environment(role))
            running.callback(child.stop)
        client = running.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {key}"}, timeout=30.0)
        )

        def is_there() -> bool:
            try:
                return client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        eventually(is_there, 60)
        headers = {"idempotency-key": "one"}
        body = {"project": "acme", "name": "Acme", "plan": "free"}
        eventually(lambda: client.post("/v1/admin/projects", json=body, headers=headers).status_code in (200, 201))

        async def use() -> None:
            async with KafkaProducer(settings_of("producer", authorizing, tmp_path)) as producer:
                await producer.send(event("acme", "one", "image"))

        asyncio.run(use())
        tables = "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'facts'"
        eventually(lambda: over_http.query(tables)[0][0] == 1)
        sql = "SELECT toInt64(count()) FROM facts WHERE kind = 'charge' AND project = 'acme'"
        eventually(lambda: over_http.query(sql)[0][0] == 1)
        done = meterline("verify", "--rebuild", **environment("operator"))
        assert done.returncode == 0, done.stdout + done.stderr
        checks = json.loads(meterline("doctor", "--production", "--json", **environment("operator")).stdout)["checks"]
        seen = {each["name"]: f"{each['ok']} {each['detail']}" for each in checks}
        assert seen["access lists"].startswith("True"), seen
        assert seen["replication"].startswith("False fewer than 3 replicas: meterline."), seen
        assert seen["workers"].startswith("False 1 are there"), seen
        assert (seen["historians"], seen["kafka's clock"][:4]) == ("True 1 write history", "True"), seen
        told = eventually(
            lambda: (found := client.get("/v1/admin/status").json())["cashiers"] and found["couriers"] and found
        )
        assert [each["name"] for each in told["workers"]] == ["worker-1"], told
        assert told["historians"] == told["cashiers"] == told["couriers"] == 1
        for role, log in logs.items():
            assert "uthorizationFailed" not in log.read_text(), f"{role}: {log.read_text()[-2000:]}"


@pytest.mark.parametrize("role", ROLES)
def test_nobody_may_read_or_write_what_is_not_his(role: Role, authorizing: str, tmp_path: Path) -> None:
    settings = settings_of(role, authorizing, tmp_path)

    async def may_write(topic: str) -> bool:
        producer = AIOKafkaProducer(**kafka_client_settings(settings), retry_backoff_ms=20)
        await producer.start()
        try:
            async with asyncio.timeout(60):
                await producer.send_and_wait(topic, b"forged", partition=0, key=b"key")
            return True
        except TopicAuthorizationFailedError:
            return False
        finally:
            await producer.stop()

    async def may_read(topic: str) -> bool:
        consumer = AIOKafkaConsumer(**kafka_client_settings(settings), auto_offset_reset="earliest")
        await consumer.start()
        try:
            tp = TopicPartition(topic, 0)
            consumer.assign([tp])
            await consumer._client.force_metadata_update()
            if topic in consumer._client.cluster.unauthorized_topics:
                return False  # he may not even know of it, and aiokafka would ask for ever
            async with asyncio.timeout(60):
                await consumer.seek_to_beginning(tp)
                await consumer.getmany(tp, timeout_ms=500)
            return True
        except TopicAuthorizationFailedError:
            return False
        finally:
            await consumer.stop()

    async def run() -> None:
        for use in topic_uses(topics_of(settings)):
            assert await may_write(use.topic) == (role in use.writers), f"{role} writes {use.topic}"
            assert await may_read(use.topic) == (role in use.readers), f"{role} reads {use.topic}"

    asyncio.run(run())


def test_the_command_prints_what_it_says_and_names_the_principals_given(meterline: Meterline) -> None:
    os.environ.pop("METERLINE_KAFKA_URL", None)
    done = meterline("topics", "--acls", "--worker", "User:CN=the worker", "--producer", "")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert all(line.startswith("kafka-acls.sh --bootstrap-server ") for line in lines)
    assert "--allow-principal 'User:CN=the worker' --operation Read" in lines[0]
    assert "producer" not in done.stdout and "gateway" not in done.stdout
    writers = [line for line in lines if "Write" in line and line.endswith("--topic meterline.intake")]
    assert len(writers) == 4, "worker, API, cashier and courier"
    rules = json.loads(meterline("topics", "--acls", "--json", "--transactions").stdout)
    assert rules[-1]["resource"] == "transactional-id" and rules[-1]["is_prefix"] is True


def test_the_operators_page_has_the_same_table() -> None:
    page = (PROJECT_ROOT / "docs" / "operators.md").read_text()
    for row in table(Topics("meterline")):
        assert row in page, f"docs/operators.md lacks this row:\n{row}"
