"""The command line prints its results in the right place, fails with one clear line, and leaves nothing running."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from api.demo.trace import BUNDLED_TRACE
from tests.calls import eventually
from tests.command_line import Meterline

COMMAND = [sys.executable, "-m", "api.cli"]


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=240, env=os.environ | environment
    )


@pytest.fixture(scope="module")
def small_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "small.csv"
    path.write_text("\n".join(BUNDLED_TRACE.read_text().splitlines()[:1001]))
    return path


def test_replay_json_is_one_object_and_the_same_file_twice_bills_once(small_trace: Path, tmp_path: Path) -> None:
    before = psutil.Process().children(recursive=True)
    reports = []
    for _ in range(2):
        done = process("replay", str(small_trace), "--json", "--projects", "20", "--data-dir", str(tmp_path))
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
    first, second = reports
    assert {
        "events_sent",
        "events_billed",
        "events_refused",
        "events_duplicate",
        "events_dead_lettered",
        "ledger_entries_in_clickhouse",
        "balance_drift_microcredits",
        "seconds_to_first_charge",
        "events_per_second",
    } <= set(first)
    assert first["events_sent"] == first["events_billed"] + first["events_refused"] == 1000
    assert (first["events_duplicate"], first["events_dead_lettered"], first["balance_drift_microcredits"]) == (0, 0, 0)
    assert (second["events_billed"], second["events_refused"], second["events_duplicate"]) == (0, 0, 1000)
    assert second["balance_drift_microcredits"] == 0
    # The only new entry is the first charge that the second run makes itself.
    assert second["ledger_entries_in_clickhouse"] == first["ledger_entries_in_clickhouse"] + 1
    assert set(psutil.Process().children(recursive=True)) <= set(before), "nothing is left running"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "no column TIMESTAMP"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "has no rows"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,12,many\n", "line 2"),
        (None, "can't be read"),
    ],
)
def test_a_file_that_is_no_trace_ends_with_one_clear_line(
    meterline: Meterline, tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "trace.csv"
    if content is not None:
        path.write_text(content)
    done = meterline("replay", str(path))
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_named(meterline: Meterline) -> None:
    done = meterline("doctor", METERLINE_PARTITIONS="many")
    assert done.returncode == 2
    assert "METERLINE_PARTITIONS" in done.stderr


def test_a_taken_port_is_named_with_the_remedy_by_a_process_that_fails(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = process("up", METERLINE_DATA_DIR=str(tmp_path), METERLINE_API_PORT=port)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert port in done.stderr
    assert "METERLINE_API_PORT" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_ends_clean_when_told_to(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "up.log"
    environment = {
        "METERLINE_DATA_DIR": str(tmp_path),
        "METERLINE_API_PORT": "0",
        "METERLINE_CLICKHOUSE_FRONT_PORT": "0",
    }
    with log.open("w") as output:
        running = subprocess.Popen([*COMMAND, "up"], env=os.environ | environment, stderr=output)
    eventually(lambda: "Ctrl-C stops it" in log.read_text() or running.poll() is not None, 120)
    children = psutil.Process(running.pid).children(recursive=True)
    assert len(children) >= 4
    running.send_signal(number)
    assert running.wait(40) == 0, log.read_text()
    assert [child for child in children if child.is_running()] == []


def test_ctrl_c_in_the_middle_of_a_demo_leaves_nothing(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [*COMMAND, "demo", "--json", "--data-dir", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    api_log = tmp_path / "logs" / "api.log"
    eventually(api_log.exists, 60)
    children = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=40)
    assert (running.returncode, output) == (130, b"")
    deadline = time.monotonic() + 60
    while any(child.is_running() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [child for child in children if child.is_running()] == []


def test_doctor_says_what_it_found(meterline: Meterline) -> None:
    done = meterline("doctor", "--json")
    report = json.loads(done.stdout)
    assert {check["name"] for check in report["checks"]} >= {"python", "java", "memory", "clickhouse", "data directory"}
    assert (done.returncode == 0) == report["ok"]
    broken = meterline("doctor", METERLINE_KAFKA_URL="127.0.0.1:1")
    assert broken.returncode == 1
    assert "kafka" in broken.stderr


def test_topics_and_migrate_can_be_run_again(stack, meterline: Meterline, tmp_path: Path) -> None:
    where = {
        "METERLINE_KAFKA_URL": stack.settings.kafka_url,
        "METERLINE_DATA_DIR": str(tmp_path),
        "METERLINE_TOPIC_PREFIX": "again",
    }
    assert "again.intake: created, 4 partitions" in meterline("topics", **where).stderr
    assert "again.intake: there, 4 partitions" in meterline("topics", **where).stderr
    refused = meterline("topics", **where, METERLINE_PARTITIONS="7")
    assert refused.returncode == 1
    assert "METERLINE_PARTITIONS=4" in " ".join(refused.stderr.split())
    assert "applied 0001_facts.sql" in meterline("migrate", **where).stderr
    assert "up to date" in meterline("migrate", **where).stderr


def test_keys(meterline: Meterline) -> None:
    made = json.loads(meterline("keys", "admin", "--json").stdout)
    assert made["key"].startswith("mtl_admin_")
    assert len(made["hash"]) == 64
    unreachable = meterline("keys", "create", "acme", "--url", "http://127.0.0.1:1")
    assert unreachable.returncode == 1
    assert "meterline up" in unreachable.stderr


def test_every_command_has_help(meterline: Meterline) -> None:
    for command in (
        "up",
        "demo",
        "worker",
        "api",
        "historian",
        "topics",
        "migrate",
        "keys",
        "replay",
        "doctor",
        "test",
    ):
        done = meterline(command, "--help")
        assert done.returncode == 0
        assert "Usage" in done.stdout


def test_a_second_historian_says_that_the_embedded_engine_runs_already(stack) -> None:
    done = process(
        "historian",
        METERLINE_KAFKA_URL=stack.settings.kafka_url,
        METERLINE_DATA_DIR=str(stack.settings.data_dir),
        METERLINE_CLICKHOUSE_FRONT_PORT="0",
    )
    assert done.returncode != 0
    assert "another Meterline process has it open" in done.stderr


def test_metadata_keys_are_promoted_and_demoted(stack, meterline: Meterline, tmp_path: Path) -> None:
    where = {"METERLINE_DATA_DIR": str(tmp_path)}
    meterline("migrate", **where)
    for is_new in (True, False):
        made = json.loads(meterline("history", "promote", "team", "--json", **where).stdout)
        assert made == {"key": "team", "column": "metadata_team", "is_new": is_new}
    refused = meterline("history", "promote", "a b", **where)
    assert refused.returncode == 1 and "1 to 64 letters" in " ".join(refused.stderr.split())
    listed = json.loads(meterline("history", "promoted", "--json", **where).stdout)
    assert [(row["key"], row["is_built_in"]) for row in listed["promoted"]] == [("customer_id", True), ("team", False)]
    assert meterline("history", "demote", "team", **where).returncode == 0
    assert "team" not in meterline("history", "promoted", **where).stdout
    # Beside a Meterline that is up, keys can be listed, and are promoted while it is down.
    up = {"METERLINE_DATA_DIR": str(stack.settings.data_dir)}
    assert "customer_id" in meterline("history", "promoted", **up).stdout
    in_use = meterline("history", "promote", "team", **up)
    assert in_use.returncode == 1 and "is in use" in " ".join(in_use.stderr.split())
