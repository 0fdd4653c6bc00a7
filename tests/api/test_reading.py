"""Reading by HTTP: balances, ledger, usage, project, prices and health, and the shape of every error."""

import csv
import io
import json
import re
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.groups import groups_in, groups_text
from api.openapi_document import DOCUMENT_PATH, document
from tests.calls import Operator, event, eventually

BATCH = {"content-type": "application/cloudevents-batch+json"}


@pytest.fixture(scope="module")
def used(operator: Operator):
    """A project with two customers' usage, all of it in the history."""
    project, client = operator.customer("hobby")
    operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 20, "reference": "inv-7"})
    batch = [
        event(project, "1", "image", metadata={"customer_id": "acme", "tier": 1}),
        event(project, "2", "image", metadata={"customer_id": "acme", "tier": 2}),
        event(project, "3", "social_post", media_type="image", metadata={"customer_id": "globex"}),
        event(project, "4", "webhook.delivery", attempts=3),
        event(project, "5", "read", metadata={"customer_id": "globex"}),
    ]
    assert client.post("/v1/events", content=json.dumps(batch), headers=BATCH).json()["accepted"] == 5
    eventually(lambda: len(client.get("/v1/ledger").json()["entries"]) == 8)
    return project, client


def test_balance(used) -> None:
    project, client = used
    balance = client.get("/v1/balance").json()
    assert (balance["project"], balance["plan"], balance["environment"]) == (project, "hobby", "production")
    assert (balance["available"], balance["held"]) == ("8898.94", "0")
    assert balance["allowance"]["granted"] == "5000"
    assert balance["allowance"]["remaining"] == "4898.94"
    assert [(bundle["granted"], bundle["remaining"]) for bundle in balance["top_ups"]] == [("4000", "4000")]
    assert client.get("/v1/balance", params={"environment": "preview"}).json()["available"] == "0"


def test_a_projects_own_balance_holds_all_that_was_decided_before_it_was_asked(operator: Operator) -> None:
    project, client = operator.customer("scale")
    for number in range(60):
        admitted = operator.http.post(
            "/v1/admissions", json={"project": project, "operation": "chat.message", "id": str(number), "source": "/t"}
        ).json()
        balance = client.get("/v1/balance").json()
        assert balance["offset"] >= admitted["offset"], f"read {number} is older than the decision before it"
        assert balance["available"] == admitted["available"]


