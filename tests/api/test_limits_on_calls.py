"""Calls with a project's key each count as one of its requests, and every answer has the state of its window."""

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from api.answers import KeptAnswers
from api.app import create_app
from api.callers.keys import new_project_key
from api.middleware import Front
from api.stack import Stack
from schemas.accounts import Account, ApiKey, Limits
from schemas.commands import SetLimits
from streams.core.price_list import Prices
from streams.settings import Settings
from tests.calls import Operator, event, eventually
from tests.intake import decide

UNCAPPED_PATHS = Front.UNCAPPED_PATHS

BATCH = {"content-type": "application/cloudevents-batch+json"}
LIMIT_HEADERS = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
PATH_VALUES = {"month": "2026-01", "billing_account": "none", "item": "storage.gb"}


def remaining(answer: httpx.Response) -> int:
    assert all(name in answer.headers for name in (*LIMIT_HEADERS, "x-request-id")), (answer.request.url, answer.text)
    return int(answer.headers["x-ratelimit-remaining"])


def calls_of_the_document(project: str) -> list[tuple[str, str]]:
    """The calls that the OpenAPI document has, all of them, with values for the parts of their paths."""
    paths = create_app(Settings()).openapi()["paths"]
    found = []
    for path, methods in paths.items():
        for name in ("project", *PATH_VALUES):
            path = path.replace(f"{{{name}}}", PATH_VALUES.get(name, project))
        while "{" in path:
            path = path[: path.index("{")] + "0-0-0" + path[path.index("}") + 1 :]
        # It goes on for ever unless it is told how long.
        path += "?seconds=1" if path.endswith("/stream") else ""
        found += [(method.upper(), path) for method in methods]
    return found


def test_every_call_there_is_counts_one_and_says_so(operator: Operator) -> None:
    project, client = operator.customer()
    before = remaining(client.get("/v1/projects/me"))
    calls = calls_of_the_document(project)
    assert len(calls) > 40
    calls += [("GET", path) for path in ("/docs", "/openapi.json", "/v1/nothing")] + [("DELETE", "/v1/balance")]
    statuses = set()
    for method, path in calls:
        answer = client.request(method, path, json=None if method == "GET" else {})
        left = remaining(answer)
        # Probes are not counted; their answers have the window's state as far as this process knows it.
        if path not in UNCAPPED_PATHS:
            before -= 1
            assert left == before, (method, path, answer.text)
        assert answer.headers["x-ratelimit-limit"] == "1000000"
        assert "retry-after" not in answer.headers
        assert answer.status_code < 500, (method, path, answer.text)
        statuses.add(answer.status_code)
    assert statuses >= {200, 403, 404, 405, 422}


def test_errors_and_streams_say_so_too(operator: Operator) -> None:
    project, client = operator.customer()
    left = remaining(client.get("/v1/balance"))
    charged = client.post("/v1/admissions", json={"operation": "website"})
    refused = client.post("/v1/admissions", json={"operation": "website"})
    streamed = client.get("/v1/usage", params={"format": "csv"})
    answers = [
        (charged, 200),
        (refused, 402),
        (streamed, 200),
        (client.get("/v1/balance", params={"project": "prj_other"}), 403),
        (client.post("/v1/admissions", content=b'{"operation": "website", "project": "prj_other"}'), 403),
        (client.post("/v1/admissions", content=b"{"), 400),
        (client.post("/v1/admissions", json={"operation": "hologram"}), 422),
        (client.post("/v1/admissions/batch", json={"requests": []}), 422),
        (client.post("/v1/holds/0-0-0/extend", content=b"{", headers={"content-type": "application/json"}), 400),
        (client.get("/v1/ledger", params={"limit": "many"}), 422),
        (client.post("/v1/events", content=b"[" + b" " * 5_000_000 + b"]", headers=BATCH), 413),
        (client.post("/v1/events", content=b"[]", headers={"content-type": "text/plain"}), 415),
    ]
    for place, (answer, status) in enumerate(answers, start=1):
        assert (answer.status_code, remaining(answer)) == (status, left - place), answer.text
        assert "retry-after" not in answer.headers
    assert streamed.headers["content-type"].startswith("text/csv")


def test_a_repeat_of_an_admission_is_answered_as_it_was_and_another_under_its_key_counts(operator: Operator) -> None:
    _, client = operator.customer()
    headers = {"idempotency-key": "once"}
    first = client.post("/v1/admissions", json={"operation": "image"}, headers=headers)
    assert client.post("/v1/admissions", json={"operation": "image"}, headers=headers).json() == first.json()
    left = remaining(client.get("/v1/balance"))
    reused = client.post("/v1/admissions", json={"operation": "website"}, headers=headers)
    assert (reused.status_code, remaining(reused)) == (409, left - 1)


