"""Health: is this process alive, can it serve, and do its balances add up? Open to everyone; it names no project."""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.dependencies import ServicesDep
from schemas.http.projects import Health

router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=Health)
async def healthz() -> Health:
    """Say that this process is alive."""
    return Health(status="ok")


@router.get("/readyz", response_model=Health, responses={503: {"model": Health}})
async def readyz(services: ServicesDep, response: Response) -> Health:
    """Say whether calls are decided and answered now: 200, or 503 with the parts that keep them from it and why."""
    waiting = services.pipeline.waiting()
    reasons = [f"{part}: {why}" for part, why in waiting.items() if why]
    if reasons:
        response.status_code = 503
    return Health(status="; ".join(reasons) or "ok", parts={part: not why for part, why in waiting.items()})