def test_ledger_is_newest_first_and_paged_without_gaps(used) -> None:
    _, client = used
    entries = client.get("/v1/ledger").json()["entries"]
    assert [entry["operation"] for entry in entries[:-2]] == [
        "read",
        "webhook.delivery",
        "social_post.image",
        "social_post.text",
        "image",
        "image",
    ]
    assert [(entry["kind"], entry["amount"], entry["reason"]) for entry in entries[-2:]] == [
        ("grant", "4000", "top_up"),
        ("grant", "5000", "allowance"),
    ]
    assert entries[-2]["metadata"] == {"reference": "inv-7"}
    assert entries[0]["balance"] == "8898.94"
    assert entries[1]["amount"] == "-0.06"
    assert entries[0]["price_version"] == client.get("/v1/prices").json()["version"]
    assert sum(Decimal(entry["amount"]) for entry in entries) == Decimal("8898.94")
    paged, cursor = [], None
    while True:
        page = client.get("/v1/ledger", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        paged += page["entries"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert paged == entries
    bad = client.get("/v1/ledger", params={"cursor": "bm9uc2Vuc2U"})
    assert (bad.status_code, bad.json()["field"]) == (422, "cursor")


def test_ledger_is_asked_for_by_operation_customer_kind_environment_and_time(used) -> None:
    _, client = used

    def found(**params: str) -> list[dict[str, Any]]:
        answer = client.get("/v1/ledger", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()["entries"]

    every = found()
    for params in (
        {"operation": "image"},
        {"customer_id": "globex"},
        {"kind": "grant"},
        {"environment": "preview"},
        {"operation": "image", "customer_id": "acme", "kind": "charge", "environment": "production"},
    ):
        wanted = [each for each in every if all(each[name] == value for name, value in params.items())]
        assert found(**params) == wanted, params
        assert len(wanted) == {"operation": 2, "customer_id": 3, "kind": 2, "environment": 0}[next(iter(params))]
    # From is included, and to is not; whatever is smaller than a millisecond counts.
    at = every[3]["booked_at"]
    moment = datetime.fromisoformat(at)
    assert found(**{"from": at}) == [each for each in every if datetime.fromisoformat(each["booked_at"]) >= moment]
    assert found(to=at) == [each for each in every if datetime.fromisoformat(each["booked_at"]) < moment]
    just_after = (moment + timedelta(microseconds=1)).isoformat()
    assert found(**{"from": just_after}) == [
        each for each in every if datetime.fromisoformat(each["booked_at"]) > moment
    ]
    today = datetime.now(UTC).date()
    assert found(**{"from": str(today - timedelta(days=1)), "to": str(today + timedelta(days=1))}) == every
    assert found(to=str(today - timedelta(days=1))) == []
    # A page of what is asked for goes on with what is asked for.
    first = client.get("/v1/ledger", params={"kind": "charge", "limit": 4}).json()
    rest = client.get("/v1/ledger", params={"kind": "charge", "limit": 4, "cursor": first["next_cursor"]}).json()
    assert first["entries"] + rest["entries"] == [each for each in every if each["kind"] == "charge"]
    for params, field in (
        ({"kind": "hold"}, "query.kind"),
        ({"from": "2026-03-01T00:00"}, "from"),
        ({"to": "x"}, "query.to"),
    ):
        refused = client.get("/v1/ledger", params=params)
        assert (refused.status_code, refused.json()["field"]) == (422, field), refused.text


def test_usage_by_operation_and_customer(used) -> None:
    _, client = used
    by_operation = client.get("/v1/usage").json()["rows"]
    assert {row["group"]["operation"]: (row["uses"], row["quantity"], row["credits"]) for row in by_operation} == {
        "image": (2, 2, "64"),
        "social_post.text": (1, 1, "5"),
        "social_post.image": (1, 1, "32"),
        "webhook.delivery": (1, 3, "0.06"),
        "read": (1, 1, "0"),
    }
    by_customer = client.get("/v1/usage", params={"group_by": "metadata.customer_id"}).json()["rows"]
    assert {row["group"]["metadata.customer_id"]: row["credits"] for row in by_customer} == {
        "acme": "64",
        "globex": "37",
        "": "0.06",
    }
    any_key = client.get("/v1/usage", params={"group_by": "metadata.tier,operation"}).json()["rows"]
    assert {(row["group"]["metadata.tier"], row["credits"]) for row in any_key} >= {("1", "32"), ("2", "32")}
    total = client.get("/v1/usage", params={"group_by": ""}).json()["rows"]
    assert [row["credits"] for row in total] == ["101.06"]


def test_usage_as_csv_says_the_same(used) -> None:
    project, client = used
    response = client.get("/v1/usage", params={"group_by": "customer_id,operation"}, headers={"accept": "text/csv"})
    assert response.headers["content-type"].startswith("text/csv")
    assert project in response.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert list(rows[0]) == ["customer_id", "operation", "uses", "quantity", "credits"]
    assert sum(Decimal(row["credits"]) for row in rows) == Decimal("101.06")
    acme = next(row for row in rows if row["customer_id"] == "acme")
    assert acme == {"customer_id": "acme", "operation": "image", "uses": "2", "quantity": "2", "credits": "64"}


def test_the_top_groups_and_all_others_are_one_answer(used) -> None:
    _, client = used
    asked = {"group_by": "operation", "top": 2}
    page = client.get("/v1/usage", params=asked).json()
    assert (page["top"], page["next_cursor"]) == (2, None)
    assert [(row["group"]["operation"], row["credits"], row.get("other")) for row in page["rows"]] == [
        ("image", "64", None),
        ("social_post.image", "32", None),
        ("other", "5.06", True),
    ]
    rows = list(csv.DictReader(io.StringIO(client.get("/v1/usage", params={**asked, "format": "csv"}).text)))
    assert [(row["operation"], row["other"], row["credits"]) for row in rows[1:]] == [
        ("social_post.image", "0", "32"),
        ("other", "1", "5.06"),
    ]


def test_refused_requests_are_an_outcome_that_is_asked_for(operator: Operator) -> None:
    _, client = operator.customer("hobby")
    for operation, status in (("image", 200), ("video", 402), ("video", 402)):
        asked = {"operation": operation, **({"tier": "premium"} if operation == "video" else {})}
        assert client.post("/v1/admissions", json=asked).status_code == status
    of_both = {"group_by": "outcome"}
    eventually(lambda: sum(row["uses"] for row in client.get("/v1/usage", params=of_both).json()["rows"]) == 3)
    rows = client.get("/v1/usage", params=of_both).json()["rows"]
    assert [(row["group"]["outcome"], row["uses"], row["credits"]) for row in rows] == [
        ("charged", 1, "32"),
        ("refused", 2, "0"),
    ]
    assert [row["uses"] for row in client.get("/v1/usage").json()["rows"]] == [1]
    (refused,) = client.get("/v1/usage", params={"group_by": "", "outcome": "refused"}).json()["rows"]
    assert (refused["uses"], refused["credits"]) == (2, "0")
    assert client.get("/v1/usage", params={"outcome": "lost"}).json()["field"] == "outcome"


def test_the_time_before_stands_beside_each_row(used) -> None:
    _, client = used
    day = datetime.now(UTC).date() + timedelta(days=2)
    asked = {"compare": "previous", "tz": "Asia/Kolkata", "from": str(day), "to": str(day + timedelta(days=4))}
    page = client.get("/v1/usage", params=asked).json()
    begin = datetime.combine(day, time(), ZoneInfo("Asia/Kolkata"))
    times = [datetime.fromisoformat(page[f"previous_{name}"]) for name in ("from", "to")]
    assert times == [begin - timedelta(days=4), begin]
    found = {row["group"]["operation"]: row for row in page["rows"]}
    assert found["image"]["uses"] == 0
    assert found["image"]["previous"] == {"uses": 2, "quantity": 2, "credits": "64"}
    file = client.get("/v1/usage", params={**asked, "operation": "image", "format": "csv"})
    (row,) = csv.DictReader(io.StringIO(file.text))
    assert (row["uses"], row["previous_uses"], row["previous_credits"]) == ("0", "2", "64")


def test_usage_says_until_when_it_is_complete(operator: Operator) -> None:
    _, client = operator.customer("hobby")
    pages: list[Any] = []

    def is_complete_since(at: datetime) -> bool:
        pages.append(client.get("/v1/usage", params={"group_by": "hour"}).json())
        return pages[-1]["as_of"] is not None and datetime.fromisoformat(pages[-1]["as_of"]) > at

    for number in range(1, 4):
        assert client.post("/v1/admissions", json={"operation": "read"}).status_code == 200
        decided_at = datetime.now(UTC)
        eventually(lambda at=decided_at: is_complete_since(at))
        assert sum(row["uses"] for row in pages[-1]["rows"]) == number
    asked_at = datetime.fromisoformat(pages[-1]["as_of"]) + timedelta(milliseconds=pages[-1]["lag_ms"])
    assert abs(datetime.now(UTC) - asked_at) < timedelta(seconds=20)
    assert pages[-1]["rows_read"] > 0
    headers = client.get("/v1/usage", params={"format": "csv"}).headers
    assert datetime.fromisoformat(headers["meterline-as-of"]) > decided_at and int(headers["meterline-lag-ms"]) >= 0


def test_usage_is_to_be_had_as_parquet(used) -> None:
    project, client = used
    asked = {"group_by": "customer_id,metadata.tier", "granularity": "hour", "tz": "Asia/Kathmandu", "top": 2}
    file = client.get("/v1/usage", params={**asked, "format": "parquet"})
    assert (file.status_code, file.headers["content-type"]) == (200, "application/vnd.apache.parquet")
    assert f"usage-{project}.parquet" in file.headers["content-disposition"]
    assert file.content[:4] == file.content[-4:] == b"PAR1" and b"metadata.tier" in file.content
    accepted = client.get("/v1/usage", headers={"accept": "application/vnd.apache.parquet"})
    assert accepted.content[:4] == b"PAR1" and accepted.headers["meterline-lag-ms"]


def test_a_spreadsheet_runs_nothing_of_the_csv(operator: Operator) -> None:
    """The customers' ids of a usage report come from outside, and may be written to be run as formulas."""
    _, client = operator.customer("hobby")
    names = ["=1+1", " @SUM(A1)", "-2", "+x", "plain", "-cmd|' /C calc'!A0"]
    for name in names:
        body = {"operation": "chat.message", "metadata": {"customer_id": name}}
        assert client.post("/v1/admissions", json=body).status_code == 200

    def cells() -> list[str]:
        answer = client.get("/v1/usage", params={"group_by": "customer_id", "format": "csv"})
        return sorted(row["customer_id"] for row in csv.DictReader(io.StringIO(answer.text)))

    eventually(lambda: len(cells()) == len(names))
    assert cells() == sorted(["'=1+1", "' @SUM(A1)", "-2", "'+x", "plain", "'-cmd|' /C calc'!A0"])
    rows = client.get("/v1/usage", params={"group_by": "customer_id"}).json()["rows"]
    assert sorted(row["group"]["customer_id"] for row in rows) == sorted(names), "JSON has them as they are"


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"group_by": "nonsense"}, "group_by"),
        ({"group_by": "metadata."}, "group_by"),
        ({"group_by": "a,b,c,d,e,f"}, "group_by"),
        ({"from": "2026-01-01T00:00:00"}, "from"),
        ({"from": "yesterday"}, "query.from"),
        ({"from": "2026-13-01"}, "query.from"),
        ({"granularity": "second"}, "granularity"),
        ({"granularity": "day", "group_by": "day"}, "granularity"),
        ({"granularity": "day", "tz": "Asia/Kalkutta"}, "tz"),
        ({"tz": "Asia/Kolkata", "group_by": "day"}, "group_by"),
        ({"by": "noon"}, "by"),
        ({"environment": "staging"}, "query.environment"),
        ({"metadata.": "1"}, "metadata."),
        ({"top": 0}, "query.top"),
        ({"compare": "next"}, "query.compare"),
        ({"compare": "previous", "group_by": "month"}, "compare"),
        ({"top": 2, "group_by": ""}, "top"),
        ({"format": "xml"}, "query.format"),
    ],
)
def test_bad_usage_questions_name_the_field(used, parameters: dict, field: str) -> None:
    _, client = used
    response = client.get("/v1/usage", params=parameters)
    assert (response.status_code, response.json()["field"]) == (422, field)


