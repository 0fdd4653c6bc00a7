"""The routes of the dashboard: those of all views, and an answer for what is not there."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from starlette.responses import Response

from api.dashboard.sessions import Sessions
from api.dashboard.view import PageRoute, ViewDep
from api.dashboard.views import (
    alerts,
    holds,
    invoices,
    ledger,
    limits,
    overview,
    prices,
    receipts,
    sign_in,
    static,
    usage,
    webhooks,
)
from schemas.problems import Rejection
from streams.settings import Settings

_elsewhere = APIRouter(include_in_schema=False, route_class=PageRoute)


@_elsewhere.get("/{path:path}")
async def nothing_there(view: ViewDep, path: str) -> Response:
    """Tell that there is no such page."""
    raise Rejection("not_found", f"The dashboard has no page {path[:64]!r}")


# The last one takes what no other has.
ROUTERS = (
    overview.router,
    usage.router,
    limits.router,
    ledger.router,
    receipts.router,
    holds.router,
    invoices.router,
    alerts.router,
    webhooks.router,
    prices.router,
    sign_in.router,
    static.router,
    _elsewhere,
)


def install(app: FastAPI, settings: Settings) -> None:
    """Put the dashboard into an app."""
    key = settings.session_key
    app.state.sessions = Sessions(key.get_secret_value() if key is not None else None)
    for router in ROUTERS:
        app.include_router(router, prefix="/dashboard")
