"""Every command, with Kafka, ClickHouse and the API away, or with nothing set up: one sentence, never a traceback."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError, RequestTimedOutError
from typer.core import TyperGroup

from api.cli import main as cli
from api.cli import service
from api.cli.failures import sentence_of
from streams.clickhouse import client as clickhouse
from streams.embedded import lifeline
from tests.command_line import Meterline

# These run other processes, or parts of their own that nothing here could keep from them.
ELSEWHERE = {"bench", "test", "demo"}
# Commands that need nothing outside: they may well succeed.
ALONE = {("keys", "admin")}
# Commands that say something else: a table of checks, or what is wrong with what they are given here.
OTHERWISE = {
    ("doctor",),
    ("replay",),
    ("limits", "set"),
    ("limits", "shadow"),
    ("billing", "months"),
    ("notices", "set-rules"),
}


def leaves() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that can be called, with the words that call it."""
    group: Any = typer.main.get_group(cli.app)
    for name in group.list_commands(None):
        if name not in ELSEWHERE:
            yield from _below((name,), group.get_command(None, name))


def _below(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(command, TyperGroup):
        for name, each in command.commands.items():
            yield from _below((*words, name), each)
    else:
        yield words, command


def arguments(command: Any, folder: Path) -> list[str]:
    """Values for what the command can't be called without."""
    given: list[str] = []
    for parameter in command.params:
        if parameter.required:
            name = [] if parameter.param_type_name == "argument" else [parameter.opts[0]]
            given += [*name, _value(parameter, folder)]
    return given


def _value(parameter: Any, folder: Path) -> str:
    if parameter.bare_type() == "int":
        return "20"
    if parameter.bare_type() == "Path":
        path = folder / "input.json"
        path.write_text("{}")
        return str(path)
    return "2026-01" if parameter.name == "month" else "x1-2-3"


@pytest.mark.parametrize(("words", "command"), [pytest.param(*each, id=" ".join(each[0])) for each in leaves()])
def test_a_command_whose_parts_are_away_says_so_in_one_sentence(
    words: tuple[str, ...], command: Any, meterline: Meterline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "RETRIES", 1)
    nobody = f"127.0.0.1:{lifeline.free_port()}"
    environment = {
        "METERLINE_DATA_DIR": str(tmp_path),
        "METERLINE_KAFKA_URL": nobody,
        "METERLINE_CLICKHOUSE_URL": f"http://someone:the-secret@{nobody}/default",
        "METERLINE_API_URL": f"http://{nobody}",
        "METERLINE_ADMIN_KEY": "mtl_admin_x",
        "METERLINE_API_PORT": "0",
        "METERLINE_CLICKHOUSE_FRONT_PORT": "0",
        "METERLINE_WEBHOOK_KEY": "a key of no deployment, long enough",
    }
    done = meterline(*words, *arguments(command, tmp_path), **environment)
    said = done.stdout + done.stderr
    assert "Traceback" not in said and "the-secret" not in said, said
    if words not in ALONE:
        assert done.returncode in (1, 2), said
        assert done.stderr.strip() and "fault of Meterline" not in said, said
        told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        # One line: which part, where, and what to look at.
        if done.returncode == 1 and words not in OTHERWISE:
            assert len(told) == 1 and nobody in told[0] and re.search("METERLINE_|`meterline ", told[0]), said
    if words == ("verify",):
        assert done.returncode == 2


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_clickhouse_that_does_not_answer_is_told_in_one_line(
    silent: str, meterline: Meterline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clickhouse, "ANSWER_SECONDS_MAX", 1)
    url = f"http://someone:the-secret@{silent}/default"
    done = meterline("migrate", METERLINE_DATA_DIR=str(tmp_path), METERLINE_CLICKHOUSE_URL=url)
    assert done.returncode == 1 and "the-secret" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"error: ClickHouse at {silent} does not answer: ")
    assert "Is it running, and METERLINE_CLICKHOUSE_URL right?" in done.stderr
    looked = meterline("doctor", METERLINE_DATA_DIR=str(tmp_path), METERLINE_CLICKHOUSE_URL=url)
    assert looked.returncode == 1 and f"FAIL clickhouse: ClickHouse at {silent} does not answer" in looked.stderr


@pytest.mark.parametrize(
    "error",
    [
        KafkaConnectionError("no bootstrap from [('a', 1)]"),
        RequestTimedOutError(),
        NodeNotReadyError("[a_z]\nb"),
    ],
)
def test_a_kafka_that_does_not_answer_is_told_in_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLINE_KAFKA_URL", "kafka-1:9092,kafka-2:9092")
    where = "Kafka at kafka-1:9092,kafka-2:9092"
    assert sentence_of(error) == f"{where} does not answer. Is it running, and METERLINE_KAFKA_URL right?"


@pytest.mark.parametrize("command", ["verify", "worker", "api", "topics", "up", "migrate", "historian", "cashier"])
def test_a_data_directory_that_is_a_file_is_told_in_one_sentence(
    command: str, meterline: Meterline, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    nobody = f"127.0.0.1:{lifeline.free_port()}"
    done = meterline(
        command,
        METERLINE_DATA_DIR=str(tmp_path / "file"),
        METERLINE_KAFKA_URL=nobody,
        METERLINE_API_PORT="0",
        METERLINE_CLICKHOUSE_FRONT_PORT="0",
    )
    said = done.stdout + done.stderr
    assert done.returncode in (1, 2) and "Traceback" not in said and said.strip(), said
    assert "fault of Meterline" not in said, said
