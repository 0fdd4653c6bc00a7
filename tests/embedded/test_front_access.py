"""The front is open to the user who runs it, and to whoever has the token. A query ends with its client or limits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import clickhouse_connect
import httpx
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from streams.clickhouse.client import ClickHouse
from streams.embedded import clickhouse_front
from streams.embedded.clickhouse_front import QUERIES_AT_ONCE_MAX, create_front
from streams.embedded.front.allowed import LIMITS
from streams.embedded.front.peers import uid_of
from streams.embedded.running import OWN_USER, front_token
from streams.settings import Settings
from tests.calls import eventually
from tests.engine import Serve

TOKEN = "a token of this machine"
ENDLESS = "SELECT count() FROM system.numbers WHERE NOT ignore(sipHash64(number))"
OTHER_UID = 54321


@pytest.fixture
def own_url(engine: ClickHouse, serve: Serve) -> str:
    """A front that is open to this process's user."""
    return serve(create_front(engine, token=TOKEN, open_to_uid=os.getuid()))


def status(url: str, **headers: str) -> int:
    return httpx.get(url, params={"query": "SELECT 1"}, headers=headers).status_code


def running(engine: ClickHouse) -> int:
    return engine.query("SELECT count() FROM system.processes WHERE Settings['log_comment'] != ''")[0][0]


def test_the_user_who_runs_it_needs_no_token_and_a_wrong_one_is_wrong(own_url: str) -> None:
    assert status(own_url) == 200
    assert status(own_url, **{"x-clickhouse-key": TOKEN}) == 200
    assert status(own_url, **{"x-clickhouse-key": "wrong"}) == 401
    assert status(own_url.replace("127.0.0.1", "localhost")) == 200
    target = httpx.URL(own_url)
    client = clickhouse_connect.get_client(host=target.host, port=target.port)
    assert client.query("SELECT 1").result_rows == [(1,)]


def test_another_user_needs_the_token(engine: ClickHouse, serve: Serve) -> None:
    url = serve(create_front(engine, token=TOKEN, open_to_uid=os.getuid() + 1))
    assert status(url) == 401
    assert "clickhouse-token" in httpx.get(url, params={"query": "SELECT 1"}).text
    assert status(url, **{"x-clickhouse-key": TOKEN}) == 200
    assert httpx.get(url, params={"query": "SELECT 1", "user": "default", "password": TOKEN}).status_code == 200


@pytest.mark.skipif(os.getuid() != 0, reason="only root may start a process of another user")
def test_a_process_of_another_user_is_told_apart_by_the_kernel(own_url: str) -> None:
    program = (
        "import os, socket, sys\n"
        "os.setuid(int(sys.argv[2]))\n"
        "connection = socket.socket()\n"
        "connection.connect(('127.0.0.1', int(sys.argv[1])))\n"
        "connection.sendall(b'GET /?query=SELECT+1 HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n')\n"
        "print(connection.recv(4096).split()[1].decode())"
    )

    def as_user(uid: int) -> str:
        command = [sys.executable, "-c", program, str(httpx.URL(own_url).port), str(uid)]
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()

    assert (as_user(os.getuid()), as_user(OTHER_UID)) == ("200", "401")


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_kernel_tells_whose_a_connection_is_while_somebody_holds_it(family: int, host: str) -> None:
    with socket.create_server((host, 0), family=family) as listening:
        address = listening.getsockname()[:2]
        with socket.create_connection(address) as client:
            ours, _ = listening.accept()
            pair = client.getsockname()[:2], address
            assert uid_of(*pair) == os.getuid()
            client.shutdown(socket.SHUT_WR)
            assert uid_of(*pair) == os.getuid()
        # Its user is gone with it. The kernel's table shows 0 from here on, which must not be taken for root.
        assert uid_of(*pair) is None
        ours.close()
        assert uid_of(("127.0.0.1", 1), address) is None


