"""Local copies of accounts are dropped where Kafka was restored from an older backup beside them: one that is shorter
than they are, or has grown past them since."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from streams.kafka.codecs import VERSION_BYTES, decode_account, encode_account
from streams.kafka.publisher import Publisher
from streams.kafka.stored import TimelineError, check_stored
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import kafka_client_settings, topics_of
from streams.settings import Settings
from streams.state.accounts_view import read_accounts
from streams.state.rocks import VersionedFile
from tests.benchmarks.recovery.filling import filler
from tests.benchmarks.recovery.run import BenchWorker
from tests.benchmarks.workload import Workload
from tests.kafka.golden_formats import GOLDEN

Rows = list[tuple[bytes | None, bytes]]


async def records_of(settings: Settings, topic: str, partition: int) -> Rows:
    consumer = AIOKafkaConsumer(**kafka_client_settings(settings), auto_offset_reset="earliest")
    await consumer.start()
    tp = TopicPartition(topic, partition)
    consumer.assign([tp])
    end = (await consumer.end_offsets([tp]))[tp]
    rows: list[Any] = []
    while await consumer.position(tp) < end:
        rows += (await consumer.getmany(tp, timeout_ms=200)).get(tp, [])
    await consumer.stop()
    return [(row.key, row.value) for row in rows]


async def restore(settings: Settings, topic: str, rows: dict[int, Rows]) -> None:
    """Begin a topic anew with these records, on the same cluster."""
    admin = AIOKafkaAdminClient(**kafka_client_settings(settings))
    await admin.start()
    await admin.delete_topics([topic])
    await admin.close()
    async with asyncio.timeout(30):
        while True:
            try:
                await create_topics(settings)
                break
            except Exception:
                await asyncio.sleep(0.1)
    publisher = Publisher(settings)
    await publisher.start()
    for partition, records in rows.items():
        await publisher.send_all(topic, partition, records)
    await publisher.stop()


def of_another_time(rows: Rows, is_shorter: bool) -> Rows:
    """Rows of another timeline: the same accounts with other contents, in fewer records or in more."""

    def renamed(value: bytes) -> bytes:
        return encode_account(msgspec.structs.replace(decode_account(value), name="restored"))

    other = [(key, renamed(value)) for key, value in rows]
    return other[: len(other) // 2] if is_shorter else other * 2


def names_in(settings: Settings, files: Callable[[int], Path]) -> dict[str, str]:
    names = {}
    for partition in range(settings.partitions):
        file = VersionedFile(files(partition))
        names |= {key.decode(): decode_account(value).name for key, value in file.items()}
        file.close()
    return names


def test_the_worker_and_the_api_drop_copies_of_another_timeline(
    settings_for: Callable[..., Settings], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for()
    topic, partitions = topics_of(settings).accounts_changelog, range(settings.partitions)
    copy = tmp_path / "copy"

    async def view_names() -> dict[str, str]:
        async with read_accounts(settings, copy) as view:
            return {key.decode(): decode_account(value).name for each in partitions for key, value in view.values(each)}

    async def run() -> None:
        await create_topics(settings)
        workload = Workload(200, 40)
        worker = BenchWorker(settings)
        try:
            async with filler(settings, workload.project_ids()) as fill:
                await fill.open_projects()
                await worker.start(fill)
                worker.stop()
                assert "restored" not in (await view_names()).values()
                old = {each: await records_of(settings, topic, each) for each in partitions}
                rows = {each: of_another_time(old[each], is_shorter=each == 0) for each in partitions}
                await restore(settings, topic, rows)
                expected = {key.decode(): "restored" for records in rows.values() for key, _ in records if key}
                assert await view_names() == expected
                assert caplog.text.count("is not of this Kafka") == settings.partitions
                await worker.start(fill)
                worker.stop()
                tables = settings.worker_dir / "tables" / "accounts"
                assert names_in(settings, lambda partition: tables / f"{partition}") == expected
                # What is of this Kafka is not read anew.
                caplog.clear()
                await view_names()
                assert "is not of this Kafka" not in caplog.text
        finally:
            worker.kill()

    asyncio.run(run())


@pytest.mark.parametrize("shape", ["accounts", "facts"])
def test_an_intake_that_is_older_than_what_followed_from_it_is_refused(
    shape: str, settings_for: Callable[..., Settings]
) -> None:
    settings = settings_for()
    topics = topics_of(settings)
    value = next(each for each in GOLDEN if each.name == shape).written()[0]
    if shape == "accounts":
        value = (3).to_bytes(VERSION_BYTES, "big") + value[VERSION_BYTES:]
    intake = next(each for each in GOLDEN if each.name == "intake").written()[0]

    async def run() -> None:
        await create_topics(settings)
        publisher = Publisher(settings)
        await publisher.start()
        topic = topics.accounts_changelog if shape == "accounts" else topics.journal
        await publisher.send_all(topic, 1, [(b"key", value)])
        await publisher.send_all(topics.intake, 1, [(None, intake)] * 2)
        with pytest.raises(TimelineError, match=rf"{topic}-1 at offset 0 .* {topics.intake}-1 ends at 2"):
            await check_stored(settings, "accounts", "journal", "intake")
        if shape == "accounts":
            await publisher.send_all(topics.intake, 1, [(None, intake)])
            await check_stored(settings, "accounts", "journal", "intake")
        await publisher.stop()

    asyncio.run(run())
