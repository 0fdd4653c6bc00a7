"""POST /v1/admissions on the whole stack: 200, the two 402s, idempotency, one charge for admission and event."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.calls import Operator, event, eventually


def test_a_first_charge_and_a_first_402(operator: Operator) -> None:
    project, client = operator.customer()
    charged = client.post("/v1/admissions", json={"operation": "website"})
    assert charged.status_code == 200
    assert charged.json() == charged.json() | {
        "allowed": True,
        "project": project,
        "operation": "website",
        "credits": "240",
        "available": "10",
        "already_decided": False,
    }
    refused = client.post("/v1/admissions", json={"operation": "image"}, headers={"x-request-id": "req_mine"})
    assert refused.status_code == 402
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["x-request-id"] == "req_mine"
    problem = refused.json()
    assert problem["code"] == "out_of_credits"
    assert (problem["instance"], problem["available"], problem["status"]) == ("req_mine", "10", 402)
    assert problem["type"].endswith("/out_of_credits")
    assert client.get("/v1/balance").json()["available"] == "10"


def test_premium_video_needs_the_build_plan(operator: Operator) -> None:
    _, hobby = operator.customer("hobby")
    _, build = operator.customer("build")
    premium = {"operation": "video", "tier": "premium"}
    assert hobby.post("/v1/admissions", json=premium).json()["code"] == "plan_required"
    assert build.post("/v1/admissions", json=premium).json()["credits"] == "300"


def test_an_idempotency_key_charges_once(operator: Operator) -> None:
    _, client = operator.customer()
    headers = {"idempotency-key": "once"}
    first = client.post("/v1/admissions", json={"operation": "image"}, headers=headers)
    second = client.post("/v1/admissions", json={"operation": "image"}, headers=headers)
    assert first.json() == second.json()
    other = client.post("/v1/admissions", json={"operation": "website"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    assert client.get("/v1/balance").json()["available"] == "218"


def test_an_admitted_request_and_its_event_are_one_charge(operator: Operator) -> None:
    project, client = operator.customer()
    admitted = client.post("/v1/admissions", json={"operation": "image", "source": "/tests", "id": "job-1"})
    assert admitted.json()["credits"] == "32"
    assert client.post("/v1/events", json=event(project, "job-1", "image")).status_code == 202
    assert client.post("/v1/events", json=event(project, "job-2", "image")).status_code == 202
    eventually(lambda: client.get("/v1/balance").json()["available"] == "186")
    again = client.post("/v1/admissions", json={"operation": "image", "source": "/tests", "id": "job-1"}).json()
    assert (again["credits"], again["already_decided"]) == ("0", True)


def test_a_balance_that_was_asked_for_by_offset_holds_the_write(operator: Operator) -> None:
    _, client = operator.customer("hobby")
    for spent in range(1, 21):
        offset = client.post("/v1/admissions", json={"operation": "chat.message"}).json()["offset"]
        balance = client.get("/v1/balance", params={"min_offset": offset}).json()
        assert balance["available"] == str(5_000 - spent)
        assert balance["offset"] >= offset
        assert 0 <= balance["lag_ms"] < 5_000


def test_whoever_reads_after_a_decision_finds_it(operator: Operator) -> None:
    """The operator too, at once and without naming an offset, while many others are answered."""

    def work(_: int) -> None:
        project, client = operator.customer("hobby")
        with operator.client(operator.http.headers["authorization"].split()[1]) as admin:
            for done in range(1, 31):
                job = {"operation": "chat.message", "job_id": f"job-{done}", "hold": True}
                assert client.post("/v1/admissions", json=job).status_code == 200
                assert admin.get("/v1/balance", params={"project": project}).json()["held"] == str(done)
                held = admin.get("/v1/holds", params={"project": project, "limit": 100}).json()
                assert len(held["holds"]) == done

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))


def test_concurrent_spenders_can_spend_all_of_it_and_no_more(operator: Operator) -> None:
    _, client = operator.customer()

    def spend(_: int) -> int:
        return client.post("/v1/admissions", json={"operation": "content_plan"}).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(spend, range(60)))
    assert (statuses.count(200), statuses.count(402)) == (25, 35)
    assert client.get("/v1/balance").json()["available"] == "0"


def test_preview_keys_draw_on_the_preview_budget(operator: Operator) -> None:
    project, preview = operator.customer(environment="preview")
    assert preview.post("/v1/admissions", json={"operation": "image"}).json()["code"] == "out_of_credits"
    topped_up = operator.http.post(
        f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 20, "environment": "preview"}
    )
    assert topped_up.json()["available"] == "4000"
    assert preview.post("/v1/admissions", json={"operation": "image"}).json()["available"] == "3968"
    production = operator.client(operator.key(project)["key"])
    assert production.get("/v1/balance").json()["available"] == "250"
    refused = preview.post("/v1/admissions", json={"operation": "image", "environment": "production"})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_event")


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"{", 400, "malformed_json", None),
        (b"{}", 422, "missing_field", "operation"),
        (b'{"operation": "hologram"}', 422, "unknown_operation", "operation"),
        (b'{"operation": "image", "quantity": -1}', 422, "invalid_quantity", "quantity"),
        (b'{"operation": "image", "quantty": 1}', 422, "invalid_event", "quantty"),
        (b'{"operation": "image", "project": "prj_another"}', 403, "wrong_project", "project"),
    ],
)
def test_bad_requests_name_the_field(operator: Operator, body: bytes, status: int, code: str, field: str) -> None:
    _, client = operator.customer()
    response = client.post("/v1/admissions", content=body)
    problem = response.json()
    assert (response.status_code, problem["code"], problem.get("field")) == (status, code, field)
