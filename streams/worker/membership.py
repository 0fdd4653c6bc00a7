"""A worker that was killed is a member of its group until its session times out; its successor ends that at once.

What makes the successor sure is a lock beside the worker's directory, which the system lets go of when its holder ends.
The directory has the dead member's id, so it is lost with the disk, and then the timeout has to be waited for.
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
    """Claim the worker's directory for this process; keep the file as long as it runs.

    Raises OperatorError where another one goes on holding it.
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
    """Remember which member of the group this worker is."""
    fresh = directory / "member.new"
    fresh.write_text(member_id)
    fresh.replace(directory / "member")


async def leave_for_predecessor(settings: Settings) -> None:
    """Take the member that last ran on this directory out of the group. The caller holds the lock: it is dead."""
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
        # Its session times out all the same, only later. One that left by itself is no error: the answer is not read.
        log.warning("the last worker on %s could not be taken out of its group: %s", settings.worker_dir, error)
    finally:
        await admin.close()
    note.unlink()
