"""The audit log on the whole stack: what was refused, what was done and with whose key, and what keys were used for."""

import csv
import io
import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import get_args

import httpx
import pytest

from api.callers.keys import admin_key_id
from api.stack import Stack
from schemas.http.audit import AuditKind
from streams.history.audit import KINDS
from tests.calls import Operator, event, eventually


def customer(operator: Operator, plan: str = "free") -> tuple[str, httpx.Client]:
    """A new project with its plan's limits, and a client that calls with its key."""
    project = operator.project(plan)
    return project, operator.client(operator.key(project)["key"])


def audit(client: httpx.Client, **params: object) -> list[dict]:
    answer = client.get("/v1/audit", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["entries"]


def wait_for_actions(client: httpx.Client, count: int, **params: object) -> list[dict]:
    """The audit entries of a question, oldest first, once there are `count` of them."""
    found = eventually(lambda: len(entries := audit(client, **params)) >= count and entries)
    assert len(found) == count, [entry["action"] for entry in found]
    return found[::-1]


def key_use(client: httpx.Client, **params: object) -> list[dict]:
    answer = client.get("/v1/audit/keys", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


def ask(client: httpx.Client, operation: str, **body: object) -> httpx.Response:
    return client.post("/v1/admissions", json={"operation": operation, **body})


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_every_kind_can_be_asked_for() -> None:
    assert set(KINDS) == set(get_args(AuditKind))


def test_refusals_are_there_with_their_key_and_a_receipt(operator: Operator) -> None:
    project = operator.project("free")
    key = operator.key(project)
    client = operator.client(key["key"])
    base = f"/v1/admin/projects/{project}"
    assert ask(client, "website").status_code == 200
    # The owner refuses the second request of a batch: the API knows of a full window only once that is decided.
    limited = {"requests": [{"operation": "read"}] * 2}
    answers = [ask(client, "website"), ask(client, "video", tier="premium")]
    operator.http.put(f"{base}/limits", json={"cost_ceiling": "9"})
    answers.append(ask(client, "content_plan"))
    passed = len(answers) + 2
    operator.http.put(f"{base}/limits", json={"requests_per_minute": passed, "burst": passed})
    decisions = client.post("/v1/admissions/batch", json=limited).json()["decisions"]
    assert [each["status"] for each in decisions] == [200, 429]
    operator.http.put(f"{base}/limits", json={})
    operator.http.put(f"{base}/state", json={"closed": True})
    answers.append(ask(client, "read"))
    assert [answer.status_code for answer in answers] == [402, 402, 403, 403]
    entries = wait_for_actions(operator.http, 5, project=project, kind="refusals")
    assert [entry["code"] for entry in entries] == [
        "out_of_credits",
        "plan_required",
        "over_cost_ceiling",
        "rate_limited",
        "project_closed",
    ]
    assert {entry["actor"] for entry in entries} == {key["key_id"]}
    assert {(entry["action"], entry["project"]) for entry in entries} == {("request.refused", project)}
    assert entries[0]["detail"] == "website: out of credits"
    assert entries[3]["entry_id"] == decisions[1]["entry_id"]
    for entry in entries:
        receipt = operator.http.get(f"/v1/receipts/{entry['entry_id']}").json()
        assert receipt["refusal"]["code"] == entry["code"]


# In the order in which the test below does them.
ACTIONS_OF_OPERATORS = [
    "project.opened",
    "key.created",
    "plan.changed",
    "plan.planned",
    "standing.bad",
    "standing.good",
    "badge.hidden",
    "top_up.granted",
    "top_up.refunded",
    "recharge.on",
    "billing_account.joined",
    "limits.set",
    "raise.planned",
    "raise.begun",
    "raise.ended",
    "trial.set",
    "trial.ended",
    "key.revoked",
    "project.closed",
    "project.reopened",
]


def test_what_operators_did_names_their_key(operator: Operator, stack: Stack) -> None:
    project = operator.project("hobby")
    base = f"/v1/admin/projects/{project}"
    me = admin_key_id(stack.admin_key)

    def done(method: str, path: str, body: object = None, status: int = 200) -> dict:
        answer = operator.http.request(method, f"{base}{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else {}

    key = done("POST", "/keys", {}, 201)
    done("PUT", "/plan", {"plan": "build"})
    done("PUT", "/plan", {"plan": "free"})
    done("PUT", "/standing", {"good_standing": False, "reason": "unpaid"})
    done("PUT", "/standing", {"good_standing": True})
    done("PUT", "/badge", {"shown": False})
    done("POST", "/top-ups", {"bundle_usd": 20, "reference": "inv-9"}, 201)
    (bundle,) = operator.http.get("/v1/balance", params={"project": project}).json()["top_ups"]
    done("POST", "/refunds", {"grant_id": bundle["grant_id"], "reason": "asked"}, 201)
    terms = {"on": True, "threshold": "10", "bundle_usd": 20, "cap_usd": 40, "payment_method": "pm_1"}
    done("PUT", "/auto-recharge", terms)
    account = f"acct-{secrets.token_hex(4)}"
    opened = operator.http.post("/v1/admin/billing-accounts", json={"id": account, "name": "Acme", "email": "a@b.c"})
    assert opened.status_code == 201
    done("PUT", "/billing-account", {"billing_account": account})
    done("PUT", "/limits", {"burst": 700, "reason": "contract 7"})
    raised = done("POST", "/limit-raises", {"burst": 900, "ends_at": in_seconds(60), "reason": "launch"}, 201)
    done("DELETE", f"/limit-raises/{raised['id']}", status=204)
    done("PUT", "/limits", {"burst": 5, "is_shadow": True})
    done("PUT", "/limits", {"is_shadow": True})
    done("DELETE", f"/keys/{key['key_id']}", status=204)
    done("PUT", "/state", {"closed": True, "reason": "left"})
    done("PUT", "/state", {"closed": False})
    entries = wait_for_actions(operator.http, 20, project=project)
    assert [entry["action"] for entry in entries] == ACTIONS_OF_OPERATORS
    assert {entry["actor"] for entry in entries} == {me}
    assert me.startswith("admin:") and len(me) == len("admin:") + 8
    by_action = {entry["action"]: entry for entry in entries}
    assert by_action["key.created"]["metadata"] == {"by": me, "key_id": key["key_id"]}
    assert by_action["top_up.granted"]["metadata"] == {"reference": "inv-9"}
    assert by_action["top_up.refunded"]["detail"].endswith("(asked)")
    assert by_action["raise.planned"]["detail"].startswith("900 at once, from ")
    assert by_action["raise.ended"]["detail"] == f"raise {raised['id']}: 900 at once"
    assert by_action["limits.set"]["detail"] == "700 at once (contract 7)"
    assert by_action["standing.bad"]["detail"] == "bad (unpaid)"
    assert by_action["billing_account.joined"]["detail"] == f"its own to {account}"
    # It is in another partition than the project, which may come to the history earlier.
    (mine,) = eventually(lambda: [each for each in audit(operator.http, kind="billing") if account == each["detail"]])
    assert (mine["project"], mine["action"], mine["actor"]) == (None, "billing_account.opened", me)
    assert [entry["action"] for entry in audit(operator.http, project=project, kind="keys")] == [
        "key.revoked",
        "key.created",
    ]


def test_a_correction_is_there_with_its_reason(operator: Operator, stack: Stack) -> None:
    project, client = customer(operator, "hobby")
    charged = ask(client, "image", source="/shop", id="order-1")
    assert charged.status_code == 200
    body = {"source": "/shop", "id": "order-1", "action": "void", "reason": "sent by mistake"}
    assert operator.http.post(f"/v1/admin/projects/{project}/corrections", json=body).status_code == 201
    (entry,) = wait_for_actions(operator.http, 1, project=project, kind="grants")
    assert (entry["action"], entry["actor"]) == ("correction.given_back", admin_key_id(stack.admin_key))
    assert entry["detail"].startswith("32 credits of image of /shop order-1")
    assert entry["metadata"]["correction_reason"] == "sent by mistake"


def test_a_price_book_is_there_once_though_every_partition_has_it(operator: Operator, stack: Stack) -> None:
    version = secrets.token_hex(4)
    effective_at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    body = {"version": version, "effective_at": effective_at, "rates": {f"op.{version}": "1"}}
    assert operator.http.post("/v1/admin/price-books", json=body).status_code == 201
    count = f"SELECT count() FROM facts WHERE kind = 'price_book' AND reason = '{version}'"
    eventually(lambda: operator.rows(stack.clickhouse_url, count) == [[str(stack.settings.partitions)]])
    detail = f"price book {version}"
    (entry,) = [each for each in audit(operator.http, kind="prices", limit=1000) if each["detail"] == detail]
    assert (entry["project"], entry["action"]) == (None, "price_book.announced")
    assert entry["actor"] == admin_key_id(stack.admin_key)
    _, client = customer(operator)
    assert audit(client, kind="prices") == []


def test_a_raise_that_ends_by_itself_was_nobodys_act(operator: Operator) -> None:
    project, client = customer(operator)
    body = {"burst": 900, "ends_at": in_seconds(0.5), "reason": "launch"}
    assert operator.http.post(f"/v1/admin/projects/{project}/limit-raises", json=body).status_code == 201
    entries = wait_for_actions(operator.http, 3, project=project, kind="limits")
    assert [entry["action"] for entry in entries] == ["raise.planned", "raise.begun", "raise.ended"]
    assert [bool(entry["actor"]) for entry in entries] == [True, True, False]


def test_what_a_trial_would_have_refused(operator: Operator) -> None:
    project, client = customer(operator)
    tried = {"requests_per_minute": 1, "burst": 1, "cost_ceiling": "10", "is_shadow": True}
    operator.http.put(f"/v1/admin/projects/{project}/limits", json=tried)
    assert [ask(client, operation).status_code for operation in ("image", "read")] == [200, 200]
    entries = wait_for_actions(operator.http, 2, project=project, kind="shadow")
    assert [(entry["action"], entry["code"], entry["operation"]) for entry in entries] == [
        ("request.refused_on_trial", "over_cost_ceiling", "image"),
        ("request.refused_on_trial", "rate_limited", "read"),
    ]
    assert audit(operator.http, project=project, kind="refusals") == []


def test_pages_go_on_without_gaps_and_periods_bound_them(operator: Operator) -> None:
    project, _ = customer(operator)
    for number in range(7):
        operator.http.put(f"/v1/admin/projects/{project}/limits", json={"burst": 100 + number})
    everything = wait_for_actions(operator.http, 9, project=project)[::-1]
    paged, cursor = [], None
    for _ in range(20):
        params = {"project": project, "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = operator.http.get("/v1/audit", params=params).json()
        paged += page["entries"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert paged == everything
    middle = everything[4]["at"]
    assert audit(operator.http, project=project, **{"from": middle}) == [
        each for each in everything if each["at"] >= middle
    ]
    assert audit(operator.http, project=project, to=middle) == [each for each in everything if each["at"] < middle]
    elsewhere = datetime.fromisoformat(middle).astimezone(tz=None).isoformat()
    assert audit(operator.http, project=project, to=elsewhere) == audit(operator.http, project=project, to=middle)
    shifted = datetime.fromisoformat(middle).isoformat().replace("+00:00", "-02:00")
    assert audit(operator.http, project=project, to=shifted) == everything, "two hours later"


def test_projects_see_their_own_alone(operator: Operator) -> None:
    project, client = customer(operator)
    other, stranger = customer(operator)
    assert ask(client, "video", tier="premium").status_code == 402
    wait_for_actions(operator.http, 1, project=project, kind="refusals")
    wait_for_actions(operator.http, 1, project=other, kind="keys")
    assert {each["project"] for each in audit(client)} == {project}
    assert audit(stranger, kind="refusals") == []
    assert {each["project"] for each in audit(stranger)} == {other}
    cursor = client.get("/v1/audit", params={"limit": 1}).json()["next_cursor"]
    assert cursor and {each["project"] for each in audit(stranger, cursor=cursor)} <= {other}
    eventually(lambda: key_use(operator.http, project=project))
    assert {row["project"] for row in key_use(client)} == {project}
    assert project not in stranger.get("/v1/audit/keys").text
    for path in ("/v1/audit", "/v1/audit/keys"):
        refused = stranger.get(path, params={"project": project})
        assert (refused.status_code, refused.json()["code"]) == (403, "wrong_project")
        csv_of_other = stranger.get(path, headers={"accept": "text/csv"}).text
        assert project not in csv_of_other
        preview = operator.client(operator.key(project, "preview")["key"]).get(path)
        assert (preview.status_code, preview.json()["code"]) == (403, "missing_scope")
        auditor = operator.client(operator.key(project, scopes=["audit:read"])["key"])
        assert auditor.get(path).status_code == 200
        assert auditor.get("/v1/balance").json()["code"] == "missing_scope"
        assert operator.client(None).get(path).status_code == 401
        assert operator.http.get(path, params={"project": "prj_nobody"}).json()["code"] == "unknown_project"
        assert operator.http.get(path, params={"project": project}).status_code == 200
    assert {project, other} <= {each["project"] for each in audit(operator.http, kind="keys", limit=1000)}


def test_key_use_is_summed_up_by_the_hour(operator: Operator) -> None:
    project = operator.project("free")
    keys = [operator.key(project) for _ in range(2)]
    clients = [operator.client(key["key"]) for key in keys]
    for _ in range(3):
        assert ask(clients[0], "chat.message").status_code == 200
    assert ask(clients[0], "social_post", media_type="image").status_code == 200
    assert ask(clients[0], "website").status_code == 402
    job = ask(clients[1], "image", hold=True, job_id="j1").json()
    assert clients[1].post(f"/v1/holds/{job['hold_id']}/capture").status_code == 200
    sent = clients[1].post("/v1/events", json=event(project, "e1", "page.edit"))
    assert sent.status_code == 202

    def uses() -> dict[tuple[str, str], tuple[int, int]]:
        summed: dict[tuple[str, str], tuple[int, int]] = {}
        for row in key_use(operator.http, project=project):
            assert row["hour"].endswith(":00:00Z") and row["hour"] <= row["first_at"] <= row["last_at"]
            if " " not in row["operation"]:  # a call of this API has a row beside that of the operation it asked for
                name = (row["key_id"], row["operation"])
                before = summed.get(name, (0, 0))
                summed[name] = (before[0] + row["uses"], before[1] + row["refused"])
        return summed

    first, second = (key["key_id"] for key in keys)
    expected = {
        (first, "chat.message"): (3, 0),
        (first, "social_post.text"): (1, 0),
        (first, "website"): (1, 1),
        (second, "image"): (1, 0),
        (second, "page.edit"): (1, 0),
    }
    eventually(lambda: uses().keys() >= expected.keys())
    assert uses() == expected
    paged, cursor = [], None
    for _ in range(50):
        page = operator.http.get(
            "/v1/audit/keys", params={"project": project, "limit": 2} | ({"cursor": cursor} if cursor else {})
        ).json()
        paged += [(row["hour"], row["key_id"], row["operation"]) for row in page["rows"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(paged) == len(set(paged)) >= len(expected)
    assert {(key, operation) for _, key, operation in paged} >= expected.keys()


def test_csv_runs_nothing_and_goes_on(operator: Operator) -> None:
    project, client = customer(operator)
    url = f"/v1/admin/projects/{project}"
    for reason in ('=HYPERLINK("http://evil")', "plain, with a comma"):
        operator.http.put(f"{url}/standing", json={"good_standing": True, "reason": reason})
    wait_for_actions(operator.http, 4, project=project)
    answer = client.get("/v1/audit", headers={"accept": "text/csv"}, params={"limit": 3})
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [row["action"] for row in rows] == ["standing.good", "standing.good", "key.created"]
    assert json.loads(rows[0]["metadata"]) == {"reason": "plain, with a comma"}
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    following = client.get(answer.links["next"]["url"], params=None)
    assert following.headers["content-type"].startswith("application/json"), "as its own Accept says"
    assert [entry["action"] for entry in following.json()["entries"]] == ["project.opened"]
    assert ask(client, "image", source="/x", id="=1+1").status_code == 200
    eventually(lambda: key_use(operator.http, project=project))
    use = client.get("/v1/audit/keys", params={"format": "csv"})
    (row, *_) = list(csv.DictReader(io.StringIO(use.text, newline="")))
    assert row["project"] == project and "link" not in use.headers


@pytest.mark.parametrize("path", ["/v1/audit", "/v1/audit/keys"])
@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"from": "2026-01-01T00:00:00"}, "from"),
        ({"to": "9999-12-31T23:59:59-12:00"}, "to"),
        ({"from": "0001-01-01T00:00:00Z"}, "from"),
        ({"limit": 10_001}, "query.limit"),
        ({"limit": 0}, "query.limit"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": "W10"}, "cursor"),
        ({"cursor": "MS4yLjMuNA"}, None),
        ({"format": "xml"}, "query.format"),
        ({"project": "../x"}, "query.project"),
    ],
)
def test_what_can_not_be_asked_is_422(operator: Operator, path: str, params: dict, field: str | None) -> None:
    answer = operator.http.get(path, params=params)
    if field is None:  # one of the other's cursors
        assert answer.status_code == (200 if path == "/v1/audit" else 422)
    else:
        assert (answer.status_code, answer.json().get("field")) == (422, field), answer.text


def test_a_kind_that_there_is_not_is_422(operator: Operator) -> None:
    assert operator.http.get("/v1/audit", params={"kind": "gossip"}).status_code == 422
