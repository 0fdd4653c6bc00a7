"""The embedded broker starts, survives and ends as it should, with the real Kafka."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from streams.embedded import broker as broker_module
from streams.embedded.broker import KAFKA_VERSION, BrokerError, EmbeddedBroker, kafka_jars
from streams.settings import Settings

CACHE_DIR = Settings().cache_dir
PARENT = """
import sys, time
from pathlib import Path
from streams.embedded.broker import EmbeddedBroker

broker = EmbeddedBroker(Path(sys.argv[1]), Path(sys.argv[2]))
broker.start()
print(broker.url, flush=True)
time.sleep(600)
"""


def wait_until(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def all_javas_below(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children(recursive=True) if child.name() == "java"]


@pytest.fixture(autouse=True)
def _other_tests_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers that other tests' fixtures keep running are none of this module's."""
    monkeypatch.setattr(sys.modules[__name__], "OTHERS", all_javas_below(os.getpid()))


OTHERS: list[psutil.Process] = []


def javas_below(pid: int) -> list[psutil.Process]:
    return [java for java in all_javas_below(pid) if java not in OTHERS]


async def write(url: str, topic: str, value: bytes) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=url)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 3, 1)])
    finally:
        await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=url, max_request_size=8 * 1024 * 1024)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value, partition=1)
    finally:
        await producer.stop()


async def read(url: str, topic: str) -> bytes:
    consumer = AIOKafkaConsumer(bootstrap_servers=url, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 1)])
        record: Any = await asyncio.wait_for(consumer.getone(), 20)
        return bytes(record.value)
    finally:
        await consumer.stop()


@pytest.fixture
def cache_copy(tmp_path: Path) -> Path:
    """A copy of the cache that a test may damage. It is of hard links, so replace its files instead of writing into
    them."""
    kafka_jars(CACHE_DIR)
    shutil.copytree(CACHE_DIR / "kafka", tmp_path / "cache" / "kafka", copy_function=os.link)
    return tmp_path / "cache"


def test_topic_and_record_survive_a_restart_on_other_ports(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path, CACHE_DIR)
    large = b"x" * 4_000_000
    with broker:
        first_url = broker.url
        asyncio.run(write(broker.url, "kept", large))
        javas = javas_below(os.getpid())
        assert javas
        assert broker.poll() is None
    assert broker.poll() == 0
    assert not any(java.is_running() for java in javas)

    async def restart_inside_a_running_loop() -> bytes:
        broker.start()
        return await read(broker.url, "kept")

    try:
        assert asyncio.run(restart_inside_a_running_loop()) == large
        assert broker.url != first_url
    finally:
        broker.stop()
    assert not javas_below(os.getpid())
    assert (tmp_path / "kafka" / "log" / ".kafka_cleanshutdown").exists()
    broker.stop()


def test_a_killed_jvm_loses_no_acknowledged_record(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path, CACHE_DIR) as broker:
        asyncio.run(write(broker.url, "kept", b"value"))
        for java in javas_below(os.getpid()):
            java.kill()
        wait_until(lambda: broker.poll() is not None)
    with EmbeddedBroker(tmp_path, CACHE_DIR) as broker:
        assert asyncio.run(read(broker.url, "kept")) == b"value"


def test_the_jvm_ends_with_a_killed_parent_and_the_data_directory_is_free_at_once(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", PARENT, str(tmp_path), str(CACHE_DIR)]
    parent = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        url = parent.stdout.readline().strip()
    javas = javas_below(parent.pid)
    assert javas
    asyncio.run(write(url, "kept", b"value"))
    parent.kill()
    parent.wait()
    with EmbeddedBroker(tmp_path, CACHE_DIR) as broker:
        wait_until(lambda: not any(java.is_running() for java in javas))
        assert asyncio.run(read(broker.url, "kept")) == b"value"


def test_a_second_broker_on_the_data_directory_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path, CACHE_DIR) as broker:
        with pytest.raises(BrokerError, match=rf"in use .* process {os.getpid()}\..*METERLINE_DATA_DIR"):
            EmbeddedBroker(tmp_path, CACHE_DIR).start()
        asyncio.run(write(broker.url, "kept", b"value"))
        assert asyncio.run(read(broker.url, "kept")) == b"value"


