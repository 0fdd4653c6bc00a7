"""Webhook endpoints of a project: made, changed, rotated, tried out, deleted; and what became of their deliveries. The
platform's own, which hear of every project, are asked for in the same way (`api.routes.platform_webhooks`)."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Annotated, Literal, cast

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from api.callers.keys import Caller
from api.dependencies import (
    CallerDep,
    CurrentCallerDep,
    IdempotencyKey,
    ProjectQuery,
    ServicesDep,
    account_for,
    decided,
    instant,
    known_account,
    problems,
    project_for,
)
from api.services import Services
from schemas.accounts import Endpoint
from schemas.commands import DeleteEndpoint, PutEndpoint, ReplayNotices, RotateEndpoint, TestEndpoint
from schemas.http.common import PAGE_ITEMS_MAX, EnvironmentName
from schemas.http.webhooks import (
    CreatedEndpoint,
    DeliveryPage,
    EndpointAction,
    EndpointChange,
    EndpointHealthInfo,
    EndpointInfo,
    EndpointKind,
    EndpointList,
    EndpointState,
    NewEndpoint,
    NewSecret,
    ReplayRequest,
)
from schemas.problems import Rejection
from schemas.replies import Reply
from schemas.times import utc
from streams.clickhouse.client import ClickHouse
from streams.core.acceptance import dedup_hash
from streams.core.endpoints import PLATFORM_ID, ROTATION_MS, check_target, endpoint_of, no_endpoint, shown_target
from streams.courier.addresses import ForbiddenError, is_public, place_of
from streams.courier.signatures import secret_of
from streams.history.deliveries import DeliveryQuestion, delivery_page
from streams.history.endpoint_health import EndpointRecord, endpoint_record
from streams.settings import Settings

READ, WRITE = "webhooks:read", "webhooks:write"

router = APIRouter(
    prefix="/v1/webhook-endpoints",
    tags=["webhooks"],
    responses=problems(401, 403, 404, 409, 422, 503),
)

EndpointPath = Annotated[str, Path(max_length=64, description="The endpoint's id")]
PageLimit = Annotated[int, Query(ge=1, le=PAGE_ITEMS_MAX)]
PageCursor = Annotated[str | None, Query(min_length=1, max_length=1000)]
OutcomeQuery = Annotated[
    Literal["delivered", "failed"] | None, Query(description="Attempts that ended so; all unless set")
]
NoticeQuery = Annotated[str | None, Query(min_length=1, max_length=80, description="Attempts at one notice alone")]


@router.post("", status_code=201, response_model=CreatedEndpoint)
async def create_endpoint(
    services: ServicesDep,
    caller: CallerDep,
    asked: NewEndpoint,
    project: ProjectQuery = None,
    idempotency_key: IdempotencyKey = "",
) -> CreatedEndpoint:
    """Make an endpoint. Its secret is shown in this answer alone, and a test notice goes to it at once."""
    return await create(services, caller, _written(caller, project), asked, idempotency_key)


@router.get("", response_model=EndpointList)
async def list_endpoints(services: ServicesDep, caller: CurrentCallerDep, project: ProjectQuery = None) -> EndpointList:
    """List a project's endpoints, the oldest first."""
    name = _read(caller, project)
    return EndpointList(project=name, endpoints=[info(each) for each in account_for(services, name).endpoints])


@router.get("/{endpoint_id}", response_model=EndpointInfo)
async def get_endpoint(
    services: ServicesDep, caller: CurrentCallerDep, endpoint_id: EndpointPath, project: ProjectQuery = None
) -> EndpointInfo:
    """Show one endpoint."""
    return info(known_endpoint(services, _read(caller, project), endpoint_id))


@router.patch("/{endpoint_id}", response_model=EndpointInfo)
async def change_endpoint(
    services: ServicesDep,
    caller: CallerDep,
    endpoint_id: EndpointPath,
    asked: EndpointChange,
    project: ProjectQuery = None,
    idempotency_key: IdempotencyKey = "",
) -> EndpointInfo:
    """Change an endpoint, pause it, or resume it. What is left out stays as it is."""
    return await change(services, caller, _written(caller, project), endpoint_id, asked, idempotency_key)


