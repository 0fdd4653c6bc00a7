"""The producer library against the real broker: packing, acknowledgement per event, bounded memory, flush on close."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.events import PackedUsage, UsageEvent
from streams.client.kafka_producer import KafkaProducer
from streams.client.producer import ProducerError, identity_of, usage_event
from streams.core.packed_usage import packed_event
from streams.kafka.codecs import decode_usage
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import kafka_client_settings, partition_of, topics_of
from streams.settings import Settings


async def usage_records(settings: Settings) -> list:
    """The records of the usage topic, in order of partition and offset."""
    consumer = AIOKafkaConsumer(**kafka_client_settings(settings), auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = [TopicPartition(topics_of(settings).usage, n) for n in range(settings.partitions)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        records = []
        for tp in partitions:
            while await consumer.position(tp) < ends[tp]:
                for found in (await consumer.getmany(tp, timeout_ms=1000)).values():
                    records += found
        return sorted(records, key=lambda record: (record.partition, record.offset))
    finally:
        await consumer.stop()


def numbered(number: int) -> UsageEvent:
    return usage_event(f"p{number % 5}", "image", id=str(number), source="/t", metadata={"customer_id": f"c{number}"})


def test_every_event_is_acknowledged_with_its_place(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()

    async def scenario() -> None:
        await create_topics(settings)
        async with KafkaProducer(settings, events_per_pack=10) as producer:
            sent = [await producer.send(numbered(number)) for number in range(105)]
            places = await asyncio.gather(*sent)
        assert (producer.acknowledged, dict(producer.errors)) == (105, {})
        records = {(r.partition, r.offset): decode_usage(r.value) for r in await usage_records(settings)}
        assert sum(map(len, records.values())) == 105
        assert max(map(len, records.values())) == 10
        for number, place in enumerate(places):
            stored = records[place.partition, place.offset][place.index]
            assert (stored.event_id, stored.project) == (str(number), f"p{number % 5}")
            assert place.partition == partition_of(f"p{number % 5}", settings.partitions)

    asyncio.run(scenario())


def test_closing_flushes_what_was_never_awaited(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()

    async def scenario() -> None:
        await create_topics(settings)
        async with KafkaProducer(settings, linger_ms=60_000) as producer:
            for number in range(7):
                await producer.send(numbered(number))
        assert sum(len(decode_usage(r.value)) for r in await usage_records(settings)) == 7

    asyncio.run(scenario())


def test_what_is_good_is_sent_packed_and_what_is_not_as_it_came(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()
    bad = [b'{"id": ', msgspec.json.encode(numbered(1)).replace(b'"image"', b'"image","quantty":2')]

    async def scenario() -> None:
        await create_topics(settings)
        async with KafkaProducer(settings) as producer:
            sent = [await producer.send(event) for event in (numbered(0), bad[0], numbered(5), bad[1])]
            places = [await each for each in sent]
            times = await producer.send(usage_event("p0", "image", id="t", source="/t", time="2026-05-28T20:26:40.5Z"))
            timed = await times
        records = {(r.partition, r.offset): r.value for r in await usage_records(settings)}
        assert places[0].partition == places[2].partition == partition_of("p0", settings.partitions)
        stored = decode_usage(records[places[0].partition, places[0].offset])
        assert stored[places[2].index] == PackedUsage(
            "p0", "/t", "5", "image", 1, "", "production", None, "", {"customer_id": "c5"}
        )
        assert records[places[1].partition, places[1].offset] == b"[" + b",".join(bad) + b"]"
        assert [places[1].index, places[3].index] == [0, 1]
        (found,) = decode_usage(records[timed.partition, timed.offset])
        assert found.occurred_at_ms == 1_780_000_000_500

    asyncio.run(scenario())


def test_a_lone_event_is_sent_after_the_linger(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()

    async def scenario() -> None:
        await create_topics(settings)
        async with KafkaProducer(settings, linger_ms=5) as producer:
            async with asyncio.timeout(60):
                await (await producer.send(numbered(1)))

    asyncio.run(scenario())


def test_send_waits_while_too_much_is_unacknowledged(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()

    async def scenario() -> None:
        await create_topics(settings)
        async with KafkaProducer(settings, events_per_pack=50, events_pending_max=200) as producer:
            most = 0
            for number in range(5_000):
                await producer.send(numbered(number))
                most = max(most, producer.pending)
            await producer.flush()
            assert most <= 200
            assert producer.pending == 0
            assert producer.acknowledged == 5_000

    asyncio.run(scenario())


def test_events_that_could_not_be_delivered_say_so(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()

    async def scenario() -> None:
        await create_topics(settings)
        async with KafkaProducer(settings) as producer:
            # No broker takes a record beyond the limit of a request, whatever limit a pack has.
            sent = await producer.send(b'{"data": "' + b"x" * 9_000_000 + b'"}')
            with pytest.raises(ProducerError):
                await sent
            # An event that came well-formed is named, though it goes packed.
            assert identity_of(packed_event(msgspec.json.encode(numbered(1)))[1], is_packed=True) == ("/t", "1")
            await (await producer.send(numbered(1)))
        assert dict(producer.errors) == {"not_acknowledged": 1}

    asyncio.run(scenario())
