"""The logs of a process stay short: a kind of line is said once in a while, and files are rotated."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from api.stack import Stack
from streams.embedded import lifeline
from streams.logs import LOGS_KEPT, OnceInAWhile, configure
from streams.settings import PROJECT_ROOT, Settings


def record(name: str, template: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, __file__, 1, template, args, None)


def test_a_kind_is_said_once_in_a_while_and_then_with_how_many_there_were() -> None:
    once = OnceInAWhile("aiokafka", 3600.0)
    passed = [once.filter(record("aiokafka.client", "no node %s", number)) for number in range(50)]
    assert passed == [True] + [False] * 49
    assert once.filter(record("aiokafka.client", "another kind"))
    assert once.filter(record("aiokafka.producer", "no node %s", 1)), "another logger is another kind"
    assert all(once.filter(record("streams.worker.agents", "ours")) for _ in range(3))

    always = OnceInAWhile("aiokafka", 0.0)
    always._passed["aiokafka.client", logging.ERROR, "no node %s"] = (0.0, 7)
    next_one = record("aiokafka.client", "no node %s", 3)
    assert always.filter(next_one)
    assert next_one.getMessage() == "no node 3 (and 7 more like it since the last)"


def test_a_client_without_a_broker_does_not_fill_the_log() -> None:
    """A real Kafka client tries again and again to connect to a port where nothing listens."""
    program = (
        "import asyncio, logging\n"
        "from aiokafka import AIOKafkaProducer\n"
        "from streams.logs import configure\n"
        "from streams.settings import Settings\n"
        "configure(Settings(), 'test')\n"
        "async def tries():\n"
        "    for _ in range(200):\n"
        f"        producer = AIOKafkaProducer(bootstrap_servers='127.0.0.1:{lifeline.free_port()}')\n"
        "        try:\n"
        "            await producer.start()\n"
        "        except Exception:\n"
        "            await producer.stop()\n"
        "asyncio.run(tries())\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    lines = [line for line in run.stderr.splitlines() if "Unable connect" in line]
    assert len(lines) == 1, run.stderr[-2000:]


TALKATIVE = """
import logging, os, sys, ctypes
from pathlib import Path
from streams import logs
from streams.settings import Settings
logs.configure(Settings(), "test")
for number in range(2000):
    logging.getLogger("test").info("number %d", number)
    if number == 1900:
        ctypes.CDLL(None).puts(b"said by a library")
        ctypes.CDLL(None).fflush(None)
raise RuntimeError("the last word")
"""


def test_a_log_file_is_rotated_by_its_process_and_has_its_last_words(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "test.log"
    settings = Settings(log_file=path, log_bytes_max=20_000)
    environment = os.environ | settings.as_environment()
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", TALKATIVE], cwd=PROJECT_ROOT, env=environment, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    files = sorted(path.parent.iterdir())
    assert [each.name for each in files] == ["test.log", *(f"test.log.{number}" for number in range(1, LOGS_KEPT + 1))]
    assert all(each.stat().st_size <= 21_000 for each in files)
    assert "RuntimeError: the last word" in path.read_text()
    together = "".join(each.read_text() for each in reversed(files))
    kept = [int(number) for number in re.findall(r"number (\d+)", together)]
    assert kept == list(range(kept[0], 2000)), "no line is lost where one file ends"
    assert "said by a library" in together


def test_a_log_that_a_failing_start_makes_grow_is_rotated_before_the_next(tmp_path: Path) -> None:
    stack = Stack(Settings(data_dir=tmp_path, log_bytes_max=4096))
    member = stack._member("worker-1", ["--help"], {})
    member.log_path.parent.mkdir()
    member.log_path.write_bytes(bytes(5000))
    stack._start(member)
    assert member.child is not None
    member.child.stop()
    assert member.log_path.with_name("worker-1.log.1").stat().st_size == 5000
    assert member.log_path.stat().st_size < 5000


@pytest.mark.parametrize("is_json", [True, False])
def test_a_record_of_many_rows_is_a_line_each_like_any_other(
    is_json: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers)
    monkeypatch.setattr(root, "level", root.level)
    configure(Settings(log_json=is_json), "api-1")
    rows = [{"request_id": f"req_{number}", "status": 402} for number in range(3)]
    logging.getLogger("meterline.answers").info("answered", extra={"rows": rows})
    logging.getLogger("meterline.answers").info("answered", extra=rows[0])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    if is_json:
        told = [json.loads(line) for line in lines]
        assert [each["request_id"] for each in told] == ["req_0", "req_1", "req_2", "req_0"]
        assert set(told[0]) == set(told[3])
        assert told[0] | {"timestamp": ""} == told[3] | {"timestamp": ""}
    else:
        for line in lines:
            assert "answered" in line and "[meterline.answers]" in line and "process=api-1" in line
            assert "request_id=req_" in line and "status=402" in line
