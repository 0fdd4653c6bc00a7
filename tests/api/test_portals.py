"""Portal links over HTTP and by commands: who makes them, what they say, and how all of a project's end."""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from itsdangerous import URLSafeSerializer
from typer.testing import CliRunner

from api.callers.keys import Caller, admin_of, new_admin_key
from api.callers.links import PortalLink, PortalLinks
from api.callers.portals import OF_CUSTOMER, OF_PROJECT, check_portal, only_of, portal_caller, require_shown
from api.callers.roles import MAY
from api.cli.main import app
from api.dashboard.sessions import Sessions
from api.stack import Stack
from schemas.accounts import Account, ApiKey
from schemas.problems import Rejection
from streams.settings import Admin, Settings
from tests.api.isolation import CALLS, OPEN
from tests.calls import Operator, eventually
from tests.conftest import ADMIN_KEYS

URL = "/v1/portal-links"
KEY = "k" * 32
LINK = PortalLink("plk_1", "p1", "production", "cus_1", "key_1", 7, 1_800_000_000)


def answered(response: httpx.Response, status: int, code: str = "", field: str | None = None) -> Any:
    """The answer, which has this status, and, where it is a refusal, this code and field."""
    assert response.status_code == status, response.text
    answer = response.json()
    if code:
        assert (answer["code"], answer.get("field")) == (code, field), answer
    return answer


def token_of(url: str) -> str:
    (token,) = parse_qs(urlsplit(url).query)["token"]
    return token


def link_of(stack: Stack, url: str) -> PortalLink:
    return PortalLinks.of(stack.settings).link(token_of(url))


def test_a_link_says_what_it_shows_who_made_it_and_until_when_and_its_url_is_new_each_time(
    stack: Stack, operator: Operator
) -> None:
    project = operator.project()
    key = operator.key(project)
    client = operator.client(key["key"])
    asked = {"customer_id": "Zoë", "environment": "preview", "minutes": 1}
    made = answered(client.post(URL, json=asked), 201)
    assert made["url"].startswith(f"{operator.url}/dashboard/portal?token=")
    link = link_of(stack, made["url"])
    assert (link.project, link.customer, link.environment, link.maker) == (project, "Zoë", "preview", key["key_id"])
    assert (made["id"], made["customer_id"], made["environment"]) == (link.id, "Zoë", "preview")
    by_admin = answered(operator.http.post(f"/v1/admin/projects/{project}/portal-links", json={}), 201)
    whole = link_of(stack, by_admin["url"])
    assert (whole.customer, whole.environment, by_admin["customer_id"]) == ("", "production", None)
    assert whole.maker.startswith("admin:") and whole.id != link.id
    assert (len(whole.mark), link.mark) == (32, "") and sha256(stack.admin_key.encode()).hexdigest()[:32] == whole.mark
    assert 13 * 60 < whole.expires_at - link.expires_at <= 15 * 60

    again = [client.post(URL, json=asked, headers={"idempotency-key": "link-1"}).json()["id"] for _ in range(2)]
    assert again[0] == again[1] not in (link.id, whole.id)


def test_who_may_not_make_a_link_or_asks_for_more_than_there_is_is_refused(operator: Operator) -> None:
    project, client = operator.customer()
    of_admin = f"/v1/admin/projects/{project}/portal-links"
    reading = operator.client(operator.key(project, scopes=["content:read"])["key"])
    preview = operator.client(operator.key(project, "preview")["key"])
    linking = operator.client(operator.key(project, scopes=["portal:write"])["key"])
    answered(linking.post(URL, json={}), 201)
    for call in (reading.post(URL, json={}), preview.post(URL, json={}), reading.delete(URL), client.post(of_admin)):
        assert call.status_code in (403, 422), call.text
    answered(reading.post(URL, json={}), 403, "missing_scope")
    answered(preview.delete(URL), 403, "missing_scope")
    other = operator.project()
    answered(client.post(URL, json={}, params={"project": other}), 403, "wrong_project", "project")
    answered(operator.http.post(URL, json={}, params={"project": "prj_none"}), 404, "unknown_project", "project")
    for role, status in (("support", 201), ("finance", 403), ("read-only", 403)):
        assert operator.client(ADMIN_KEYS[role]).post(of_admin, json={}).status_code == status, role
    for wrong in ({"minutes": 0}, {"minutes": 16}, {"customer_id": ""}, {"customer_id": "c" * 129}, {"more": 1}):
        assert client.post(URL, json=wrong).status_code == 422, wrong
    answered(operator.http.put(f"/v1/admin/projects/{project}/state", json={"closed": True}), 200)
    answered(client.post(URL, json={}), 403, "project_closed")


