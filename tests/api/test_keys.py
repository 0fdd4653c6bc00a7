"""Keys may do what their scopes say and no more, and projects are walled off from each other."""

import os
from pathlib import Path

import pytest

from tests.calls import Operator, event, eventually


@pytest.mark.parametrize("key", [None, "nonsense", "mtl_live_ghost.secret", "mtl_live_", "mtl_admin_wrong", "é"])
def test_unknown_keys_are_401(operator: Operator, key: str | None) -> None:
    import httpx

    headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
    response = httpx.get(f"{operator.url}/v1/balance", headers=headers)
    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_revoked_key_stops_at_once_and_its_neighbour_goes_on(operator: Operator) -> None:
    project = operator.project()
    revoked, kept = operator.key(project), operator.key(project)
    with operator.client(revoked["key"]) as client:
        assert client.get("/v1/balance").status_code == 200
        assert operator.http.delete(f"/v1/admin/projects/{project}/keys/{revoked['key_id']}").status_code == 204
        refused = client.post("/v1/events", json=event(project, "1"))
        assert (refused.status_code, refused.json()["code"]) == (401, "key_revoked")
    with operator.client(kept["key"]) as client:
        assert client.post("/v1/events", json=event(project, "1")).status_code == 202
    missing = operator.http.delete(f"/v1/admin/projects/{project}/keys/key_none")
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown_key")


def test_a_project_can_not_read_or_write_another(operator: Operator) -> None:
    other, _ = operator.customer()
    _, client = operator.customer()
    for path in ("/v1/balance", "/v1/ledger", "/v1/usage", "/v1/projects/me"):
        response = client.get(path, params={"project": other})
        assert (response.status_code, response.json()["code"]) == (403, "wrong_project"), path
    assert client.post("/v1/events", json=event(other, "1")).json()["code"] == "wrong_project"


def test_a_key_with_another_projects_name_on_it_is_nothing(operator: Operator) -> None:
    victim = operator.project()
    _, _, secret = operator.key(operator.project())["key"].rpartition(".")
    forged = operator.client(f"mtl_live_{victim}.{secret}")
    assert forged.get("/v1/balance").json()["code"] == "unauthenticated"


def test_project_keys_are_no_admin_keys(operator: Operator) -> None:
    project, client = operator.customer()
    for call in (
        client.post("/v1/admin/projects", json={"project": "x"}),
        client.post(f"/v1/admin/projects/{project}/keys", json={}),
        client.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 20}),
        client.get(f"/v1/admin/projects/{project}"),
    ):
        assert (call.status_code, call.json()["code"]) == (403, "missing_scope")


def test_scopes_are_kept_to(operator: Operator) -> None:
    project = operator.project()
    reader = operator.client(operator.key(project, scopes=["content:read"])["key"])
    assert reader.get("/v1/balance").status_code == 200
    assert reader.post("/v1/admissions", json={"operation": "image"}).json()["code"] == "missing_scope"
    assert reader.post("/v1/events", json=event(project, "1")).json()["code"] == "missing_scope"
    assert operator.key(project, "preview")["scopes"] == ["content:*"]
    wide = operator.http.post(
        f"/v1/admin/projects/{project}/keys", json={"environment": "preview", "scopes": ["billing:read"]}
    )
    assert (wide.status_code, wide.json()["field"]) == (422, "scopes")


def test_a_key_is_made_once_under_an_idempotency_key(operator: Operator) -> None:
    project = operator.project()
    url, headers = f"/v1/admin/projects/{project}/keys", {"idempotency-key": "key-1"}
    made = operator.http.post(url, json={}, headers=headers)
    assert made.status_code == 201
    again = operator.http.post(url, json={}, headers=headers)
    assert (again.status_code, again.json()["code"]) == (409, "key_shown_before")
    assert made.json()["key_id"] in again.json()["detail"]
    assert made.json()["key"] not in again.text
    assert operator.http.post(url, json={}, headers={"idempotency-key": "key-2"}).status_code == 201
    assert operator.http.post(url, json={}).status_code == 201
    assert len(operator.http.get(f"/v1/admin/projects/{project}").json()["keys"]) == 3


