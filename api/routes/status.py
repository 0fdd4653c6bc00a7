"""The state of the whole system, for operators."""

from __future__ import annotations

from clickhouse_connect.driver.exceptions import OperationalError
from fastapi import APIRouter
from starlette.responses import Response

from api.dependencies import AdminDep, ServicesDep, problems
from api.reads import json_of
from api.views.status import clickhouse_facts, system_status
from schemas.http.status import DiskStatus, SystemStatus
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouseError

router = APIRouter(prefix="/v1/admin", tags=["administration"], responses=problems(401, 403))


@router.get("/status", response_model=SystemStatus)
async def status(services: ServicesDep, caller: AdminDep) -> Response:
    """Tell the state of the whole system: parts, workers and their partitions, lags, disks, and what is wrong.

    It is always a 200: what is wrong stands in `wrong`. For probes there is /readyz, which needs no key.
    """
    is_embedded = services.settings.clickhouse_url is None
    version: str | None = None
    disks: list[DiskStatus] = []
    try:
        version, disks = await services.reads.ask(
            caller.name, lambda clickhouse: clickhouse_facts(clickhouse, is_embedded)
        )
    except (ClickHouseError, OperationalError, Rejection):
        # It is away, or busy: the rest is told all the same, and the part says why.
        version = None
    return json_of(system_status(services, version, disks))
