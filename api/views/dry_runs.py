"""Views of a dry run: what a command would do to a project's account now."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from starlette.responses import Response

from api.dependencies import account_for
from api.services import Services
from schemas.commands import AnyCommand
from schemas.http.dry_runs import DryRun, DryRunBudget, DryRunChange
from schemas.problems import Rejection
from streams.core.booking import available, format_credits
from streams.core.dry_run import dry_run
from streams.history.audit import entry_of
from streams.kafka.clock import now_ms
from streams.kafka.topics import partition_of

DryRunQuery = Annotated[
    bool, Query(description="Change nothing, and tell what this would change, or why it would be refused")
]
# For the `responses` of a route whose answer has another shape or status than a dry run's.
DRY_RUN_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"model": DryRun, "description": "With `dry_run`: what it would do"}
}


def dry_run_of(services: Services, command: AnyCommand, note: str = "") -> DryRun:
    """The dry run of a command on its project, as answers show it. Raises Rejection where it would be refused."""
    account = account_for(services, command.project)
    partition = partition_of(command.project, services.settings.partitions)
    outcome = dry_run(account, command, partition, now_ms(), services.accounts.prices())
    if outcome.reply.code:
        raise Rejection(outcome.reply.code, outcome.reply.detail, outcome.reply.field or None)
    entries = [(fact, entry_of(partition, fact)) for fact in outcome.facts]
    return DryRun(
        project=command.project,
        changes=[
            DryRunChange.model_validate(
                {
                    "action": entry.action,
                    "detail": entry.detail,
                    "environment": fact.environment or None,
                    "amount": format_credits(fact.amount),
                    "held": format_credits(fact.held),
                    "cents": fact.cents,
                }
            )
            for fact, entry in entries
        ],
        available=[
            DryRunBudget(
                environment=environment,
                before=format_credits(available(outcome.before, environment)),
                after=format_credits(available(outcome.after, environment)),
            )
            for environment in ("production", "preview")
        ],
        cents=sum(fact.cents for fact in outcome.facts),
        note=note,
    )


def dry_run_answer(services: Services, command: AnyCommand, note: str = "") -> Response:
    """The dry run as a 200 of its own, for a route that answers otherwise. Raises Rejection."""
    return Response(dry_run_of(services, command, note).model_dump_json(), media_type="application/json")
