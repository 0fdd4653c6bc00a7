"""Acts of the dashboard: every route for a project has one, a form takes what its route takes, an act is done once."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from api.app import create_app
from api.callers.roles import MAY
from api.dashboard.acts import (
    CHANGE_BILLING_ACCOUNT,
    OPEN_BILLING_ACCOUNT,
    OPEN_PROJECT,
    PROJECT,
    PROJECT_ACTS,
    SOURCES,
    WITHDRAW_BOOK,
    form_of_act,
    operations_of,
    project_act,
)
from api.dashboard.asking import ShownProblem
from api.dashboard.form_fields import body_of, fields_of, instant_text, label_of
from api.dashboard.forms import next_key
from api.stack import Stack
from streams.settings import Role, Settings
from tests.admins import ADMIN_KEYS
from tests.calls import Operator
from tests.dashboard.admin_pages import AdminBrowser

_APP = create_app(Settings())


def _path(project: str, act: str) -> str:
    return f"/dashboard/projects/{project}/acts/{act}"


def test_every_route_that_changes_a_project_has_an_act_and_every_act_a_route() -> None:
    routes = {name for name in operations_of(_APP) if f" {PROJECT}/" in name and not name.startswith("GET ")}
    assert len(routes) >= 17
    acts = {act.operation for act in PROJECT_ACTS}
    assert routes - acts == set(), "an admin's route for a project without an act: add it to api/dashboard/acts.py"
    assert acts <= set(operations_of(_APP))
    assert {act.operation for act in (*PROJECT_ACTS, OPEN_PROJECT, OPEN_BILLING_ACCOUNT)} <= set(MAY)
    assert len({act.name for act in PROJECT_ACTS}) == len(PROJECT_ACTS)


def test_every_act_has_the_fields_that_its_route_takes_and_says_what_it_needs() -> None:
    for act in (*PROJECT_ACTS, OPEN_PROJECT, OPEN_BILLING_ACCOUNT, CHANGE_BILLING_ACCOUNT, WITHDRAW_BOOK):
        form = form_of_act(act, operations_of(_APP)[act.operation], {"project": "p"})
        assert {each.kind for each in form.fields} <= {
            "text", "credits", "choice", "switch", "number", "time", "words", "thresholds", "json",
        }  # fmt: skip
        # JSON by hand is for what has any shape: an event's metadata.
        assert [each.name for each in form.fields if each.kind == "json"] in ([], ["data.metadata"])
        assert form.has_dry_run or not act.is_grave, f"{act.name} can't be taken back, and shows nothing first"
        assert set(act.asks) <= set(SOURCES)


def test_a_form_has_bounds_choices_help_and_defaults_from_the_schema() -> None:
    recharge = project_act("auto-recharge")
    assert recharge is not None
    fields = {each.name: each for each in form_of_act(recharge, operations_of(_APP)[recharge.operation], {}).fields}
    assert fields["bundle_usd"].choices == (("20", "20"), ("100", "100"), ("500", "500"))
    assert fields["bundle_usd"].default == "20"
    assert fields["cap_usd"].attributes == {"min": 0, "max": 100_000}
    assert fields["threshold"].kind == "credits" and fields["on"].kind == "switch"
    assert fields["project"].is_place
    body = body_of(fields.values(), {"bundle_usd": "100", "cap_usd": "x1", "threshold": "1.5"}, ZoneInfo("UTC"))
    # What is no number goes as it is: the API says so, by the field's name.
    assert body == {"on": False, "bundle_usd": 100, "cap_usd": "x1", "threshold": "1.5"}


def test_times_are_the_readers_and_labels_say_units() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert instant_text("2026-07-01T12:00", berlin) == "2026-07-01T10:00:00Z"
    assert instant_text("2026-07-01T12:00:00Z", berlin) == "2026-07-01T12:00:00Z"
    assert instant_text("tomorrow", berlin) == "tomorrow"
    assert instant_text("0001-01-01T00:00", berlin) == "0001-01-01T00:00"
    assert [label_of(name) for name in ("cap_usd", "price_cents", "grant_id", "id", "data.job_id", "reason")] == [
        "Cap (USD)", "Price (US cents)", "Grant ID", "ID", "Job ID", "Reason",
    ]  # fmt: skip


def test_a_field_that_may_be_null_is_sent_as_null_and_a_list_as_one() -> None:
    schema = {
        "properties": {
            "to": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "left": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            "rules": {
                "type": "array",
                "maxItems": 9,
                "items": {"type": "object", "properties": {"percent": {}, "credits": {}}},
            },
        },
        "required": ["to", "rules"],
    }
    fields, zone = fields_of(schema), ZoneInfo("UTC")
    assert body_of(fields, {}, zone) == {"to": None, "rules": []}
    given = body_of(fields, {"to": "a", "left": "3", "rules": "20%\n 500 \n\n"}, zone)
    assert given == {"to": "a", "left": 3, "rules": [{"percent": 20}, {"credits": "500"}]}


def test_a_bundle_is_bought_once_however_often_the_form_is_sent(admin: AdminBrowser, operator: Operator) -> None:
    project = operator.project("hobby")
    form = admin.form(admin.page(_path(project, "top-up")))
    assert form["idempotency_key"]
    for _ in range(2):
        done = admin.send(_path(project, "top-up"), form, step="do", bundle_usd="20", reference="pay_1")
        assert done.status_code == 200 and "Done: Add bought credits" in done.text, done.text
    balance = operator.http.get("/v1/balance", params={"project": project, "environment": "production"}).json()
    assert (balance["top_ups_count"], balance["top_ups_remaining"]) == (1, "4000")


def test_what_is_wrong_is_told_beside_its_field_and_the_form_keeps_what_was_typed(
    admin: AdminBrowser, operator: Operator
) -> None:
    project = operator.project()
    wrong = admin.act(_path(project, "grant"), amount="many", reason="<b>launch</b>", expires_at="2027-01-01T00:00")
    assert wrong.status_code == 422
    assert re.search(r'id="field-amount"[^>]*aria-invalid="true"', wrong.text)
    assert 'id="field-amount-wrong"' in wrong.text and 'value="many"' in wrong.text
    assert "&lt;b&gt;launch" in wrong.text and "<b>launch" not in wrong.text
    late = admin.act(_path(project, "grant"), amount="5", reason="x", expires_at="2020-01-01T00:00")
    assert late.status_code == 422 and 'id="field-expires_at-wrong"' in late.text
    assert operator.http.get("/v1/balance", params={"project": project}).json()["promotional_count"] == 0


def test_what_was_refused_is_mended_and_done_from_the_same_page(admin: AdminBrowser, operator: Operator) -> None:
    """The owner keeps a refusal under the form's key, as it keeps what was done."""
    project = operator.project("hobby")
    operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 20}).raise_for_status()
    balance = operator.http.get("/v1/balance", params={"project": project, "environment": "production"}).json()
    bought: str = balance["top_ups"][0]["grant_id"]
    form = admin.form(admin.page(_path(project, "refund")))
    refused = admin.send(_path(project, "refund"), form, step="do", typed=project, grant_id=f"{bought}9")
    assert refused.status_code in (404, 409, 422) and 'role="alert"' in refused.text, refused.text
    mended = admin.form(refused.text)
    assert mended["idempotency_key"] != form["idempotency_key"]
    done = admin.send(_path(project, "refund"), mended, step="do", typed=project, grant_id=bought)
    assert done.status_code == 200 and "Done: Refund a purchase" in done.text, done.text


