"""Roles of admins: each may make the calls that the table lists for it, and no other; the audit says who did."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from api.callers.keys import admin_of, hash_key
from api.callers.roles import MAY, require_role
from api.cli.main import app
from schemas.problems import Rejection
from streams.errors import OperatorError
from streams.settings import Admin, Role, Settings
from tests.admins import ADMIN_KEYS
from tests.api.isolation import CALLS, OPEN, PATHS
from tests.calls import Operator, eventually

GUARDED = sorted(operation for operation, call in CALLS.items() if call.scope != OPEN)
NOBODY = dict.fromkeys(PATHS, "nobody")


def test_every_call_that_asks_for_a_key_is_in_the_table_and_no_other() -> None:
    assert sorted(MAY) == GUARDED


@pytest.mark.parametrize("role", get_args(Role))
def test_an_admin_makes_the_calls_of_the_role_and_no_other(operator: Operator, role: Role) -> None:
    told = {}
    with operator.client(ADMIN_KEYS[role]) as client:
        for operation in GUARDED:
            method, path = operation.split()
            body: dict[str, Any] = {"json": {}} if method in ("POST", "PUT") else {}
            answer = client.request(method, path.format_map(NOBODY), **body)
            told[operation] = answer.json()["code"] if answer.status_code >= 400 else ""
    refused = {operation for operation, code in told.items() if code == "missing_role"}
    assert refused == {operation for operation in GUARDED if role not in MAY[operation]}
    assert "unauthenticated" not in told.values()


def test_an_owner_may_do_all_and_who_only_reads_changes_nothing() -> None:
    rehearsals = {"POST /v1/admin/rehearsals", "POST /v1/admin/rehearsals/limits"}
    for operation, roles in MAY.items():
        assert "owner" in roles
        assert ("read-only" in roles) == (operation.startswith("GET ") or operation in rehearsals), operation


def test_what_is_not_listed_is_allowed_to_nobody() -> None:
    for role in get_args(Role):
        with pytest.raises(Rejection, match="may not"):
            require_role(role, "POST /v1/admin/news")


def test_the_audit_names_the_admin(operator: Operator) -> None:
    project = operator.project("free")
    with operator.client(ADMIN_KEYS["finance"]) as client:
        booked = client.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 20})
        assert booked.status_code == 201, booked.text

    def audited() -> list[dict[str, Any]]:
        answer = operator.http.get("/v1/audit", params={"project": project, "kind": "grants"})
        found: list[dict[str, Any]] = answer.json()["entries"]
        return found

    eventually(audited)
    assert [each["actor"] for each in audited()] == ["admin:finance-1"]


def test_a_made_key_is_its_admins_and_one_by_hash_alone_is_an_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    made = CliRunner().invoke(app, ["keys", "admin", "--name", "ada", "--role", "support", "--json"])
    told = json.loads(made.stdout)
    monkeypatch.setenv("METERLINE_ADMINS", json.dumps([told["admin"]]))
    monkeypatch.setenv("METERLINE_ADMIN_KEY_HASHES", json.dumps([hash_key("mtl_admin_old").hex()]))
    settings = Settings(**{})
    again = json.loads(Settings(**{}).as_environment()["METERLINE_ADMINS"])
    assert again == [told["admin"]], "a child process is told the same"
    named = admin_of(told["key"], settings.admins, settings.admin_key_hashes)
    assert named is not None and (named.key_id, named.role, named.project) == ("admin:ada", "support", None)
    old = admin_of("mtl_admin_old", settings.admins, settings.admin_key_hashes)
    assert old is not None and old.role == "owner"
    assert admin_of("mtl_admin_other", settings.admins, settings.admin_key_hashes) is None


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--name", "ada"], "--role"),
        (["--name", "Ada L", "--role", "owner"], "--name"),
        (["--name", "ada", "--role", "boss"], "--role"),
    ],
)
def test_a_key_of_no_whole_admin_is_not_made(argv: list[str], named: str) -> None:
    refused = CliRunner().invoke(app, ["keys", "admin", *argv])
    assert refused.exit_code != 0 and named in str(refused.exception) and "mtl_admin_" not in refused.stdout


LISTS = [name for name, each in Settings.model_fields.items() if str(each.annotation).startswith("list[")]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("text", ["abc", "10.0.0.1", "[", '"abc"', "7", "{}"])
def test_a_list_that_is_no_json_is_told_by_its_variable_and_a_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    variable = f"METERLINE_{name.upper()}"
    monkeypatch.setenv(variable, text)
    with pytest.raises(OperatorError, match=rf"^{variable} is no JSON list; write one such as '\["):
        Settings()


@pytest.mark.parametrize("changes", [{"name": "bob"}, {"key_hash": "b" * 64}])
def test_two_admins_share_neither_a_name_nor_a_key(changes: dict[str, str]) -> None:
    ada = {"name": "ada", "role": "owner", "key_hash": "a" * 64}
    with pytest.raises(OperatorError, match="METERLINE_ADMINS has two admins"):
        Settings(admins=[Admin.model_validate(ada), Admin.model_validate(ada | changes)])
