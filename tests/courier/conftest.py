"""Fixtures of the courier's tests: a worker on a broker, and short pauses between attempts."""

import asyncio
import secrets
from collections.abc import Iterator

import pytest

from streams.courier import schedule
from streams.embedded.broker import EmbeddedBroker
from streams.kafka.topic_creation import create_topics
from streams.settings import Settings
from tests.cashier.test_purchases import Worker
from tests.conftest import SESSION_TIMEOUT_SECONDS
from tests.courier.post import KEY, PAUSES_MS


@pytest.fixture(scope="module")
def worker(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    settings = Settings(
        kafka_url=broker.url,
        topic_prefix=f"t{secrets.token_hex(4)}",
        data_dir=tmp_path_factory.mktemp("post"),
        partitions=2,
        session_timeout_seconds=SESSION_TIMEOUT_SECONDS,
        reply_timeout_seconds=5,
        webhook_key=KEY,
        webhook_networks=["127.0.0.0/8"],
    )
    asyncio.run(create_topics(settings))
    running = Worker(settings)
    yield running
    running.stop()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "RETRY_AFTER_MS", PAUSES_MS)
