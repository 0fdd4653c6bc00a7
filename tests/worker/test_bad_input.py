"""Bad input on the usage topic of the whole stack: each kind has its own code, and its neighbours are charged."""

import asyncio
import json
import secrets

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from api.stack import Stack
from streams.client.kafka_producer import KafkaProducer
from streams.client.producer import Bucket
from streams.core.packed_usage import packed_event
from streams.kafka.codecs import encode_usage
from streams.kafka.formats import MARK
from streams.kafka.publisher import Publisher
from streams.kafka.topics import kafka_client_settings, partition_of, topics_of
from tests.calls import Operator, event, eventually
from tests.core.test_foreign import FAULTY, POISON


class JsonProducer(KafkaProducer):
    """A JsonProducer packs as a producer that is none of ours does: arrays of JSON, whatever is in them."""

    def _formed(self, text: bytes, is_own: bool) -> tuple[Bucket, bytes]:
        return (0, False), text


def bad_events(project: str, ghost: str) -> dict[str, bytes]:
    """Bad events by the code that each gets, all with ids of their own."""
    documents = {
        "unknown_operation": event(project, "b1", "hologram"),
        "invalid_quantity": event(project, "b2", quantity=10**9),
        "missing_id": {k: v for k, v in event(project, "b3").items() if k != "id"},
        "missing_field": {k: v for k, v in event(project, "b4").items() if k != "source"},
        "time_out_of_range": event(project, "b5") | {"time": "2999-01-01T00:00:00Z"},
        "metadata_too_large": event(project, "b6", metadata={"blob": "x" * 1_000_000}),
        "invalid_event": event(project, "b7", quantty=1),
        "unknown_project": event(ghost, "b8"),
    }
    return {code: orjson.dumps(document) for code, document in documents.items()}


@pytest.mark.parametrize("producer_kind", [KafkaProducer, JsonProducer])
def test_each_bad_event_is_dead_lettered_with_its_reason_and_its_neighbours_are_charged(
    producer_kind: type[KafkaProducer], stack: Stack, operator: Operator
) -> None:
    mark = secrets.token_hex(4)
    project, client = operator.customer("hobby")
    bad = bad_events(project, f"ghost_{mark}")
    before = dict(operator.rows(stack.clickhouse_url, "SELECT code, toString(count()) FROM dead_letters GROUP BY code"))

    async def send() -> None:
        async with producer_kind(stack.settings) as producer:
            good = 0
            # Bad events come beside others in one record, then alone; text that is not JSON spoils its whole record.
            for code, text in bad.items():
                for document in (event(project, f"before-{code}"), text, event(project, f"after-{code}")):
                    await producer.send(document)
                    good += isinstance(document, dict)
            for text in [*bad.values(), b'{"id": ', b"", b"\xff\xfe", b"[[[]]]", b"null"]:
                await producer.flush()
                await producer.send(text)
                await producer.flush()
            await producer.send(event(project, "last", "image"))
        assert dict(producer.errors) == {}
        assert good == 2 * len(bad)

    asyncio.run(send())
    expected = str(5_000 - 2 * len(bad) - 32)
    eventually(lambda: client.get("/v1/balance").json()["available"] == expected)

    def counted() -> dict[str, int]:
        rows = operator.rows(stack.clickhouse_url, "SELECT code, toString(count()) FROM dead_letters GROUP BY code")
        return {code: new for code, count in rows if (new := int(count) - int(before.get(code, 0)))}

    wanted = dict.fromkeys(bad, 2) | {"malformed_json": 2, "invalid_event": 2 + 2}
    eventually(lambda: sum(counted().values()) >= sum(wanted.values()))
    # An empty array is an empty batch: it has no event, so there is nothing to refuse.
    assert counted() == wanted
    ids = f"SELECT event_id FROM facts WHERE project = '{project}' AND kind = 'charge'"
    charged = {f"{side}-{code}" for code in bad for side in ("before", "after")} | {"last"}
    eventually(lambda: {row[0] for row in operator.rows(stack.clickhouse_url, ids)} == charged)


def test_poison_stops_no_worker_and_costs_no_neighbour(stack: Stack, operator: Operator) -> None:
    project, client = operator.customer("hobby")
    topics = topics_of(stack.settings)
    restarts = stack.restarts
    good = [orjson.dumps(event(project, f"good-{number}")) for number in range(2 * len(FAULTY))]

    async def send() -> None:
        publisher = Publisher(stack.settings)
        await publisher.start()
        values = [*POISON.values(), b"[" + b"{}," * 330_000 + b"{}]"]
        values += [
            b"[" + b",".join([good[2 * place], faulty, good[2 * place + 1]]) + b"]"
            for place, faulty in enumerate(FAULTY.values())
        ]
        for number, value in enumerate(values):
            await publisher.send_all(topics.usage, number % stack.settings.partitions, [(None, value)])
        await publisher.stop()

    asyncio.run(send())
    for body in (*POISON.values(), *FAULTY.values()):
        answer = client.post("/v1/events", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 413, 422), (answer.status_code, body[:100])
    batch = b"[" + b",".join([good[0], *FAULTY.values(), orjson.dumps(event(project, "by-http"))]) + b"]"
    answer = client.post("/v1/events", content=batch, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["accepted"]) == (202, 2)
    assert [error["index"] for error in answer.json()["errors"]] == list(range(1, 1 + len(FAULTY)))
    expected = str(5_000 - len(good) - 1)
    eventually(lambda: client.get("/v1/balance").json()["available"] == expected)
    assert stack.restarts == restarts


