"""Builders of the values that core tests need, each in the shortest way."""

from typing import Any

from schemas.commands import Admit, CreateProject, TopUp
from schemas.events import Usage
from schemas.facts import Fact
from streams.core.acceptance import dedup_hash

CREDIT = 1_000_000
START_MS = 1_780_000_000_000


def usage(event_id: str = "e1", project: str = "p1", operation: str = "chat.message", **changes: Any) -> Usage:
    fields: dict[str, Any] = {
        "project": project,
        "dedup_hash": dedup_hash(project, "/test", event_id),
        "source": "/test",
        "event_id": event_id,
        "operation": operation,
        "quantity": 1,
        "surcharge": "",
        "environment": "production",
        "occurred_at_ms": START_MS,
        "job_id": "",
        "key_id": "",
        "metadata": "",
    }
    return Usage(**fields | changes)


def addressed(correlation: str = "c1", idempotency_key: str = "") -> dict[str, Any]:
    return {
        "idempotency_key": idempotency_key,
        "correlation": correlation,
        "reply_instance": "api",
        "reply_partition": 0,
    }


def create_project(project: str = "p1", plan: str = "free", correlation: str = "open", key: str = "") -> CreateProject:
    return CreateProject(
        project=project, name="", plan=plan, contract_allowance=1000 * CREDIT, **addressed(correlation, key)
    )


def top_up(usd: int = 20, project: str = "p1", environment: str = "production", correlation: str = "t1", key: str = ""):
    return TopUp(project=project, environment=environment, bundle_usd=usd, reference="", **addressed(correlation, key))


def admit(event: Usage, correlation: str = "a1", key: str = "", hold_seconds: int = 0) -> Admit:
    return Admit(project=event.project, usage=event, hold_seconds=hold_seconds, **addressed(correlation, key))


def untold(facts: list[Fact]) -> list[Fact]:
    """The facts but those that tell of a crossing."""
    return [fact for fact in facts if fact.kind != "notice"]
