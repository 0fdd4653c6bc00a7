"""Projects: opening and closing one, its plan, standing and badge, and how a project's key sees it."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import (
    AdminDep,
    CurrentCallerDep,
    IdempotencyKey,
    ProjectPath,
    ProjectQuery,
    ServicesDep,
    billing_account_for,
    decided,
    environment_for,
    problems,
    project_for,
)
from api.views.accounts import project_now
from api.views.dry_runs import DryRunQuery, dry_run_of
from api.views.project_list import ProjectQuestion, project_page
from schemas.commands import AnyCommand, ChangePlan, CloseProject, CreateProject, ReopenProject, SetBadge, SetStanding
from schemas.http.common import PAGE_ITEMS_MAX, PlanName
from schemas.http.dry_runs import DryRun
from schemas.http.projects import (
    Badge,
    NewProject,
    PlanChange,
    ProjectInfo,
    ProjectPage,
    ProjectState,
    ProjectStateName,
    Standing,
)
from schemas.prices import MICROCREDITS_PER_CREDIT
from schemas.problems import Rejection
from streams.core.booking import parse_credits
from streams.kafka.clock import now_ms

router = APIRouter(prefix="/v1", tags=["reading"], responses=problems(401, 403, 404, 422, 503))
admin_router = APIRouter(prefix="/v1/admin", tags=["administration"], responses=problems(401, 403, 404, 409, 422, 503))


@admin_router.post("/projects", status_code=201, response_model=ProjectInfo)
async def create_project(
    services: ServicesDep, caller: AdminDep, asked: NewProject, idempotency_key: IdempotencyKey = ""
) -> ProjectInfo:
    """Open a project; its first allowance is granted at once."""
    if asked.billing_account is not None:
        billing_account_for(services, asked.billing_account)
    await decided(
        services,
        CreateProject(
            billing_account=asked.billing_account or "",
            project=asked.project,
            name=asked.name,
            plan=asked.plan,
            contract_allowance=asked.contract_credits * MICROCREDITS_PER_CREDIT,
            contract_cents=asked.contract_cents,
            **services.commands.addressing(idempotency_key, caller.key_id),
        ),
    )
    return project_now(services, asked.project)


@admin_router.get("/projects", response_model=ProjectPage)
async def list_projects(
    services: ServicesDep,
    caller: AdminDep,
    search: Annotated[
        str | None, Query(min_length=1, max_length=200, description="A part of the id or of the name, in any case")
    ] = None,
    plan: PlanName | None = None,
    state: ProjectStateName | None = None,
    balance_below: Annotated[
        str | None, Query(max_length=20, description="Fewer credits than this are available in production")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_ITEMS_MAX)] = 100,
    cursor: Annotated[str, Query(max_length=64, description="The `next_cursor` of the page before")] = "",
) -> ProjectPage:
    """List projects, by id. A page that has looked at many accounts for half a second ends there: go on with its
    `next_cursor` until there is none."""
    below = None if balance_below is None else parse_credits(balance_below, "balance_below")
    question = ProjectQuestion(search, plan, None if state is None else state == "closed", below)
    if len(services.accounts.lags()) < services.settings.partitions:
        raise Rejection("not_ready", "This process is still reading the accounts")
    prices, now = services.accounts.prices(), now_ms()
    found, following = await asyncio.to_thread(
        lambda: project_page(services.accounts.projects_after(cursor), question, prices, now, limit)
    )
    return ProjectPage(projects=found, next_cursor=following)


@admin_router.get("/projects/{project}", response_model=ProjectInfo)
async def get_project(services: ServicesDep, caller: AdminDep, project: ProjectPath) -> ProjectInfo:
    """Show a project as it is now."""
    return project_now(services, project)


@admin_router.put("/projects/{project}/plan", response_model=ProjectInfo | DryRun)
async def change_plan(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: PlanChange,
    dry_run: DryRunQuery = False,
    idempotency_key: IdempotencyKey = "",
) -> ProjectInfo | DryRun:
    """Put a project on another plan. An upgrade counts at once, and the additional allowance is granted for the rest of
    the month. A downgrade waits for the renewal, as `next_plan`. Asking for the present plan takes a downgrade back."""
    command = ChangePlan(
        project=project,
        plan=asked.plan,
        contract_allowance=asked.contract_credits * MICROCREDITS_PER_CREDIT,
        contract_cents=asked.contract_cents,
        **services.commands.addressing(idempotency_key, caller.key_id),
    )
    if dry_run:
        return dry_run_of(services, command)
    await decided(services, command)
    return project_now(services, project)


@admin_router.put("/projects/{project}/state", response_model=ProjectInfo | DryRun)
async def close_or_reopen(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: ProjectState,
    dry_run: DryRunQuery = False,
    idempotency_key: IdempotencyKey = "",
) -> ProjectInfo | DryRun:
    """Close a project, or open it again. Reads go on working while it is closed; nothing that could charge it is taken:
    uses, holds, bundles, items, plans, auto-recharge. Jobs that were queued before are captured or released as ever."""
    addressing = services.commands.addressing(idempotency_key, caller.key_id)
    command: AnyCommand = (
        CloseProject(project=project, reason=asked.reason, **addressing)
        if asked.closed
        else ReopenProject(project=project, **addressing)
    )
    if dry_run:
        return dry_run_of(services, command)
    await decided(services, command)
    return project_now(services, project)


@admin_router.put("/projects/{project}/standing", response_model=ProjectInfo)
async def set_standing(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: Standing,
    idempotency_key: IdempotencyKey = "",
) -> ProjectInfo:
    """Say whether a project is in good standing; kept with its reason."""
    addressing = services.commands.addressing(idempotency_key, caller.key_id)
    command = SetStanding(project=project, is_good=asked.good_standing, reason=asked.reason, **addressing)
    await decided(services, command)
    return project_now(services, project)


@admin_router.put("/projects/{project}/badge", response_model=ProjectInfo)
async def set_badge(
    services: ServicesDep, caller: AdminDep, project: ProjectPath, asked: Badge, idempotency_key: IdempotencyKey = ""
) -> ProjectInfo:
    """Show a project's "Built with" badge, or hide it. For a free project, hiding it is a 402 `plan_required`."""
    addressing = services.commands.addressing(idempotency_key, caller.key_id)
    command = SetBadge(project=project, is_off=not asked.shown, **addressing)
    await decided(services, command)
    return project_now(services, project)


@router.get("/projects/me", response_model=ProjectInfo)
async def me(services: ServicesDep, caller: CurrentCallerDep, project: ProjectQuery = None) -> ProjectInfo:
    """Show the project that this key belongs to, with the limits that hold now."""
    caller.require("content:read")
    info = project_now(services, project_for(caller, project))
    # A preview key is told of the keys of its own environment alone, and a portal of none.
    own = environment_for(caller, None)
    info.keys = [] if caller.is_portal else [key for key in info.keys if own in (None, key.environment)]
    return info
