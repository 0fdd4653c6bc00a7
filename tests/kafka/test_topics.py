"""Topics are made once, with equal partition counts; a wrong count is refused with the remedy."""

import asyncio
from collections.abc import Callable

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.partitioner import DefaultPartitioner

from streams.kafka.topics import TopicError, create_topics, kafka_client_settings, partition_of, topics_of
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