def test_the_61st_call_of_a_free_project_is_stopped_and_does_nothing(operator: Operator) -> None:
    project, client = operator.customer(is_limited=True)
    began_at = time.time()
    for number in range(60):
        answer = client.get("/v1/balance" if number % 2 else "/v1/prices")
        assert (answer.status_code, remaining(answer)) == (200, max(0, 29 - number))
    stopped = client.get("/v1/balance", headers={"x-request-id": "req_mine"})
    problem = stopped.json()
    assert (stopped.status_code, problem["code"], problem["instance"]) == (429, "rate_limited", "req_mine")
    assert problem["title"] == "Too many requests"
    assert stopped.headers["content-type"] == "application/problem+json"
    seconds = int(stopped.headers["retry-after"])
    assert 0 < seconds <= 60
    # The detail has the owner's figure, from a moment earlier.
    assert any(f"project {project}. Retry after {each} seconds" in problem["detail"] for each in (seconds, seconds + 1))
    assert remaining(stopped) == 0
    assert began_at + 59 < int(stopped.headers["x-ratelimit-reset"]) < time.time() + 62

    event_is_sent = client.post("/v1/events", json=event(project, "1", "image"))
    is_admitted = client.post("/v1/admissions", json={"operation": "image"})
    is_malformed = client.post("/v1/admissions", content=b"{")
    is_public = client.get("/v1/prices")
    is_unknown = client.get("/v1/nothing")
    for answer in (event_is_sent, is_admitted, is_malformed, is_public, is_unknown):
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited"), answer.text
        assert int(answer.headers["retry-after"]) <= 60
        assert answer.json()["project"] == project
    # The operator's own calls are not the project's.
    assert operator.http.get("/v1/balance", params={"project": project}).json()["available"] == "250"

    kinds = "kind = 'request' OR (kind = 'refusal' AND reason IN ('rate_limited', 'limited_at_edge'))"
    id_of = "concat(toString(partition), '-', toString(offset), '-', toString(position))"
    told_sql = f"SELECT kind, quantity, reason, {id_of} FROM facts WHERE project = '{project}' AND ({kinds})"

    def told() -> list[list[str]]:
        return operator.rows(operator.clickhouse_url, told_sql)

    eventually(lambda: sum(int(row[1]) for row in told()) == 66)
    assert sum(row[0] == "request" for row in told()) == 60
    refusals = [row for row in told() if row[0] == "refusal"]
    for _, quantity, _, entry_id in refusals:
        receipt = operator.http.get(f"/v1/receipts/{entry_id}")
        assert (receipt.status_code, receipt.json()["refusal"]["code"]) == (200, "rate_limited"), receipt.text
        assert receipt.json()["inputs"]["quantity"] == int(quantity)
    uses = [
        row
        for row in operator.http.get("/v1/audit/keys", params={"project": project}).json()["rows"]
        if row["operation"].endswith(" *")
    ]
    assert all(use["uses"] == use["refused"] for use in uses)
    told_at_edge = sum(int(row[1]) for row in told() if row[2] == "limited_at_edge")
    assert sum(use["uses"] for use in uses) == told_at_edge


def test_an_admission_says_what_limits_on_trial_would_have_said(operator: Operator) -> None:
    project, client = operator.customer()

    def on_trial(addressing: dict[str, Any]) -> SetLimits:
        return SetLimits(project=project, limits=Limits(1, 1, 0), is_shadow=True, reason="", **addressing)

    decide(operator.settings, on_trial)
    first = client.post("/v1/admissions", json={"operation": "website"})
    assert (first.status_code, "shadow_code" in first.json()) == (200, False)
    second = client.post("/v1/admissions", json={"operation": "chat.message"})
    assert (second.status_code, second.json()["shadow_code"]) == (200, "rate_limited")
    refused = client.post("/v1/admissions", json={"operation": "website"})
    assert (refused.status_code, refused.json()["shadow_code"]) == (402, "rate_limited")


def test_reads_go_on_while_the_owner_is_away(operator: Operator, stack: Stack) -> None:
    _, client = operator.customer()
    left = remaining(client.get("/v1/balance"))
    eventually(lambda: client.get("/v1/projects/me").status_code == 200)
    stack.hold("worker-1")
    try:
        began_at = time.monotonic()
        answer = client.get("/v1/balance")
        took_seconds = time.monotonic() - began_at
        assert (answer.status_code, answer.headers["x-ratelimit-limit"]) == (200, "1000000")
        # The answer has the state of this process's copy of the account: the call itself is not counted yet.
        assert left - 3 <= remaining(answer) <= left
        assert stack.settings.count_wait_seconds <= took_seconds < stack.settings.reply_timeout_seconds
    finally:
        stack.let_go("worker-1")
    # The call was on the log all the same, and is counted once a worker reads that.
    eventually(lambda: remaining(client.get("/v1/balance")) <= left - 3, 60)


def test_a_failure_of_ours_has_the_headers() -> None:
    key, key_hash = new_project_key("prj_1", "production")
    account = Account("prj_1", "", "free", 0, 0, 1 << 60, [], [], 0, 0, 0, due_at_ms=1 << 60)
    account.keys = [ApiKey("key_1", key_hash, "production", ["*"], 0, 0)]

    def fail(**_: object) -> None:
        raise RuntimeError("broken")

    app = create_app(Settings())
    app.state.services = cast(
        Any,
        SimpleNamespace(
            settings=Settings(),
            accounts=SimpleNamespace(lag_ms=lambda _project: 0, get=lambda _project: account, prices=Prices),
            commands=SimpleNamespace(addressing=fail),
            answers=KeptAnswers(Settings(), cast(Any, None), 0),
        ),
    )

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
            return await client.get("/v1/balance", headers={"authorization": f"Bearer {key}"})

    answer = asyncio.run(ask())
    assert (answer.status_code, json.loads(answer.text)["code"]) == (500, "internal_error")
    assert (answer.headers["x-ratelimit-limit"], remaining(answer)) == ("30", 30)
    assert answer.json()["instance"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("scopes", [["billing:read"], ["content:read"]])
def test_a_call_that_its_key_may_not_make_counts(operator: Operator, scopes: list[str]) -> None:
    project, client = operator.customer()
    left = remaining(client.get("/v1/balance"))
    narrow = operator.client(operator.key(project, scopes=scopes)["key"])
    refused = narrow.post("/v1/admissions", json={"operation": "image"})
    assert (refused.json()["code"], remaining(refused)) == ("missing_scope", left - 1)
