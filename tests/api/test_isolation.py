"""Nobody's key tells or changes anything of somebody else, whatever operation it is tried with, and a preview key
nothing of production. An operation that is new in the OpenAPI document has to be placed in tests/api/isolation.py."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.openapi_document import document
from streams.kafka.topics import partition_of
from streams.settings import PROJECT_ROOT, Settings
from streams.state.accounts_view import read_accounts
from tests.api.isolation import (
    ADMIN,
    AUDIT,
    BILLING,
    CALLS,
    HOOKS_READ,
    HOOKS_WRITE,
    OPEN,
    PATHS,
    READ,
    SCOPES,
    WRITE,
    Call,
    filled,
)
from tests.calls import Operator, eventually

Belongings = dict[str, str]
ADDRESS = {"x-forwarded-for": "198.51.100.77"}


def operations() -> set[str]:
    paths = json.loads(document())["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def belongings_in(operator: Operator, project: str, environment: str) -> Belongings:
    """Belongings of a project in an environment, each with a text in its name that nothing else has."""
    secret, customer = f"s{secrets.token_hex(6)}", f"c{secrets.token_hex(6)}"
    client = operator.client(operator.key(project, environment)["key"])
    key_id = operator.key(project, environment)["key_id"]
    url = f"/v1/admin/projects/{project}"
    billing = {"id": f"bill-{secret}", "name": f"Bill {secret}", "email": f"{secret}@example.com"}
    top_up = {"bundle_usd": 20, "environment": environment, "reference": f"ref-{secret}"}
    ends_at = (datetime.now(UTC) + timedelta(days=300)).isoformat()
    raised = {"burst": 2_000_000, "ends_at": ends_at, "reason": f"raise-{secret}"}
    use = {
        "operation": "image",
        "source": f"/src-{secret}",
        "metadata": {"customer_id": customer, "secret": customer},
    }
    job = use | {"job_id": f"job-{secret}", "hold": True, "hold_seconds": 86_400}
    key = f"idem-{secret}"
    post = operator.http.post
    refused = client.post("/v1/admissions", json=use | {"operation": f"x{secret}"})
    assert refused.status_code == 422, refused.text
    made = [
        post("/v1/admin/billing-accounts", json=billing),
        operator.http.put(f"{url}/billing-account", json={"billing_account": billing["id"]}),
        post(f"{url}/top-ups", json=top_up),
        raising := post(f"{url}/limit-raises", json=raised),
        endpoint := post(
            "/v1/webhook-endpoints",
            params={"project": project},
            json={"kind": "slack", "target": f"https://{secret}.example/hook"},
        ),
        # The retries of what nobody takes would be charged while others look whether anything changes.
        operator.http.patch(
            f"/v1/webhook-endpoints/{endpoint.json()['id']}", params={"project": project}, json={"state": "paused"}
        ),
        charge := client.post("/v1/admissions", json=use | {"id": f"ev-{secret}"}, headers={"idempotency-key": key}),
        # A request is a fact, too: the hold is the last of them all.
        balance := client.get("/v1/balance"),
        hold := client.post("/v1/admissions", json=job),
    ]
    assert all(each.is_success for each in made), [each.text for each in made]
    (bundle,) = balance.json()["top_ups"]
    return {
        "project": project,
        "secret": secret,
        "customer": customer,
        "event": f"ev-{secret}",
        "source": f"/src-{secret}",
        "job": f"job-{secret}",
        "idempotency": key,
        "hold": hold.json()["hold_id"],
        "request": refused.headers["x-request-id"],
        "entry": charge.json()["entry_id"],
        "grant": bundle["grant_id"],
        "key_id": key_id,
        "raise": raising.json()["id"],
        "endpoint": endpoint.json()["id"],
        "billing_account": billing["id"],
        "month": f"{datetime.now(UTC):%Y-%m}",
    }


def ghost_of(mine: Belongings) -> Belongings:
    """Names as good as those of somebody's belongings, of things that are not there."""
    secret = f"s{secrets.token_hex(6)}"
    ghost = {name: value.replace(mine["secret"], secret) for name, value in mine.items()}
    nowhere = "0-999999999999-0"
    return ghost | {
        "project": f"prj_{secrets.token_hex(5)}",
        "key_id": f"key_{secrets.token_hex(6)}",
        "hold": nowhere,
        "entry": nowhere,
        "request": f"req_{secrets.token_hex(8)}",
        "raise": nowhere,
        "endpoint": f"whe_{secrets.token_hex(8)}",
        "grant": "top_up-999999999999-0",
    }


