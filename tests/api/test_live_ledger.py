"""The live ledger: each entry is told once, in order, as soon as it is decided; whoever comes back misses none."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from api.stack import Stack
from streams.embedded.broker import EmbeddedBroker
from streams.settings import Settings
from tests.api.event_reader import STREAM, Reader, reading
from tests.calls import Operator, event, eventually

BATCH = {"content-type": "application/cloudevents-batch+json"}


@pytest.fixture(scope="module")
def quick(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own: its worker is killed, and its heartbeats are quick."""
    settings = Settings(
        kafka_url=broker.url,
        topic_prefix="live",
        partitions=2,
        data_dir=tmp_path_factory.mktemp("live"),
        api_port=0,
        clickhouse_front_port=0,
        session_timeout_seconds=6.0,
        tick_seconds=0.5,
        price_lead_seconds=0,
        stream_heartbeat_seconds=0.2,
        ledger_streams_per_key_max=5,
        ledger_streams_max=8,
    )
    with Stack(settings) as running:
        yield running


@pytest.fixture(scope="module")
def operator(quick: Stack) -> Operator:
    return Operator(quick)


def use(project: str, number: int, **data: Any) -> dict[str, Any]:
    return event(project, f"use-{number}", **data)


def send(client: httpx.Client, events: list[dict[str, Any]]) -> None:
    answer = client.post("/v1/events", content=json.dumps(events), headers=BATCH)
    assert answer.json()["accepted"] == len(events), answer.text


def whole_ledger(client: httpx.Client) -> list[dict[str, Any]]:
    """The ledger, the oldest entry first."""
    found, cursor = list[dict[str, Any]](), None
    while True:
        page = client.get("/v1/ledger", params={"limit": 1000} | ({"cursor": cursor} if cursor else {})).json()
        found += page["entries"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found[::-1]


def place(entry: dict[str, Any]) -> tuple[int, ...]:
    return tuple(map(int, entry["entry_id"].split("-")))


def test_entries_are_told_as_a_page_has_them_and_in_order(operator: Operator) -> None:
    project, client = operator.customer("build")
    with reading(client) as reader:
        metadata = {"customer_id": "acme", "tier": 1, "ratio": 0.5, "big": 2**53 + 1, "on": True, "no": None, "é": "ü"}
        send(client, [use(project, number, metadata=metadata) for number in range(3)])
        operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 20, "reference": "inv-1"})
        client.post("/v1/admissions", json={"operation": "image", "id": "a", "source": "/s"})
        eventually(lambda: len(reader.entries) == 5)
    eventually(lambda: len(whole_ledger(client)) == 6)
    grant, *others = whole_ledger(client)
    assert grant["kind"] == "grant"
    assert reader.entries == others
    assert [each.id for each in reader.events] == [each["entry_id"] for each in others]
    assert reader.gaps == []


def test_an_idle_stream_tells_nothing_but_heartbeats_and_opening_it_is_one_request(operator: Operator) -> None:
    project, client = operator.customer("build")
    before = int(client.get("/v1/balance").headers["x-ratelimit-remaining"])
    with reading(client) as reader:
        eventually(lambda: reader.heartbeats > 5)
        after = int(client.get("/v1/balance").headers["x-ratelimit-remaining"])
    assert (reader.events, before - after) == ([], 2)


