"""Notices over HTTP and on the command line: rules are set and shown, and each crossing is listed once."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from api.cli.main import app
from api.stack import Stack
from tests.calls import Operator, eventually

RULES, NOTICES = "/v1/notice-rules", "/v1/notices"
# Rules that can't be, each with the field that is named.
WRONG: tuple[tuple[list[dict[str, Any]], str], ...] = (
    ([{}], "rules"),
    ([{"credits": "1", "percent": 1}], "rules"),
    ([{"percent": 20}], "rules"),
    ([{"credits": "0"}], "rules"),
    ([{"percent": 7}, {"percent": 7}], "rules"),
    ([{"credits": 0.5}], "rules.0.credits"),
    ([{"percent": 12.5}], "rules.0.percent"),
)


def rules_of(client: httpx.Client) -> dict[tuple[str, str], tuple[str, bool]]:
    """The rules that are shown: by environment and id, the threshold, and whether it is crossed."""
    response = client.get(RULES)
    assert response.status_code == 200, response.text
    return {
        (each["environment"], each["id"]): (each["threshold"], each["is_crossed"]) for each in response.json()["rules"]
    }


def listed(caller: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    """The notices that a question lists, page by page."""
    notices: list[dict[str, Any]] = []
    while True:
        response = caller.get(NOTICES, params={"limit": 1, **query})
        assert response.status_code == 200, response.text
        page = response.json()
        notices += page["notices"]
        if page["next_cursor"] is None:
            return notices
        query["cursor"] = page["next_cursor"]


def test_rules_are_set_and_each_crossing_is_listed_once(operator: Operator) -> None:
    project, client = operator.customer("build")
    granted = int(client.get("/v1/balance").json()["allowance"]["granted"])
    low = ("production", "low")
    assert rules_of(client)[low] == (str(granted // 5), False)
    body = {"environment": "production", "rules": [{"percent": 50}, {"credits": str(granted - 1)}]}
    key = {"idempotency-key": "rules-1"}
    answer = client.put(RULES, json=body, headers=key)
    assert answer.status_code == 200, answer.text
    assert client.put(RULES, json=body, headers=key).json() == answer.json()
    assert client.put(RULES, json=body | {"rules": []}, headers=key).status_code == 409
    for rules, field in WRONG:
        refused = client.put(RULES, json={"rules": rules})
        assert (refused.status_code, refused.json()["field"]) == (422, field), refused.text
    use = {"operation": "image", "source": "/notices", "quantity": 1}
    assert client.post("/v1/admissions", json=use).status_code == 200
    soon = ("production", f"credits-{granted - 1}")
    assert rules_of(client)[soon] == (str(granted - 1), True) and not rules_of(client)[low][1]

    top_up = {"bundle_usd": 20, "environment": "production"}
    for environment in ("production", "preview"):
        done = operator.http.post(f"/v1/admin/projects/{project}/top-ups", json=top_up | {"environment": environment})
        assert done.status_code < 300, done.text
    told = eventually(lambda: len(found := listed(client)) == 4 and found)
    assert [(each["type"], each["environment"]) for each in told] == [
        ("purchase.succeeded", "preview"),
        ("project.credits_recovered", "production"),
        ("purchase.succeeded", "production"),
        ("project.credits_low", "production"),
    ]
    data = told[-1]["data"]
    assert (data["rule"], data["threshold"]) == (soon[1], str(granted - 1)), data
    assert not [name for each in told for name in each["data"] if name.endswith(("_microcredits", "_ms"))]
    preview = operator.client(operator.key(project, "preview")["key"])
    assert [each["type"] for each in listed(preview)] == ["purchase.succeeded"]
    assert {environment for environment, _ in rules_of(preview)} == {"preview"}
    assert client.get(NOTICES, params={"cursor": "x"}).status_code == 422


def test_an_operator_sets_rules_on_the_command_line_and_the_audit_says_who(
    stack: Stack, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = operator.project("build")
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))

    def run(*words: str) -> Any:
        done = CliRunner().invoke(app, ["notices", *words, "--json"])
        assert done.exit_code == 0, (words, done.output, done.exception)
        return json.loads(done.stdout)

    asked = ("--environment", "preview", "--credits-left", "0.5", "--credits-left", "7", "--percent", "10")
    there = run("set-rules", project, *asked)
    ids = [each["id"] for each in there["rules"]]
    assert {"credits-0.5", "credits-7", "exhausted"} <= set(ids)
    assert run("list", project)["notices"] == []
    run("set-rules", project, "--environment", "preview", "--none")
    audit = {"kind": "notices", "project": project}
    entries = eventually(
        lambda: len(found := operator.http.get("/v1/audit", params=audit).json()["entries"]) == 2 and found
    )
    assert [(each["action"], each["detail"], each["environment"]) for each in entries] == [
        ("notice_rules.set", "none of its own", "preview"),
        ("notice_rules.set", "percent-10, credits-0.5, credits-7", "preview"),
    ]


def test_notices_are_asked_for_by_type_and_time_and_price_books_are_among_them(
    stack: Stack, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, client = operator.customer("build")
    preview = operator.client(operator.key(project, "preview")["key"])
    top_up = {"bundle_usd": 20, "environment": "production"}
    assert operator.http.post(f"/v1/admin/projects/{project}/top-ups", json=top_up).status_code == 201
    version, at = f"notice-{secrets.token_hex(4)}", datetime.now(UTC) + timedelta(days=500)
    book = {"version": version, "effective_at": at.isoformat(), "rates": {"image": "31"}}
    assert operator.http.post("/v1/admin/price-books", json=book).status_code == 201
    try:
        told = eventually(lambda: len(found := listed(client)) == 2 and found)
        assert [each["type"] for each in told] == ["price.announced", "purchase.succeeded"]
        prices, purchase = told
        assert (prices["project"], prices["environment"], prices["data"]["price_version"]) == (project, "", version)
        assert datetime.fromisoformat(prices["data"]["effective_at"]).date() == at.date()
        for question, found in (
            ({"type": "price.announced"}, [prices]),
            ({"type": "purchase.succeeded"}, [purchase]),
            ({"type": "hold.expired"}, []),
            ({"from": prices["at"]}, [prices]),
            ({"to": prices["at"]}, [purchase]),
            ({"from": purchase["at"], "to": prices["at"]}, [purchase]),
            ({"environment": "preview"}, [prices]),
        ):
            assert listed(client, **question) == found, question
        # Each partition has the book; a project hears of it once, by that of its own, as its endpoints do.
        assert listed(preview) == [prices]
        assert listed(operator.client(operator.key(operator.project())["key"])) == []
    finally:
        operator.http.delete(f"/v1/admin/price-books/{version}")
    for question, field in (
        ({"type": "webhook.test"}, "type"),
        ({"type": "nothing"}, "query.type"),
        ({"from": "2026-01-01T00:00:00"}, "from"),
        ({"to": "soon"}, "query.to"),
    ):
        refused = client.get(NOTICES, params=question)
        assert (refused.status_code, refused.json()["field"]) == (422, field), refused.text
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))
    words = ["notices", "list", project, "--type", "price.announced", "--from", prices["at"], "--json"]
    done = CliRunner().invoke(app, words)
    assert json.loads(done.stdout)["notices"] == [prices], done.output
