"""History is of the log that is there: a ClickHouse that is ahead of its Kafka, or has another's rows, is refused; a
record that can't be read stops history where it is, and says so."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from schemas.facts import Fact
from schemas.problems import Rejection
from streams.clickhouse import historian as historian_module
from streams.clickhouse.client import ClickHouse, Pack
from streams.clickhouse.historian import Historian, dead_letter_sink, journal_sink, stop_notes
from streams.clickhouse.migrations import migrate
from streams.core.acceptance import dead_letter
from streams.kafka.codecs import encode, encode_facts, encode_json
from streams.kafka.stored import TimelineError
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import kafka_client_settings, topics_of
from streams.reconcile.verify import verify
from streams.settings import Settings
from tests.clickhouse.test_historian import COUNT, JUNE_MS, fact, names, until, writing


@pytest.fixture(scope="module")
def one_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    clickhouse = ClickHouse(Settings(data_dir=tmp_path_factory.mktemp("history"), clickhouse_url=None))
    migrate(clickhouse)
    yield clickhouse
    clickhouse.close()


@pytest.fixture
def history(one_engine: ClickHouse, settings_for: Callable[..., Settings]) -> Iterator[tuple[Settings, ClickHouse]]:
    settings = settings_for(historian_flush_ms=50)
    asyncio.run(create_topics(settings))
    yield settings, one_engine
    for table in ("facts", "dead_letters"):
        one_engine.command(f"TRUNCATE TABLE {table}")


async def publish(settings: Settings, topic: str, *values: bytes | None, partition: int = 0) -> None:
    producer = AIOKafkaProducer(**kafka_client_settings(settings))
    await producer.start()
    for value in values:
        await producer.send(topic, value, partition=partition, key=b"key")
    await producer.stop()


@asynccontextmanager
async def admin_of(settings: Settings):
    admin = AIOKafkaAdminClient(**kafka_client_settings(settings))
    await admin.start()
    yield admin
    await admin.close()


def hold(clickhouse: ClickHouse, settings: Settings, journal_offset: int, *facts: Fact) -> None:
    sink = journal_sink(settings)
    clickhouse.insert_packs("facts", sink.shared, sink.columns, [Pack((0, journal_offset), encode(facts), len(facts))])


async def refused(historian: Historian) -> str:
    """The reason for which the historian ends."""
    async with asyncio.timeout(30):
        with pytest.raises(TimelineError) as refusal:
            await historian.run()
    return str(refusal.value)


@pytest.mark.parametrize("records", [0, 1, 5])
def test_history_ahead_of_its_log_is_refused(history: tuple[Settings, ClickHouse], records: int) -> None:
    settings, clickhouse = history
    journal = topics_of(settings).journal
    hold(clickhouse, settings, 5, fact(1, 0), fact(2, 0))

    async def scenario() -> None:
        await publish(settings, journal, *[encode_facts([fact(9, number)]) for number in range(records)])
        reason = await refused(Historian(settings, clickhouse, journal_sink(settings)))
        assert f"record at offset 5 of {journal}-0, which ends at {records}" in reason
        assert "Restore both from one time" in reason
        with pytest.raises(TimelineError, match=f"ends at {records}"):
            await verify(settings, clickhouse)

    asyncio.run(scenario())
    assert len(names(clickhouse)) == 2, "nothing of the other timeline was written beside"


OTHERS = {
    "another time": [fact(1, 0), fact(2, 0, JUNE_MS + 1)],
    "another project": [fact(1, 0), msgspec.structs.replace(fact(2, 0), project="p2")],
    "another kind": [msgspec.structs.replace(fact(2, 0), kind="refusal")],
    "no such fact": [fact(1, 0)],
    "later facts": [fact(3, 0), fact(4, 0)],
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_log_that_has_grown_past_the_mark_is_told_by_the_record_at_the_mark(
    history: tuple[Settings, ClickHouse], other: str
) -> None:
    settings, clickhouse = history
    hold(clickhouse, settings, 1, fact(1, 0), fact(2, 0))

    async def scenario() -> None:
        first, newer = encode_facts([fact(0, 0)]), encode_facts([fact(7, 0)])
        await publish(settings, topics_of(settings).journal, first, encode_facts(OTHERS[other]), newer)
        reason = await refused(Historian(settings, clickhouse, journal_sink(settings)))
        assert f"{topics_of(settings).journal}-0 at offset 1 is not the record" in reason

    asyncio.run(scenario())
    assert names(clickhouse) == ["e1-0", "e2-0"]


def test_dead_letters_of_another_timeline_are_refused_too(history: tuple[Settings, ClickHouse]) -> None:
    settings, clickhouse = history
    topic = topics_of(settings).dead_letters

    def letter(text: bytes) -> bytes:
        return encode_json(dead_letter(text, Rejection("malformed_json", "bad", "id"), "usage", 0, 1, 0, JUNE_MS))

    async def scenario() -> None:
        await publish(settings, topic, letter(b"one"))
        async with writing(Historian(settings, clickhouse, dead_letter_sink(settings))):
            await until(clickhouse, "SELECT toInt64(count()) FROM dead_letters", 1)
        # The same log is taken up again without a complaint.
        await publish(settings, topic, letter(b"two"))
        async with writing(Historian(settings, clickhouse, dead_letter_sink(settings))):
            await until(clickhouse, "SELECT toInt64(count()) FROM dead_letters", 2)
        other = settings.model_copy(update={"topic_prefix": f"{settings.topic_prefix}-other"})
        await create_topics(other)
        await publish(other, topics_of(other).dead_letters, letter(b"one"), letter(b"three"), letter(b"four"))
        assert "at offset 1 is not the record" in await refused(Historian(other, clickhouse, dead_letter_sink(other)))

    asyncio.run(scenario())


def test_a_history_that_got_ahead_is_found_at_the_next_assignment(history: tuple[Settings, ClickHouse]) -> None:
    settings, clickhouse = history
    journal = topics_of(settings).journal

    async def scenario() -> None:
        await publish(settings, journal, *[encode_facts([fact(number, 0)]) for number in range(3)])
        historian = Historian(settings, clickhouse, journal_sink(settings))
        running = asyncio.create_task(historian.run())
        await until(clickhouse, COUNT, 3)
        # The historian has its partitions; then ClickHouse is a newer one than its Kafka.
        hold(clickhouse, settings, 9, fact(9, 0))
        await historian.interrupt()
        async with asyncio.timeout(30):
            with pytest.raises(TimelineError, match="offset 9 of .* ends at 3"):
                await running

    asyncio.run(scenario())


GARBAGE = {
    "text": b"garbage",
    "nothing": b"",
    "a tombstone": None,
    "brackets": b"[" * 100_000,
    "nested arrays": b"\x91" * 100_000,
    "another shape": encode({"a": 1}),
    "cut off": encode_facts([fact(2, 0)])[:-3],
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_record_that_cannot_be_read_stops_history_and_says_so(
    history: tuple[Settings, ClickHouse],
    garbage: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings, clickhouse = history
    monkeypatch.setattr(historian_module, "STOPPED_PAUSE_SECONDS", 0.1)
    journal, place = topics_of(settings).journal, TopicPartition(topics_of(settings).journal, 0)
    group = f"{topics_of(settings).historian_group}-facts"

    async def scenario() -> None:
        await publish(settings, journal, encode_facts([fact(1, 0)]), GARBAGE[garbage], encode_facts([fact(3, 0)]))
        historian = Historian(settings, clickhouse, journal_sink(settings))
        async with writing(historian), admin_of(settings) as admin, asyncio.timeout(30):
            while not (notes := await stop_notes(admin, group)):
                await asyncio.sleep(0.05)
            assert list(notes) == [place]
            assert f"{journal}-0 at offset 1 can't be read" in notes[place]
            assert "kafka-delete-records.sh, offset 2" in notes[place]
            # Each of its tries, ten a second here, finds it ready for a moment.
            while historian.ready.is_set():
                await asyncio.sleep(0.01)
            assert historian.stopped == notes[place]
            assert names(clickhouse) == ["e1-0"], "what came before is there, and nothing was passed over"
            # What the note says to do.
            await admin.delete_records({place: RecordsToDelete(before_offset=2)})
            await until(clickhouse, COUNT, 2)
            while await stop_notes(admin, group):
                await asyncio.sleep(0.05)
            assert historian.stopped == ""

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert names(clickhouse) == ["e1-0", "e3-0"]
    told = [each for each in caplog.records if "history stops" in each.getMessage()]
    assert len(told) == 1 and told[0].levelno == logging.CRITICAL and not told[0].exc_info