def requests_of(operation: str, call: Call, theirs: Belongings) -> Iterator[tuple[bool, dict[str, Any]]]:
    """The requests by which an operation may aim at somebody's belongings, each with whether it names the project."""
    method, path = operation.split(" ")
    names = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    for values in itertools.product(*(PATHS[name] for name in names)):
        url = filled(path.format_map(dict(zip(names, values, strict=True))), theirs)
        for named in ({}, call.named) if call.named else ({},):
            body = named.get("body", call.body)
            request: dict[str, Any] = {
                "method": method,
                "url": url,
                "params": filled(dict(call.query) | named.get("query", {}), theirs),
                "headers": {"idempotency-key": theirs["idempotency"], "content-type": call.media_type},
            }
            if body is not None:
                request["content"] = json.dumps(filled(body, theirs))
            yield bool(named) or call.scope == ADMIN, request


def told(response: httpx.Response, request: Mapping[str, Any], theirs: Belongings, bodies: list[str]) -> list[str]:
    """Names of somebody's belongings that an answer tells of, beyond what its request had in it and what its caller
    booked before: `bodies` are those that it sent."""
    bodies.append(request.get("content", ""))
    sent = f"{request['url']} {request['params']} {request['headers']} {' '.join(bodies)}"
    text = response.text
    return [name for name, value in theirs.items() if name != "month" and value in text and value not in sent]


def shape(response: httpx.Response, theirs: Belongings) -> tuple[int, str]:
    """An answer with all names of belongings taken out, to compare with what another gets."""

    def lasting(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: lasting(each) for name, each in value.items() if name not in ("instance", "rate", "as_of")}
        return [lasting(each) for each in value] if isinstance(value, list) else value

    text = json.dumps(lasting(response.json()))
    for name, value in sorted(theirs.items(), key=lambda each: -len(each[1])):
        text = text.replace(value, f"<{name}>")
    return response.status_code, text


def stored(settings: Settings, directory: Path, project: str) -> bytes:
    """A project's account as it is stored."""

    async def read() -> bytes:
        async with read_accounts(settings, directory) as view:
            return dict(view.values(partition_of(project, settings.partitions)))[project.encode()]

    return asyncio.run(read())


@pytest.fixture(scope="module")
def victim(operator: Operator) -> Belongings:
    project = operator.project("build", name="Victim")
    operator.lift_limits(project)
    return belongings_in(operator, project, "production")


@pytest.fixture(scope="module")
def attacker(operator: Operator) -> str:
    project = operator.project("build")
    operator.lift_limits(project)
    operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 20, "environment": "preview"})
    return project


def test_every_operation_is_placed() -> None:
    assert operations() == set(CALLS), "place the new operations in tests/api/isolation.py"


def test_no_key_tells_or_changes_anything_of_another_project(
    operator: Operator, victim: Belongings, attacker: str, tmp_path: Path
) -> None:
    facts = f"SELECT count(), sum(cityHash64(*)) FROM facts WHERE project = '{victim['project']}'"
    mine = operator.client(operator.key(attacker)["key"])
    forged = operator.client(f"mtl_live_{victim['project']}.{secrets.token_urlsafe(32)}")
    callers = {
        "live": mine,
        "preview": operator.client(operator.key(attacker, "preview")["key"]),
        "forged": forged,
        "nobody": operator.client(None),
    }
    for client in callers.values():
        client.headers.update(ADDRESS)
    # The hold was the last that was decided about the victim.
    eventually(lambda: operator.http.get(f"/v1/receipts/{victim['hold']}").status_code == 200)
    account = stored(operator.settings, tmp_path / "before", victim["project"])
    history = operator.rows(operator.clickhouse_url, facts)
    ghost = ghost_of(victim)
    wrong, bodies = list[str](), list[str]()
    for (who, client), (operation, call) in itertools.product(callers.items(), CALLS.items()):
        for (aims, request), (_, at_ghost) in zip(
            requests_of(operation, call, victim), requests_of(operation, call, ghost), strict=True
        ):
            response = client.request(**request)
            what = f"{operation} by {who} with {request['params']} {request.get('content', '')}: {response.status_code}"
            if names := told(response, request, victim, bodies):
                wrong.append(f"{what} tells of {names}: {response.text[:300]}")
            is_refused = response.status_code >= 400 or _all_refused(response)
            if (aims or (who in ("forged", "nobody") and call.scope)) and not is_refused:
                wrong.append(f"{what} is not refused: {response.text[:300]}")
            if aims and shape(response, victim) != shape(other := client.request(**at_ghost), ghost):
                wrong.append(f"{what} differs from what is not there: {response.text[:300]} | {other.text[:300]}")
    assert not wrong, "\n".join(wrong)
    # A decision after all that is the last that the worker made; had the others changed anything, it would be there.
    last = operator.http.post("/v1/admissions", json={"project": attacker, "operation": "read"}).json()["entry_id"]
    eventually(lambda: mine.get(f"/v1/receipts/{last}").status_code == 200)
    assert stored(operator.settings, tmp_path / "after", victim["project"]) == account
    assert operator.rows(operator.clickhouse_url, facts) == history


