"""History is a process of its own: the API holds no engine, and nothing that becomes of history costs an admission."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from api.stack import Stack
from tests.calls import Operator, event, eventually

# Reads that ask ClickHouse, and the same number of threads as may ask at once, and more.
READS = ("/v1/ledger", "/v1/usage", "/v1/usage?format=csv", "/v1/receipts/0-0-0")
READERS = 24


@pytest.fixture
def unlimited(operator: Operator) -> tuple[str, httpx.Client]:
    project, client = operator.customer("scale")
    operator.lift_limits(project)
    return project, client


@pytest.fixture
def history(stack: Stack) -> Iterator[psutil.Process]:
    """The history process; afterwards one is there again, and answers."""
    yield psutil.Process(stack.pids()["history"])
    eventually(lambda: "history" in stack.pids() and answers(stack), 60)


def answers(stack: Stack) -> bool:
    try:
        return httpx.get(f"{stack.clickhouse_url}/ping", timeout=1.0).is_success
    except httpx.HTTPError:
        return False


def admissions(client: httpx.Client, count: int) -> float:
    """Have `count` requests admitted, one after the other; gives the longest time that one took."""
    longest = 0.0
    for _ in range(count):
        began = time.monotonic()
        assert client.post("/v1/admissions", json={"operation": "read"}).status_code == 200
        longest = max(longest, time.monotonic() - began)
    return longest


def is_unavailable(response: httpx.Response) -> bool:
    return response.status_code == 503 and response.json()["code"] == "history_unavailable"


def test_the_api_imports_no_engine_and_the_running_one_maps_none(stack: Stack) -> None:
    program = "import sys, api.server, api.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert {"chdb", "_chdb"}.isdisjoint(name.partition(".")[0] for name in done.stdout.split())
    if sys.platform == "linux":
        mapped = {name: Path(f"/proc/{stack.pids()[name]}/maps").read_text() for name in ("api", "history")}
        assert {name: "_chdb" in maps for name, maps in mapped.items()} == {"api": False, "history": True}


def test_a_killed_history_costs_no_admission_and_comes_back_with_what_it_missed(
    stack: Stack, operator: Operator, unlimited: tuple[str, httpx.Client], history: psutil.Process
) -> None:
    project, client = unlimited
    history.kill()
    eventually(lambda: is_unavailable(client.get("/v1/ledger")))
    problem = client.get("/v1/ledger").json()
    assert "history" in problem["detail"].lower() and "127.0.0.1" not in problem["detail"]
    admissions(client, 20)
    assert client.post("/v1/events", json=event(project, "while-away", "read")).status_code == 202
    assert client.get("/v1/balance").status_code == 200
    assert httpx.get(f"{stack.url}/healthz").status_code == 200
    sql = f"SELECT count() FROM facts WHERE project = '{project}' AND event_id = 'while-away'"
    eventually(lambda: answers(stack) and operator.rows(stack.clickhouse_url, sql) == [["1"]], 60)
    eventually(lambda: client.get("/v1/ledger").status_code == 200)


def test_a_history_that_hangs_costs_no_admission_however_many_ask_it(
    unlimited: tuple[str, httpx.Client], history: psutil.Process
) -> None:
    _, client = unlimited
    with ExitStack() as cleanup, ThreadPoolExecutor(READERS) as threads:
        history.suspend()
        cleanup.callback(history.resume)
        reads = [threads.submit(client.get, READS[number % len(READS)]) for number in range(READERS)]
        assert admissions(client, 50) < 1.0
        assert client.get("/v1/balance").status_code == 200
        found = [each.result() for each in reads]
    # Some were told that others of this caller are waiting already.
    assert {each.status_code for each in found} == {503}
    assert {each.json()["code"] for each in found} - {"too_many_queries"} == {"history_unavailable"}


def test_history_runs_below_the_priority_of_decisions(stack: Stack, history: psutil.Process) -> None:
    assert history.nice() > psutil.Process(stack.pids()["api"]).nice()
