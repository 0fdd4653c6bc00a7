"""Receipts: why something was charged, or refused."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from api.dependencies import CallerDep, ProjectQuery, ServicesDep, environment_for, problems, project_for
from schemas.http.receipts import EventReceipts, Receipt
from streams.history.receipts import find_decision, receipt_of, receipts_of_event

router = APIRouter(prefix="/v1", tags=["receipts"], responses=problems(401, 403, 404, 422, 503))


@router.get("/receipts/{id}", response_model=Receipt)
async def receipt(
    services: ServicesDep,
    caller: CallerDep,
    id: Annotated[
        str,
        Path(
            max_length=80,
            description="An `entry_id` (partition-offset-position), a `hold_id`, a `grant_id`, or a purchase's id",
            examples=["2-17-0"],
        ),
    ],
    project: ProjectQuery = None,
) -> Response:
    """Explain one decision: what was asked, what it cost and why, and the budget before and after it.

    An admin key finds a decision of any project; naming the project is quicker where the history is long.
    """
    caller.require("content:read")
    named = project if caller.project is None else project_for(caller, project)
    environment, prices = environment_for(caller, None), services.accounts.prices()
    decision, position = await find_decision(
        lambda question: services.reads.ask(caller.name, question), named, id, services.settings.partitions, environment
    )
    return await services.reads.json(caller.name, lambda history: receipt_of(history, prices, decision, position))


@router.get("/receipts", response_model=EventReceipts)
async def receipts(
    services: ServicesDep,
    caller: CallerDep,
    event_id: Annotated[str, Query(min_length=1, max_length=256)],
    source: Annotated[str | None, Query(max_length=256)] = None,
    project: ProjectQuery = None,
) -> Response:
    """List what was decided on an event id: its charge, holds, repeats and corrections. An admin key is also told why
    an event of that id was not accepted."""
    caller.require("content:read")
    named = project if caller.project is None else project_for(caller, project)
    environment, prices, is_admin = environment_for(caller, None), services.accounts.prices(), caller.project is None
    return await services.reads.json(
        caller.name, lambda history: receipts_of_event(history, prices, named, event_id, source, is_admin, environment)
    )
