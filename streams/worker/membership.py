"""Membership: a worker that was killed stays in its group until its session times out, unless its successor ends that.

A lock beside the worker's directory tells the successor for sure: the system releases the lock when its holder ends.
The directory has the dead member's id. If the disk is lost, so is the id, and the timeout has to be waited for.
"""

from __future__ import annotations

import fcntl
import logging
import time
from pathlib import Path
from typing import IO

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import LeaveGroupRequest

from streams.errors import OperatorError
from streams.kafka.topics import kafka_client_settings, topics_of
from streams.settings import Settings

log = logging.getLogger(__name__)

LOCK_SECONDS_MAX = 15.0


def lock(settings: Settings) -> IO[str]:
    """Lock the worker's directory for this process. The lock lasts as long as the returned file is kept.

    Raises OperatorError where another process goes on holding it.
    """
    path = settings.worker_dir.with_name(f"{settings.worker_dir.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    deadline = time.monotonic() + LOCK_SECONDS_MAX
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                file.close()
                raise OperatorError(
                    f"Another worker runs on {settings.worker_dir}: give each its own METERLINE_WORKER_NAME"
                ) from None
            time.sleep(0.05)
        else:
            return file


def note_member(directory: Path, member_id: str) -> None:
    """Note on disk which member of the group this worker is, for its successor."""
    fresh = directory / "member.new"
    fresh.write_text(member_id)
    fresh.replace(directory / "member")


async def leave_for_predecessor(settings: Settings) -> None:
    """Take the member that last ran on this directory out of the group. The caller holds the lock, so
    that member is dead."""
    note = settings.worker_dir / "member"
    if not note.exists():
        return
    group = topics_of(settings).worker_app
    admin = AIOKafkaAdminClient(**kafka_client_settings(settings))
    await admin.start()
    try:
        coordinator = await admin.find_coordinator(group)
        await admin._send_request(LeaveGroupRequest(group, note.read_text()), coordinator)
    except KafkaError as error:
        # The dead member's session times out all the same, only later. A member that left by itself is no error: the
        # answer is not read.
        log.warning("the last worker on %s could not be taken out of its group: %s", settings.worker_dir, error)
    finally:
        await admin.close()
    note.unlink()