def test_usage_is_by_period_of_a_zone_and_filtered(used) -> None:
    _, client = used
    whole = client.get("/v1/usage", params={"group_by": ""}).json()["rows"][0]
    zone = ZoneInfo("Asia/Kathmandu")
    today = datetime.now(zone).date()
    asked = {"granularity": "month", "tz": zone.key, "group_by": "", "from": str(today - timedelta(days=2))}
    page = client.get("/v1/usage", params=asked).json()
    assert [page[name] for name in ("granularity", "tz", "by", "group_by")] == [
        "month",
        zone.key,
        "booked_at",
        ["period"],
    ]
    assert datetime.fromisoformat(page["from"]) == datetime.combine(today - timedelta(days=2), time(), zone)
    assert datetime.fromisoformat(page["to"]) > datetime.fromisoformat(page["from"])
    assert sum(row["uses"] for row in page["rows"]) == whole["uses"]
    by_tier = client.get("/v1/usage", params={"group_by": "metadata.tier"}).json()["rows"]
    for row in by_tier:
        tier = row["group"]["metadata.tier"]
        (found,) = client.get("/v1/usage", params={"group_by": "", "metadata.tier": tier}).json()["rows"]
        assert found["uses"] == row["uses"]
    nobody = client.get("/v1/usage", params={"operation": "' OR 1=1 --", "granularity": "day"})
    assert (nobody.status_code, nobody.json()["rows"]) == (200, [])


