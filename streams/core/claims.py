"""Claims: the dedup hashes of what a command may do once only."""

from __future__ import annotations

from schemas.commands import Admit, AnyCommand, Correct
from schemas.replies import Reply
from streams.core import holds
from streams.core.acceptance import dedup_hash


def claims(command: AnyCommand) -> list[bytes]:
    """The dedup hashes of what a command may do once only: bill an event, charge a job, make an event's nth correction.

    Where one of them was claimed by an earlier record, it is not done again. They are claimed by success (`claimed`).
    """
    if isinstance(command, Admit):
        usage = command.usage
        if command.hold_seconds and usage.job_id:
            return [usage.dedup_hash, holds.job_hash(usage.project, usage.environment, usage.job_id)]
        return [usage.dedup_hash]
    if isinstance(command, Correct):
        identity = f"{len(command.source)}:{command.source}{command.event_id}"
        mine = dedup_hash(command.project, f"meterline:correction:{command.sequence}", identity)
        if command.usage is not None and not command.given_back and not command.sequence:
            return [mine, dedup_hash(command.project, command.source, command.event_id)]
        return [mine]
    return []


def claimed(command: AnyCommand, reply: Reply) -> list[bytes]:
    """The dedup hashes that a command claims by its reply.

    A refused request did not run: the event that names it may still come, once it has. A hold claims nothing before it
    is captured (`Reply.claims`): a job that was released may be queued again.
    """
    if reply.status >= 300:
        return []
    if isinstance(command, Admit) and command.hold_seconds:
        return []
    return claims(command)
