"""Fetched prices: the price book in force, as the API tells it, for gateways that price requests themselves."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from typing import Any

import httpx

from schemas.prices import PriceBook
from streams.client.admissions import MeterlineAway
from streams.client.amounts import credits_of
from streams.core.booking import parse_credits

PRICES_SECONDS_DEFAULT = 60.0


class FetchedPrices:
    """FetchedPrices has the price book that the API says is in force, and fetches it again once it is `seconds` old."""

    def __init__(self, url: str, seconds: float) -> None:
        self._client = httpx.AsyncClient(base_url=url.rstrip("/"), timeout=5.0)
        self._seconds = seconds
        self._fetching = asyncio.Lock()
        self._book: PriceBook | None = None
        self._fetched_at = 0.0

    async def get(self) -> PriceBook:
        """The price book in force, at most `seconds` old. Raises MeterlineAway where it can't be fetched."""
        async with self._fetching:
            if self._book is None or time.monotonic() - self._fetched_at >= self._seconds:
                try:
                    response = (await self._client.get("/v1/prices")).raise_for_status()
                    self._book = _book_of(response.json())
                except Exception as error:
                    raise MeterlineAway(f"The prices could not be fetched: {error}") from error
                self._fetched_at = time.monotonic()
            return self._book

    async def close(self) -> None:
        await self._client.aclose()


def _book_of(price_list: dict[str, Any]) -> PriceBook:
    prices = price_list["prices"]
    return PriceBook(
        version=price_list["version"],
        effective_at_ms=0,
        rates={each["operation"]: parse_credits(each["credits"], "prices") for each in prices},
        plan_required={each["operation"]: each["plan_required"] for each in prices if each["plan_required"]},
    )


def prices_of(book: PriceBook) -> dict[str, Decimal]:
    """The credits of one unit of each operation of a price book."""
    return {operation: credits_of(rate) for operation, rate in book.rates.items()}