@router.delete("/{endpoint_id}", status_code=204)
async def delete_endpoint(
    services: ServicesDep,
    caller: CallerDep,
    endpoint_id: EndpointPath,
    project: ProjectQuery = None,
    idempotency_key: IdempotencyKey = "",
) -> Response:
    """Delete an endpoint: nothing more is sent to it."""
    return await delete(services, caller, _written(caller, project), endpoint_id, idempotency_key)


@router.post("/{endpoint_id}/rotate", response_model=NewSecret)
async def rotate_secret(
    services: ServicesDep,
    caller: CallerDep,
    endpoint_id: EndpointPath,
    project: ProjectQuery = None,
    idempotency_key: IdempotencyKey = "",
) -> NewSecret:
    """Give a webhook another secret, which is shown in this answer alone. For 24 hours both sign. Send an
    Idempotency-Key: without one, a repeat is another rotation."""
    return await rotate(services, caller, _written(caller, project), endpoint_id, idempotency_key)


@router.post("/{endpoint_id}/test", status_code=202, response_model=EndpointAction)
async def test_endpoint(
    services: ServicesDep,
    caller: CallerDep,
    endpoint_id: EndpointPath,
    project: ProjectQuery = None,
    idempotency_key: IdempotencyKey = "",
) -> EndpointAction:
    """Send a test notice to one endpoint alone."""
    return await test(services, caller, _written(caller, project), endpoint_id, idempotency_key)


@router.post("/{endpoint_id}/replay", status_code=202, response_model=EndpointAction)
async def replay_notices(
    services: ServicesDep,
    caller: CallerDep,
    endpoint_id: EndpointPath,
    asked: ReplayRequest,
    project: ProjectQuery = None,
    idempotency_key: IdempotencyKey = "",
) -> EndpointAction:
    """Send notices to an endpoint again: one, all since a time, or those of them that it never took. Each has the
    `webhook-id` that it had."""
    return await replay(services, caller, _written(caller, project), endpoint_id, asked, idempotency_key)


@router.get("/{endpoint_id}/health", response_model=EndpointHealthInfo)
async def endpoint_health(
    services: ServicesDep, caller: CurrentCallerDep, endpoint_id: EndpointPath, project: ProjectQuery = None
) -> Response:
    """Show whether an endpoint takes what is sent to it: its failures, the last success, the next attempt, and why it
    was disabled."""
    return await health(services, caller, _read(caller, project), endpoint_id)


@router.get("/{endpoint_id}/deliveries", response_model=DeliveryPage)
async def list_deliveries(
    services: ServicesDep,
    caller: CurrentCallerDep,
    endpoint_id: EndpointPath,
    project: ProjectQuery = None,
    outcome: OutcomeQuery = None,
    notice_id: NoticeQuery = None,
    limit: PageLimit = 100,
    cursor: PageCursor = None,
) -> Response:
    """List the attempts of the last 30 days to deliver notices to an endpoint, the newest first."""
    name = _read(caller, project)
    return await deliveries(services, caller, DeliveryQuestion(name, endpoint_id, limit, outcome, notice_id, cursor))


# What both kinds of routes do; `project` is a project's id, or the platform's.


async def create(
    services: Services, caller: Caller, project: str, asked: NewEndpoint, idempotency_key: str
) -> CreatedEndpoint:
    """Make an endpoint. Raises Rejection."""
    _check_kind(services.settings, asked.kind)
    _check_target(services.settings, asked.kind, asked.target)
    endpoint_id = f"whe_{secrets.token_hex(8)}"
    if idempotency_key:
        # A repeat asks for the same endpoint, and so is the same request.
        endpoint_id = f"whe_{dedup_hash(project, 'meterline:endpoint', idempotency_key).hex()[:16]}"
    command = PutEndpoint(
        project=project,
        endpoint_id=endpoint_id,
        kind=asked.kind,
        target=asked.target,
        event_types=asked.event_types,
        environments=list(asked.environments),
        is_ordered=asked.ordered,
        description=asked.description,
        **services.commands.addressing(idempotency_key, caller.key_id),
    )
    await decided(services, command)
    made = known_endpoint(services, project, endpoint_id)
    secret = _secret(services.settings, made) if made.kind == "webhook" else None
    return CreatedEndpoint(**info(made).model_dump(), secret=secret)


