"""Limits of one project, on the whole stack: a contract's, raises for a window of time, limits on trial."""

import secrets
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.calls import Operator, eventually

FREE = {"requests_per_minute": 30, "burst": 60, "cost_ceiling": "300"}


def customer(operator: Operator, plan: str = "free") -> tuple[str, httpx.Client]:
    """A new project with its plan's limits, and a client that calls with its key."""
    project = operator.project(plan)
    return project, operator.client(operator.key(project)["key"])


def me(operator: Operator, project: str) -> dict:
    """The project as it sees itself, asked for with the admin key, whose calls count against no window."""
    found: dict = operator.http.get("/v1/projects/me", params={"project": project}).json()
    return found


def limits(operator: Operator, project: str) -> dict:
    answer = operator.http.get(f"/v1/admin/projects/{project}/limits")
    assert answer.status_code == 200, answer.text
    return answer.json()


def put(operator: Operator, project: str, **body: object) -> httpx.Response:
    return operator.http.put(f"/v1/admin/projects/{project}/limits", json=body)


def post_raise(operator: Operator, project: str, key: str = "", **body: object) -> httpx.Response:
    headers = {"idempotency-key": key} if key else {}
    return operator.http.post(f"/v1/admin/projects/{project}/limit-raises", json=body, headers=headers)


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def ask(client: httpx.Client, operation: str = "read", **body: object) -> httpx.Response:
    return client.post("/v1/admissions", json={"operation": operation, **body})


def test_a_project_begins_with_its_plans_limits(operator: Operator) -> None:
    project, client = customer(operator, "free")
    assert limits(operator, project) == {
        "project": project,
        "plan": "free",
        "plan_limits": FREE,
        "contract": None,
        "raises": [],
        "in_force": FREE,
        "shadow": None,
    }
    shown = client.get("/v1/projects/me").json()
    assert (shown["requests_per_minute"], shown["cost_ceiling"], shown["raised_until"]) == (30, "300", None)


def test_a_contracts_limits_hold_until_they_end(operator: Operator) -> None:
    project, client = customer(operator, "free")
    done = put(operator, project, requests_per_minute=2, burst=2, reason="abuse").json()
    assert done["contract"] == {"requests_per_minute": 2, "burst": 2, "cost_ceiling": None}
    assert done["in_force"] == {"requests_per_minute": 2, "burst": 2, "cost_ceiling": "300"}
    assert [ask(client).status_code for _ in range(3)] == [200, 200, 429]
    assert put(operator, project, cost_ceiling="12.5").json()["in_force"] == FREE | {"cost_ceiling": "12.5"}
    assert put(operator, project).json()["contract"] is None
    assert ask(client).status_code == 200


def test_a_cost_ceiling_of_ones_own_is_429_and_what_never_fits_is_403(operator: Operator) -> None:
    project, client = customer(operator, "hobby")
    put(operator, project, cost_ceiling="40")
    assert ask(client, "image").status_code == 200
    waits = ask(client, "image")
    assert (waits.status_code, waits.json()["code"]) == (429, "rate_limited")
    assert 50 < int(waits.headers["retry-after"]) <= 60
    never = ask(client, "blog_post")
    assert (never.status_code, never.json()["code"]) == (403, "over_cost_ceiling")


def test_a_raise_lets_more_through_until_it_ends_by_itself(operator: Operator) -> None:
    project, client = customer(operator, "free")
    put(operator, project, requests_per_minute=1, burst=1)
    assert [ask(client).status_code for _ in range(2)] == [200, 429]
    ends_at = in_seconds(2)
    made = post_raise(operator, project, requests_per_minute=100, burst=3, ends_at=ends_at, reason="launch")
    assert made.status_code == 201, made.text
    (shown,) = made.json()["limits"]["raises"]
    assert shown == shown | {"id": made.json()["id"], "is_on": True, "requests_per_minute": 100, "cost_ceiling": None}
    assert made.json()["limits"]["in_force"]["requests_per_minute"] == 100
    raised = me(operator, project)
    assert raised["requests_per_minute"] == 100
    assert datetime.fromisoformat(raised["raised_until"]) - datetime.fromisoformat(ends_at) < timedelta(milliseconds=1)
    assert ask(client).status_code == 200
    eventually(lambda: limits(operator, project)["raises"] == [])
    assert datetime.now(UTC) >= datetime.fromisoformat(ends_at) - timedelta(milliseconds=1)
    assert limits(operator, project)["in_force"]["requests_per_minute"] == 1
    assert me(operator, project)["raised_until"] is None


