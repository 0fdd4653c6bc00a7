"""The note that `meterline up` leaves while it is up: where the Meterline of this machine can be reached."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
from pydantic import BaseModel, ValidationError

from streams.errors import OperatorError
from streams.settings import Settings


class Running(BaseModel):
    """The addresses of a running stack, the settings of its topics, and the process that supervises it."""

    pid: int
    kafka_url: str
    api_url: str
    clickhouse_url: str
    partitions: int
    topic_prefix: str
    dedup_days: int


def note_running(settings: Settings, api_url: str, clickhouse_url: str) -> Path:
    """Write the note of a running stack; the caller removes it."""
    assert settings.kafka_url is not None
    running = Running(
        pid=os.getpid(),
        kafka_url=settings.kafka_url,
        api_url=api_url,
        clickhouse_url=clickhouse_url,
        partitions=settings.partitions,
        topic_prefix=settings.topic_prefix,
        dedup_days=settings.dedup_days,
    )
    path = _note_path(settings)
    path.write_text(running.model_dump_json())
    return path


def find_running(settings: Settings) -> Running | None:
    """The stack that runs on this data directory, or None."""
    try:
        running = Running.model_validate_json(_note_path(settings).read_text())
    except (OSError, ValidationError):
        return None
    return running if psutil.pid_exists(running.pid) else None


def reach(settings: Settings) -> Settings:
    """The settings, with the addresses that they lack and the topics' settings from the stack that runs here.

    Raises OperatorError where an address is missing and nothing runs here.
    """
    if settings.kafka_url is not None and settings.clickhouse_url is not None:
        return settings
    running = find_running(settings)
    if running is None:
        raise OperatorError(
            "Nothing to connect to: start `meterline up`, or set METERLINE_KAFKA_URL and METERLINE_CLICKHOUSE_URL"
        )
    return settings.model_copy(
        update={
            "kafka_url": settings.kafka_url or running.kafka_url,
            "clickhouse_url": settings.clickhouse_url or running.clickhouse_url,
            "partitions": running.partitions,
            "topic_prefix": running.topic_prefix,
            "dedup_days": running.dedup_days,
        }
    )


def _note_path(settings: Settings) -> Path:
    return settings.data_dir / "running.json"
