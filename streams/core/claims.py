"""Claims: dedup hashes of the acts that a command may do only once, claimed by whoever does them first."""

from __future__ import annotations

from schemas.commands import Admit, AnyCommand, Correct
from schemas.replies import Reply
from streams.core import holds
from streams.core.acceptance import dedup_hash


def claims(command: AnyCommand) -> list[bytes]:
    """The hashes of acts that may be done only once: bill an event, charge a job, make an event's nth correction.

    An act that an earlier record has claimed is not done again. A command that succeeds claims its acts (`claimed`).
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

    A refused request claims nothing: it did not run, and its event may still come once it has. A hold claims nothing
    before it is captured (`Reply.claims`): a job that was released may be queued again.
    """
    if reply.status >= 300:
        return []
    if isinstance(command, Admit) and command.hold_seconds:
        return []
    return claims(command)
