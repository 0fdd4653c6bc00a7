"""The routes of the dashboard: those of all views, and an answer for what is not there."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.routing import BaseRoute

from api.dashboard.brand import Brand
from api.dashboard.pages import templates
from api.dashboard.sessions import Sessions
from api.dashboard.view import PageRoute, ViewDep
from api.dashboard.views import (
    acts,
    alerts,
    audit,
    billing,
    brand,
    dead_letters,
    events,
    holds,
    invoices,
    ledger,
    limit_rehearsal,
    limits,
    overview,
    portal,
    price_books,
    prices,
    projects,
    receipts,
    sign_in,
    static,
    system,
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
    portal.router,
    brand.router,
    static.router,
    projects.router,
    acts.router,
    price_books.router,
    limit_rehearsal.router,
    events.router,
    dead_letters.router,
    audit.router,
    billing.router,
    system.router,
    _elsewhere,
)


def install(app: FastAPI, settings: Settings, api_routes: Iterable[BaseRoute]) -> None:
    """Put the dashboard into an app, beside the routes of the API."""
    app.state.brand = templates().globals["brand"] = Brand.of(settings)
    app.state.operations = {
        f"{method} {route.path}": route
        for route in api_routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    key = settings.session_key
    app.state.sessions = Sessions(key.get_secret_value() if key is not None else None)
    for router in ROUTERS:
        app.include_router(router, prefix="/dashboard")