def test_a_v4_connection_from_a_v6_socket_is_found_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with socket.socket(socket.AF_INET6) as client:
            client.connect(("::ffff:127.0.0.1", port))
            assert uid_of(("127.0.0.1", client.getsockname()[1]), ("127.0.0.1", port)) == os.getuid()


def test_the_token_is_made_once_for_its_owners_eyes(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    with ThreadPoolExecutor(8) as threads:
        tokens = set(threads.map(lambda _: front_token(settings), range(8)))
    assert len(tokens) == 1 and len(tokens.pop()) >= 32
    assert settings.front_token_path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in settings.data_dir.iterdir()] == ["clickhouse-token"]


def test_a_query_ends_when_its_client_goes(own_url: str, engine: ClickHouse) -> None:
    for method in ("GET", "POST"):
        with pytest.raises(httpx.ReadTimeout):
            httpx.request(method, own_url, params={"query": ENDLESS}, timeout=0.5)
        eventually(lambda: running(engine) == 0, 5)


def test_more_queries_than_run_at_once_wait_a_while_and_are_told_so(
    own_url: str, engine: ClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clickhouse_front, "WAIT_SECONDS_MAX", 0.3)
    with ThreadPoolExecutor(QUERIES_AT_ONCE_MAX) as threads:
        params = {"query": ENDLESS, "max_execution_time": "3"}
        heavy = [threads.submit(httpx.get, own_url, params=params, timeout=30) for _ in range(QUERIES_AT_ONCE_MAX)]
        eventually(lambda: running(engine) == QUERIES_AT_ONCE_MAX, 5)
        answer = httpx.get(own_url, params={"query": "SELECT 1"})
        assert (answer.status_code, answer.headers["x-clickhouse-exception-code"]) == (429, "202")
        assert "Too many simultaneous queries" in answer.text
        # Meterline's own processes have places of their own, and a ping needs none.
        assert httpx.get(own_url, params={"query": "SELECT 1"}, auth=(OWN_USER, TOKEN)).status_code == 200
        assert httpx.get(f"{own_url}/ping").status_code == 200
        assert [each.result().headers["x-clickhouse-exception-code"] for each in heavy] == ["159"] * len(heavy)
    assert status(own_url) == 200


def test_limits_of_meterlines_own_processes_are_lowered_for_them(own_url: str) -> None:
    params = {"query": "SELECT getSetting('max_memory_usage')", "max_memory_usage": str(2**40)}
    own = httpx.get(own_url, params=params, auth=(OWN_USER, TOKEN))
    assert (own.status_code, own.text) == (200, f"{LIMITS['max_memory_usage']}\n")
    assert httpx.get(own_url, params=params, auth=("default", TOKEN)).status_code == 403


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("SELECT groupArray(number) FROM numbers(1000000000)", "241"),
        ("SELECT * FROM numbers(100000000)", "396"),
        ("SELECT randomString(1000) FROM numbers(60000) SETTINGS max_result_bytes = 1000000", "396"),
    ],
)
def test_a_query_that_takes_too_much_ends_with_an_error(own_url: str, query: str, code: str) -> None:
    answer = httpx.get(own_url, params={"query": query}, timeout=60)
    assert answer.headers["x-clickhouse-exception-code"] == code


def test_the_drivers_settings_work_and_a_refused_one_is_one_clear_line(own_url: str) -> None:
    target = httpx.URL(own_url)
    client = clickhouse_connect.get_client(
        host=target.host, port=target.port, settings={"max_threads": 1, "session_timezone": "Europe/Paris"}
    )
    assert client.query("SELECT getSetting('max_threads'), timezone()").result_rows == [(1, "Europe/Paris")]
    found = client.query("SELECT number FROM numbers(5)", settings={"limit": 2, "max_execution_time": 29.99953})
    assert found.result_rows == [(0,), (1,)]
    for name, value in (("max_execution_time", 100_000), ("format_template_row", "/etc/passwd")):
        with pytest.raises(DatabaseError) as refused:
            client.query("SELECT 1", settings={name: value})
        assert name in str(refused.value)
        assert refused.value.code == 164
