"""Customers: who an event's metadata names, as the history has it in the column `customer_id`."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

# Between these the engine writes a number without an exponent.
_PLAIN_MIN, _PLAIN_MAX = 1e-6, 1e21


def customer_name(value: Any) -> str:
    """The text of what stands behind `customer_id` in metadata, as ClickHouse extracts it: "" for null."""
    if value is None or isinstance(value, str):
        return value or ""
    text = msgspec.json.encode(value).decode()
    if isinstance(value, float):
        if _PLAIN_MIN <= abs(value) < _PLAIN_MAX:
            text = f"{Decimal(text):f}"
        text = text.removesuffix(".0")
    return text