async def change(
    services: Services, caller: Caller, project: str, endpoint_id: str, asked: EndpointChange, idempotency_key: str
) -> EndpointInfo:
    """Change an endpoint. Raises Rejection."""
    if asked.target is not None:
        known = known_endpoint(services, project, endpoint_id)
        _check_target(services.settings, known.kind, asked.target)
    command = PutEndpoint(
        project=project,
        endpoint_id=endpoint_id,
        is_change=True,
        target=asked.target,
        event_types=asked.event_types,
        environments=None if asked.environments is None else list(asked.environments),
        is_ordered=asked.ordered,
        description=asked.description,
        state=asked.state,
        **services.commands.addressing(idempotency_key, caller.key_id),
    )
    await decided(services, command)
    return info(known_endpoint(services, project, endpoint_id))


async def delete(services: Services, caller: Caller, project: str, endpoint_id: str, idempotency_key: str) -> Response:
    """Delete an endpoint. Raises Rejection."""
    addressing = services.commands.addressing(idempotency_key, caller.key_id)
    await decided(services, DeleteEndpoint(project=project, endpoint_id=endpoint_id, **addressing))
    return Response(status_code=204)


async def rotate(services: Services, caller: Caller, project: str, endpoint_id: str, idempotency_key: str) -> NewSecret:
    """Give an endpoint another secret. Raises Rejection."""
    _check_kind(services.settings, "webhook")
    addressing = services.commands.addressing(idempotency_key, caller.key_id)
    await decided(services, RotateEndpoint(project=project, endpoint_id=endpoint_id, **addressing))
    rotated = known_endpoint(services, project, endpoint_id)
    until = utc(rotated.rotated_at_ms + ROTATION_MS)
    return NewSecret(id=endpoint_id, secret=_secret(services.settings, rotated), previous_until=until)


async def test(
    services: Services, caller: Caller, project: str, endpoint_id: str, idempotency_key: str
) -> EndpointAction:
    """Have a test notice sent to an endpoint. Raises Rejection."""
    addressing = services.commands.addressing(idempotency_key, caller.key_id)
    command = TestEndpoint(project=project, endpoint_id=endpoint_id, **addressing)
    return _action(endpoint_id, *await decided(services, command))


async def replay(
    services: Services, caller: Caller, project: str, endpoint_id: str, asked: ReplayRequest, idempotency_key: str
) -> EndpointAction:
    """Have notices sent to an endpoint again. Raises Rejection."""
    if (asked.notice_id is None) == (asked.since is None):
        raise Rejection("invalid_request", "Name one notice, or a time since when, and not both", "since")
    since_ms = 0 if asked.since is None else round(instant(asked.since, "since").timestamp() * 1000)
    command = ReplayNotices(
        project=project,
        endpoint_id=endpoint_id,
        since_ms=since_ms,
        only_failed=asked.only_failed,
        notice_id=asked.notice_id or "",
        **services.commands.addressing(idempotency_key, caller.key_id),
    )
    return _action(endpoint_id, *await decided(services, command))


async def deliveries(services: Services, caller: Caller, question: DeliveryQuestion) -> Response:
    """A page of the attempts at an endpoint that there is. Raises Rejection."""
    known_endpoint(services, question.project, question.endpoint_id)

    def page(clickhouse: ClickHouse) -> DeliveryPage:
        found, following = delivery_page(clickhouse, question)
        return DeliveryPage(deliveries=found, next_cursor=following)

    return await services.reads.json(caller.name, page)


async def health(services: Services, caller: Caller, project: str, endpoint_id: str) -> Response:
    """The health of an endpoint that there is. Raises Rejection."""
    endpoint = known_endpoint(services, project, endpoint_id)
    is_disabled = endpoint.state == "disabled"

    def found(clickhouse: ClickHouse) -> EndpointHealthInfo:
        return _health(endpoint, endpoint_record(clickhouse, project, endpoint_id, is_disabled))

    return await services.reads.json(caller.name, found)