def test_all_links_of_a_project_are_ended_by_one_call_and_the_audit_says_so(stack: Stack, operator: Operator) -> None:
    project, client = operator.customer()
    before = link_of(stack, answered(client.post(URL, json={}), 201)["url"])
    answer = answered(client.delete(URL, params={"reason": "a laptop was lost"}), 200)
    after = link_of(stack, answered(client.post(URL, json={}), 201)["url"])
    assert before.known_offset < after.known_offset
    audit = {"kind": "portals", "project": project}
    (entry,) = eventually(lambda: operator.http.get("/v1/audit", params=audit).json()["entries"])
    assert (entry["entry_id"], entry["action"], entry["actor"]) == (answer["entry_id"], "portal.ended", before.maker)
    assert "a laptop was lost" in entry["detail"]
    receipt = answered(client.get(f"/v1/receipts/{answer['entry_id']}"), 200)
    assert receipt["outcome"] == "portal ended"


def test_the_commands_make_a_link_and_end_all(
    stack: Stack, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = operator.project()
    monkeypatch.setenv("METERLINE_API_URL", stack.url)
    monkeypatch.setenv("METERLINE_ADMIN_KEY", stack.admin_key)
    run = CliRunner().invoke
    done = run(app, ["portals", "link", project, "--customer", "cus_1", "--minutes", "5", "--json"])
    assert done.exit_code == 0, done.output
    assert link_of(stack, json.loads(done.stdout)["url"]).customer == "cus_1"
    told = run(app, ["portals", "link", project])
    assert token_of(next(line for line in told.stdout.split() if "/dashboard/portal?token=" in line))
    ended = run(app, ["portals", "end", project, "--reason", "over", "--json"])
    assert json.loads(ended.stdout)["project"] == project


def test_a_link_of_another_installation_or_one_that_was_changed_is_none() -> None:
    ours, theirs = PortalLinks(KEY), PortalLinks("t" * 32)
    token = ours.token(LINK)
    assert ours.link(token) == LINK
    changed = [theirs.token(LINK), token[:-1], "A" + token[1:], token.replace(".", "", 1), "", "é", "." * 3000]
    for wrong in changed:
        with pytest.raises(Rejection) as refused:
            ours.link(wrong)
        assert refused.value.code == "portal_link_invalid"


def test_without_a_key_that_all_apis_share_no_link_is_made() -> None:
    with pytest.raises(Rejection) as refused:
        PortalLinks.of(Settings(session_key=None))
    assert refused.value.code == "portal_not_set_up"


ACCOUNT: dict[str, Any] = {
    "project": "p1",
    "name": "",
    "plan": "free",
    "allowance": 0,
    "signed_up_at_ms": 0,
    "renews_at_ms": 0,
    "grants": [],
    "opened_offset": 0,
    "last_offset": 9,
    "last_at_ms": 0,
}


def caller(link: PortalLink = LINK, admins: tuple[Admin, ...] = (), scope: str = "*", **changes: Any) -> Caller | str:
    """The caller behind a link as an account of now has it, or the code that refuses it."""
    ends_at_ms = changes.pop("ends_at_ms", 0)
    key = ApiKey("key_1", b"", "production", [scope], 0, changes.pop("revoked_at_ms", 0), "", ends_at_ms)
    account = Account(keys=[key], **ACCOUNT | changes)
    try:
        return portal_caller(Settings(admins=list(admins), admin_key_hashes=[]), account, link, 1_000)
    except Rejection as rejection:
        return rejection.code


def test_a_portal_ends_with_whoever_made_its_link_with_its_project_and_with_all_of_its_links() -> None:
    assert isinstance(caller(), Caller)
    assert caller(revoked_at_ms=1) == caller(ends_at_ms=1_000) == "key_revoked"
    assert isinstance(caller(ends_at_ms=1_001), Caller)
    assert caller(scope="content:*") == "missing_scope"
    assert caller(closed_at_ms=1) == "project_closed"
    assert caller(portals_ended_offset=8) == "portal_ended"
    assert isinstance(caller(portals_ended_offset=7), Caller)
    elsewhere = PortalLink("plk_1", "p1", "production", "", "key_2", 7, 1)
    assert caller(elsewhere) == "unauthenticated"
    by_admin = PortalLink("plk_1", "p1", "production", "", "admin:ada", 7, 1, "0" * 32)
    ada = {role: Admin(name="ada", role=role, key_hash="0" * 64) for role in ("support", "finance", "owner")}
    assert caller(by_admin) == "unauthenticated"
    assert caller(by_admin, (ada["finance"],)) == "missing_role"
    assert isinstance(caller(by_admin, (ada["support"],)), Caller) and isinstance(
        caller(by_admin, (ada["owner"],)), Caller
    )


def test_a_link_of_an_admin_ends_with_the_key_that_made_it_and_one_that_says_no_key_is_of_no_use() -> None:
    (old, old_hash), (_, new_hash) = new_admin_key(), new_admin_key()
    now, later = (Admin(name="ada", role="support", key_hash=each) for each in (old_hash, new_hash))
    maker = admin_of(old, [now], [])
    assert maker is not None
    made = PortalLink("plk_1", "p1", "production", "", maker.key_id, 7, 1, maker.mark)
    assert isinstance(caller(made, (now,)), Caller)
    # What the page, the button and an open stream ask.
    account = Account(keys=[], **ACCOUNT)
    check_portal(Settings(admins=[now], admin_key_hashes=[]), made, account)
    with pytest.raises(Rejection) as ended:
        check_portal(Settings(admins=[later], admin_key_hashes=[]), made, account)
    assert ended.value.code == "portal_ended"
    assert caller(made, (later,)) == "unauthenticated"
    # A link, and a session's cookie, as they were made before keys had marks.
    signing = {"digest_method": sha256, "key_derivation": "hmac"}
    unmarked = {name: value for name, value in asdict(made).items() if name != "mark"}
    seal = URLSafeSerializer(KEY, salt="meterline portal link", signer_kwargs=signing)
    before = PortalLinks(KEY).link(str(seal.dumps(list(unmarked.values()))))
    session = {"id": "s", "project": "p1", "key_id": maker.key_id, "environment": "production", "portal": unmarked}
    seal = URLSafeSerializer(KEY, salt="meterline session", signer_kwargs=signing)
    opened = Sessions(KEY).opened(str(seal.dumps(session | {"expires_at": 1 << 40})))
    assert opened is not None and opened.portal == before and before.mark == ""
    for admins in ((now,), (later,), ()):
        assert caller(before, admins) == "unauthenticated"
    of_key = PortalLinks(KEY).link(PortalLinks(KEY).token(LINK))
    assert isinstance(caller(of_key), Caller)


@pytest.mark.parametrize("customer", ["", "cus_1"])
@pytest.mark.parametrize("operation", CALLS)
def test_a_portal_shows_what_is_listed_and_is_refused_all_else(operation: str, customer: str) -> None:
    """Every operation that there is has its place in `CALLS`, so one that is new is tried here, and refused."""
    found = caller(PortalLink("plk_1", "p1", "production", customer, "key_1", 7, 1))
    assert isinstance(found, Caller) and (found.customer or "") == customer and found.is_portal
    listed = OF_CUSTOMER if customer else OF_PROJECT
    if operation in listed:
        require_shown(found, operation)
        found.require(CALLS[operation].scope)
        assert operation.startswith("GET ") and operation in MAY
        return
    with pytest.raises(Rejection) as refused:
        require_shown(found, operation)
    assert refused.value.code == "not_in_portal"


def test_the_lists_name_operations_that_there_are_and_ask_for_a_caller() -> None:
    assert OF_CUSTOMER < OF_PROJECT < {name for name, call in CALLS.items() if call.scope != OPEN}


def test_a_reading_is_about_the_portals_customer_whatever_was_asked_for() -> None:
    one, whole = caller(), caller(PortalLink("plk_1", "p1", "production", "", "key_1", 7, 1))
    assert isinstance(one, Caller) and isinstance(whole, Caller)
    assert [only_of(one, asked) for asked in (None, "cus_1", "cus_2")] == ["cus_1"] * 3
    assert [only_of(whole, asked) for asked in (None, "cus_2")] == [None, "cus_2"]
    preview = caller(PortalLink("plk_1", "p1", "preview", "", "key_1", 7, 1))
    assert isinstance(preview, Caller) and preview.scopes == ("content:read",)
