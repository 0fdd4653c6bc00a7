"""`meterline demo` and `meterline replay` start a whole stack, send a trace through it, and print a report."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from api.cli.options import JsonOption
from api.cli.output import console, print_json, results
from api.cli.up import stop_on_signals, tell_where
from streams.settings import Settings

app = typer.Typer()

DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Keep all state in this directory. Without it, use a new one and remove it after."),
]
ProjectsOption = Annotated[
    int, typer.Option("--projects", min=1, max=100_000, help="How many projects share the trace.")
]
RoundsOption = Annotated[
    int, typer.Option("--rounds", min=1, max=10_000, help="Send the trace this many times, each under new ids.")
]


@app.command()
def demo(
    as_json: JsonOption = False,
    stay: Annotated[
        bool,
        typer.Option(
            "--stay",
            help="Keep everything up after the report, until Ctrl-C, with a project to watch in the dashboard.",
        ),
    ] = False,
    data_dir: DataDirOption = None,
    projects: ProjectsOption = 300,
    rounds: RoundsOption = 5,
) -> None:
    """Start everything, replay a real trace through it, and report what came of it."""
    from api.demo.trace import BUNDLED_TRACE

    _replay(BUNDLED_TRACE, as_json, stay, data_dir, projects, rounds, is_demo=True)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A CSV with the columns TIMESTAMP, ContextTokens, GeneratedTokens.")],
    as_json: JsonOption = False,
    stay: Annotated[bool, typer.Option("--stay", help="Keep everything up after the report, until Ctrl-C.")] = False,
    data_dir: DataDirOption = None,
    projects: ProjectsOption = 300,
    rounds: RoundsOption = 1,
) -> None:
    """Start everything and replay a trace of yours. The same file sent twice to one --data-dir bills once."""
    _replay(file, as_json, stay, data_dir, projects, rounds, is_demo=False)


def _replay(
    file: Path, as_json: bool, stay: bool, data_dir: Path | None, projects: int, rounds: int, *, is_demo: bool
) -> None:
    from api.demo.display import Display, print_report
    from api.demo.listener import Listener
    from api.demo.replay import Progress, Target
    from api.demo.replay import replay as run
    from api.demo.shop import Shop
    from api.demo.trace import read_trace
    from api.stack import Stack
    from streams.embedded.running import asking_history

    trace = read_trace(file)
    started_at = time.monotonic()
    stop_on_signals()
    with ExitStack() as cleanup:
        if data_dir is None:
            data_dir = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="meterline-")))
        settings = Settings().model_copy(update={"data_dir": data_dir})
        if not stay:
            settings.api_port = settings.metrics_port = settings.clickhouse_front_port = 0
        progress = Progress()
        try:
            display = cleanup.enter_context(Display(console, progress, quiet=as_json))
            stack = Stack(settings, progress=not as_json, tell=display.tell)
            cleanup.enter_context(stack)
            history_url = asking_history(stack.settings).clickhouse_url or stack.clickhouse_url
            target = Target(stack.settings, stack.url, history_url, stack.admin_key)

            def on_progress() -> None:
                stack.check()
                display.update()

            report = asyncio.run(
                run(
                    target,
                    trace,
                    project_count=projects,
                    rounds=rounds,
                    spoil=is_demo,
                    started_at=started_at,
                    progress=progress,
                    on_progress=on_progress,
                    listener=cleanup.enter_context(Listener()),
                )
            )
            display.stop()
            if as_json:
                print_json(report.as_json())
            else:
                print_report(results(), report, stack.url)
            if stay:
                tell_where(stack, None)
                if is_demo:
                    shop = cleanup.enter_context(Shop(stack.url, stack.admin_key))
                    console.print(f"  to watch    {stack.url}/dashboard    sign in with {shop.key}", soft_wrap=True)
                while True:
                    stack.check()
                    time.sleep(0.25)
        except KeyboardInterrupt:
            console.print("stopped")
            raise typer.Exit(0 if stay else 130) from None
    if report.balance_drift_microcredits:
        raise typer.Exit(1)
