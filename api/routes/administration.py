"""The operator's calls: projects, keys, plans, top-ups, refunds. Each answers once its effect can be read back."""

from __future__ import annotations

import secrets
import time
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from api.dependencies import AdminDep, IdempotencyKey, ServicesDep, account_for, billing_account_for, decided, utc
from api.keys import DEFAULT_SCOPES, new_project_key
from api.routes.reading import item_list, project_now
from schemas.answers import (
    AutoRechargeInfo,
    AutoRechargeTerms,
    Badge,
    CreatedKey,
    ItemList,
    NewItemQuantity,
    NewKey,
    NewProject,
    NewRefund,
    NewTopUp,
    PlanChange,
    ProjectInfo,
    ProjectState,
    RefundResult,
    Standing,
    TopUpResult,
)
from schemas.commands import (
    AnyCommand,
    ChangePlan,
    CloseProject,
    CreateKey,
    CreateProject,
    RefundTopUp,
    ReopenProject,
    RevokeKey,
    SetAutoRecharge,
    SetBadge,
    SetItem,
    SetStanding,
    TopUp,
)
from schemas.events import PROJECT_ID_PATTERN
from schemas.ledger import Account, AutoRecharge
from schemas.prices import MICROCREDITS_PER_CREDIT
from schemas.problems import Problem, Rejection
from streams.core.acceptance import dedup_hash
from streams.core.booking import format_credits, parse_credits
from streams.core.plans import refund_cents
from streams.core.recharge import month_of

router = APIRouter(
    prefix="/v1/admin",
    tags=["administration"],
    responses={code: {"model": Problem} for code in (401, 403, 404, 409, 422, 503)},
)

ProjectPath = Annotated[str, Path(pattern=PROJECT_ID_PATTERN)]


@router.post("/projects", status_code=201, response_model=ProjectInfo)
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


@router.get("/projects/{project}", response_model=ProjectInfo)
async def get_project(services: ServicesDep, caller: AdminDep, project: ProjectPath) -> ProjectInfo:
    """A project as it is."""
    return project_now(services, project)


@router.post("/projects/{project}/keys", status_code=201, response_model=CreatedKey)
async def create_key(
    services: ServicesDep, caller: AdminDep, project: ProjectPath, asked: NewKey, idempotency_key: IdempotencyKey = ""
) -> CreatedKey:
    """Make a key. It is shown in this answer alone: under an Idempotency-Key it is made once, and a repeat is a 409
    `key_shown_before` that names its id."""
    scopes = asked.scopes or DEFAULT_SCOPES[asked.environment]
    key, key_hash = new_project_key(project, asked.environment)
    key_id = f"key_{secrets.token_hex(6)}"
    if idempotency_key:
        # Of which the owner makes one; the secret can't be made again.
        key_id = f"key_{dedup_hash(project, 'meterline:key', idempotency_key).hex()[:12]}"
    command = CreateKey(
        project=project,
        key_id=key_id,
        key_hash=key_hash,
        environment=asked.environment,
        scopes=scopes,
        **services.commands.addressing(actor=caller.key_id),
    )
    try:
        await decided(services, command)
    except Rejection as rejection:
        if rejection.code == "key_exists":
            raise Rejection("key_shown_before", f"Key {key_id} was made under this Idempotency-Key") from None
        raise
    return CreatedKey(key_id=key_id, key=key, environment=asked.environment, scopes=scopes)


@router.delete("/projects/{project}/keys/{key_id}", status_code=204)
async def revoke_key(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    key_id: Annotated[str, Path(max_length=64)],
    idempotency_key: IdempotencyKey = "",
) -> Response:
    """End a key at once."""
    addressing = services.commands.addressing(idempotency_key, caller.key_id)
    await decided(services, RevokeKey(project=project, key_id=key_id, **addressing))
    return Response(status_code=204)


@router.post("/projects/{project}/top-ups", status_code=201, response_model=TopUpResult)
async def top_up(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: NewTopUp,
    idempotency_key: IdempotencyKey = "",
) -> TopUpResult:
    """Grant a bundle. Send an Idempotency-Key: without one, a repeat is another bundle."""
    reply, offset = await decided(
        services,
        TopUp(
            project=project,
            environment=asked.environment,
            bundle_usd=asked.bundle_usd,
            reference=asked.reference,
            **services.commands.addressing(idempotency_key, caller.key_id),
        ),
    )
    return TopUpResult(
        project=project,
        environment=asked.environment,
        granted=format_credits(reply.amount),
        available=format_credits(reply.available),
        entry_id=reply.entry_id,
        offset=offset,
    )


@router.post("/projects/{project}/refunds", status_code=201, response_model=RefundResult)
async def refund(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: NewRefund,
    idempotency_key: IdempotencyKey = "",
) -> RefundResult:
    """Take back a bundle of the last 30 days, at most a quarter used, of a project in good standing. The money is
    paid back by the means it came by."""
    reply, offset = await decided(
        services,
        RefundTopUp(
            project=project,
            grant_id=asked.grant_id,
            reason=asked.reason,
            **services.commands.addressing(idempotency_key, caller.key_id),
        ),
    )
    return RefundResult(
        project=project,
        grant_id=asked.grant_id,
        taken_back=format_credits(reply.amount),
        refund_cents=refund_cents(reply.amount),
        available=format_credits(reply.available),
        entry_id=reply.entry_id,
        offset=offset,
    )


