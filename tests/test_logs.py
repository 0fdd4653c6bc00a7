"""The logs of a process stay short while Kafka is away: a kind of line is said once in a while."""

from __future__ import annotations

import logging
import subprocess
import sys

from streams.embedded import lifeline
from streams.logs import OnceInAWhile


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