def test_a_stream_is_about_what_it_names_and_a_preview_key_sees_its_own_environment(operator: Operator) -> None:
    project, client = operator.customer("build")
    operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 20, "environment": "preview"})
    preview = operator.client(operator.key(project, "preview")["key"])
    other, _ = operator.customer("build")
    # What was decided right before a stream is opened may be told too, where somebody else listens to its partition.
    eventually(lambda: "top_up" in {entry["grant_id"].partition("-")[0] for entry in _whole(operator, project)})
    before = {entry["entry_id"] for entry in _whole(operator, project)}
    wanted: dict[str, dict[str, Any]] = {
        "all": {},
        "operation": {"operation": "image"},
        "customer": {"customer_id": "acme"},
        "kind": {"kind": "grant"},
        "environment": {"environment": "preview"},
    }
    with ExitStack() as stack:
        readers = {name: stack.enter_context(reading(client, **params)) for name, params in wanted.items()}
        readers["preview"] = stack.enter_context(reading(preview))
        readers["operator"] = stack.enter_context(reading(operator.http, project=project))
        send(
            operator.http,
            [
                use(project, 1, operation="image", metadata={"customer_id": "acme"}),
                use(project, 2, metadata={"customer_id": "acme"}),
                use(project, 3, metadata={"note": "acme customer_id"}),
                use(other, 4, operation="image", metadata={"customer_id": "acme"}),
            ],
        )
        preview.post("/v1/admissions", json={"operation": "image", "id": "5", "source": "/s"})
        operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 20, "reference": "last"})
        counts = {"all": 5, "operator": 5, "operation": 2, "customer": 2, "kind": 1, "environment": 1, "preview": 1}

        def told_since() -> dict[str, list[str]]:
            return {
                name: [each["event_id"] for each in reader.entries if each["entry_id"] not in before]
                for name, reader in readers.items()
            }

        eventually(lambda: {name: len(told) for name, told in told_since().items()} == counts)
        told = told_since()
    assert sorted(told["all"][:4]) == ["5", "use-1", "use-2", "use-3"]
    assert sorted(told["operation"]) == ["5", "use-1"]
    assert sorted(told["customer"]) == ["use-1", "use-2"]
    assert told["kind"] == [""]
    assert (told["environment"], told["preview"]) == (["5"], ["5"])


def _whole(operator: Operator, project: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = operator.http.get("/v1/ledger", params={"project": project}).json()["entries"]
    return entries


def test_a_stream_that_can_not_be_is_refused_by_name(operator: Operator) -> None:
    project, client = operator.customer("build")
    other, _ = operator.customer("build")
    preview = operator.client(operator.key(project, "preview")["key"])
    writer = operator.client(operator.key(project, scopes=["content:write"])["key"])
    entry = eventually(lambda: client.get("/v1/ledger").json()["entries"])[0]["entry_id"]
    elsewhere = f"{1 - int(entry[0])}{entry[1:]}"
    for caller, params, headers, told in (
        (writer, {}, {}, (403, "missing_scope", None)),
        (preview, {"environment": "production"}, {}, (403, "wrong_environment", "environment")),
        (client, {"project": other}, {}, (403, "wrong_project", "project")),
        (client, {"kind": "hold"}, {}, (422, "invalid_request", "query.kind")),
        (client, {"after": "yesterday"}, {}, (422, "invalid_request", "after")),
        (client, {"after": elsewhere}, {}, (422, "invalid_request", "after")),
        (client, {}, {"last-event-id": "7"}, (422, "invalid_request", "Last-Event-ID")),
        (operator.http, {}, {}, (422, "invalid_request", "project")),
        (operator.client(None), {}, {}, (401, "unauthenticated", None)),
    ):
        answer = caller.get(STREAM, params={"seconds": 1, **params}, headers=headers)
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem.get("field")) == told, answer.text


def test_there_are_so_many_streams_of_a_key_and_of_all(operator: Operator) -> None:
    def opened(client: httpx.Client) -> httpx.Response:
        return streams.enter_context(client.stream("GET", STREAM))

    _, one = operator.customer("build")
    _, other = operator.customer("build")
    eventually(lambda: "meterline_ledger_streams 0.0" in operator.metrics())
    with ExitStack() as streams:
        assert [opened(one).status_code for _ in range(6)] == [200] * 5 + [429]
        assert [opened(other).status_code for _ in range(4)] == [200] * 3 + [429]
        refused = one.get(STREAM)
        assert refused.json()["code"] == "too_many_streams"
        assert "At most 5 streams are open of one key" in refused.json()["detail"]
        assert "meterline_ledger_streams 8.0" in operator.metrics()
    eventually(lambda: one.get(STREAM, params={"seconds": 1}).status_code == 200)


def test_a_revoked_key_and_one_whose_grace_is_over_end_their_streams_and_no_others(operator: Operator) -> None:
    project, client = operator.customer("build")
    made = {name: operator.key(project) for name in ("revoked", "rotated")}
    clients = {name: operator.client(key["key"]) for name, key in made.items()}
    keys = f"/v1/admin/projects/{project}/keys"
    with ExitStack() as stack:
        readers = {name: stack.enter_context(reading(each)) for name, each in clients.items()}
        kept = stack.enter_context(reading(client))
        assert operator.http.delete(f"{keys}/{made['revoked']['key_id']}").is_success
        began = time.monotonic()
        rotated = operator.http.post(f"{keys}/{made['rotated']['key_id']}/rotation", json={"grace_seconds": 0})
        assert rotated.is_success, rotated.text
        for reader in readers.values():
            assert reader.ended.wait(10)
        assert time.monotonic() - began < 5
        client.post("/v1/admissions", json={"operation": "image", "id": "a", "source": "/s"})
        eventually(lambda: kept.entries)
    assert {name: [(each.name, each.data["code"]) for each in reader.events] for name, reader in readers.items()} == {
        "revoked": [("end", "key_revoked")],
        "rotated": [("end", "key_revoked")],
    }
    assert clients["revoked"].get(STREAM).status_code == 401


