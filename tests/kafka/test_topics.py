"""Topics are made once, with equal partition counts; a wrong count is refused with the remedy."""

import asyncio
from collections.abc import Callable

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.partitioner import DefaultPartitioner

from schemas.times import HOUR_MS, MINUTE_MS
from streams.errors import OperatorError
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import TopicError, kafka_client_settings, partition_of, topics_of
from streams.settings import Settings


def test_all_topics_are_made_once(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(partitions=3)
    topics = topics_of(settings)
    assert set(asyncio.run(create_topics(settings))) == set(topics.configs())
    assert asyncio.run(create_topics(settings)) == []
    assert topics.accounts_changelog == f"{topics.worker_app}-accounts-changelog"


def test_a_wrong_partition_count_is_refused_with_the_remedy(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(partitions=2)

    async def scenario() -> None:
        admin = AIOKafkaAdminClient(**kafka_client_settings(settings))
        await admin.start()
        await admin.create_topics([NewTopic(topics_of(settings).journal, 5, 1)])
        await admin.close()
        with pytest.raises(TopicError, match=r"journal has 5 partitions.*METERLINE_PARTITIONS=5"):
            await create_topics(settings)

    asyncio.run(scenario())


def test_without_kafka_the_error_names_the_setting() -> None:
    with pytest.raises(TopicError, match="METERLINE_KAFKA_URL"):
        kafka_client_settings(Settings())


def test_changelogs_of_kept_replies_outlast_them_and_are_dropped_by_the_brokers_clock() -> None:
    settings = Settings(replies_kept_hours=48, recent_replies_kept_minutes=5)
    topics = topics_of(settings)
    configs = topics.configs(settings.dedup_days, settings.kept_for)
    for topic, kept_ms in ((topics.replies_changelog, 48 * HOUR_MS), (topics.recent_replies_changelog, 5 * MINUTE_MS)):
        assert kept_ms < int(configs[topic]["retention.ms"]) < 2 * kept_ms
        assert 4 * int(configs[topic]["segment.ms"]) == kept_ms
        assert configs[topic]["message.timestamp.type"] == "LogAppendTime"


def test_replies_are_not_kept_for_longer_than_their_keys_are_known() -> None:
    assert Settings(dedup_days=2, replies_kept_hours=48).kept_for.key_ms == 48 * HOUR_MS
    with pytest.raises(OperatorError, match="METERLINE_DEDUP_DAYS"):
        Settings(dedup_days=2, replies_kept_hours=49)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_a_projects_partition_is_kafkas_own(count: int) -> None:
    partitioner = DefaultPartitioner()
    everything = list(range(count))
    for number in range(200):
        key = f"prj_{number}"
        assert partition_of(key, count) == partitioner(key.encode(), everything, everything)


def test_credentials_are_passed_on() -> None:
    settings = Settings(
        kafka_url="a:1,b:2",
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username="meter",
        kafka_sasl_password="swordfish",
    )
    assert kafka_client_settings(settings) == {
        "bootstrap_servers": ["a:1", "b:2"],
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "meter",
        "sasl_plain_password": "swordfish",
    }
    assert "swordfish" not in repr(settings)
