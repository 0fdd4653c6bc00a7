"""Claims: dedup hashes of the acts that a command may do only once, claimed by whoever does them first."""

from __future__ import annotations

from schemas.commands import Admit, AnyCommand, BillDelivery, CaptureHold, Correct, SettleRecharge, TopUp
from schemas.replies import Reply
from streams.core import holds
from streams.core.acceptance import dedup_hash
from streams.core.deliveries import delivery_hash, delivery_of
from streams.core.marks import mark_of, mark_of_entry


def claims(command: AnyCommand) -> list[bytes]:
    """The hashes of acts that may be done only once: bill an event, charge a job, capture a hold, make an event's nth
    correction, book a payment, bill a delivery.

    An act that an earlier record has claimed is not done again. A command that succeeds claims its acts (`claimed`).
    """
    if isinstance(command, Admit):
        usage = command.usage
        if command.hold_seconds and usage.job_id:
            return [usage.dedup_hash, holds.job_hash(usage.project, usage.environment, usage.job_id)]
        return [usage.dedup_hash]
    if isinstance(command, CaptureHold):
        return [holds.hold_hash(command.project, each, command.hold_id) for each in holds.environments_of(command)]
    if isinstance(command, Correct):
        identity = f"{len(command.source)}:{command.source}{command.event_id}"
        mine = dedup_hash(command.project, f"meterline:correction:{command.sequence}", identity)
        if command.usage is not None and not command.given_back and not command.sequence:
            return [mine, dedup_hash(command.project, command.source, command.event_id)]
        return [mine]
    if isinstance(command, TopUp) or (isinstance(command, SettleRecharge) and command.is_paid):
        return [payment_hash(command.project, command.reference)] if command.reference else []
    if isinstance(command, BillDelivery):
        return [delivery_hash(command)]
    return []


def payment_hash(project: str, reference: str) -> bytes:
    """The hash of a payment, by its reference."""
    return dedup_hash(project, "meterline:payment", reference)


def claimed(command: AnyCommand, reply: Reply) -> list[tuple[bytes, bytes]]:
    """The dedup hashes that a command claims by its reply, each with its mark.

    Only what decides an id claims it. A refused request claims nothing: it did not run, and its event may still come
    once it has. A hold claims nothing before it is captured (`Reply.claims`): a job that was released may be queued
    again. What finds another decision, or an open hold, leaves it as it is.
    """
    if reply.status >= 300 or reply.already_decided:
        return []
    if isinstance(command, Admit):
        return [] if command.hold_seconds else [(command.usage.dedup_hash, mark_of(command.usage))]
    if isinstance(command, Correct):
        mine, *event = claims(command)
        mark = mark_of(command.usage) if command.usage is not None else b""
        return [(mine, b""), *((each, mark) for each in event)]
    if isinstance(command, TopUp | SettleRecharge):
        return [(each, mark_of_entry(reply.entry_id)) for each in claims(command)]
    if isinstance(command, BillDelivery):
        return [(each, mark_of(delivery_of(command, 0))) for each in claims(command)]
    return []
