"""`meterline` finds the command that is asked for, imports only that one, and ends expected failures in one line."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from api.cli.output import console, styled, tell_failure
from streams.embedded import lifeline
from streams.errors import EXIT_LASTING, LastingError
from streams.settings import PROJECT_ROOT, remedy_of, unknown_variables

# Where each command lives: the module's `app` has the command, or is the group, of that name. A worker thus starts
# without what only an operator needs.
COMMANDS = {
    "up": "api.cli.up",
    "demo": "api.cli.demo",
    "replay": "api.cli.demo",
    "worker": "api.cli.processes",
    "api": "api.cli.processes",
    "historian": "api.cli.processes",
    "cashier": "api.cli.processes",
    "courier": "api.cli.processes",
    "topics": "api.cli.processes",
    "migrate": "api.cli.processes",
    "history": "api.cli.history",
    "analysts": "api.cli.analysts",
    "verify": "api.cli.verify",
    "explain": "api.cli.explain",
    "rehearse": "api.cli.rehearse",
    "doctor": "api.cli.doctor",
    "ready": "api.cli.ready",
    "status": "api.cli.status",
    "keys": "api.cli.keys",
    "projects": "api.cli.projects",
    "credits": "api.cli.credits",
    "holds": "api.cli.holds",
    "limits": "api.cli.limits",
    "prices": "api.cli.prices",
    "audit": "api.cli.audit",
    "notices": "api.cli.notices",
    "dead-letters": "api.cli.dead_letters",
    "webhooks": "api.cli.webhooks",
    "portals": "api.cli.portals",
    "billing": "api.cli.billing",
    "usage": "api.cli.readings",
    "ledger": "api.cli.readings",
    "export": "api.cli.readings",
    "events": "api.cli.events",
    "erase": "api.cli.erase",
    "backfill": "api.cli.backfill",
}
# These tell of unknown variables themselves: in their logs, or among their findings.
_TELL_THEMSELVES = frozenset({"worker", "api", "historian", "cashier", "courier", "doctor"})
# Commands that are there only in a checkout: the production image has no tests.
CHECKOUT_COMMANDS = {
    "bench": "tests.benchmarks.command",
    "test": "api.cli.test",
}


class LazyCommands(TyperGroup):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands, in the order in which help shows them."""
        return list(_there_are())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command or group of this name, or None where there is none."""
        module = _there_are().get(cmd_name)
        if module is None:
            return None
        group = typer.main.get_group(import_module(module).app)
        return group.commands.get(cmd_name) or _named(group, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command of these arguments as click does; but a command that needs a checkout is refused with the
        remedy."""
        if args and args[0] in CHECKOUT_COMMANDS and args[0] not in _there_are():
            ctx.fail(f"{args[0]} needs a checkout with its tests: run it there, with `uv run meterline {args[0]}`")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=LazyCommands,
    name="meterline",
    help="Usage metering and prepaid credits: Kafka in, exact balances and admissions out, history in ClickHouse.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def _commands() -> None:
    """Do nothing: without a callback, typer makes no group of commands."""


def main() -> None:
    """Run the console script `meterline`. An expected failure ends with one clear line and exit code 1, a setting that
    is not valid with exit code 2, and what a start afresh does not mend with EXIT_LASTING."""
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    # What the clients of Kafka and ClickHouse have to say comes as one sentence, or in the log of a process.
    for name in ("aiokafka", "clickhouse_connect"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    lifeline.watch()
    if not _TELL_THEMSELVES & set(sys.argv[1:2]):
        for sentence in unknown_variables(os.environ):
            console.print(styled(("warning:", "yellow"), f" {sentence}"), soft_wrap=True)
    try:
        app()
    except ValidationError as error:
        for problem in error.errors():
            name = "METERLINE_" + "_".join(str(part) for part in problem["loc"]).upper()
            remedy = remedy_of(name, problem.get("input"))
            sentence = f"{problem['msg']}. {remedy}" if remedy else problem["msg"]
            console.print(styled((name, "red"), f": {sentence}"), soft_wrap=True)
        sys.exit(2)
    except Exception as error:
        # Imported here: a command that does not fail starts without.
        from api.cli.failures import sentence_of

        tell_failure(sentence_of(error))
        sys.exit(EXIT_LASTING if isinstance(error, LastingError) else 1)


def _there_are() -> dict[str, str]:
    return COMMANDS | (CHECKOUT_COMMANDS if (PROJECT_ROOT / "tests").is_dir() else {})


def _named(group: TyperGroup, name: str) -> TyperGroup:
    group.name = name
    return group
