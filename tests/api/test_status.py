"""`meterline status` tells who is there, what waits, and what is wrong; its exit code says the same."""

from __future__ import annotations

import json

import pytest

from api.cli.status import status_text
from api.stack import Stack
from api.views.status import wrong_with
from schemas.http.status import DiskStatus, PartStatus, WorkerStatus
from streams.embedded import lifeline
from tests.calls import Operator, eventually
from tests.command_line import Meterline

GIB = 1024**3
READY = PartStatus(name="kafka", is_ready=True, why="")


def worker(*partitions: int) -> WorkerStatus:
    return WorkerStatus(name="worker-1", version="0.1.0", host="127.0.0.1", partitions=list(partitions))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"parts": [PartStatus(name="history", is_ready=False, why="it stopped")]}, ["history: it stopped"]),
        ({"workers": [worker(0), worker(2)]}, ["no worker decides partition 1, 3"]),
        ({"workers": []}, []),
        ({"drifting": 2}, ["balances of 2 projects differ from the history: run `meterline verify`"]),
        (
            {"disks": [DiskStatus(name="api", free_bytes=GIB // 2, total_bytes=100 * GIB)]},
            ["the disk of api is nearly full: 0.5 GiB are free"],
        ),
        (
            {"disks": [DiskStatus(name="api", free_bytes=4 * GIB, total_bytes=100 * GIB)]},
            ["the disk of api is nearly full: 4.0 GiB are free"],
        ),
        ({"disks": [DiskStatus(name="api", free_bytes=11 * GIB, total_bytes=1000 * GIB)]}, []),
        ({"disks": [DiskStatus(name="kafka", used_bytes=10**12)]}, []),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence_each(changes: dict, told: list[str]) -> None:
    disks = [DiskStatus(name="api", free_bytes=50 * GIB, total_bytes=100 * GIB)]
    well = {"parts": [READY], "workers": [worker(0, 1, 2, 3)], "partitions": 4, "disks": disks, "drifting": 0}
    assert wrong_with(**(well | changes)) == told


def test_a_running_system_is_told_whole(operator: Operator, stack: Stack, meterline: Meterline) -> None:
    _, client = operator.customer()
    client.post("/v1/admissions", json={"operation": "read"})

    def told() -> dict:
        return operator.http.get("/v1/admin/status").json()

    def is_whole(report: dict) -> bool:
        # A disk of the machine that runs the tests may be nearly full.
        is_well = not [each for each in report["wrong"] if "disk" not in each]
        return is_well and bool(report["workers"] and report["historians"])

    report = eventually(lambda: is_whole(found := told()) and found)
    (only,) = report["workers"]
    assert (only["name"], only["version"]) == ("worker-1", report["version"])
    assert only["partitions"] == list(range(stack.settings.partitions))
    assert (report["historians"], report["cashiers"], report["partitions"]) == (1, 1, stack.settings.partitions)
    assert {each["name"] for each in report["parts"]} == {"kafka", "worker", "accounts", "history"}
    assert {each["topic"] for each in report["lags"]} == {"usage", "intake", "journal", "dead_letters", "notices"}
    assert report["last_decision_seconds"] <= 60
    assert report["clickhouse_version"]
    eventually(lambda: {"api", "kafka"} <= {each["name"] for each in told()["disks"]})
    done = meterline("status", "--json", METERLINE_DATA_DIR=str(stack.settings.data_dir))
    assert done.returncode == bool(json.loads(done.stdout)["wrong"])
    shown = meterline("status", METERLINE_DATA_DIR=str(stack.settings.data_dir)).stdout
    assert "worker-1" in shown and f"0-{stack.settings.partitions - 1}" in shown


def test_a_project_s_key_is_told_nothing(operator: Operator) -> None:
    _, client = operator.customer()
    assert client.get("/v1/admin/status").json()["code"] == "missing_scope"


def test_an_api_that_does_not_answer_is_told_by_the_exit_code(
    meterline: Meterline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.cli.service.RETRIES", 1)
    nobody = f"http://127.0.0.1:{lifeline.free_port()}"
    done = meterline("status", METERLINE_API_URL=nobody, METERLINE_ADMIN_KEY="mtl_admin_x")
    assert done.returncode == 2 and f"{nobody} can't be reached" in done.stderr


def test_partitions_stand_together_and_what_is_wrong_comes_first() -> None:
    told = {
        "wrong": ["worker: no worker is there for 12 s", "history: it stopped"],
        "version": "0.1.0",
        "clickhouse_version": None,
        "api_name": "api-1",
        "up_since": "2026-01-01T00:00:00Z",
        "last_decision_seconds": None,
        "worker_starts": 3,
        "parts": [{"name": "worker", "is_ready": False, "why": "no worker is there for 12 s"}],
        "workers": [worker(0, 1, 2, 5, 7, 8).model_dump()],
        "historians": 0,
        "cashiers": 0,
        "couriers": 0,
        "partitions": 12,
        "lags": [{"topic": "intake", "records": 7, "oldest_seconds": 12, "still_seconds": 11}],
        "accounts_lag_seconds": 0,
        "disks": [{"name": "kafka", "used_bytes": GIB, "free_bytes": None}],
    }
    lines = status_text(told).splitlines()
    assert lines[0] == "WRONG: worker: no worker is there for 12 s; history: it stopped"
    assert "meterline 0.1.0, ClickHouse does not answer" in lines
    assert "worker-1  0.1.0    127.0.0.1  0-2, 5, 7-8" in lines
    assert "kafka    1.0 GiB  -" in lines
