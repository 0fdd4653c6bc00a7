"""Identities: what may be done once only, and what is asked for under a key."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.commands import Admit, AnyCommand, Correct
from schemas.events import Usage


def identity_names(identity: Any) -> tuple[str, str, str]:
    """The name of an identity in the dedup index: project, source and id."""
    kind, project, *rest = identity
    if kind == "key":
        return project, "meterline:idempotency-key", rest[0]
    if kind == "hold":
        return project, f"meterline:hold:{rest[0]}", rest[1]
    if kind == "job":
        return project, f"meterline:job:{rest[0]}", rest[1]
    if kind == "payment":
        return project, "meterline:payment", rest[0]
    if kind == "correction":
        source, event_id, sequence = rest
        return project, f"meterline:correction:{sequence}", f"{len(source)}:{source}{event_id}"
    return project, rest[0], rest[1]


def claims_of(command: AnyCommand) -> list[Any]:
    """The identities a command claims: what may be done once only."""
    if isinstance(command, Admit):
        usage = command.usage
        event = ("event", usage.project, usage.source, usage.event_id)
        return [event, ("job", *job(usage))] if command.hold_seconds and usage.job_id else [event]
    if isinstance(command, Correct):
        source, event_id = command.source, command.event_id
        claims: list[Any] = [("correction", command.project, source, event_id, command.sequence)]
        if command.usage is not None and not command.given_back and command.sequence == 0:
            claims.append(("event", command.project, source, event_id))
        return claims
    return []


def content_of(usage: Usage) -> tuple[str, int, str, str]:
    """The content that an event or a job has: another one under the same id is another use."""
    return usage.operation, usage.quantity, usage.surcharge, usage.environment


def job(usage: Usage) -> tuple[str, str, str]:
    return usage.project, usage.environment, usage.job_id


def asked_for(command: AnyCommand) -> Any:
    """The content of a request, without who asks and when."""
    asked = msgspec.structs.asdict(command)
    for name in ("actor", "correlation", "reply_instance", "reply_partition"):
        del asked[name]
    if isinstance(command, Admit):
        asked["usage"] = msgspec.structs.asdict(command.usage) | {"occurred_at_ms": None}
    return type(command), asked
