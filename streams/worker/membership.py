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
from streams.kafka.topics import kafka_client_settings
from streams.settings import Settings

log = logging.getLogger(__name__)

LOCK_SECONDS_MAX = 15.0


def lock(directory: Path, what: str) -> IO[str]:
    """Lock a process's directory; `what` is worker or courier. The lock lasts as long as the returned file is kept.

    Raises OperatorError where another process goes on holding it.
    """
    path = directory.with_name(f"{directory.name}.lock")
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
                    f"Another {what} runs on {directory}: give each its own METERLINE_{what.upper()}_NAME"
                ) from None
            time.sleep(0.05)
        else:
            return file


def note_member(directory: Path, member_id: str) -> None:
    """Note on disk which member of the group this process is, for its successor."""
    fresh = directory / "member.new"
    fresh.write_text(member_id)
    fresh.replace(directory / "member")


async def leave_for_predecessor(settings: Settings, directory: Path, group: str) -> None:
    """Take the member that last ran on this directory out of the group. The caller holds the lock, so
    that member is dead."""
    note = directory / "member"
    if not note.exists():
        return
    admin = AIOKafkaAdminClient(**kafka_client_settings(settings))
    await admin.start()
    try:
        coordinator = await admin.find_coordinator(group)
        await admin._send_request(LeaveGroupRequest(group, note.read_text()), coordinator)
    except KafkaError as error:
        # The dead member's session times out all the same, only later. A member that left by itself is no error: the
        # answer is not read.
        log.warning("the last process on %s could not be taken out of its group: %s", directory, error)
    finally:
        await admin.close()
    note.unlink()
