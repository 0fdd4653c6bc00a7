"""Asking before what can't be undone: a command shows what will change, and wants a word typed, `--yes` or
`--dry-run`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from api.cli.output import console, lines_of, print_json, tell_failure

YesOption = Annotated[bool, typer.Option("--yes", help="Do it without asking, as a script does.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would change or be refused; change nothing.")]

NOT_ASKED = 2


def may(word: str, plan: Callable[[], Any], *, yes: bool, dry_run: bool, as_json: bool) -> bool:
    """Whether a command may do what can't be undone: with `yes`, or once somebody at a terminal has typed `word`.

    `plan` asks the API for what would change, and it is shown first. A dry run shows it as the command's result and may
    not. Exits with 2 where nobody can be asked, with 1 where somebody typed anything else.
    """
    if dry_run:
        show_plan(plan(), as_json)
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        tell_failure(
            f"`{word}` can't be undone, and nobody is at a terminal to ask: --yes does it without asking, --dry-run "
            "shows what it would change"
        )
        raise typer.Exit(NOT_ASKED)
    for line in plan_lines(plan()):
        console.print(line, soft_wrap=True)
    console.print(f"This can't be undone. Type {word} to do it:", end=" ")
    if sys.stdin.readline().strip() != word:
        tell_failure("nothing was changed")
        raise typer.Exit(1)
    return True


def show_plan(plan: Any, as_json: bool) -> None:
    """Print what a dry run tells, as JSON or as lines."""
    if as_json:
        print_json(plan)
    else:
        print("\n".join(plan_lines(plan)))


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """The lines of what would change: of a project's dry run one a change, of anything else all that it says."""
    if "changes" not in plan or "available" not in plan:
        return lines_of(plan)
    lines = [f"{each['action']}: {each['detail']}" for each in plan["changes"]]
    for budget in plan["available"]:
        if budget["before"] != budget["after"]:
            lines.append(f"available in {budget['environment']}: {budget['before']} now, {budget['after']} then")
    if plan["cents"]:
        sign = "to give back" if plan["cents"] < 0 else "due"
        lines.append(f"{sign}: ${abs(plan['cents']) // 100}.{abs(plan['cents']) % 100:02d}")
    return [*lines, *([plan["note"]] if plan["note"] else [])] or ["nothing would change"]