def test_packed_rubbish_and_what_a_newer_version_packed_stop_no_worker_and_cost_no_neighbour(
    stack: Stack, operator: Operator
) -> None:
    project, client = operator.customer("hobby")
    mark = secrets.token_hex(6)
    topic, restarts = topics_of(stack.settings).usage, stack.restarts
    good = [packed_event(orjson.dumps(event(project, f"good-{number}")))[1] for number in range(2 * len(POISON))]
    unknown = packed_event(orjson.dumps(event(project, mark, "hologram")))[1]
    values = [
        encode_usage([good[2 * place], poison, unknown, good[2 * place + 1]])
        for place, poison in enumerate(POISON.values())
    ]
    values += [MARK, MARK + b"\x02" + values[0][4:], MARK + b"\xff", values[0][:4], values[0][:-1], encode_usage([])]
    before = dict(operator.rows(stack.clickhouse_url, "SELECT code, toString(count()) FROM dead_letters GROUP BY code"))

    async def send() -> None:
        publisher = Publisher(stack.settings)
        await publisher.start()
        for number, value in enumerate(values):
            await publisher.send_all(topic, number % stack.settings.partitions, [(None, value)])
        await publisher.stop()

    asyncio.run(send())
    eventually(lambda: client.get("/v1/balance").json()["available"] == str(5_000 - len(good)))

    def counted(code: str) -> int:
        sql = f"SELECT toString(count()) FROM dead_letters WHERE code = '{code}'"
        return int(operator.rows(stack.clickhouse_url, sql)[0][0]) - int(before.get(code, 0))

    # Of the last records one has no number, two have another version's, one ends before its events and one within them;
    # of that one the others are judged, a second time.
    eventually(lambda: counted("unknown_operation") == len(POISON) + 1)
    eventually(lambda: counted("unreadable_record") == len(POISON) + 4 + 2)
    sql = f"SELECT event, detail FROM dead_letters WHERE event LIKE '%{mark}%' LIMIT 1 FORMAT JSONCompactEachRow"
    text, detail = json.loads(operator.rows(stack.clickhouse_url, sql)[0][0])
    assert json.loads(text)["id"] == mark and "hologram" in detail
    sql = "SELECT toString(count()) FROM dead_letters WHERE detail LIKE '%a newer version; upgrade this process'"
    eventually(lambda: operator.rows(stack.clickhouse_url, sql) == [["2"]])
    assert stack.restarts == restarts


def test_what_is_not_a_record_of_ours_on_intake_stops_nothing(stack: Stack, operator: Operator) -> None:
    project, client = operator.customer()
    topics = topics_of(stack.settings)
    partition = partition_of(project, stack.settings.partitions)
    admitted = client.post("/v1/admissions", json={"operation": "image"})

    async def send() -> None:
        publisher = Publisher(stack.settings)
        await publisher.start()
        for value in (b"garbage", b"\x93\xa5usage\x01\x02", b""):
            await publisher.send_all(topics.intake, partition, [(None, value)])
        producer = AIOKafkaProducer(**kafka_client_settings(stack.settings))
        await producer.start()
        await producer.send_and_wait(topics.intake, None, key=b"tombstone", partition=partition)
        await producer.stop()
        await publisher.stop()

    restarts = stack.restarts
    asyncio.run(send())
    assert client.post("/v1/admissions", json={"operation": "image"}).json()["available"] == "186"
    assert admitted.status_code == 200
    assert stack.restarts == restarts
    sql = f"SELECT toString(count()) FROM dead_letters WHERE code = 'unreadable_record' AND topic = '{topics.intake}'"
    eventually(lambda: operator.rows(stack.clickhouse_url, sql) == [["4"]])


def test_a_dead_letter_says_where_the_event_stood(stack: Stack, operator: Operator) -> None:
    project = operator.project()
    mark = secrets.token_hex(6)

    async def send() -> int:
        async with KafkaProducer(stack.settings) as producer:
            await producer.send(event(project, "good"))
            sent = await producer.send(event(project, mark, "hologram"))
            producer.flush_soon()
            place = await sent
            return place.index

    index = asyncio.run(send())
    sql = (
        "SELECT code, field, topic, toString(position), event FROM dead_letters "
        f"WHERE event LIKE '%{mark}%' FORMAT JSONCompactEachRow"
    )
    rows = eventually(lambda: operator.rows(stack.clickhouse_url, sql))
    code, field, topic, position, text = json.loads(rows[0][0])
    assert (code, field, int(position)) == ("unknown_operation", "data.operation", index)
    assert topic == topics_of(stack.settings).usage
    assert json.loads(text)["id"] == mark
