"""`/metrics` is on a port of its own, and nothing else is there."""

import httpx
import psutil
import pytest

from api.stack import Stack
from streams.settings import Settings
from tests.calls import Operator, eventually


@pytest.mark.parametrize("key", ["none", "project", "admin"])
def test_the_port_for_strangers_has_no_figures(key: str, operator: Operator) -> None:
    client = {"none": operator.client(None), "admin": operator.http}.get(key) or operator.customer()[1]
    for path in ("/metrics", "/metrics/", "/v1/metrics"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert not any("metrics" in path for path in client.get("/openapi.json").json()["paths"])


@pytest.mark.parametrize(
    "path", ["/", "/v1/prices", "/docs", "/healthz", "/readyz", "/v1/admin/projects", "/dashboard"]
)
def test_the_port_of_the_figures_has_nothing_else(path: str, stack: Stack) -> None:
    url = stack.metrics_url.removesuffix("/metrics")
    assert httpx.get(url + path).status_code == 404
    assert httpx.get(f"{url}/metrics").text.count("meterline_") > 10
    assert httpx.post(f"{url}/metrics").status_code == 405


def test_the_bytes_of_kept_replies_are_told(operator: Operator) -> None:
    _, client = operator.customer()
    client.post("/v1/admissions", json={"operation": "read"}, headers={"idempotency-key": "kept"})

    def is_told(table: str) -> bool:
        name = f'meterline_kept_replies_bytes{{table="{table}"}} '
        lines = [line for line in operator.metrics().splitlines() if line.startswith(name)]
        return bool(lines) and float(lines[0].removeprefix(name)) > 0

    for table in ("replies", "recent_replies"):
        eventually(lambda table=table: is_told(table))


def test_the_figures_are_on_the_loopback_address_unless_a_setting_says_otherwise(stack: Stack) -> None:
    assert Settings().metrics_host == "127.0.0.1"
    api = psutil.Process(stack.pids()["api"])
    listening = {each.laddr for each in api.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
    assert ("127.0.0.1", stack.settings.metrics_port) in listening
