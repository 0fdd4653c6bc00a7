"""Portal links: made for a platform's own customers, and ended; they are opened in a browser (`api.dashboard`)."""

from __future__ import annotations

import secrets
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request

from api.callers.keys import Caller
from api.callers.links import PortalLink, PortalLinks
from api.callers.portals import SCOPE, portal_caller
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
from api.services import Services
from schemas.commands import EndPortals
from schemas.http.portals import EndedPortals, NewPortalLink, PortalLinkInfo
from schemas.times import utc
from streams.core.acceptance import dedup_hash
from streams.kafka.clock import now_ms

# Where a browser opens a link.
OPEN_PATH = "/dashboard/portal"

router = APIRouter(prefix="/v1/portal-links", tags=["portals"], responses=problems(401, 403, 404, 409, 422, 503))
admin_router = APIRouter(
    prefix="/v1/admin/projects/{project}/portal-links",
    tags=["administration"],
    responses=problems(401, 403, 404, 409, 422, 503),
)

ReasonQuery = Annotated[str, Query(max_length=200, description="Kept with the audit entry")]


@router.post("", status_code=201, response_model=PortalLinkInfo)
async def make_link(
    request: Request,
    services: ServicesDep,
    caller: CurrentCallerDep,
    asked: NewPortalLink,
    project: ProjectQuery = None,
    idempotency_key: IdempotencyKey = "",
) -> PortalLinkInfo:
    """Make a link to a project's pages, read-only, for a customer of one's own. It opens once, within its minutes, and
    begins a session of at most 12 hours, which ends with the key that made the link. Under an Idempotency-Key a repeat
    has the same id, and one of the two opens."""
    caller.require(SCOPE)
    return made(request, services, caller, project_for(caller, project), asked, idempotency_key)


@router.delete("", response_model=EndedPortals)
async def end_links(
    services: ServicesDep,
    caller: CurrentCallerDep,
    project: ProjectQuery = None,
    reason: ReasonQuery = "",
    idempotency_key: IdempotencyKey = "",
) -> EndedPortals:
    """End all portal links of a project that were made so far, and every session that came of one."""
    caller.require(SCOPE)
    return await ended(services, caller, project_for(caller, project), reason, idempotency_key)


@admin_router.post("", status_code=201, response_model=PortalLinkInfo)
async def make_link_of_project(
    request: Request,
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    asked: NewPortalLink,
    idempotency_key: IdempotencyKey = "",
) -> PortalLinkInfo:
    """Make a link to a project's pages, as a key of the project does with POST /v1/portal-links."""
    return made(request, services, caller, project, asked, idempotency_key)


@admin_router.delete("", response_model=EndedPortals)
async def end_links_of_project(
    services: ServicesDep,
    caller: AdminDep,
    project: ProjectPath,
    reason: ReasonQuery = "",
    idempotency_key: IdempotencyKey = "",
) -> EndedPortals:
    """End all portal links of a project that were made so far, and every session that came of one."""
    return await ended(services, caller, project, reason, idempotency_key)


def made(
    request: Request, services: Services, caller: Caller, project: str, asked: NewPortalLink, idempotency_key: str
) -> PortalLinkInfo:
    """A link that its caller may make. Raises Rejection."""
    links, account, now = PortalLinks.of(services.settings), account_for(services, project), now_ms()
    link = PortalLink(
        id=_link_id(project, idempotency_key),
        project=project,
        environment=asked.environment,
        customer=asked.customer_id or "",
        maker=caller.key_id,
        known_offset=account.last_offset,
        expires_at=now // 1000 + asked.minutes * 60,
        mark=caller.mark,
    )
    portal_caller(services.settings, account, link, now)  # refuses what could not be opened
    base = services.settings.public_url or str(request.base_url)
    return PortalLinkInfo(
        id=link.id,
        url=f"{base.rstrip('/')}{OPEN_PATH}?{urlencode({'token': links.token(link)})}",
        project=project,
        customer_id=asked.customer_id,
        environment=asked.environment,
        expires_at=utc(link.expires_at * 1000),
    )


async def ended(services: Services, caller: Caller, project: str, reason: str, idempotency_key: str) -> EndedPortals:
    """The end of a project's portal links. Raises Rejection."""
    addressing = services.commands.addressing(idempotency_key, caller.key_id)
    reply, _ = await decided(services, EndPortals(project=project, reason=reason, **addressing))
    return EndedPortals(project=project, entry_id=reply.entry_id)


def _link_id(project: str, idempotency_key: str) -> str:
    if not idempotency_key:
        return f"plk_{secrets.token_hex(12)}"
    return f"plk_{dedup_hash(project, 'meterline:portal-link', idempotency_key).hex()[:24]}"
