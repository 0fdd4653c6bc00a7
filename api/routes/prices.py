"""Prices: what is in force, what was announced, and announcing a price book."""

from __future__ import annotations

import time

from fastapi import APIRouter

from api.dependencies import ServicesDep
from schemas.answers import Price, PriceList
from streams.core.booking import format_credits

router = APIRouter(prefix="/v1", tags=["prices"])


@router.get("/prices", response_model=PriceList)
async def prices(services: ServicesDep) -> PriceList:
    """The price of every operation. Open to everyone."""
    book = services.accounts.prices().at(time.time_ns() // 1_000_000)
    return PriceList(
        version=book.version,
        prices=[
            Price(operation=operation, credits=format_credits(rate), plan_required=book.plan_required.get(operation))
            for operation, rate in book.rates.items()
        ],
    )
