"""The receipt of a decision: what came of it, why, what it cost, and which grants it came from."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from api.dashboard.asking import api_path
from api.dashboard.entry_rows import GRANTS
from api.dashboard.view import PageRoute, ViewDep

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/receipts/{id}")
async def receipt(view: ViewDep, id: Annotated[str, Path(max_length=128)]) -> Response:
    """Show the receipt of a decision, or what was answered to a request."""
    answer = await view.get(api_path("/v1/receipts/{id}", id=id))
    if answer.problem is not None:
        return view.error(answer.problem)
    if "inputs" in answer.data:
        view.environment = answer.data["inputs"]["environment"] or view.environment
    template = "request_receipt.html" if "request_id" in answer.data else "receipt.html"
    return view.page(template, receipt=answer.data, grants=GRANTS)
