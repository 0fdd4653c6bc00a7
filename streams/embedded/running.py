"""The note that `meterline up` leaves while it is up: where the Meterline of this machine can be reached."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import psutil
from pydantic import BaseModel, ValidationError

from streams.errors import OperatorError
from streams.settings import Settings

# The name under which Meterline's own processes ask the front. They have places of their own there.
OWN_USER = "meterline"


class Running(BaseModel):
    """The addresses of a running stack, the settings of its topics, and the process that supervises it."""

    pid: int
    kafka_url: str
    api_url: str
    clickhouse_url: str
    is_clickhouse_embedded: bool
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
        is_clickhouse_embedded=settings.clickhouse_url is None,
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
    clickhouse_url = running.clickhouse_url
    if running.is_clickhouse_embedded:
        clickhouse_url = _with_token(clickhouse_url, settings)
    return settings.model_copy(
        update={
            "kafka_url": settings.kafka_url or running.kafka_url,
            "clickhouse_url": settings.clickhouse_url or clickhouse_url,
            "partitions": running.partitions,
            "topic_prefix": running.topic_prefix,
            "dedup_days": running.dedup_days,
        }
    )


def asking_history(settings: Settings) -> Settings:
    """The settings with which to ask the history: those of a server as they are, else those of the embedded engine's
    HTTP front on this machine."""
    if settings.clickhouse_url is not None:
        return settings
    front_url = f"http://127.0.0.1:{settings.clickhouse_front_port}"
    return settings.model_copy(update={"clickhouse_url": _with_token(front_url, settings)})


def front_token(settings: Settings) -> str:
    """The token of the embedded ClickHouse's front. It is made at its first use, in a file that its owner alone can
    read."""
    path = settings.front_token_path
    with suppress(FileNotFoundError):
        return path.read_text().strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes start side by side. The file is there whole or not at all, and the first one's stays.
    own = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(32))
    with suppress(FileExistsError):
        os.link(own, path)
    own.unlink()
    return path.read_text().strip()


def _with_token(front_url: str, settings: Settings) -> str:
    return front_url.replace("://", f"://{OWN_USER}:{quote(front_token(settings))}@") + "/default"


def _note_path(settings: Settings) -> Path:
    return settings.data_dir / "running.json"