def test_a_taken_port_and_a_failing_jvm_are_told_with_their_reason(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "first", CACHE_DIR) as broker:
        port = int(broker.url.split(":")[1])
        with pytest.raises(BrokerError, match=rf"Port {port} of 127\.0\.0\.1 is taken"):
            EmbeddedBroker(tmp_path / "second", CACHE_DIR, port=port).start()
    tiny = EmbeddedBroker(tmp_path / "third", CACHE_DIR, heap_mb=1)
    with pytest.raises(BrokerError, match=r"broker\.log(.|\n)*heap") as raised:
        tiny.start()
    assert str(tiny.log_path) in str(raised.value)
    assert not javas_below(os.getpid())


def test_a_damaged_class_archive_does_not_stop_the_start_and_goes(tmp_path: Path, cache_copy: Path) -> None:
    archive = cache_copy / "kafka" / KAFKA_VERSION / "kafka.jsa"
    archive.unlink(missing_ok=True)
    archive.write_bytes(os.urandom(4096))
    with EmbeddedBroker(tmp_path, cache_copy) as broker:
        assert broker.poll() is None
        assert not archive.exists()


def test_a_sound_cache_is_used_without_the_network(monkeypatch: pytest.MonkeyPatch, cache_copy: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("went to the network")

    monkeypatch.setattr(broker_module, "_fetch_jars", refuse)
    started = time.perf_counter()
    jars = kafka_jars(cache_copy)
    assert time.perf_counter() - started < 0.1
    assert any(jar.name == f"kafka_2.13-{KAFKA_VERSION}.jar" for jar in jars)
    assert any(jar.name.startswith("log4j-slf4j-impl-") for jar in jars)
    # A jar whose time stamp differs is hashed, and not fetched.
    content = jars[0].read_bytes()
    jars[0].unlink()
    jars[0].write_bytes(content)
    assert kafka_jars(cache_copy) == jars


def test_a_missing_and_a_damaged_jar_are_fetched_again(cache_copy: Path) -> None:
    jars = kafka_jars(cache_copy)
    by_name = {jar.name: jar for jar in jars}
    missing, damaged = by_name[f"kafka-raft-{KAFKA_VERSION}.jar"], by_name[f"kafka-server-{KAFKA_VERSION}.jar"]
    contents = {jar: jar.read_bytes() for jar in (missing, damaged)}
    missing.unlink()
    damaged.unlink()
    damaged.write_bytes(bytes(len(contents[damaged])))
    assert kafka_jars(cache_copy) == jars
    assert {jar: jar.read_bytes() for jar in contents} == contents


def test_two_first_starts_at_once_do_not_harm_each_other(tmp_path: Path, cache_copy: Path) -> None:
    (cache_copy / "kafka" / KAFKA_VERSION / "manifest.json").unlink()
    for jar in sorted(cache_copy.rglob("*.jar"))[:3]:
        jar.unlink()
    code = (
        "import sys; from pathlib import Path; from streams.embedded.broker import kafka_jars\n"
        "kafka_jars(Path(sys.argv[1]))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(cache_copy)]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    manifest = json.loads((cache_copy / "kafka" / KAFKA_VERSION / "manifest.json").read_text())
    assert {jar.name for jar in kafka_jars(cache_copy)} == {Path(name).name for name in manifest}
    assert not list(cache_copy.rglob("*.part"))


def test_without_a_network_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> bytes:
        raise ConnectionError("no route")

    monkeypatch.setattr("streams.embedded.broker._Downloads._get", fail)
    with pytest.raises(BrokerError, match=r"no route.*Try again.*METERLINE_KAFKA_URL"):
        kafka_jars(tmp_path)


def test_a_jar_that_this_repository_does_not_name_is_not_run(cache_copy: Path) -> None:
    home = cache_copy / "kafka" / KAFKA_VERSION
    named = {line.split()[1] for line in broker_module.SUMS_PATH.read_text().splitlines()}
    assert named == {jar.name for jar in kafka_jars(cache_copy)}
    # Whoever can serve another jar can serve the sum that fits it, and can write it into the cache's manifest.
    jar = next(each for each in kafka_jars(cache_copy) if each.name.startswith("kafka-clients"))
    content = jar.read_bytes()
    jar.unlink()  # the file itself is the cache's too
    jar.write_bytes(content + b"\0")
    (home / "manifest.json").unlink()
    with pytest.raises(BrokerError, match=rf"{jar.name} has the SHA-256 \w+, and kafka-jars.sha256 says"):
        kafka_jars(cache_copy)
    assert not jar.exists()


def test_a_file_that_differs_from_its_checksum_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("streams.embedded.broker._Downloads._get", lambda _self, url: b"0" * 40)
    with pytest.raises(BrokerError, match="checksum"):
        kafka_jars(tmp_path)
    assert not list(tmp_path.rglob("*.pom"))
