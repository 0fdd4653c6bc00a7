"""The stack's supervisor starts a broker again that does not start at its first try, and gives up in the end."""

from pathlib import Path

import pytest
from aiokafka.errors import KafkaConnectionError

from api import stack as stack_module
from api.stack import BROKER_STARTS_MAX, Stack, settings_apart
from streams.embedded import lifeline
from streams.embedded.broker import BrokerError
from streams.settings import Settings


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    monkeypatch.setattr(stack_module, "_RESTART_SECONDS_MAX", 0.0)
    return Stack(Settings(data_dir=tmp_path, kafka_url="127.0.0.1:9092"))


def test_a_broker_that_is_killed_while_it_starts_again_is_started_again(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [BrokerError("ended while it started")] * 2
    ports = []

    def start(port: int) -> None:
        ports.append(port)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(stack, "_start_broker", start)
    stack._restart_broker()
    assert ports == [9092] * 3


def test_a_broker_that_never_starts_is_given_up(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def start(port: int) -> None:
        tries.append(port)
        raise BrokerError("no")

    monkeypatch.setattr(stack, "_start_broker", start)
    with pytest.raises(BrokerError):
        stack._restart_broker()
    assert len(tries) == BROKER_STARTS_MAX


def test_a_cluster_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    """Only the embedded broker is waited for: a wrong address would keep an operator waiting for minutes."""
    stack = Stack(settings_apart(tmp_path, kafka_url=f"127.0.0.1:{lifeline.free_port()}"))
    with pytest.raises(KafkaConnectionError), stack:
        pass
    assert stack.pids() == {}
    assert not stack.logs_dir.exists()
