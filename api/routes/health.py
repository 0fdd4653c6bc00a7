"""Is it alive, can it serve, and does it add up? Open to everyone: no project is named."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.dependencies import ServicesDep
from schemas.http.projects import Health

router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=Health)
async def healthz() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.get("/readyz", response_model=Health, responses={503: {"model": Health}})
async def readyz(services: ServicesDep, response: Response) -> Health:
    """Every part has caught up; 503 names those that have not."""
    parts = services.parts_ready()
    waiting = [name for name, ready in parts.items() if not ready]
    if waiting:
        response.status_code = 503
    return Health(status=f"waiting for {', '.join(waiting)}" if waiting else "ok", parts=parts)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Figures for Prometheus, of this process and of what it follows."""
    return Response(generate_latest(request.app.state.metrics), media_type=CONTENT_TYPE_LATEST)
