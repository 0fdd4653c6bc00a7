"""Endpoint clients, and the courier: what they ask next, drawn from a stream of its own."""

from __future__ import annotations

import random
from typing import Any

from schemas.commands import (
    AnyCommand,
    BillDelivery,
    DeleteEndpoint,
    DisableEndpoint,
    PutEndpoint,
    ReplayNotices,
    RotateEndpoint,
    TestEndpoint,
)
from streams.core.endpoints import PLATFORM_ID
from tests.simulation.model.times import DAY_MS

Ask = tuple[type[AnyCommand], str, dict[str, Any]]


class EndpointAsks:
    """Draws what is asked next. `numbers` is how many endpoints and attempts there are to draw from."""

    def __init__(self, seed: object, numbers: int = 4) -> None:
        self._rng = random.Random(f"endpoints of {seed}")
        self._numbers = numbers

    def next(self, project: str, now_ms: int) -> Ask:
        """A command, its project and its fields. It may be refused."""
        rng = self._rng
        choice = rng.choice(
            ("put", "put", "put", "bill", "bill", "bill", "rotate", "delete", "disable", "test", "replay")
        )
        whose = PLATFORM_ID if rng.random() < 0.2 and choice != "bill" else project
        endpoint_id = f"whe_{rng.randrange(self._numbers)}"
        named = {"endpoint_id": endpoint_id}
        if choice == "put":
            return PutEndpoint, whose, named | self._put()
        if choice == "bill":
            attempt = f"{endpoint_id}.ntc-0-{rng.randrange(self._numbers)}-0.{rng.randrange(2, 7)}"
            environment = rng.choice(("production", "production", "preview", ""))
            billed = {"attempt_id": attempt if rng.random() < 0.9 else "", "environment": environment}
            return BillDelivery, project, named | billed
        if choice == "replay":
            return ReplayNotices, whose, named | self._replay(now_ms)
        if choice == "disable":
            return DisableEndpoint, whose, named | {"reason": "410 Gone"}
        kinds = {"rotate": RotateEndpoint, "delete": DeleteEndpoint, "test": TestEndpoint}
        return kinds[choice], whose, named

    def _put(self) -> dict[str, Any]:
        rng = self._rng
        if rng.random() < 0.5:
            made = {"kind": rng.choice(("webhook", "webhook", "slack", "fax")), "target": "https://acme.example/hook"}
            return made | ({"event_types": ["project.*"]} if rng.random() < 0.5 else {})
        changes = (
            {"state": "paused"},
            {"state": "active"},
            {"state": "active", "is_ordered": True},
            {"state": "disabled"},
            {"event_types": rng.choice(([], ["*"], ["hold.expired"]))},
            {"target": "https://acme.example/other", "description": "other"},
            {"kind": "slack"},
        )
        return {"is_change": True} | rng.choice(changes)

    def _replay(self, now_ms: int) -> dict[str, Any]:
        rng = self._rng
        if rng.random() < 0.3:
            return {"notice_id": rng.choice(("ntc-0-1-0", "one"))}
        return {
            "since_ms": now_ms - rng.choice((0, DAY_MS, 29 * DAY_MS, 31 * DAY_MS)),
            "only_failed": rng.random() < 0.5,
        }
