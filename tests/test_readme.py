"""Every command in the README runs, in order, and prints what the README says it does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from streams.embedded import lifeline
from streams.settings import PROJECT_ROOT, Settings
from tests.calls import eventually

README = (PROJECT_ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
BASH = [text.strip() for language, text in BLOCKS if language == "bash"]
DEMO, TEST, UP, *WALKTHROUGH = BASH
PRODUCER, SERVICE = (text for language, text in BLOCKS if language == "python")
# These have a terminal, and a test, of their own.
SERVE, CALLS = (text for text in WALKTHROUGH if ":app --port" in text or ":9000" in text)
WALKTHROUGH = [text for text in WALKTHROUGH if text not in (SERVE, CALLS)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of someone new: no Meterline state, ports of their own, the downloads that are here."""
    uv_cache = subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    return os.environ | {
        "HOME": str(tmp_path_factory.mktemp("home")),
        "XDG_CACHE_HOME": str(Settings().cache_dir.parent),
        "UV_CACHE_DIR": uv_cache,
        "UV_NO_SYNC": "1",
        "METERLINE_API_PORT": str(lifeline.free_port()),
        "METERLINE_CLICKHOUSE_FRONT_PORT": str(lifeline.free_port()),
    }


def localised(text: str, home: dict[str, str]) -> str:
    return text.replace(":8080", f":{home['METERLINE_API_PORT']}").replace(
        ":8123", f":{home['METERLINE_CLICKHOUSE_FRONT_PORT']}"
    )