def test_a_closed_project_is_read_as_before_and_its_streams_go_on(operator: Operator) -> None:
    """Closed is closed for what can charge. Jobs that were queued before end, and are told of; a portal ends."""
    project, client = operator.customer("build")
    first = eventually(lambda: client.get("/v1/ledger").json()["entries"])[0]["entry_id"]
    job = client.post("/v1/admissions", json={"operation": "image", "job_id": "j", "hold": True}).json()
    key = client.headers["authorization"].removeprefix("Bearer ")
    page = httpx.Client(base_url=operator.url, timeout=30.0)
    assert page.post("/dashboard/sign-in", data={"key": key}).status_code == 303
    page_stream = {"url": "/dashboard/ledger/stream", "params": {"after": first}}
    with reading(client) as before, page.stream("GET", **page_stream) as followed:
        lines = followed.iter_lines()
        next(lines)  # it is open
        state = {"closed": True, "reason": "left us"}
        assert operator.http.put(f"/v1/admin/projects/{project}/state", json=state).status_code == 200
        refused = client.post("/v1/admissions", json={"operation": "image"})
        assert refused.json()["code"] == "project_closed"
        reads = ("balance", "ledger", "usage", "limits", "holds", "items", "notices", "invoices", "projects/me")
        assert {path: client.get(f"/v1/{path}").status_code for path in reads} == dict.fromkeys(reads, 200)
        assert page.get("/dashboard").status_code == 200
        with reading(client) as after:
            assert client.post(f"/v1/holds/{job['hold_id']}/capture", json={}).status_code == 200
            eventually(lambda: before.entries and after.entries)
        charge = before.entries[-1]
        assert (charge["kind"], charge["operation"]) == ("charge", "image") and charge == after.entries[-1]
        assert any(charge["entry_id"] in line for line in lines)
    assert not [each.name for each in (*before.events, *after.events) if each.name != "message"]


def test_whoever_comes_back_misses_and_doubles_nothing_also_while_a_worker_is_killed(
    operator: Operator, quick: Stack
) -> None:
    project, client = operator.customer("scale")
    operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 500, "reference": "inv-1"})
    seconds, number, is_over = 25.0, 0, threading.Event()
    reader = Reader(client)

    def flow() -> int:
        nonlocal number
        while not is_over.is_set():
            send(client, [use(project, number + each) for each in range(10)])
            number += 10
            time.sleep(0.1)
        return number

    def follow() -> None:
        draw = random.Random(7)
        while not is_over.is_set():
            leaves_after = len(reader.events) + draw.randrange(1, 200)
            reader.open(lambda it, after=leaves_after: len(it.events) >= after or is_over.is_set())
            reader.close()

    with ThreadPoolExecutor() as pool:
        followed = pool.submit(follow)
        assert reader.opened.wait(30)
        sent = pool.submit(flow)
        began = time.monotonic()
        for after in (4.0, 12.0):
            is_over.wait(began + after - time.monotonic())
            psutil.Process(quick.pids()["worker-1"]).kill()
        is_over.wait(began + seconds - time.monotonic())
        is_over.set()
        sent.result(), followed.result()
    # All that was sent is decided, and told to whoever comes back once more.
    ledger = eventually(lambda: len(found := whole_ledger(client)) == number + 2 and found, 55)
    reader.open(lambda it: it.entries[-1:] == ledger[-1:] or bool(it.gaps))
    reader.close()
    assert reader.gaps == []
    told, booked = ([each["entry_id"] for each in entries] for entries in (reader.entries, ledger))
    # What was decided right before the stream was opened may be told too.
    assert told == booked[booked.index(told[0]) :] and len(told) >= number
    assert sorted(map(place, reader.entries)) == list(map(place, reader.entries))


