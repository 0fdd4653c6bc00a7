"""A worker's port says whether its loop runs, and what it has taken; nothing else is there."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from api.stack import Stack
from streams.errors import OperatorError
from streams.settings import Settings
from streams.worker.port import REQUESTS_MAX, Figures, WorkerPort
from tests.calls import Operator, eventually


@contextmanager
def answering(figures: Figures, **settings: object) -> Iterator[tuple[WorkerPort, httpx.Client]]:
    port = WorkerPort(
        Settings.model_validate({"worker_metrics_port": 0, "worker_name": "w7"} | settings),
        figures,
        lambda: [("meterline.intake", 3), ("meterline.intake", 1), ("meterline.usage", 3)],
    )
    port.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port.port}") as client:
            yield port, client
    finally:
        port.stop()


def test_a_worker_is_well_while_it_starts_and_while_its_loop_runs_and_not_once_that_hangs() -> None:
    figures = Figures()
    with answering(figures, stall_seconds=60) as (_, client):
        starting = client.get("/healthz")
        assert (starting.status_code, starting.json()["status"]) == (200, "starting")
        figures.ran_at = time.monotonic()
        told = client.get("/healthz").json()
        assert (told["status"], told["worker"], told["partitions"]) == ("ok", "w7", [1, 3])
        figures.ran_at = time.monotonic() - 61
        hanging = client.get("/healthz")
        assert (hanging.status_code, hanging.json()["status"]) == (503, "its loop has not run for 61 s")


def test_records_are_counted_once_what_follows_from_them_is_done() -> None:
    figures = Figures()

    async def fails(_events: list[object]) -> None:
        raise ConnectionError

    async def works(_events: list[object]) -> None:
        assert figures.records["intake"] == 0

    async def take() -> None:
        with pytest.raises(ConnectionError):
            await figures.counting("usage", fails)([1, 2])
        await figures.counting("intake", works)([1, 2, 3])

    asyncio.run(take())
    with answering(figures) as (_, client):
        text = client.get("/metrics").text
    assert 'meterline_worker_records_total{topic="intake"} 3.0' in text
    assert 'topic="usage"' not in text
    assert 'meterline_worker_info{name="w7"' in text and "meterline_worker_partitions 2.0" in text


@pytest.mark.parametrize("path", ["/", "/metrics/", "/healthz?x=1", "/v1/balance", "/../etc/passwd"])
def test_nothing_else_is_there(path: str) -> None:
    with answering(Figures()) as (_, client):
        assert client.get(path).status_code == 404
        assert client.post("/metrics").status_code == 501


def test_clients_that_send_nothing_take_no_more_than_their_places() -> None:
    def is_answered() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port.port}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    with answering(Figures()) as (port, _):
        silent = [socket.create_connection(("127.0.0.1", port.port)) for _ in range(REQUESTS_MAX)]
        assert not is_answered()
        for each in silent:
            each.close()
        eventually(is_answered)


def test_a_running_worker_has_its_port(stack: Stack, operator: Operator) -> None:
    _, client = operator.customer()
    assert client.post("/v1/admissions", json={"operation": "read"}).status_code == 200
    url = f"http://127.0.0.1:{stack.settings.worker_metrics_port}"
    told = httpx.get(f"{url}/healthz").json()
    assert (told["status"], told["worker"]) == ("ok", "worker-1")
    assert told["partitions"] == list(range(stack.settings.partitions))
    assert 'meterline_worker_records_total{topic="intake"}' in httpx.get(f"{url}/metrics").text


def test_a_port_that_is_taken_is_told_with_its_setting() -> None:
    with answering(Figures()) as (port, _), pytest.raises(OperatorError, match="METERLINE_WORKER_METRICS_PORT"):
        WorkerPort(Settings(worker_metrics_port=port.port), Figures(), list)


def test_a_worker_has_no_port_unless_it_is_set() -> None:
    assert Settings().worker_metrics_port is None
    assert Settings.model_validate({"worker_metrics_port": ""}).worker_metrics_port is None