@router.put("/projects/{project}/plan", response_model=ProjectInfo)
async def change_plan(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: PlanChange,
    idempotency_key: IdempotencyKey = "",
) -> ProjectInfo:
    """An upgrade counts at once, with what its allowance has more for the rest of the month. A downgrade waits for the
    renewal: `next_plan`. Asking for the plan that it is on takes a downgrade back."""
    await decided(
        services,
        ChangePlan(
            project=project,
            plan=asked.plan,
            contract_allowance=asked.contract_credits * MICROCREDITS_PER_CREDIT,
            contract_cents=asked.contract_cents,
            **services.commands.addressing(idempotency_key, caller.key_id),
        ),
    )
    return project_now(services, project)


@router.put("/projects/{project}/state", response_model=ProjectInfo)
async def close_or_reopen(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: ProjectState,
    idempotency_key: IdempotencyKey = "",
) -> ProjectInfo:
    """Close a project, or open it again. Reads go on working while it is closed."""
    addressing = services.commands.addressing(idempotency_key, caller.key_id)
    command: AnyCommand = (
        CloseProject(project=project, reason=asked.reason, **addressing)
        if asked.closed
        else ReopenProject(project=project, **addressing)
    )
    await decided(services, command)
    return project_now(services, project)


@router.put("/projects/{project}/standing", response_model=ProjectInfo)
async def set_standing(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: Standing,
    idempotency_key: IdempotencyKey = "",
) -> ProjectInfo:
    """Good or not; kept with its reason."""
    addressing = services.commands.addressing(idempotency_key, caller.key_id)
    command = SetStanding(project=project, is_good=asked.good_standing, reason=asked.reason, **addressing)
    await decided(services, command)
    return project_now(services, project)


@router.put("/projects/{project}/badge", response_model=ProjectInfo)
async def set_badge(
    services: ServicesDep, caller: AdminDep, project: ProjectPath, asked: Badge, idempotency_key: IdempotencyKey = ""
) -> ProjectInfo:
    """Show the "Built with" badge or not; 402 `plan_required` for a free project that would not."""
    addressing = services.commands.addressing(idempotency_key, caller.key_id)
    command = SetBadge(project=project, is_off=not asked.shown, **addressing)
    await decided(services, command)
    return project_now(services, project)


@router.put("/projects/{project}/items/{item}", response_model=ItemList)
async def set_item(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    item: Annotated[str, Path(max_length=64)],
    asked: NewItemQuantity,
    idempotency_key: IdempotencyKey = "",
) -> ItemList:
    """Have this many units of a recurring line item (a connected account, a custom domain, storage) from now on."""
    command = SetItem(
        project=project,
        operation=item,
        quantity=asked.quantity,
        **services.commands.addressing(idempotency_key, caller.key_id),
    )
    await decided(services, command)
    return item_list(account_for(services, project), services.accounts.prices(), time.time_ns() // 1_000_000)


@router.get("/projects/{project}/auto-recharge", response_model=AutoRechargeInfo)
async def get_auto_recharge(services: ServicesDep, caller: AdminDep, project: ProjectPath) -> AutoRechargeInfo:
    """The terms of auto-recharge and how they stand."""
    return _auto_recharge(account_for(services, project))


@router.put("/projects/{project}/auto-recharge", response_model=AutoRechargeInfo)
async def set_auto_recharge(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: AutoRechargeTerms,
    idempotency_key: IdempotencyKey = "",
) -> AutoRechargeInfo:
    """Turn auto-recharge on with these terms, or off. It is off unless somebody asks for it."""
    command = SetAutoRecharge(
        project=project,
        is_on=asked.on,
        threshold=parse_credits(asked.threshold, "threshold"),
        bundle_usd=asked.bundle_usd,
        cap_cents=asked.cap_usd * 100,
        payment_method=asked.payment_method,
        **services.commands.addressing(idempotency_key, caller.key_id),
    )
    await decided(services, command)
    return _auto_recharge(account_for(services, project))


def _auto_recharge(account: Account) -> AutoRechargeInfo:
    terms = account.auto_recharge or AutoRecharge(False, 0, 20, 0, "")
    return AutoRechargeInfo(
        on=terms.is_on,
        threshold=format_credits(terms.threshold),
        bundle_usd=terms.bundle_usd,
        cap_usd=terms.cap_cents // 100,
        payment_method=terms.payment_method,
        spent_usd=terms.spent_cents // 100 if terms.month == month_of(time.time_ns() // 1_000_000) else 0,
        pending=terms.pending_id or None,
        failures=terms.failures,
        blocked_until=utc(terms.blocked_until_ms) if terms.blocked_until_ms else None,
    )