def test_what_may_have_been_done_is_asked_for_again_under_the_same_key() -> None:
    for status, code, is_same in (
        (422, "invalid_request", False), (404, "unknown_grant", False), (429, "rate_limited", False),
        (504, "decision_timeout", True), (503, "not_ready", True), (409, "idempotency_reply_expired", True),
    ):  # fmt: skip
        assert (next_key("dashboard-1", ShownProblem(status, code, "", "")) == "dashboard-1") == is_same, code


def test_a_key_is_shown_in_the_answer_alone_and_a_repeat_says_that_it_was(
    admin: AdminBrowser, operator: Operator
) -> None:
    project = operator.project()
    form = admin.form(admin.page(_path(project, "key")))
    made = admin.send(_path(project, "key"), form, step="do", name="shop")
    key = re.search(r"mtl_live_[A-Za-z0-9_.-]+", made.text)
    assert made.status_code == 200 and key is not None and "location" not in made.headers
    assert operator.client(key[0]).get("/v1/projects/me").status_code == 200
    again = admin.send(_path(project, "key"), form, step="do", name="shop")
    assert again.status_code == 409 and key[0] not in again.text
    keys = operator.http.get(f"/v1/admin/projects/{project}/keys").json()["keys"]
    assert [each["name"] for each in keys] == ["shop"]
    listed = admin.page(f"/dashboard/projects/{project}/parts/keys")
    assert keys[0]["key_id"] in listed and key[0] not in listed
    # It is rotated and revoked from there, each after what would change was shown.
    rotation = f"{_path(project, 'rotate-key')}?key_id={keys[0]['key_id']}"
    shown = admin.send(rotation, admin.form(admin.page(rotation)), step="try")
    assert "What would change" in shown.text and "key.rotated" in shown.text
    rotated = admin.send(rotation, admin.form(shown.text), step="do")
    assert rotated.status_code == 200 and "mtl_live_" in rotated.text
    revoked = admin.act(_path(project, "revoke-key"), key_id=keys[0]["key_id"])
    assert (revoked.status_code, revoked.headers["location"]) == (
        303,
        f"/dashboard/projects/{project}?done=revoke-key",
    )
    assert operator.client(key[0]).get("/v1/projects/me").status_code == 401


