"""The stack's supervisor starts a broker again that does not start at its first try, and gives up in the end."""

import sys
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


@pytest.mark.parametrize("before", ["is not there", "is empty", "is an older Meterline's"])
def test_the_data_directory_is_its_owners_alone(before: str, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    if before != "is not there":
        directory.mkdir(mode=0o755)
    if before == "is an older Meterline's":
        (directory / "admin-key").write_text("key")
    stack_module._make_private(directory)
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_others_use_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "theirs").touch()
    stack_module._make_private(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_what_a_child_writes_is_its_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "written"
    child = lifeline.start("child", [sys.executable, "-c", f"open({str(path)!r}, 'w')"], log_path=None)
    child.process.wait()
    child.stop()
    assert path.stat().st_mode & 0o777 == 0o600
