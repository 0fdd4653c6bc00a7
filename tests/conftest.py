"""Fixtures of the real parts that tests run on: one embedded Kafka for the session, and one whole stack."""

from __future__ import annotations

import functools
import gc
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import hypothesis
import pytest

from api.callers.keys import hash_key
from api.stack import Stack
from streams.embedded import lifeline
from streams.embedded.broker import EmbeddedBroker
from streams.settings import Admin, Settings
from tests import lanes, seeds
from tests.admins import ADMIN_KEYS
from tests.calls import Operator

pytest_plugins = ["tests.browser", "tests.command_line", "tests.engine"]

# The session timeout is short, so that a killed worker's partitions are taken over while a test waits; but a machine
# that is busy with other lanes must not have a worker that lives taken for dead.
SESSION_TIMEOUT_SECONDS = 6.0
# What is decided late on such a machine is decided all the same.
os.environ.setdefault("METERLINE_REPLY_TIMEOUT_SECONDS", "20")


# Many stacks, one after the other and at once: none has the metrics' usual port.
os.environ.setdefault("METERLINE_METRICS_PORT", "0")

# A test's broker does not live long enough for what Java's second compiler makes of it: half of all processor time.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

# A test's time says more about the machine than about the code. Examples are new in every run, so that many runs try
# many; a rule that was changed is worth trying on more at once.
EXAMPLES = int(os.environ.get("METERLINE_EXAMPLES", "40"))
hypothesis.settings.register_profile("meterline", deadline=None, max_examples=EXAMPLES)
# For `meterline bench mutation`: that a test fails is enough, and with which example nobody asks.
hypothesis.settings.register_profile(
    "unshrunk",
    hypothesis.settings.get_profile("meterline"),
    database=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
hypothesis.settings.load_profile("meterline")


@pytest.fixture(scope="session", autouse=True)
def one_tls_context() -> Iterator[None]:
    """One TLS context for all clients of a lane: each client, also of plain HTTP, would read all certificate
    authorities for one of its own, 25 ms of processor time, and tests make thousands of clients."""
    with pytest.MonkeyPatch.context() as here:
        here.setattr("httpx._transports.default.create_ssl_context", functools.cache(httpx.create_ssl_context))
        yield


@pytest.fixture(scope="module", autouse=True)
def heap_of_its_own() -> None:
    """Have Python's collector leave out all that is there before a module's first test: with the objects of thousands
    of collected tests to look through, it takes most of the time of tests that make many objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """A running Kafka, one for all tests. They keep apart by their topic prefixes."""
    with EmbeddedBroker(tmp_path_factory.mktemp("broker"), Settings().cache_dir, progress=True) as running:
        yield running


@pytest.fixture
def settings_for(broker: EmbeddedBroker, tmp_path: Path) -> Callable[..., Settings]:
    """A function that makes settings on the session's Kafka, with topics and a data directory of this test's own."""

    def make(**changes: object) -> Settings:
        values: dict[str, object] = {
            "kafka_url": broker.url,
            "topic_prefix": f"t{secrets.token_hex(4)}",
            "data_dir": tmp_path,
            "partitions": 2,
            "session_timeout_seconds": SESSION_TIMEOUT_SECONDS,
        }
        return Settings.model_validate(values | changes)

    return make


@pytest.fixture(scope="session")
def stack(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack: all of Meterline, beside a Kafka that is there; one for all tests of a lane."""
    settings = Settings(
        kafka_url=broker.url,
        topic_prefix="stack",
        data_dir=tmp_path_factory.mktemp("stack"),
        api_port=0,
        clickhouse_front_port=0,
        worker_metrics_port=lifeline.free_port(),
        session_timeout_seconds=SESSION_TIMEOUT_SECONDS,
        tick_seconds=0.5,
        price_lead_seconds=0,
        # Not less: beside other lanes a Kafka that is well is silent for a second now and then.
        ready_grace_seconds=4.0,
        # Nor this: a call that goes on uncounted reads a copy as it is.
        count_wait_seconds=4.0,
        webhook_key="the secrets of the tests' webhooks",
        # Trusted, so that a test may call from an address of its own.
        trusted_proxies=["127.0.0.1"],
        admins=[Admin(name=f"{role}-1", role=role, key_hash=hash_key(key).hex()) for role, key in ADMIN_KEYS.items()],
    )
    with Stack(settings, progress=True) as running:
        yield running


@pytest.fixture(scope="session")
def operator(stack: Stack) -> Operator:
    """An operator with an admin key at the session's stack."""
    return Operator(stack)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Before xdist looks for groups."""
    lanes.arrange(items, in_lanes=hasattr(config, "workerinput"))


def pytest_report_header() -> str:
    """Also at the head of a run in lanes."""
    return seeds.told()


def pytest_configure() -> None:
    """Undo that Ctrl-C is ignored: a shell starts background jobs so, and processes under test would inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in CI that skipped a test: every part can be had there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
