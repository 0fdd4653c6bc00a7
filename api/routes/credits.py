"""Bundles, promotional grants, refunds and auto-recharge. A call that changes something answers once its effect can be
read back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter
from starlette.responses import Response

from api.dependencies import AdminDep, IdempotencyKey, ProjectPath, ServicesDep, account_for, decided, instant, problems
from api.views.dry_runs import DRY_RUN_RESPONSE, DryRunQuery, dry_run_answer
from schemas.accounts import Account, AutoRecharge
from schemas.commands import GrantPromotional, RefundTopUp, SetAutoRecharge, TopUp
from schemas.http.credits import (
    AutoRechargeInfo,
    AutoRechargeTerms,
    GrantResult,
    NewGrant,
    NewRefund,
    NewTopUp,
    RefundResult,
    TopUpResult,
)
from schemas.problems import Rejection
from schemas.times import utc
from streams.core.billed import month_of
from streams.core.booking import format_credits, parse_credits
from streams.core.plans import refund_cents
from streams.history.fact_words import dollars
from streams.history.payments import booked_before
from streams.kafka.clock import now_ms

router = APIRouter(prefix="/v1/admin", tags=["administration"], responses=problems(401, 403, 404, 409, 422, 503))

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@router.post("/projects/{project}/top-ups", status_code=201, response_model=TopUpResult)
async def top_up(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: NewTopUp,
    idempotency_key: IdempotencyKey = "",
) -> TopUpResult:
    """Grant a bundle. A payment's `reference` counts once for each project: a second bundle with it is refused
    (`reference_used`), naming the first. Without a reference send an Idempotency-Key, or a repeat is another bundle."""
    if reference := asked.reference:
        days = services.settings.dedup_days
        first = await services.reads.ask(caller.name, lambda history: booked_before(history, project, reference, days))
        if first:
            raise Rejection(
                "reference_used", f"The payment {reference!r} was booked before, by entry {first}", "reference"
            )
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


@router.post("/projects/{project}/grants", status_code=201, response_model=GrantResult)
async def grant(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: NewGrant,
    idempotency_key: IdempotencyKey = "",
) -> GrantResult:
    """Give promotional credits, with a reason and an end. They are spent after the allowance, the earliest end first,
    and before any bundle. Send an Idempotency-Key: without one, a repeat is another grant."""
    expires_at_ms = (instant(asked.expires_at, "expires_at") - _EPOCH) // timedelta(milliseconds=1)
    reply, offset = await decided(
        services,
        GrantPromotional(
            project=project,
            environment=asked.environment,
            amount=parse_credits(asked.amount, "amount"),
            expires_at_ms=expires_at_ms,
            reason=asked.reason,
            **services.commands.addressing(idempotency_key, caller.key_id),
        ),
    )
    return GrantResult(
        project=project,
        environment=asked.environment,
        # A grant bears the place of its entry, without the partition.
        grant_id=f"promotional-{reply.entry_id.partition('-')[2]}",
        granted=format_credits(reply.amount),
        reason=asked.reason,
        expires_at=utc(expires_at_ms),
        available=format_credits(reply.available),
        entry_id=reply.entry_id,
        offset=offset,
    )


@router.post("/projects/{project}/refunds", status_code=201, response_model=RefundResult, responses=DRY_RUN_RESPONSE)
async def refund(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: NewRefund,
    dry_run: DryRunQuery = False,
    idempotency_key: IdempotencyKey = "",
) -> RefundResult | Response:
    """Take back a bundle, for a refund. It must be of the last 30 days and at most a quarter used, and the project in
    good standing. This call moves no money: pay it back by the means by which it came."""
    command = RefundTopUp(
        project=project,
        grant_id=asked.grant_id,
        reason=asked.reason,
        **services.commands.addressing(idempotency_key, caller.key_id),
    )
    if dry_run:
        return dry_run_answer(services, command, "Meterline moves no money: you pay it back")
    reply, offset = await decided(services, command)
    return RefundResult(
        project=project,
        grant_id=asked.grant_id,
        taken_back=format_credits(reply.amount),
        refund_cents=refund_cents(reply.amount),
        pay_back=_pay_back(refund_cents(reply.amount)),
        available=format_credits(reply.available),
        entry_id=reply.entry_id,
        offset=offset,
    )


@router.get("/projects/{project}/auto-recharge", response_model=AutoRechargeInfo)
async def get_auto_recharge(services: ServicesDep, caller: AdminDep, project: ProjectPath) -> AutoRechargeInfo:
    """Show a project's terms of auto-recharge, and what it has bought by them."""
    return _auto_recharge(account_for(services, project))


@router.put("/projects/{project}/auto-recharge", response_model=AutoRechargeInfo)
async def set_auto_recharge(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: AutoRechargeTerms,
    idempotency_key: IdempotencyKey = "",
) -> AutoRechargeInfo:
    """Turn auto-recharge on with these terms, or off. It is off until somebody turns it on. The terms that hold already
    change nothing: a pause after a failed purchase goes on."""
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


def _pay_back(cents: int) -> str:
    return f"Meterline moves no money: pay {dollars(cents)} back yourself, by the means by which it came"


def _auto_recharge(account: Account) -> AutoRechargeInfo:
    terms = account.auto_recharge or AutoRecharge(False, 0, 20, 0, "")
    return AutoRechargeInfo(
        on=terms.is_on,
        threshold=format_credits(terms.threshold),
        bundle_usd=terms.bundle_usd,
        cap_usd=terms.cap_cents // 100,
        payment_method=terms.payment_method,
        spent_usd=terms.spent_cents // 100 if terms.month == month_of(now_ms()) else 0,
        pending=terms.pending_id or None,
        failures=terms.failures,
        blocked_until=utc(terms.blocked_until_ms) if terms.blocked_until_ms else None,
    )
