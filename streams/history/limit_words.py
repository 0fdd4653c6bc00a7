"""Limits as the API shows them, in JSON and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.accounts import Limits
from schemas.http.limits import LimitValues, SomeLimits
from streams.core.booking import format_credits


def limit_values(limits: Limits) -> LimitValues:
    """Show limits that are all set."""
    return LimitValues(
        requests_per_minute=limits.requests_per_minute,
        burst=limits.burst,
        cost_ceiling=format_credits(limits.cost_ceiling),
    )


def some_limits(limits: Limits) -> SomeLimits:
    """Show limits that are laid over others: a 0, which leaves the other limit as it is, is shown as None."""
    return SomeLimits(
        requests_per_minute=limits.requests_per_minute or None,
        burst=limits.burst or None,
        cost_ceiling=format_credits(limits.cost_ceiling) if limits.cost_ceiling else None,
    )


def limits_text(said: Mapping[str, Any]) -> str:
    """The limits that JSON or a fact names, in words; "" where it names none."""
    parts = (
        ("requests_per_minute", "{} requests a minute"),
        ("burst", "{} at once"),
        ("cost_ceiling", "{} credits a minute"),
    )
    return ", ".join(text.format(said[name]) for name, text in parts if said.get(name))
