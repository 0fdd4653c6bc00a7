"""Portals: a link is opened by a button, once, and its session looks at a few pages."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.callers.links import TOKEN_CHARS_MAX, PortalLink, PortalLinks
from api.callers.portals import caller_of_portal
from api.dashboard import pages
from api.dashboard.figures import credits_sum
from api.dashboard.sessions import session_of
from api.dashboard.view import PORTAL, View, form_of, sessions_of
from api.dashboard.views.sign_in import keep_session
from api.dependencies import ServicesDep, account_for, decided
from api.services import Services
from schemas.commands import OpenPortal
from schemas.problems import CODES, Rejection
from streams.core.erasures import customer_hash
from streams.kafka.clock import now_ms

router = APIRouter(include_in_schema=False)

_PATH = PORTAL.removeprefix("/dashboard")
# A page with a token in its address tells nobody where it is.
_HEADERS = {"referrer-policy": "no-referrer"}
_HOME = "/dashboard"
# The owner says so about a link that was opened before: its id is the command's key.
_USED = frozenset({"idempotency_key_reused", "idempotency_reply_expired"})
# Beyond this the owner need not be asked: its clock is not so far from ours.
_CLOCKS_APART_MS = 60_000
_DAYS = 30


@router.get(_PATH)
async def portal_page(
    request: Request,
    services: ServicesDep,
    token: Annotated[str, Query()] = "",
    why: Annotated[str, Query(max_length=300)] = "",
) -> Response:
    """Show the button that opens a link: whoever only looks at the link has not used it."""
    if not token:
        return _page(request, why=why)
    try:
        _check(services, _link(services, token))
    except Rejection as rejection:
        return _page(request, problem=rejection)
    return _page(request, token=token)


@router.post(_PATH)
async def open_portal(request: Request, services: ServicesDep) -> Response:
    """Open a link, and begin a session of its own, whatever session the browser had."""
    try:
        _check_own_form(request)
        fields = await form_of(request)
        link = _link(services, fields.get("token", ""))
        session = sessions_of(request).begin_portal(link, fields.get("zone", ""))
        _check(services, link)
        await _open(services, link, session.id)
    except Rejection as rejection:
        before = session_of(request.scope)
        if rejection.code == "portal_link_used" and before is not None and before.portal == link:
            # The button was pressed twice.
            return Response(None, 303, pages.HEADERS | _HEADERS | {"location": _HOME})
        return _page(request, problem=rejection)
    response = Response(None, 303, pages.HEADERS | _HEADERS | {"location": _HOME})
    keep_session(request, response, session)
    return response


async def _open(services: Services, link: PortalLink, session_id: str) -> None:
    command = OpenPortal(
        project=link.project,
        environment=link.environment,
        session_id=session_id,
        customer_sha256=customer_hash(link.project, link.customer) if link.customer else "",
        known_offset=link.known_offset,
        expires_at_ms=link.expires_at * 1000,
        **services.commands.addressing(link.id, link.maker),
    )
    try:
        await decided(services, command)
    except Rejection as rejection:
        if rejection.code in _USED:
            raise Rejection("portal_link_used", "This link has been opened before") from None
        raise


def _link(services: Services, token: str) -> PortalLink:
    return PortalLinks.of(services.settings).link(token[: TOKEN_CHARS_MAX + 1])


def _check(services: Services, link: PortalLink) -> None:
    """Check, as far as this process knows, that a link can be opened. Raises Rejection."""
    if link.expires_at * 1000 + _CLOCKS_APART_MS <= now_ms():
        raise Rejection("portal_link_expired", "The time for opening this link is over")
    caller_of_portal(services.settings, account_for(services, link.project), link, now_ms())


def _check_own_form(request: Request) -> None:
    """Check that the form came from our page. That page tells nobody its address, so a browser says of it only that it
    is of the same origin, or, where it does not say such things, its origin. Raises Rejection `forged_form`."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "")
    is_own = origin.partition("://")[2] == request.headers.get("host", "") and bool(origin)
    if site != "same-origin" and not (site is None and is_own):
        raise Rejection("forged_form", "This form came from another site's page")


def _page(request: Request, *, token: str = "", why: str = "", problem: Rejection | None = None) -> Response:
    told = CODES[problem.code] if problem is not None else None
    context: dict[str, Any] = {"token": token, "why": why, "problem": problem, "told": told, "view": None, "places": []}
    return pages.html(request, pages.rendered("portal.html", context), problem.status if problem else 200, _HEADERS)


async def customer_overview(view: View) -> Response:
    """Show what a portal's customer has used in 30 days, and the newest entries: nothing of the project, nor of
    others."""
    usage, ledger = await asyncio.gather(
        view.get("/v1/usage", environment=view.environment, group_by="operation"),
        view.get("/v1/ledger", environment=view.environment, limit=10),
    )
    for each in (usage, ledger):
        if each.problem is not None:
            return view.error(each.problem)
    rows = sorted(usage.data["rows"], key=lambda each: Decimal(each["credits"]), reverse=True)
    return view.page(
        "portal_overview.html",
        customer=view.caller.customer,
        days=_DAYS,
        used=rows,
        total=credits_sum(*(each["credits"] for each in rows)),
        entries=ledger.data["entries"],
        as_of=usage.data["as_of"],
        lag_ms=usage.data["lag_ms"],
    )