def test_a_portal_link_is_shown_once_and_ended(admin: AdminBrowser, operator: Operator) -> None:
    project = operator.project()
    made = admin.act(_path(project, "portal-link"), customer_id="c-1", minutes="5")
    assert made.status_code == 200 and "shown this once" in made.text and "/dashboard/portal" in made.text
    assert admin.act(_path(project, "end-portals")).status_code == 303


def test_an_act_that_is_grave_shows_what_it_does_and_asks_for_the_projects_name(
    admin: AdminBrowser, operator: Operator
) -> None:
    project = operator.project()
    path = _path(project, "close")
    shown = admin.send(path, admin.form(admin.page(path)), step="try", reason="left us")
    assert shown.status_code == 200 and "project.closed" in shown.text
    form = admin.form(shown.text)
    for typed in ("", "prj_other"):
        refused = admin.send(path, form, step="do", typed=typed)
        assert refused.status_code == 422 and 'id="typed-wrong"' in refused.text
    assert operator.http.get(f"/v1/admin/projects/{project}").json()["closed_at"] is None
    closed = admin.send(path, form, step="do", typed=project)
    assert closed.status_code == 303
    page = admin.page(closed.headers["location"])
    assert "Close the project." in page and "Reopen the project" in page and _path(project, "close") not in page
    assert operator.http.get(f"/v1/admin/projects/{project}").json()["closed_at"] is not None
    assert admin.act(_path(project, "reopen")).status_code == 303
    assert operator.http.get(f"/v1/admin/projects/{project}").json()["closed_at"] is None


