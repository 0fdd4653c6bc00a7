"""Webhook endpoints of the platform itself, which hear of the notices of every project: admins' alone."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.dependencies import AdminDep, IdempotencyKey, ServicesDep, known_account, problems
from api.routes import webhooks
from api.routes.webhooks import EndpointPath, NoticeQuery, OutcomeQuery, PageCursor, PageLimit
from schemas.http.webhooks import (
    CreatedEndpoint,
    DeliveryPage,
    EndpointAction,
    EndpointChange,
    EndpointHealthInfo,
    EndpointInfo,
    EndpointList,
    NewEndpoint,
    NewSecret,
    ReplayRequest,
)
from streams.core.endpoints import PLATFORM_ID
from streams.history.deliveries import DeliveryQuestion

router = APIRouter(
    prefix="/v1/admin/webhook-endpoints",
    tags=["webhooks"],
    responses=problems(401, 403, 404, 409, 422, 503),
)


@router.post("", status_code=201, response_model=CreatedEndpoint)
async def create_platform_endpoint(
    services: ServicesDep, caller: AdminDep, asked: NewEndpoint, idempotency_key: IdempotencyKey = ""
) -> CreatedEndpoint:
    """Make an endpoint that hears of every project. Its secret is shown in this answer alone, and a test notice goes to
    it at once."""
    return await webhooks.create(services, caller, PLATFORM_ID, asked, idempotency_key)


@router.get("", response_model=EndpointList)
async def list_platform_endpoints(services: ServicesDep, caller: AdminDep) -> EndpointList:
    """List the platform's endpoints, the oldest first."""
    account = known_account(services, PLATFORM_ID)
    endpoints = [] if account is None else account.endpoints
    return EndpointList(project=None, endpoints=[webhooks.info(each) for each in endpoints])


@router.get("/{endpoint_id}", response_model=EndpointInfo)
async def get_platform_endpoint(services: ServicesDep, caller: AdminDep, endpoint_id: EndpointPath) -> EndpointInfo:
    """Show one endpoint of the platform."""
    return webhooks.info(webhooks.known_endpoint(services, PLATFORM_ID, endpoint_id))


@router.patch("/{endpoint_id}", response_model=EndpointInfo)
async def change_platform_endpoint(
    services: ServicesDep,
    caller: AdminDep,
    endpoint_id: EndpointPath,
    asked: EndpointChange,
    idempotency_key: IdempotencyKey = "",
) -> EndpointInfo:
    """Change an endpoint of the platform, pause it, or resume it. What is left out stays as it is."""
    return await webhooks.change(services, caller, PLATFORM_ID, endpoint_id, asked, idempotency_key)


@router.delete("/{endpoint_id}", status_code=204)
async def delete_platform_endpoint(
    services: ServicesDep, caller: AdminDep, endpoint_id: EndpointPath, idempotency_key: IdempotencyKey = ""
) -> Response:
    """Delete an endpoint of the platform: nothing more is sent to it."""
    return await webhooks.delete(services, caller, PLATFORM_ID, endpoint_id, idempotency_key)


@router.post("/{endpoint_id}/rotate", response_model=NewSecret)
async def rotate_platform_secret(
    services: ServicesDep, caller: AdminDep, endpoint_id: EndpointPath, idempotency_key: IdempotencyKey = ""
) -> NewSecret:
    """Give a webhook of the platform another secret, which is shown in this answer alone. For 24 hours both sign."""
    return await webhooks.rotate(services, caller, PLATFORM_ID, endpoint_id, idempotency_key)


@router.post("/{endpoint_id}/test", status_code=202, response_model=EndpointAction)
async def test_platform_endpoint(
    services: ServicesDep, caller: AdminDep, endpoint_id: EndpointPath, idempotency_key: IdempotencyKey = ""
) -> EndpointAction:
    """Send a test notice to one endpoint of the platform alone."""
    return await webhooks.test(services, caller, PLATFORM_ID, endpoint_id, idempotency_key)


@router.post("/{endpoint_id}/replay", status_code=202, response_model=EndpointAction)
async def replay_platform_notices(
    services: ServicesDep,
    caller: AdminDep,
    endpoint_id: EndpointPath,
    asked: ReplayRequest,
    idempotency_key: IdempotencyKey = "",
) -> EndpointAction:
    """Send notices to an endpoint of the platform again: one, all since a time, or those of them that it never took."""
    return await webhooks.replay(services, caller, PLATFORM_ID, endpoint_id, asked, idempotency_key)


@router.get("/{endpoint_id}/health", response_model=EndpointHealthInfo)
async def platform_endpoint_health(services: ServicesDep, caller: AdminDep, endpoint_id: EndpointPath) -> Response:
    """Show whether an endpoint of the platform takes what is sent to it."""
    return await webhooks.health(services, caller, PLATFORM_ID, endpoint_id)


@router.get("/{endpoint_id}/deliveries", response_model=DeliveryPage)
async def list_platform_deliveries(
    services: ServicesDep,
    caller: AdminDep,
    endpoint_id: EndpointPath,
    outcome: OutcomeQuery = None,
    notice_id: NoticeQuery = None,
    limit: PageLimit = 100,
    cursor: PageCursor = None,
) -> Response:
    """List the attempts of the last 30 days to deliver notices to an endpoint of the platform, the newest first."""
    question = DeliveryQuestion(PLATFORM_ID, endpoint_id, limit, outcome, notice_id, cursor)
    return await webhooks.deliveries(services, caller, question)