def test_who_was_away_for_too_much_is_told_of_a_gap_and_goes_on(operator: Operator) -> None:
    project, client = operator.customer("scale")
    operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 500, "reference": "inv-1"})
    (grant, bundle) = eventually(lambda: len(found := whole_ledger(client)) == 2 and found)
    for start in (0, 1000):
        send(client, [use(project, start + number) for number in range(1000 if start else 500)])
    eventually(lambda: len(whole_ledger(client)) == 1502)
    reader = Reader(client, last_id=bundle["entry_id"])
    reader.open(lambda it: bool(it.entries))
    eventually(lambda: reader.gaps)
    send(client, [use(project, 5000)])
    reader.close()
    assert reader.gaps == ["too_much"]
    assert [each["event_id"] for each in reader.entries] == ["use-5000"]
    # Whoever was away for less is told all of it, by the parameter too.
    entries = whole_ledger(client)
    reader = Reader(client, {"after": entries[-901]["entry_id"]})
    reader.open(lambda it: len(it.entries) >= 900)
    reader.close()
    assert reader.entries == entries[-900:]


def test_a_reader_that_does_not_read_costs_little_memory_and_is_told_of_a_gap(operator: Operator) -> None:
    project, client = operator.customer("scale")
    operator.http.post(f"/v1/admin/projects/{project}/top-ups", json={"bundle_usd": 500, "reference": "inv-1"})
    url = urlsplit(operator.url)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect((url.hostname, url.port))
    key = client.headers["authorization"]
    slow.sendall(f"GET {STREAM} HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\n\r\n".encode())
    assert slow.recv(15) == b"HTTP/1.1 200 OK"
    with reading(client) as reader:
        # What is in the buffers of the system is not ours: some megabytes of entries are more than they hold.
        filler = {f"k{number}": "x" * 500 for number in range(8)}
        for start in range(0, 3000, 500):
            send(client, [use(project, start + number, metadata=filler) for number in range(500)])
            # This reader is as slow as the machine: it is not to be told of a gap too.
            eventually(lambda so_far=start + 500: len(reader.entries) == so_far)
        assert reader.gaps == []
        told = operator.metrics()
        assert 'meterline_ledger_stream_gaps_total{reason="too_slow"}' in told
        (queued,) = [line for line in told.splitlines() if line.startswith("meterline_ledger_streams_queued_bytes")]
        assert float(queued.split()[1]) <= 4 * 1024 * 1024
    slow.settimeout(20)
    found = b""
    while b"event: gap" not in found:
        piece = slow.recv(65536)
        assert piece, found[-500:]
        found = found[-100:] + piece
    slow.close()


def test_open_streams_end_when_the_process_stops_and_do_not_hold_it_up(quick: Stack, operator: Operator) -> None:
    _, client = operator.customer("build")
    with reading(client) as reader:
        api = psutil.Process(quick.pids()["api"])
        began = time.monotonic()
        api.terminate()
        assert reader.ended.wait(10)
        api.wait(10)
        assert time.monotonic() - began < 4
    assert reader.error is None
    eventually(lambda: "api" in quick.pids() and _is_up(operator), 60)


def _is_up(operator: Operator) -> bool:
    try:
        return operator.http.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def test_the_command_line_follows_and_comes_back_by_itself(quick: Stack, operator: Operator) -> None:
    project, client = operator.customer("build")
    first = client.post("/v1/admissions", json={"operation": "image", "id": "1", "source": "/s"}).json()["entry_id"]
    eventually(lambda: len(client.get("/v1/ledger").json()["entries"]) == 2)
    environment = {
        **os.environ,
        "METERLINE_API_URL": operator.url,
        "METERLINE_ADMIN_KEY": operator.http.headers["authorization"].removeprefix("Bearer "),
    }
    command = [sys.executable, "-m", "api.cli", "ledger", project, "--follow", "--limit", "1", "--json"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        assert json.loads(running.stdout.readline())["entry_id"] == first
        second = client.post("/v1/admissions", json={"operation": "image", "id": "2", "source": "/s"}).json()
        assert json.loads(running.stdout.readline())["entry_id"] == second["entry_id"]
        psutil.Process(quick.pids()["api"]).terminate()
        assert "the connection is lost" in running.stderr.readline()
        eventually(lambda: "api" in quick.pids() and _is_up(operator), 60)
        third = client.post("/v1/admissions", json={"operation": "image", "id": "3", "source": "/s"}).json()
        assert json.loads(running.stdout.readline())["entry_id"] == third["entry_id"]
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 0
