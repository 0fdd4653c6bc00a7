"""Helpers for API tests: an operator with the calls that many of them make."""

from __future__ import annotations

import secrets
import time
from typing import Any

import httpx

from api.stack import Stack
from streams.core.booking import format_credits
from streams.core.limits import CEILING_MAX, REQUESTS_MAX


class Operator:
    """An operator with an admin key at a running stack."""

    began_ms = 0

    def __init__(self, stack: Stack) -> None:
        self.settings = stack.settings
        self.url = stack.url
        self.clickhouse_url = stack.clickhouse_url
        self.metrics_url = stack.metrics_url
        self.http = self.client(stack.admin_key)

    def client(self, key: str | None) -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30.0)

    def project(self, plan: str = "free", **body: Any) -> str:
        """Open a project, and return its id."""
        name = f"prj_{secrets.token_hex(5)}"
        response = self.http.post("/v1/admin/projects", json={"project": name, "plan": plan, **body})
        assert response.status_code == 201, response.text
        return name

    def key(self, project: str, environment: str = "production", **body: Any) -> dict[str, Any]:
        """Make a key of a project, and return its JSON: key, key_id, scopes."""
        response = self.http.post(f"/v1/admin/projects/{project}/keys", json={"environment": environment, **body})
        assert response.status_code == 201, response.text
        return response.json()

    def lift_limits(self, project: str) -> None:
        """Lift a project's limits, for tests that are not about limits: it may make any number of requests at any
        cost."""
        limits = {
            "requests_per_minute": REQUESTS_MAX,
            "burst": 2 * REQUESTS_MAX,
            "cost_ceiling": format_credits(CEILING_MAX),
        }
        response = self.http.put(f"/v1/admin/projects/{project}/limits", json={**limits, "reason": "test"})
        assert response.status_code == 200, response.text

    def customer(
        self, plan: str = "free", environment: str = "production", *, is_limited: bool = False
    ) -> tuple[str, httpx.Client]:
        """A new project, and a client that calls with its key; its limits are lifted unless it `is_limited`."""
        project = self.project(plan)
        if not is_limited:
            self.lift_limits(project)
        return project, self.client(self.key(project, environment)["key"])

    def metrics(self) -> str:
        """The figures that Prometheus is given."""
        return httpx.get(self.metrics_url, timeout=30.0).text

    def rows(self, clickhouse_url: str, sql: str) -> list[list[str]]:
        response = httpx.post(clickhouse_url, content=sql.encode())
        assert response.status_code == 200, response.text
        return [line.split("\t") for line in response.text.splitlines()]


def eventually(check: Any, seconds: float = 40.0) -> Any:
    """The first truthy result of `check`, which is called again and again until then: for less than a minute, since a
    window, a hold or a sleeping process may end by itself after that. Each question takes processor time from what is
    waited for, so they come less and less often."""
    deadline, pause = time.monotonic() + seconds, 0.03
    while not (result := check()):
        assert time.monotonic() < deadline, "this did not come true in time"
        time.sleep(pause)
        pause = min(1.3 * pause, 0.25)
    return result


def event(project: str, event_id: str, operation: str = "chat.message", **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "/tests",
        "type": "usage",
        "subject": project,
        "data": {"operation": operation, **data},
    }