@pytest.fixture(scope="module")
def running(home: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`meterline up` as the README starts it; gives what it told."""
    log = tmp_path_factory.mktemp("up") / "up.log"
    process = lifeline.start("up", ["bash", "-c", f"exec {UP}"], log_path=log, env=home, guarded=True)
    try:
        eventually(lambda: "Ctrl-C stops it" in log.read_text() or process.poll() is not None, 120)
        assert process.poll() is None, log.read_text()
        yield log.read_text()
    finally:
        assert process.stop(30) == 0, "meterline up ends well when it is told to"


def test_the_main_job(home: dict[str, str]) -> None:
    assert DEMO == "pip install uv && uv run meterline demo"
    done = subprocess.run(["bash", "-c", DEMO], cwd=PROJECT_ROOT, env=home, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for seen in ("44,317 events", "drift", "Balances of three projects", "by customer", '"out_of_credits"', "/docs"):
        assert seen in done.stdout


def test_the_test_command_is_the_one_ci_runs() -> None:
    assert TEST == "pip install uv && uv run meterline test"
    assert f"\n{TEST}\n" in (PROJECT_ROOT / ".ci" / "run").read_text()
    collected = subprocess.run(
        [sys.executable, "-m", "api.cli", "test", "--collect-only", "-q"], capture_output=True, text=True, timeout=120
    )
    assert collected.returncode == 0
    assert "tests/test_readme.py::test_the_main_job" in collected.stdout


def test_the_walkthrough(home: dict[str, str], running: str) -> None:
    # Someone who reads takes longer than this does: let the history catch up first.
    there = "SELECT 'there' FROM facts WHERE reason = 'out_of_credits'"
    caught_up = f'until curl -s http://127.0.0.1:8123 -d "{there}" | grep -q there; do :; done'
    blocks = [*WALKTHROUGH[:3], f"{caught_up}\n{WALKTHROUGH[3]}", *WALKTHROUGH[4:]]
    script = "set -euo pipefail\n" + "\necho; echo '=== next'\n".join(blocks)
    done = subprocess.run(
        ["bash", "-c", localised(script, home)], cwd=PROJECT_ROOT, env=home, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    parts = done.stdout.split("=== next\n")
    created, charged, refused, reading, sent, job, corrected, repriced, limited, billed, queried, checked = parts
    assert json.loads(created)["plan"] == "free"
    promised = [json.loads(text) for language, text in BLOCKS if language == "json"]
    for answer, example in ((charged, promised[0]), (refused, promised[1])):
        actual = json.loads(answer)
        assert set(actual) == set(example)
        vary = {"entry_id", "offset", "instance"}
        assert {k: v for k, v in actual.items() if k not in vary} == {k: v for k, v in example.items() if k not in vary}
    assert '"available":"4010"' in reading
    assert '"globex","website",1,1,240' in reading
    assert json.loads(sent) == {"accepted": 1, "rejected": 0, "errors": []}
    assert '"outcome":"captured","credits":"37"' in job
    assert "social_post.text" in job
    assert "after         balance 3982, held 37, available 3945" in job
    assert "change: 7\n" in corrected
    assert "notice: Announcing this needs 30 days: image" in repriced
    assert "in_force: False" in repriced
    assert "acme" in limited
    assert "raise.begun" not in limited and "request.refused" in limited
    assert "INV-agency-" in billed
    assert ",top_up,top_up,,production,1,0,20000,USD,10000,10000,,1" in billed
    assert "available: 23952" in billed
    assert "globex" in queried
    assert "charge" in queried
    assert "mtl_admin_" in checked


def test_the_producer(home: dict[str, str], running: str, tmp_path: Path) -> None:
    (tmp_path / "producer.py").write_text(PRODUCER)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "producer.py")],
        env=home | {"METERLINE_KAFKA_URL": kafka_of(running)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "1000 acknowledged\n", done.stderr
    front = f"http://127.0.0.1:{home['METERLINE_CLICKHOUSE_FRONT_PORT']}/"
    sql = "SELECT count() FROM facts WHERE source = '/chat' AND kind IN ('charge', 'refusal')"
    eventually(lambda: httpx.post(front, content=sql).text == "1000\n")


def test_the_service_behind_the_gateway(home: dict[str, str], running: str, tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    admin_key = (Path(home["HOME"]) / ".local/share/meterline/admin-key").read_text()
    api = f"http://127.0.0.1:{home['METERLINE_API_PORT']}"
    with httpx.Client(base_url=api, headers={"authorization": f"Bearer {admin_key}"}) as admin:
        # Not acme: what that has spent within the last minute counts against its cost ceiling.
        assert admin.post("/v1/admin/projects", json={"project": "umbrella", "plan": "free"}).status_code == 201
        port = str(lifeline.free_port())
        serve = SERVE.replace("service:app", f"--app-dir {tmp_path} service:app").replace("9000", port)
        env = home | {"METERLINE_KAFKA_URL": kafka_of(running)}
        log = tmp_path / "service.log"
        process = lifeline.start("service", ["bash", "-c", f"exec {serve}"], log_path=log, env=env, guarded=True)
        try:
            eventually(lambda: "Uvicorn running" in log.read_text() or process.poll() is not None, 60)
            assert process.poll() is None, log.read_text()
            calls = CALLS.replace("acme", "umbrella").replace("9000", port)
            script = "set -euo pipefail\n" + calls.replace("\n", "\necho; echo '=== next'\n")
            done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            made, refused = done.stdout.split("=== next\n")
            assert made.startswith("HTTP/1.1 200 OK")
            assert "x-ratelimit-limit: 30\n" in made.lower().replace("\r", "")
            assert '{"url":"https://cdn.example/1.png"}' in made
            problem = json.loads(refused)
            assert (problem["status"], problem["code"]) == (402, "plan_required")

            def balance() -> tuple[str, str]:
                found = admin.get("/v1/balance", params={"project": "umbrella"}).json()
                return found["available"], found["held"]

            eventually(lambda: balance() == ("218", "0"))
        finally:
            process.stop(30)
            assert "Application shutdown complete" in log.read_text()


def kafka_of(running: str) -> str:
    """The broker's address, as `meterline up` told it."""
    kafka = re.search(r"Kafka +(\S+)", running)
    assert kafka is not None
    return kafka[1]


def test_settings_named_in_the_readme_exist() -> None:
    known = {f"METERLINE_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"METERLINE_[A-Z_]+", README)) <= known


def test_files_named_in_the_readme_exist() -> None:
    for name in re.findall(r"`((?:streams|clickhouse|docs|tests)/[\w./-]*)`", README):
        assert (PROJECT_ROOT / name).exists(), name