def test_metadata_keys_are_bound_and_never_sql(used) -> None:
    _, client = used
    response = client.get("/v1/usage", params={"group_by": "metadata.x') FROM facts --"})
    assert response.status_code == 200
    assert {row["group"]["metadata.x') FROM facts --"] for row in response.json()["rows"]} == {""}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), max_size=5))
@example(["operation", "metadata.a,b", 'metadata.",', '"', ",", '""', "\n"])
def test_groups_of_any_name_are_named_by_one_text(groups: list[str]) -> None:
    assert groups_in(groups_text(groups)) == groups


def test_a_metadata_key_with_a_comma_is_a_group(operator: Operator) -> None:
    _, client = operator.customer()
    use = {"operation": "chat.message", "metadata": {'a,"b': "x", "plan": "pro"}}
    assert client.post("/v1/admissions", json=use).status_code == 200
    asked = {"group_by": '"metadata.a,""b",metadata.plan,,operation'}
    eventually(lambda: client.get("/v1/usage", params=asked).json()["rows"])
    (row,) = client.get("/v1/usage", params=asked).json()["rows"]
    assert row["group"] == {'metadata.a,"b': "x", "metadata.plan": "pro", "operation": "chat.message"}
    problem = client.get("/v1/usage", params={"group_by": "metadata.a,b"}).json()
    assert problem["field"] == "group_by" and "in double quotes" in problem["detail"]


def test_project_me(operator: Operator) -> None:
    project, client = operator.customer("hobby", is_limited=True)
    me = client.get("/v1/projects/me").json()
    assert (me["project"], me["plan"], me["requests_per_minute"], me["burst"]) == (project, "hobby", 60, 120)
    assert (me["badge_required"], len(me["keys"])) == (False, 1)