def _all_refused(response: httpx.Response) -> bool:
    """Whether an answer about a batch refused all of it."""
    answer = response.json() if response.headers["content-type"].startswith("application/json") else {}
    decisions = answer.get("decisions", []) if isinstance(answer, dict) else []
    return bool(decisions) and all(each.get("status", 0) >= 400 for each in decisions)


def test_a_preview_key_sees_and_spends_its_own_environment_alone(operator: Operator) -> None:
    project = operator.project("build")
    operator.lift_limits(project)
    production = belongings_in(operator, project, "production")
    preview = belongings_in(operator, project, "preview")
    live = operator.client(operator.key(project)["key"])
    client = operator.client(operator.key(project, "preview")["key"])
    # The hold was the last that was decided.
    eventually(lambda: client.get(f"/v1/receipts/{preview['hold']}").status_code == 200)

    def of_production() -> list[Any]:
        balance = live.get("/v1/balance").json()
        ledger = live.get("/v1/ledger", params={"environment": "production", "limit": 1000}).json()
        holds = [each for each in live.get("/v1/holds").json()["holds"] if each["environment"] == "production"]
        return [
            {name: balance[name] for name in ("available", "held", "allowance", "promotional", "top_ups")},
            ledger,
            holds,
        ]

    before = of_production()
    shared = {"project", "billing_account", "month", "raise"}
    secret = {name: value for name, value in production.items() if name not in shared}
    wrong, bodies = list[str](), list[str]()
    for operation, call in CALLS.items():
        for _, request in requests_of(operation, call, production):
            response = client.request(**request)
            if names := told(response, request, secret, bodies):
                wrong.append(f"{operation} {request['params']} tells of {names}: {response.text[:300]}")
            if call.scope in (ADMIN, BILLING, AUDIT, HOOKS_READ, HOOKS_WRITE) and response.status_code != 403:
                wrong.append(f"{operation}: {response.status_code}")
    for path in ("/v1/balance", "/v1/ledger"):
        response = client.get(path, params={"environment": "production"})
        if (response.status_code, response.json().get("code")) != (403, "wrong_environment"):
            wrong.append(f"{path} of production: {response.text[:300]}")
    for name in ("entry", "hold", "grant"):
        if client.get(f"/v1/receipts/{preview[name]}").status_code != 200:
            wrong.append(f"its own {name} has no receipt")
        if client.get(f"/v1/receipts/{production[name]}").json().get("code") != "unknown_receipt":
            wrong.append(f"production's {name} has a receipt")
    for body in ({"operation": "image", "environment": "production"}, {"operation": "image"}):
        client.post("/v1/admissions", json=body)
    event = {"specversion": "1.0", "id": "x", "source": "/x", "type": "usage", "subject": project}
    client.post("/v1/events", json=event | {"data": {"operation": "image", "environment": "production"}})
    usage = client.get("/v1/usage", params={"group_by": "environment"}).json()["rows"]
    if {row["group"]["environment"] for row in usage} != {"preview"}:
        wrong.append(f"usage {usage}")
    assert not wrong, "\n".join(wrong)
    assert of_production() == before
    assert client.get("/v1/balance").json()["available"] != before[0]["available"]


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_does_what_its_scope_covers_and_nothing_else(operator: Operator, attacker: str, scope: str) -> None:
    client = operator.client(operator.key(attacker, scopes=[scope])["key"])
    mine = ghost_of(
        dict.fromkeys(["event", "source", "job", "idempotency", "billing_account"], "x-s1") | {"secret": "s1"}
    )
    mine |= {"project": attacker, "month": "2026-01"}
    wrong = []
    for operation, call in CALLS.items():
        if call.scope == OPEN:
            continue
        for _, request in requests_of(operation, call, mine):
            request["headers"].pop("idempotency-key")
            response = client.request(**request)
            is_missing = response.status_code == 403 and response.json()["code"] == "missing_scope"
            if is_missing != (call.scope != scope):
                wrong.append(f"{operation}: {response.status_code} {response.text[:200]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("scope", "wide"), [(READ, "content:*"), (WRITE, "content:*"), (READ, "*"), ("audit:read", "*")]
)
def test_a_wide_scope_covers_the_narrow_ones(operator: Operator, attacker: str, scope: str, wide: str) -> None:
    client = operator.client(operator.key(attacker, scopes=[wide])["key"])
    path = {READ: "/v1/balance", AUDIT: "/v1/audit"}.get(scope)
    response = client.get(path) if path else client.post("/v1/admissions", json={"operation": "read"})
    assert response.status_code == 200


def test_the_documents_say_which_scope_each_call_needs() -> None:
    words = {OPEN: "open to everyone", ADMIN: "an admin key"}
    rows = [f"| `{name}` | {words.get(call.scope, f'`{call.scope}`')} |" for name, call in CALLS.items()]
    page = (PROJECT_ROOT / "docs" / "scopes.md").read_text().splitlines()
    assert [line for line in page if line.startswith("| `")] == rows
