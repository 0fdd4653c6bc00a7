"""Credits that are bought, promotional grants, refunds and auto-recharge. A call that changes something answers once
its effect can be read back."""

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
from streams.core.grants import reference_used
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
    """Grant credits that were bought: a bundle, or an amount by contract. A payment's `reference` counts once for each
    project: a second purchase with it is refused (`reference_used`), naming the first. Without a reference send an
    Idempotency-Key, or a repeat is another purchase."""
    amount, cents = _by_contract(asked)
    if reference := asked.reference:
        days = services.settings.dedup_days
        first = await services.reads.ask(caller.name, lambda history: booked_before(history, project, reference, days))
        if first:
            raise reference_used(reference, first)
    reply, offset = await decided(
        services,
        TopUp(
            project=project,
            environment=asked.environment,
            bundle_usd=asked.bundle_usd or 0,
            reference=asked.reference,
            amount=amount,
            cents=cents,
            **services.commands.addressing(idempotency_key, caller.key_id),
        ),
    )
    return TopUpResult(
        project=project,
        environment=asked.environment,
        granted=format_credits(reply.amount),
        cents=reply.cents,
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
    """Take back credits that were bought, for a refund at the price that was paid. They must be of the last 30 days and
    at most a quarter used, and the project in good standing. This call moves no money: pay it back by the means by
    which it came."""
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
        refund_cents=-reply.cents,
        pay_back=_pay_back(-reply.cents),
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


def _by_contract(asked: NewTopUp) -> tuple[int, int]:
    """The microcredits and cents of a purchase by contract, (0, 0) of a bundle. Raises Rejection."""
    if asked.bundle_usd is not None:
        if asked.credits is not None or asked.price_cents is not None:
            raise Rejection("invalid_request", "Either a bundle, or `credits` with `price_cents`", "bundle_usd")
        return 0, 0
    if asked.credits is None:
        detail = "Name what was bought: `bundle_usd`, or, by contract, `credits` with `price_cents`"
        raise Rejection("invalid_request", detail, "bundle_usd" if asked.price_cents is None else "credits")
    if asked.price_cents is None:
        raise Rejection("invalid_request", "Credits that are bought by contract have a `price_cents`", "price_cents")
    return parse_credits(asked.credits, "credits"), asked.price_cents


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
