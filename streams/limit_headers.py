"""Limit headers: what an HTTP answer says of its project's request window."""

from __future__ import annotations

from schemas.replies import RateState
from streams.kafka.clock import now_ms


def rate_headers(rate: RateState, status: int) -> dict[str, str]:
    """The limit headers for a request window's state. The reset is in Unix seconds, rounded up. A 429 also has
    `Retry-After`, the seconds after which the same request would pass."""
    headers = {
        "X-RateLimit-Limit": str(rate.limit),
        "X-RateLimit-Remaining": str(rate.remaining),
        "X-RateLimit-Reset": str(-(-rate.reset_at_ms // 1000)),
    }
    if status == 429 and rate.retry_at_ms:
        headers["Retry-After"] = str(retry_after_seconds(rate))
    return headers


def retry_after_seconds(rate: RateState) -> int:
    """The seconds from now after which the same request would pass, rounded up; at least 1."""
    return max(1, -(-(rate.retry_at_ms - now_ms()) // 1000))
