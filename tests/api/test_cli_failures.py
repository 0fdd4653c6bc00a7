"""Every command, with Kafka, ClickHouse and the API away, or with nothing set up: one sentence, never a traceback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from api.cli import main as cli
from api.cli import service
from streams.embedded import lifeline
from tests.command_line import Meterline

# These run other processes, or parts of their own that nothing here could keep from them.
ELSEWHERE = {"bench", "test", "demo"}
# Commands that need nothing outside: they may well succeed.
ALONE = {("keys", "admin")}


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
    if parameter.bare_type is int:
        return str(parameter.min or 20)
    if parameter.bare_type is Path:
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
    }
    done = meterline(*words, *arguments(command, tmp_path), **environment)
    said = done.stdout + done.stderr
    assert "Traceback" not in said and "the-secret" not in said, said
    if words not in ALONE:
        assert done.returncode in (1, 2), said
        assert done.stderr.strip() and "fault of Meterline" not in said, said
    if words == ("verify",):
        assert done.returncode == 2


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