def test_forms_show_what_holds_now_and_put_it_back(admin: AdminBrowser, operator: Operator) -> None:
    project = operator.project("build")
    ends_at = (datetime.now(UTC) + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M")
    for act, fields in {
        "limits": {"requests_per_minute": "77", "burst": "99", "cost_ceiling": "1234.5", "reason": "contract"},
        "limit-trial": {"requests_per_minute": "55"},
        "limit-raise": {"burst": "500", "ends_at": ends_at, "reason": "launch"},
        "notice-rules": {"rules": "50%\n900"},
        "preview-notice-rules": {"rules": "7.5"},
        "auto-recharge": {"on": "on", "threshold": "100", "cap_usd": "200", "payment_method": "cus_1/pm_1"},
        "standing": {"good_standing": "", "reason": "late"},
        "badge": {"shown": ""},
    }.items():
        answer = admin.act(_path(project, act), **fields)
        assert answer.status_code in (200, 303), (act, answer.text)
    limits = operator.http.get(f"/v1/admin/projects/{project}/limits").json()
    assert limits["contract"] == {"requests_per_minute": 77, "burst": 99, "cost_ceiling": "1234.5"}
    assert limits["shadow"]["requests_per_minute"] == 55 and len(limits["raises"]) == 1
    shown = admin.form(admin.page(_path(project, "limits")))
    assert (shown["requests_per_minute"], shown["burst"], shown["cost_ceiling"]) == ("77", "99", "1234.5")
    assert set(admin.form(admin.page(_path(project, "notice-rules")))["rules"].split()) == {"50%", "900"}
    assert admin.form(admin.page(_path(project, "preview-notice-rules")))["rules"] == "7.5"
    assert admin.form(admin.page(_path(project, "auto-recharge")))["threshold"] == "100"
    assert "good_standing" not in admin.form(admin.page(_path(project, "standing")))
    page = admin.page(f"/dashboard/projects/{project}")
    for text in ("Not in good standing", "On trial", "Contract", "Raise"):
        assert text in page, text
    assert admin.act(_path(project, "end-limit-raise"), raise_id=limits["raises"][0]["id"]).status_code == 303
    assert operator.http.get(f"/v1/admin/projects/{project}/limits").json()["raises"] == []


@pytest.mark.parametrize(
    ("role", "offered", "hidden"),
    [
        ("finance", ("top-up", "refund", "plan"), ("close", "key", "limits", "erasure")),
        ("support", ("key", "limits", "badge"), ("top-up", "close", "plan", "erasure")),
        ("read-only", (), ("top-up", "key", "close", "limits")),
    ],
)
def test_a_role_is_offered_what_it_may_do_and_refused_the_rest(
    stack: Stack, operator: Operator, admin: AdminBrowser, role: Role, offered: tuple[str, ...], hidden: tuple[str, ...]
) -> None:
    project = operator.project()
    browser = AdminBrowser(stack.url, ADMIN_KEYS[role])
    page = browser.page(f"/dashboard/projects/{project}")
    assert [act for act in offered if f'{_path(project, act)}"' not in page] == []
    assert [act for act in hidden if f'{_path(project, act)}"' in page] == []
    token = re.search(r'name="csrf" value="([^"]+)"', page)
    assert token is not None
    for act in hidden:
        assert browser.http.get(_path(project, act)).status_code == 403
        form = admin.form(admin.page(_path(project, act))) | {"csrf": token[1], "typed": project, "step": "do"}
        refused = browser.send(_path(project, act), form)
        assert refused.status_code == 403 and role in refused.text, act


def test_a_projects_key_sees_no_page_for_admins(stack: Stack, operator: Operator) -> None:
    project = operator.project()
    customer = AdminBrowser(stack.url, operator.key(project)["key"])
    for path in (
        "projects", "new-project", f"projects/{project}", f"projects/{project}/acts/key", "price-books",
        f"projects/{project}/parts/keys", "price-books/announce", "limit-rehearsal", "limit-rehearsal/run?burst=1",
        "events", "dead-letters", "dead-letters/x", "audit", "audit/keys", "billing", "billing/x",
        "new-billing-account",
        "billing/x/invoices/2026-01", "system", "system/now", "system/endpoints",
    ):  # fmt: skip
        assert customer.http.get(f"/dashboard/{path}").status_code == 403, path
    page = customer.page("/dashboard")
    assert "Price books" not in page
    token = re.search(r'name="csrf" value="([^"]+)"', page)
    assert token is not None
    form = {"csrf": token[1], "idempotency_key": "k", "step": "do"}
    assert customer.send(_path(project, "key"), form).status_code == 403


def test_a_form_of_another_session_or_without_its_token_does_nothing(
    stack: Stack, admin: AdminBrowser, operator: Operator
) -> None:
    project = operator.project()
    form = admin.form(admin.page(_path(project, "key")))
    other = AdminBrowser(stack.url, ADMIN_KEYS["owner"])
    assert other.send(_path(project, "key"), form, step="do").status_code == 403
    assert admin.send(_path(project, "key"), form, csrf="", step="do").status_code == 403
    without_key = {name: value for name, value in form.items() if name != "idempotency_key"}
    assert admin.send(_path(project, "key"), without_key, step="do").status_code == 422
    assert operator.http.get(f"/v1/admin/projects/{project}/keys").json()["keys"] == []