def test_a_planned_raise_begins_at_its_time_and_can_be_taken_back(operator: Operator) -> None:
    project, _ = customer(operator, "free")
    soon = post_raise(
        operator, project, cost_ceiling="900", starts_at=in_seconds(0.7), ends_at=in_seconds(600), reason="launch"
    ).json()
    far = post_raise(
        operator, project, burst=500, starts_at=in_seconds(500), ends_at=in_seconds(600), reason="sale"
    ).json()
    assert [each["is_on"] for each in far["limits"]["raises"]] == [False, False]
    assert me(operator, project)["cost_ceiling"] == "300"
    eventually(lambda: me(operator, project)["cost_ceiling"] == "900")
    url = f"/v1/admin/projects/{project}/limit-raises"
    for made in (soon, far):
        assert operator.http.delete(f"{url}/{made['id']}").status_code == 204
    assert limits(operator, project)["in_force"] == FREE
    again = operator.http.delete(f"{url}/{far['id']}")
    assert (again.status_code, again.json()["code"]) == (404, "unknown_raise")


def test_an_idempotency_key_raises_once_and_ends_once(operator: Operator) -> None:
    project = operator.project()
    body = {"burst": 500, "ends_at": in_seconds(600), "reason": "launch"}
    key = secrets.token_hex(8)
    first, second = (post_raise(operator, project, key, **body).json() for _ in range(2))
    assert first["id"] == second["id"] and len(second["limits"]["raises"]) == 1
    other = post_raise(operator, project, key, **body | {"burst": 501})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    url = f"/v1/admin/projects/{project}/limit-raises/{first['id']}"
    ended = [operator.http.delete(url, headers={"idempotency-key": "end"}).status_code for _ in range(2)]
    assert ended == [204, 204]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ends_at": "2999-01-01T00:00:00Z", "reason": "x", "burst": 5}, "ends_at"),
        ({"ends_at": "2200-01-01T00:00:00Z", "reason": "x", "burst": 5}, "ends_at"),
        ({"ends_at": "2031-01-01T00:00:00", "reason": "x", "burst": 5}, "ends_at"),
        ({"ends_at": "2020-01-01T00:00:00Z", "reason": "x", "burst": 5}, "ends_at"),
        ({"starts_at": "0001-01-01T00:00:00+14:00", "reason": "x", "burst": 5}, "starts_at"),
        ({"reason": "x"}, "requests_per_minute"),
        ({"reason": "", "burst": 5}, "reason"),
        ({"reason": "x", "burst": 0}, "burst"),
        ({"reason": "x", "requests_per_minute": 1_000_001}, "requests_per_minute"),
        ({"reason": "x", "cost_ceiling": "lots"}, "cost_ceiling"),
        ({"reason": "x", "cost_ceiling": "0"}, "cost_ceiling"),
        ({"reason": "x", "brust": 5}, "brust"),
    ],
)
def test_a_raise_that_makes_no_sense_names_the_field(operator: Operator, body: dict, field: str) -> None:
    project = operator.project()
    refused = post_raise(operator, project, **{"ends_at": in_seconds(600)} | body)
    assert (refused.status_code, refused.json().get("field")) == (422, field), refused.text
    assert limits(operator, project)["raises"] == []


def test_limits_on_trial_refuse_nothing(operator: Operator) -> None:
    project, client = customer(operator, "free")
    tried = put(operator, project, requests_per_minute=1, burst=1, is_shadow=True).json()
    assert tried["shadow"] == {"requests_per_minute": 1, "burst": 1, "cost_ceiling": None}
    assert tried["in_force"] == FREE
    assert [ask(client).status_code for _ in range(4)] == [200] * 4
    assert put(operator, project, is_shadow=True).json()["shadow"] is None


def test_projects_can_not_raise_their_own_limits(operator: Operator) -> None:
    project, client = customer(operator)
    base = f"/v1/admin/projects/{project}"
    for call in (
        client.get(f"{base}/limits"),
        client.put(f"{base}/limits", json={"burst": 100}),
        client.post(f"{base}/limit-raises", json={"burst": 100, "ends_at": in_seconds(60), "reason": "please"}),
        client.delete(f"{base}/limit-raises/0-0-0"),
    ):
        assert (call.status_code, call.json()["code"]) == (403, "missing_scope")
    assert put(operator, "prj_nobody", burst=100).json()["code"] == "unknown_project"