def test_what_sets_something_acts_once_under_an_idempotency_key(operator: Operator) -> None:
    project, _ = operator.customer("hobby")
    key_id = operator.key(project)["key_id"]
    url, facts = f"/v1/admin/projects/{project}", f"SELECT count() FROM facts WHERE project = '{project}'"
    calls = [
        ("PUT", f"{url}/standing", {"good_standing": False, "reason": "unpaid"}),
        ("PUT", f"{url}/badge", {"shown": False}),
        ("DELETE", f"{url}/keys/{key_id}", None),
    ]
    for number, (method, path, body) in enumerate(calls):
        for _ in range(2):
            answer = operator.http.request(method, path, json=body, headers={"idempotency-key": f"once-{number}"})
            assert answer.is_success, answer.text
    # This change comes after the others on the log, so once the history has it, it has them all.
    operator.http.put(f"{url}/standing", json={"good_standing": True, "reason": "paid"})
    last = f"{facts} AND kind = 'standing' AND metadata LIKE '%\"paid\"%'"
    eventually(lambda: operator.rows(operator.clickhouse_url, last) == [["1"]])
    for kind, reason, count in (("standing", "%", 2), ("key", "revoked", 1)):
        found = operator.rows(operator.clickhouse_url, f"{facts} AND kind = '{kind}' AND reason LIKE '{reason}'")
        assert found == [[str(count)]], kind


def test_no_secret_is_kept_or_shown(operator: Operator, stack) -> None:
    project = operator.project()
    made = operator.key(project)
    secret = made["key"].rpartition(".")[2]
    info = operator.http.get(f"/v1/admin/projects/{project}").text
    assert made["key_id"] in info
    assert secret not in info
    assert "hash" not in info
    for log in stack.logs_dir.glob("*.log"):
        text = log.read_text(errors="replace")
        assert secret not in text
        assert stack.admin_key not in text
    # `os.walk` goes on where the engine has merged a directory away meanwhile.
    for path in (Path(folder, name) for folder, _, names in os.walk(stack.settings.data_dir) for name in names):
        if path.is_file() and path.name != "admin-key":
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue  # this one, too
            assert secret.encode() not in content, path
            assert stack.admin_key.encode() not in content, path
    assert (stack.settings.data_dir / "admin-key").stat().st_mode & 0o077 == 0


def test_keys_are_listed_with_their_name_and_last_use(operator: Operator) -> None:
    project = operator.project()
    key = operator.key(project, name="shop")
    url = f"/v1/admin/projects/{project}/keys"
    assert (key["name"], operator.http.get(url).json()["keys"][0]["last_used_at"]) == ("shop", None)
    assert operator.client(key["key"]).get("/v1/balance").status_code == 200
    eventually(lambda: operator.http.get(url).json()["keys"][0]["last_used_at"])
    refused = operator.http.post(url, json={"name": "x" * 101}).json()
    assert (refused["code"], refused["field"]) == ("invalid_request", "name")


def test_a_rotated_key_works_for_its_grace_beside_the_new_one(operator: Operator) -> None:
    project = operator.project()
    old = operator.key(project, "preview", name="shop", scopes=["content:read"])
    url = f"/v1/admin/projects/{project}/keys"
    headers = {"idempotency-key": "rotate-1"}
    new = operator.http.post(f"{url}/{old['key_id']}/rotation", json={}, headers=headers).json()
    assert (new["name"], new["environment"], new["scopes"]) == ("shop", "preview", ["content:read"])
    again = operator.http.post(f"{url}/{old['key_id']}/rotation", json={}, headers=headers).json()
    assert again["code"] == "key_shown_before"
    for each in (old, new):
        assert operator.client(each["key"]).get("/v1/balance").status_code == 200
    listed = operator.http.get(url).json()["keys"]
    assert [(each["key_id"], each["ends_at"] is not None) for each in listed] == [
        (old["key_id"], True),
        (new["key_id"], False),
    ]
    newest = operator.http.post(f"{url}/{new['key_id']}/rotation", json={"grace_seconds": 0}).json()
    refused = operator.client(new["key"]).get("/v1/balance").json()
    assert (refused["code"], "another took its place" in refused["detail"]) == ("key_revoked", True)
    assert operator.client(newest["key"]).get("/v1/balance").status_code == 200