def test_prices_are_open_to_everyone(operator: Operator) -> None:
    prices = operator.client(None).get("/v1/prices").json()
    assert prices["version"]
    table = {price["operation"]: (price["credits"], price["plan_required"]) for price in prices["prices"]}
    assert table["video.premium"] == ("300", "build")
    assert table["webhook.delivery"] == ("0.02", None)


def test_health_and_docs(operator: Operator) -> None:
    client = operator.client(None)
    assert client.get("/healthz").json()["status"] == "ok"
    eventually(lambda: client.get("/readyz").status_code == 200, 60)
    assert client.get("/readyz").json() == {
        "status": "ok",
        "parts": {"kafka": True, "worker": True, "accounts": True, "history": True},
    }
    assert client.get("/docs").status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/events", "/v1/admissions", "/v1/balance", "/v1/ledger", "/v1/usage", "/v1/projects/me"} <= set(paths)


def test_the_committed_document_is_the_apps_own() -> None:
    assert DOCUMENT_PATH.read_text() == document(), "run `uv run python -m api.openapi_document` and look at the diff"


def test_a_method_that_a_path_has_not_is_refused_with_those_that_it_has(operator: Operator) -> None:
    wrong = []
    for path, item in operator.http.get("/openapi.json").json()["paths"].items():
        asked = re.sub(r"{[^}]*}", "x", path)
        answer = operator.http.request("TRACE", asked)
        allowed = set(answer.headers.get("allow", "").split(", "))
        # A path with a fixed last part may be one with a parameter too.
        if answer.status_code != 405 or not {method.upper() for method in item} <= allowed or "TRACE" in allowed:
            wrong.append((path, answer.status_code, allowed))
    assert not wrong
    assert operator.http.delete("/v1/prices").headers["allow"] == "GET"


def test_what_is_not_there_is_a_problem_too(operator: Operator) -> None:
    missing = operator.client(None).get("/v1/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert missing.headers["x-request-id"] == missing.json()["instance"]
    assert operator.client(None).delete("/v1/prices").json()["code"] == "method_not_allowed"
    unknown = operator.http.get("/v1/balance", params={"project": "prj_nobody"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_project")
    unnamed = operator.http.get("/v1/balance")
    assert (unnamed.status_code, unnamed.json()["field"]) == (422, "project")


def test_administration(operator: Operator) -> None:
    project = operator.project("enterprise", contract_credits=123_456, name="Big Co")
    info = operator.http.get(f"/v1/admin/projects/{project}").json()
    assert (info["name"], info["plan"]) == ("Big Co", "enterprise")
    balance = operator.http.get("/v1/balance", params={"project": project}).json()
    assert balance["available"] == "123456"
    again = operator.http.post("/v1/admin/projects", json={"project": project})
    assert (again.status_code, again.json()["code"]) == (409, "project_exists")
    headers = {"idempotency-key": "payment-1"}
    for _ in range(2):
        topped_up = operator.http.post(
            f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 100}, headers=headers
        )
        assert (topped_up.status_code, topped_up.json()["available"]) == (201, "143456")
    bad = operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 33})
    assert (bad.status_code, bad.json()["field"]) == (422, "bundle_usd")
    ghost = operator.http.post("/v1/admin/projects/prj_ghost/top-ups", json={"bundle_usd": 20})
    assert (ghost.status_code, ghost.json()["code"]) == (404, "unknown_project")
    bad_id = operator.http.post("/v1/admin/projects", json={"project": "a b"})
    assert (bad_id.status_code, bad_id.json()["code"]) == (422, "invalid_request")


def test_metrics_say_that_it_adds_up_and_name_nobody(used, operator: Operator) -> None:
    project, _ = used
    text = operator.metrics()
    assert "meterline_verify_drift_microcredits 0.0" in text
    assert 'meterline_part_ready{part="accounts"} 1.0' in text
    count = re.compile(r'^meterline_history_visible_seconds_count{table="facts"} (\S+)$', re.MULTILINE)

    def counted() -> str:
        told = httpx.get(f"{operator.clickhouse_url}/metrics").text
        visible = count.search(told)
        return told if visible is not None and float(visible[1]) > 0 else ""

    # A row is counted once it can be read.
    assert 'meterline_history_rows_total{table="facts"}' in eventually(counted)
    assert "process_resident_memory_bytes" in text
    assert project not in text
