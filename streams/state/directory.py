"""The directory of local state, which copies what Kafka holds: state that was built from another Kafka is dropped."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from streams.kafka.formats import ACCOUNTS
from streams.kafka.topics import kafka_client_settings
from streams.settings import Settings
from streams.state.damage import set_aside

log = logging.getLogger(__name__)


async def claim(directory: Path, settings: Settings) -> None:
    """Make `directory` this cluster's. State of another cluster or format in it is removed: it means nothing here."""
    admin = AIOKafkaAdminClient(**kafka_client_settings(settings))
    await admin.start()
    try:
        cluster = str((await admin.describe_cluster())["cluster_id"])
    finally:
        await admin.close()
    # The files copy accounts as they are stored: of another format they are of no use either.
    identity = f"{cluster} {settings.topic_prefix} {ACCOUNTS.number}"
    marker = directory / "kafka-cluster"
    if not directory.is_dir() and directory.exists():
        set_aside(directory, "it is no directory")
    if directory.exists() and _read(marker) != identity.encode():
        log.warning("%s was built from another Kafka, or by another version; it is rebuilt", directory)
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    marker.write_text(identity)


def _read(marker: Path) -> bytes:
    """The bytes of a marker; none where it is no file."""
    try:
        return marker.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return b""
