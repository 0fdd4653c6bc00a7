"""The HTTP service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI

from api import errors
from api.middleware import BodyLimit, RequestIds
from api.openapi import describe
from api.routes import (
    administration,
    admissions,
    corrections,
    health,
    holds,
    invoices,
    limit_rehearsals,
    prices,
    reading,
    receipts,
    rehearsals,
    usage_events,
)
from api.services import running_services
from streams.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """The app; its services start and stop with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running_services(settings) as services:
            app.state.services = services
            yield

    app = FastAPI(
        title="Meterline",
        version=version("meterline"),
        summary="Usage metering and prepaid credits.",
        lifespan=lifespan,
    )
    errors.install(app)
    for routes in (
        admissions,
        holds,
        usage_events,
        reading,
        receipts,
        rehearsals,
        limit_rehearsals,
        prices,
        administration,
        corrections,
        invoices,
        health,
    ):
        app.include_router(routes.router)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, bytes_max=settings.request_body_bytes_max)
    app.add_middleware(RequestIds)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    return app
