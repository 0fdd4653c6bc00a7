"""Rehearsals of limits on the whole stack: POST /v1/admin/rehearsals/limits, and `meterline rehearse` with limits."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from api.cli import main
from api.stack import Stack
from tests.calls import Operator, event, eventually

URL = "/v1/admin/rehearsals/limits"


def rehearse(operator: Operator, **asked: Any) -> httpx.Response:
    return operator.http.post(URL, json={"days": 1} | asked)


def recorded(operator: Operator, project: str, requests: int) -> dict[str, Any]:
    """A rehearsal of a project under loose limits, once the history has this many of its requests."""

    def found() -> dict[str, Any] | None:
        answer = rehearse(operator, project=project, requests_per_minute=1_000)
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result if result["totals"]["requests"] == requests else None

    result: dict[str, Any] = eventually(found)
    return result


@pytest.fixture(scope="module")
def busy(operator: Operator) -> str:
    """A free project that asked for five images (32 credits each), one of them as a job, and sent two messages."""
    project, client = operator.customer(is_limited=True)
    for number in range(5):
        body = {"operation": "image", "hold": number == 4, "job_id": f"job-{number}"}
        assert client.post("/v1/admissions", json=body).status_code == 200
    assert client.post("/v1/admissions", json={"operation": "image", "hold": True, "job_id": "job-4"}).is_success
    events = [event(project, f"e{number}") for number in range(2)]
    assert operator.http.post(
        "/v1/events",
        content=json.dumps(events),
        headers={"content-type": "application/cloudevents-batch+json"},
    ).is_success
    recorded(operator, project, 7)
    return project


def test_a_lower_ceiling_and_who_would_be_hurt(operator: Operator, busy: str) -> None:
    answer = rehearse(operator, project=busy, cost_ceiling="100.5", requests_per_minute=6, burst=6)
    assert answer.status_code == 200, answer.text
    result = answer.json()
    (mine,) = result["worst"]
    assert mine["limits"] == {"requests_per_minute": 6, "burst": 6, "cost_ceiling": "100.5"}
    proposed = mine["proposed"]
    assert (proposed["by_window"], proposed["by_ceiling"], proposed["over_cost_ceiling"]) == (1, 2, 0)
    assert proposed["credits"] == "64"
    assert proposed["first_at"] < proposed["last_at"]
    assert (mine["requests"], mine["maybe_events"]) == (7, 2)
    assert mine["recorded"] == {"limited": 0, "over_cost_ceiling": 0}
    assert (mine["busiest_minute"]["requests"], mine["busiest_minute"]["credits"]) == (7, "162")
    assert (result["projects"], result["projects_hurt"]) == (1, 1)
    assert result["totals"] == {name: mine[name] for name in result["totals"]}

    without = rehearse(operator, project=busy, cost_ceiling="31", with_events=False).json()["worst"][0]
    assert (without["requests"], without["maybe_events"]) == (5, 0)
    assert without["proposed"]["over_cost_ceiling"] == 5
    assert without["limits"] == {"requests_per_minute": 30, "burst": 60, "cost_ceiling": "31"}, "the others stay"


def test_a_plans_projects_and_what_the_limits_refused_really(operator: Operator) -> None:
    project, client = operator.customer("scale", is_limited=True)
    statuses = [client.post("/v1/admissions", json={"operation": "read"}).status_code for _ in range(3)]
    statuses += [
        client.post("/v1/admissions", json={"operation": "video.premium", "quantity": 6}).status_code for _ in range(2)
    ]
    assert statuses == [200, 200, 200, 403, 403]
    recorded(operator, project, 5)
    result = rehearse(operator, plan="scale", cost_ceiling="3000", worst_max=10_000).json()
    assert {each["plan"] for each in result["worst"]} == {"scale"}
    (mine,) = (each for each in result["worst"] if each["project"] == project)
    assert mine["recorded"] == {"limited": 0, "over_cost_ceiling": 2}
    assert (mine["proposed"]["by_ceiling"], mine["proposed"]["credits"]) == (1, "1800"), "one of the two would pass"
    assert project not in {each["project"] for each in rehearse(operator, plan="free", burst=50).json()["worst"]}


def test_bad_limits_and_strangers_are_refused(operator: Operator, busy: str) -> None:
    _, client = operator.customer()
    assert client.post(URL, json={"burst": 5}).status_code == 403
    for wrong, field in (
        ({}, "requests_per_minute"),
        ({"burst": 0}, "burst"),
        ({"burst": 5, "requests_per_minute": 6}, "burst"),
        ({"burst": 5, "days": 32}, "days"),
        ({"requests_per_minute": 2_000_000}, "requests_per_minute"),
        ({"cost_ceiling": "0"}, "cost_ceiling"),
        ({"cost_ceiling": "0.0000001"}, "cost_ceiling"),
        ({"cost_ceiling": "99999999999"}, "cost_ceiling"),
        ({"burst": 5, "plan": "free", "project": busy}, "plan"),
    ):
        refused = rehearse(operator, **wrong)
        assert (refused.status_code, refused.json()["field"]) == (422, field), wrong
    assert rehearse(operator, burst=5, project="prj_nobody").json()["code"] == "unknown_project"
    assert rehearse(operator, burst=5, project=operator.project()).json()["code"] == "no_traffic"


def test_progress_comes_line_by_line_and_the_result_last(operator: Operator, busy: str) -> None:
    asked = {"project": busy, "burst": 40}
    lines = operator.http.post(URL, json=asked, headers={"accept": "application/x-ndjson"}).text.splitlines()
    first, *_, last = (json.loads(line) for line in lines)
    assert first == {"done": 0, "all": 0}
    assert last["done"] == last["all"] > 0
    assert last["result"]["totals"]["requests"] == 7
    asked = {"project": operator.project(), "burst": 40}
    lines = operator.http.post(URL, json=asked, headers={"accept": "application/x-ndjson"}).text.splitlines()
    assert json.loads(lines[-1])["problem"]["code"] == "no_traffic"


def test_by_command(
    operator: Operator,
    stack: Stack,
    busy: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))
    argv = ["rehearse", "--project", busy, "--cost-ceiling", "100"]
    found = CliRunner().invoke(main.app, [*argv, "--json"], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["worst"][0]["proposed"]["by_ceiling"] == 2
    shown = CliRunner().invoke(main.app, argv, catch_exceptions=False)
    assert busy in shown.stdout and "1 of 1 projects would have had more requests refused" in shown.stdout
    assert "may have come as usage events" in shown.stdout

    def fails(*argv: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["meterline", *argv])
        with pytest.raises(SystemExit) as ended:
            main.main()
        return ended.value.code, capfd.readouterr().err

    for code, said, argv in (
        (1, "no_traffic", ["--burst", "40", "--project", operator.project()]),
        (1, "days", ["--burst", "40", "--days", "40"]),
        (1, "unknown_project", ["--burst", "40", "--project", "prj_nobody"]),
        (2, "--requests-per-minute", []),
        (2, "one at a time", ["book.json", "--burst", "40"]),
    ):
        assert (found := fails("rehearse", *argv))[0] == code
        assert said in found[1]
