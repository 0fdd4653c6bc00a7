"""Recurring line items: how many units a project has, and what they cost so far this month."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from api.dependencies import (
    AdminDep,
    CurrentCallerDep,
    IdempotencyKey,
    ProjectPath,
    ProjectQuery,
    ServicesDep,
    account_for,
    decided,
    problems,
    project_for,
)
from api.views.accounts import item_list
from schemas.commands import SetItem
from schemas.http.projects import ItemList, NewItemQuantity
from schemas.problems import Rejection
from streams.core.ledger import settled
from streams.kafka.clock import now_ms

router = APIRouter(prefix="/v1", tags=["reading"], responses=problems(401, 403, 404, 422, 503))
admin_router = APIRouter(prefix="/v1/admin", tags=["administration"], responses=problems(401, 403, 404, 409, 422, 503))


@router.get("/items", response_model=ItemList)
async def items(services: ServicesDep, caller: CurrentCallerDep, project: ProjectQuery = None) -> ItemList:
    """List the project's recurring line items, and what they cost so far this month."""
    caller.require("content:read")
    if caller.environment == "preview":
        raise Rejection("wrong_environment", "Recurring items are paid from the production budget")
    now = now_ms()
    account = settled(account_for(services, project_for(caller, project)), now, services.accounts.prices())
    return item_list(account, services.accounts.prices(), now)


@admin_router.put("/projects/{project}/items/{item}", response_model=ItemList)
async def set_item(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    item: Annotated[str, Path(max_length=64)],
    asked: NewItemQuantity,
    idempotency_key: IdempotencyKey = "",
) -> ItemList:
    """Set how many units of a recurring line item (a connected account, a custom domain, storage) a project has from
    now on."""
    command = SetItem(
        project=project,
        operation=item,
        quantity=asked.quantity,
        **services.commands.addressing(idempotency_key, caller.key_id),
    )
    await decided(services, command)
    return item_list(account_for(services, project), services.accounts.prices(), now_ms())
