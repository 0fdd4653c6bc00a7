"""Values are printed as they are, whatever brackets they have, by each way to print and in each help."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.markup import render

from api.cli import main as cli
from api.cli import output
from tests.command_line import Meterline

HOSTILE = (
    "a[/x].json",
    "^[a-z_]+$",
    "[red]no colour[/]",
    "[[",
    "[link=docs]x[/link]",
    "\\[bold]",
    ":smile: [/]",
)


def told(text: str) -> None:
    output.console.print(text, soft_wrap=True)


def worked(text: str) -> None:
    with output.working(text):
        told(text)


def listed(text: str) -> None:
    output.show_page({"next_cursor": None}, [{"name": text}], ("name",), False)


WAYS: dict[str, Callable[[str], object]] = {
    "a failure": output.tell_failure,
    "a line": told,
    "a styled line": lambda text: output.console.print(output.styled((text, "red")), soft_wrap=True),
    "a status": worked,
    "an answer": lambda text: output.show({"name": text}, False),
    "a page": listed,
    "results": lambda text: output.results(200).print(text),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_is_printed_with_its_brackets(way: str, value: str, capfd: pytest.CaptureFixture[str]) -> None:
    WAYS[way](value)
    said = "".join(capfd.readouterr())
    assert value in said, said


# What a terminal acts on: it clears the screen, names its window, goes back in the line, or begins a sequence.
ACTED_ON = ("\x1b[2J", "\x1b]0;owned\x07", "\r", "\x08", "\x9b31m", "\x7f")


@pytest.mark.parametrize("way", sorted(WAYS.keys() - {"a line", "a status", "results"}))
@pytest.mark.parametrize("value", ACTED_ON)
def test_a_terminal_acts_on_no_value(way: str, value: str, capfd: pytest.CaptureFixture[str]) -> None:
    WAYS[way](f"ann{value}bob")
    said = "".join(capfd.readouterr())
    assert f"ann\\x{ord(value[0]):02x}" in said and not set(said) & set("\x1b\x07\r\x08\x9b\x7f"), repr(said)


def test_a_value_with_lines_stays_in_its_row(capfd: pytest.CaptureFixture[str]) -> None:
    listed("ann\nbob")
    assert capfd.readouterr().out == "name\nann\\x0abob\n"
    output.show({"name": "ann\nbob"}, False)
    assert capfd.readouterr().out == "name: ann\nbob\n"


@pytest.mark.parametrize("value", HOSTILE)
def test_a_file_that_is_not_there_is_named_with_its_brackets(value: str, meterline: Meterline, tmp_path: Path) -> None:
    done = meterline("rehearse", value, METERLINE_DATA_DIR=str(tmp_path), METERLINE_ADMIN_KEY="mtl_admin_x")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert value in done.stderr, done.stderr


def every_help() -> Iterator[str]:
    group: Any = typer.main.get_group(cli.app)
    waiting = [group.get_command(None, name) for name in group.list_commands(None)]
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        yield from (text for text in (command.help, *(getattr(each, "help", "") for each in command.params)) if text)


def test_no_help_loses_its_brackets() -> None:
    texts = list(every_help())
    assert len(texts) > 100
    assert [text for text in texts if str(render(text)) != text] == []
