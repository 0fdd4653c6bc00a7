"""The directory of local state, which copies what Kafka holds: state that was built from another Kafka is dropped."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from streams.kafka.topics import kafka_client_settings
from streams.settings import Settings

log = logging.getLogger(__name__)


async def claim(directory: Path, settings: Settings) -> None:
    """Make `directory` this cluster's. State of another cluster in it is removed: its offsets mean nothing here."""
    admin = AIOKafkaAdminClient(**kafka_client_settings(settings))
    await admin.start()
    try:
        cluster = str((await admin.describe_cluster())["cluster_id"])
    finally:
        await admin.close()
    identity = f"{cluster} {settings.topic_prefix}"
    marker = directory / "kafka-cluster"
    if directory.exists() and (not marker.exists() or marker.read_text() != identity):
        log.warning("%s was built from another Kafka; it is rebuilt from this one", directory)
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    marker.write_text(identity)
