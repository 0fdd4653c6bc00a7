"""Rehearsals of a price book on the whole stack: POST /v1/admin/rehearsals."""

import json

from tests.calls import Operator, eventually


def proposal(**rates: str) -> dict:
    return {"version": "rehearsed", "effective_at": "2099-01-01T00:00:00Z", "rates": rates}


def test_a_dearer_image_and_who_would_be_hurt(operator: Operator) -> None:
    project, client = operator.customer()
    for _ in range(7):
        assert client.post("/v1/admissions", json={"operation": "image"}).status_code == 200
    eventually(lambda: len(client.get("/v1/ledger").json()["entries"]) == 8)
    all_of_them = {"days": 1, "worst_max": 10_000}
    same = operator.http.post("/v1/admin/rehearsals", json={"book": proposal()} | all_of_them)
    assert same.status_code == 200, same.text
    (mine,) = (each for each in same.json()["worst"] if each["project"] == project)
    assert (mine["charged"], mine["difference"], mine["refused_proposed"]) == ("224", "0", 0)
    assert same.json()["needs_notice"] == []
    dearer = operator.http.post("/v1/admin/rehearsals", json={"book": proposal(image="50.5")} | all_of_them).json()
    assert dearer["notice"] == "Announcing this needs 30 days: image"
    (mine,) = (each for each in dearer["worst"] if each["project"] == project)
    assert mine | {"first_out_at": None} == {
        "project": project,
        "plan": "free",
        "charged": "224",
        "charged_proposed": "202",
        "difference": "-22",
        "refused": 0,
        "refused_proposed": 3,
        "first_out_at": None,
    }
    assert mine["first_out_at"] is not None
    assert client.get("/v1/balance").json()["available"] == "26", "a rehearsal changes nothing"


def test_bad_books_and_strangers_are_refused(operator: Operator) -> None:
    _, client = operator.customer()
    book = proposal()
    assert client.post("/v1/admin/rehearsals", json={"days": 1, "book": book}).status_code == 403
    for wrong, field in (
        ({"days": 91}, "days"),
        ({"book": book | {"rates": {"image": "0.0000001"}}}, "rates.image"),
        ({"book": book | {"rates": {"Image": "1"}}}, "rates.Image"),
        ({"book": book | {"plan_required": {"hologram": "build"}}}, "plan_required.hologram"),
    ):
        refused = operator.http.post("/v1/admin/rehearsals", json={"days": 1, "book": book} | wrong)
        assert (refused.status_code, refused.json()["field"]) == (422, field)


def test_progress_comes_line_by_line_and_the_result_last(operator: Operator) -> None:
    _, client = operator.customer()
    assert client.post("/v1/admissions", json={"operation": "image"}).status_code == 200
    eventually(lambda: len(client.get("/v1/ledger").json()["entries"]) == 2)

    def lines(book: dict) -> list[dict]:
        asked, accept = {"book": book, "days": 1, "worst_max": 1}, {"accept": "application/x-ndjson"}
        answer = operator.http.post("/v1/admin/rehearsals", json=asked, headers=accept)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("application/x-ndjson")
        return [json.loads(line) for line in answer.text.splitlines()]

    first, *_, last = lines(proposal(image="50.5"))
    assert first == {"done": 0, "all": 0}
    assert last["done"] == last["all"] >= last["result"]["projects"] >= 1
    assert last["result"]["notice"] == "Announcing this needs 30 days: image"
    assert lines(proposal() | {"plan_required": {"hologram": "build"}})[-1]["problem"]["code"] == "invalid_request"