def known_endpoint(services: Services, project: str, endpoint_id: str) -> Endpoint:
    """The endpoint of an id, as this process knows it. Raises Rejection `unknown_endpoint`, `unknown_project` or
    `not_ready`."""
    if project == PLATFORM_ID:
        account = known_account(services, project)
        if account is None:
            raise no_endpoint(project, endpoint_id)
        return endpoint_of(account, endpoint_id)
    return endpoint_of(account_for(services, project), endpoint_id)


def info(endpoint: Endpoint) -> EndpointInfo:
    """An endpoint as answers show it."""
    return EndpointInfo(
        id=endpoint.id,
        kind=cast(EndpointKind, endpoint.kind),
        target=shown_target(endpoint),
        event_types=endpoint.event_types,
        environments=cast(list[EnvironmentName], endpoint.environments),
        ordered=endpoint.is_ordered,
        description=endpoint.description,
        state=cast(EndpointState, endpoint.state),
        created_at=utc(endpoint.created_at_ms),
        rotated_at=utc(endpoint.rotated_at_ms) if endpoint.rotated_at_ms else None,
    )


def _health(endpoint: Endpoint, record: EndpointRecord) -> EndpointHealthInfo:
    def when(at_ms: int) -> datetime | None:
        return utc(at_ms) if at_ms > 0 else None

    return EndpointHealthInfo(
        id=endpoint.id,
        state=cast(EndpointState, endpoint.state),
        attempts=record.attempts,
        failures=record.failures,
        failures_in_a_row=record.failures_in_a_row,
        last_attempt_at=when(record.last_attempt_at_ms),
        last_delivered_at=when(record.last_delivered_at_ms),
        last_status=record.last_status or None,
        last_error=record.last_error,
        waiting=record.waiting,
        next_at=when(record.next_at_ms),
        disabled_at=when(record.disabled_at_ms),
        disabled_reason=record.disabled_reason,
    )


def _read(caller: Caller, project: str | None) -> str:
    caller.require(READ)
    return project_for(caller, project)


def _written(caller: Caller, project: str | None) -> str:
    caller.require(WRITE)
    return project_for(caller, project)


def _action(endpoint_id: str, reply: Reply, offset: int) -> EndpointAction:
    return EndpointAction(id=endpoint_id, entry_id=reply.entry_id, offset=offset)


def _secret(settings: Settings, endpoint: Endpoint) -> str:
    assert settings.webhook_key is not None
    return secret_of(settings.webhook_key.get_secret_value(), endpoint.id, endpoint.secret_version)


def _check_kind(settings: Settings, kind: str) -> None:
    """Refuse a kind of endpoint that this deployment could never deliver to."""
    needed = {"webhook": "webhook_key", "email": "smtp_url"}.get(kind)
    if needed is not None and getattr(settings, needed, None) is None:
        detail = f"Endpoints of kind {kind} are not set up here: METERLINE_{needed.upper()} is not set"
        raise Rejection("kind_not_set_up", detail, "kind")


def _check_target(settings: Settings, kind: str, target: str) -> None:
    """Check a target by its text alone: what its name resolves to is checked on delivery, each time."""
    networks = settings.webhook_networks
    check_target(kind, target, is_http_allowed=bool(networks))
    if kind == "email":
        return
    try:
        url, literal = place_of(target)
    except ForbiddenError as error:
        raise Rejection("invalid_request", f"This can't be a target: {error}", "target") from None
    if literal is not None:
        is_named = any(literal in network for network in networks)
    else:
        # A name of another machine leads to no loopback address, which is all that a laptop's own networks are.
        is_here = url.host.removesuffix(".").lower().rpartition(".")[2] == "localhost"
        is_named = any(network.is_loopback == is_here for network in networks)
    if literal is not None and not (is_named or is_public(literal)):
        raise Rejection("invalid_request", "A target has a public address", "target")
    if url.scheme != "https" and not is_named:
        raise Rejection("invalid_request", "Plain http is for the networks of METERLINE_WEBHOOK_NETWORKS", "target")
