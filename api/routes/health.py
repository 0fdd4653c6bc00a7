"""Health: is this process alive, can it serve, and do its balances add up? Open to everyone; it names no project."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.dependencies import ServicesDep
from schemas.http.projects import Health

router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=Health)
async def healthz() -> Health:
    """Say that this process is alive."""
    return Health(status="ok")


@router.get("/readyz", response_model=Health, responses={503: {"model": Health}})
async def readyz(services: ServicesDep, response: Response) -> Health:
    """Say whether this process can serve: 200 once its parts have caught up, 503 naming those that have not."""
    parts = services.parts_ready()
    waiting = [name for name, ready in parts.items() if not ready]
    if waiting:
        response.status_code = 503
    return Health(status=f"waiting for {', '.join(waiting)}" if waiting else "ok", parts=parts)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Give Prometheus the figures of this process and of the parts that it runs."""
    return Response(generate_latest(request.app.state.metrics), media_type=CONTENT_TYPE_LATEST)
