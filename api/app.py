"""The FastAPI app of the HTTP service: its routes, and the layers around every request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI

from api import errors
from api.busyness import Busyness
from api.callers.calls import keep_refusal
from api.callers.portals import check_portal
from api.connections import ConnectionLimits, Connections
from api.dashboard import routes as dashboard
from api.dashboard.view import answer_with_problem
from api.lean import LeanRoutes
from api.metrics import registry_of
from api.middleware import Front
from api.openapi import describe
from api.routes import (
    admissions,
    audit,
    balance,
    corrections,
    credits,
    dead_letters,
    docs,
    erasures,
    health,
    holds,
    invoices,
    items,
    keys,
    ledger,
    limit_rehearsals,
    limits,
    notices,
    platform_webhooks,
    portals,
    prices,
    projects,
    receipts,
    rehearsals,
    status,
    usage,
    usage_events,
    webhooks,
)
from api.services import running_services
from api.unpacking import Unpacking
from streams.settings import Settings

_DESCRIPTION = """
Every call with a project's key is one request of that project, reads and writes alike; a batch of admissions is one
for each of its items. While the last 60 seconds hold fewer requests than the limit, a request passes; above that it
spends a burst token. A rested project has `burst - limit` of them, and they refill at `limit / 60` a second while it is
below its limit. Every answer says how the window stands, in `X-RateLimit-Limit`, `-Remaining` and `-Reset` (the Unix
second when it will be full again). A call beyond it is a 429 `rate_limited`, and does nothing: send it again after
`Retry-After` seconds. Most are refused by the API itself and have a request id only: they are counted, and of a flood
only some are kept one by one.

Every answer bears its request id, in `x-request-id` and, where it is a refusal, in `instance`. For a refusal, and for
an answer that tells of a decision, `GET /v1/receipts/{request_id}` gives within 24 hours what was answered, and what
was decided.

What comes without a valid key is held to a window of its address in the same way. Calls with an admin key are the
operator's and are not limited; an admission that one asks for counts in the window of the project that it names.
"""


_ROUTERS = (
    admissions.router,
    holds.router,
    usage_events.router,
    balance.router,
    ledger.router,
    usage.router,
    projects.router,
    limits.own_router,
    items.router,
    receipts.router,
    rehearsals.router,
    limit_rehearsals.router,
    prices.router,
    projects.admin_router,
    keys.router,
    credits.router,
    items.admin_router,
    limits.router,
    corrections.router,
    erasures.router,
    audit.router,
    notices.router,
    dead_letters.router,
    webhooks.router,
    platform_webhooks.router,
    portals.router,
    portals.admin_router,
    invoices.router,
    status.router,
    docs.router,
    health.router,
)


def create_app(settings: Settings, *, connections_max: int = 1024) -> FastAPI:
    """The app of the HTTP service. Its services start and stop with it. A server gives its connections to
    `app.state.connections`, of which there are at most `connections_max`."""
    connections, busyness = Connections(ConnectionLimits.of(settings, connections_max)), Busyness(settings.busy_lag_ms)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running_services(settings) as services:
            app.state.services = services
            connections.on_refused = partial(keep_refusal, services.answers)
            connections.on_shutdown = services.live_ledger.end_all
            services.live_ledger.check_portal = partial(check_portal, settings)
            app.state.metrics = registry_of(services, connections, busyness)
            watching = [asyncio.create_task(each.run()) for each in (connections, busyness)]
            try:
                yield
            finally:
                for task in watching:
                    task.cancel()

    app = FastAPI(
        title="Meterline",
        version=version("meterline"),
        summary="Usage metering and prepaid credits.",
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # FastAPI would ask OpenTelemetry at each request whether anybody wants to know of it; our figures are /metrics.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.connections, app.state.busyness = connections, busyness
    errors.install(app, answer_with_problem)
    for router in _ROUTERS:
        app.include_router(router)
    api_routes = [route for router in _ROUTERS for route in router.routes]
    dashboard.install(app, settings, api_routes)
    # The last layer added is the outermost.
    app.add_middleware(LeanRoutes, routes=api_routes)
    app.add_middleware(Unpacking, bytes_max=settings.request_body_bytes_max)
    app.add_middleware(Front, settings=settings)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    return app
