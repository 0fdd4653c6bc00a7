"""The command line. `meterline --help` lists what there is; every command has a help of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from api import operator_cli
from api.bench.command import app as bench_app
from api.keys import new_admin_key
from api.operator_cli import Api
from streams import lifeline, logs
from streams.errors import OperatorError
from streams.settings import PROJECT_ROOT, Settings

# Progress and errors go to standard error, results to standard output.
console = Console(stderr=True, highlight=False)

app = typer.Typer(
    name="meterline",
    help="Usage metering and prepaid credits: Kafka in, exact balances and admissions out, history in ClickHouse.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
keys_app = typer.Typer(help="Make API keys.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(bench_app, name="bench")
app.add_typer(operator_cli.projects, name="projects")
app.add_typer(operator_cli.credits, name="credits")
app.add_typer(operator_cli.holds, name="holds")
app.add_typer(operator_cli.limits, name="limits")
app.add_typer(operator_cli.prices, name="prices")
app.add_typer(operator_cli.audit, name="audit")
app.add_typer(operator_cli.billing, name="billing")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Keep all state here. Without it, a new directory that is removed.")
]
ProjectsOption = Annotated[
    int, typer.Option("--projects", min=1, max=100_000, help="How many projects share the trace.")
]
RoundsOption = Annotated[
    int, typer.Option("--rounds", min=1, max=10_000, help="Send the trace this often, under new ids.")
]


def main() -> None:
    """The console script: expected failures end with one clear line and exit code 1."""
    lifeline.watch()
    try:
        app()
    except ValidationError as error:
        for problem in error.errors():
            name = "METERLINE_" + "_".join(str(part) for part in problem["loc"]).upper()
            console.print(f"[red]{name}[/]: {problem['msg']}", soft_wrap=True)
        sys.exit(2)
    except OperatorError as error:
        console.print(f"[red]error:[/] {error}", soft_wrap=True)
        sys.exit(1)


@app.command()
def up(
    workers: Annotated[int, typer.Option("--workers", min=1, max=16, help="Worker processes.")] = 1,
) -> None:
    """Run all of Meterline until Ctrl-C: Kafka, worker, API and ClickHouse."""
    from api.stack import Stack

    settings = Settings()
    _stop_on_signals()
    started_at = time.monotonic()
    stack = Stack(settings, workers=workers, progress=True, tell=lambda text: console.print(f"[dim]{text}[/]"))
    try:
        with stack:
            _tell_where(stack, time.monotonic() - started_at)
            while True:
                stack.check()
                time.sleep(0.25)
    except KeyboardInterrupt:
        console.print("stopped")


@app.command()
def demo(
    as_json: JsonOption = False,
    stay: Annotated[bool, typer.Option("--stay", help="Keep everything up after the report, until Ctrl-C.")] = False,
    data_dir: DataDirOption = None,
    projects: ProjectsOption = 300,
    rounds: RoundsOption = 5,
) -> None:
    """Start everything, replay a real trace through it, and report what came of it."""
    from streams.trace import BUNDLED_TRACE

    _replay(BUNDLED_TRACE, as_json, stay, data_dir, projects, rounds, spoil=True)


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
    _replay(file, as_json, stay, data_dir, projects, rounds, spoil=False)


@app.command()
def worker() -> None:
    """Run one worker: the agents that accept usage and own accounts."""
    from streams.app import run_worker

    settings = Settings()
    logs.configure(settings, settings.worker_name)
    run_worker(settings)


@app.command()
def api() -> None:
    """Run the HTTP service; with the embedded ClickHouse, its historian too."""
    from api.server import run_api

    settings = Settings()
    logs.configure(settings, settings.api_name)
    run_api(settings)


@app.command()
def historian() -> None:
    """Run a historian: journal into the ClickHouse server of METERLINE_CLICKHOUSE_URL."""
    from api.server import run_historian

    settings = Settings()
    logs.configure(settings, "historian")
    if settings.clickhouse_url is None:
        raise typer.BadParameter(
            "without METERLINE_CLICKHOUSE_URL history is embedded in the API process, which runs its own historian"
        )
    run_historian(settings)


@app.command()
def cashier() -> None:
    """Run a cashier: it makes the purchases of auto-recharge, through METERLINE_PAYMENTS."""
    from api.server import run_cashier

    settings = Settings()
    logs.configure(settings, "cashier")
    run_cashier(settings)


@app.command()
def topics() -> None:
    """Create the topics that are missing and check the others."""
    from streams.topics import create_topics, topics_of

    settings = Settings()
    created = asyncio.run(create_topics(settings))
    for name in topics_of(settings).configs():
        console.print(f"{name}: {'created' if name in created else 'there'}, {settings.partitions} partitions")


@app.command()
def migrate() -> None:
    """Bring the ClickHouse schema up to date."""
    from streams.clickhouse import ClickHouse
    from streams.migrations import migrate as apply

    clickhouse = ClickHouse(Settings())
    try:
        applied = apply(clickhouse)
    finally:
        clickhouse.close()
    console.print("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")


@app.command()
def verify(
    as_json: JsonOption = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Fold all of intake anew, and compare every account byte by byte.")
    ] = False,
) -> None:
    """Reconcile state tables, journal and ClickHouse on a live system; exit code 1 on any drift."""
    from streams.clickhouse import ClickHouse
    from streams.rebuild import rebuild as run_rebuild
    from streams.running import reach
    from streams.verify import verify as run

    settings = reach(Settings())
    clickhouse = ClickHouse(settings)
    rebuilt = None
    try:
        with console.status("") as status:
            verdict = asyncio.run(run(settings, clickhouse, status.update))
            if rebuild:
                rebuilt = asyncio.run(run_rebuild(settings, status.update))
    finally:
        clickhouse.close()
    ok = verdict.ok and (rebuilt is None or rebuilt.ok)
    if as_json:
        found = verdict.as_json() | ({"rebuild": rebuilt.as_json()} if rebuilt is not None else {})
        _print_json(found | {"ok": ok})
    else:
        print(f"{verdict.projects:,} projects, {verdict.facts:,} facts, {verdict.seconds:.1f} s")
        for difference in verdict.differences:
            print(
                f"{difference.project} {difference.grant_id} {difference.measure}: {difference.between} differ, "
                f"{difference.first:,} and {difference.second:,} microcredits {' '.join(difference.entry_ids)}"
            )
        print("no drift" if verdict.ok else f"drift: {verdict.drift_microcredits:,} microcredits")
        if rebuilt is not None:
            print(f"rebuilt: {rebuilt.records:,} records, {rebuilt.accounts:,} accounts, {rebuilt.seconds:.1f} s")
            print("byte-equal" if rebuilt.ok else f"{rebuilt.different:,} differ: {' '.join(rebuilt.named)}")
    if not ok:
        raise typer.Exit(1)


@app.command()
def explain(
    receipt: Annotated[
        str, typer.Argument(metavar="ID", help="That of an entry, hold, grant, purchase, or of an event")
    ],
    project: Annotated[str | None, typer.Option("--project", help="Whose it is; grants of two may share an id")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say why something was charged, held, refused or given: inputs, prices, grants, balances, offset.

    For an event's id: all that was decided on it, and why it was refused before that, if it was.
    """
    from api.operator_cli import show
    from streams.receipts import explain_text, is_receipt_id

    if not is_receipt_id(receipt):
        found = Api().call("GET", "/v1/receipts", event_id=receipt, project=project).json()
        if not found["decisions"] and not found["dead_letters"]:
            raise OperatorError(f"Nothing is known of an event {receipt!r}")
        show(found, as_json)
        return
    answer = Api().call("GET", f"/v1/receipts/{receipt}", project=project).json()
    if as_json:
        show(answer, as_json)
    else:
        print(explain_text(answer))


_OF_LIMITS = "Limits: name at least one"
_OF_REQUESTS = "Limits: whose requests"


@app.command()
def rehearse(
    file: Annotated[
        Path | None, typer.Argument(help="JSON: version and the rates that differ, as for `prices announce`")
    ] = None,
    days: Annotated[
        int, typer.Option("--days", min=1, max=90, help="How far back to replay; for limits at most 31.")
    ] = 7,
    requests_per_minute: Annotated[
        int | None, typer.Option("--requests-per-minute", min=1, rich_help_panel=_OF_LIMITS)
    ] = None,
    burst: Annotated[
        int | None, typer.Option("--burst", min=1, help="Requests at once after a rest.", rich_help_panel=_OF_LIMITS)
    ] = None,
    cost_ceiling: Annotated[
        str | None,
        typer.Option("--cost-ceiling", help="Credits that may be spent in 60 seconds.", rich_help_panel=_OF_LIMITS),
    ] = None,
    project: Annotated[str | None, typer.Option("--project", help="Of this one.", rich_help_panel=_OF_REQUESTS)] = None,
    plan: Annotated[
        str | None, typer.Option("--plan", help="Of those on this plan today.", rich_help_panel=_OF_REQUESTS)
    ] = None,
    with_events: Annotated[
        bool,
        typer.Option(
            "--with-events/--without-events",
            help="Whether usage events are requests. An admission that named its event looks the same in the history "
            "once it is charged, or refused but for its limits: without events, it is left out too.",
            rich_help_panel=_OF_REQUESTS,
        ),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Replay the last days under a proposed price book, or under proposed limits, and list who would be hurt.

    With a FILE: what each project would pay, and who would run out.

    With limits: how many of the recorded requests would have been refused, and how many were. A limit that is not
    named stays as plan and contract have it.
    """
    from api.operator_cli import read_json, show

    limits = {"requests_per_minute": requests_per_minute, "burst": burst, "cost_ceiling": cost_ceiling}
    of_limits = {"project": project, "plan": plan} | limits
    if file is None:
        if all(each is None for each in limits.values()):
            raise typer.BadParameter("name a price book's FILE, or a limit: --requests-per-minute, --burst, …")
        from api.limit_rehearsing import rehearse_limits

        rehearse_limits(console, {"days": days, "with_events": with_events} | of_limits, as_json)
        return
    if any(each is not None for each in of_limits.values()) or not with_events:
        raise typer.BadParameter("prices or limits: one at a time")
    with console.status(f"replaying {days} days"):
        answer = Api().call("POST", "/v1/admin/rehearsals", {"days": days, "book": read_json(file)}).json()
    show(answer, as_json)


@keys_app.command("admin")
def keys_admin(as_json: JsonOption = False) -> None:
    """Make an admin key, and the hash that METERLINE_ADMIN_KEY_HASHES needs. The key is shown this once."""
    key, key_hash = new_admin_key()
    if as_json:
        _print_json({"key": key, "hash": key_hash})
        return
    print(key)
    console.print(f"hash: {key_hash}\nrun the API with METERLINE_ADMIN_KEY_HASHES='[\"{key_hash}\"]'", soft_wrap=True)


@keys_app.command("create")
def keys_create(
    project: Annotated[str, typer.Argument(help="The project's id.")],
    environment: Annotated[str, typer.Option("--environment", help="production or preview")] = "production",
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="Such as content:read; * unless given, content:* for preview.")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="The API; a running `meterline up`.")] = None,
    admin_key: Annotated[
        str | None, typer.Option("--admin-key", envvar="METERLINE_ADMIN_KEY", help="An admin key.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key for a project. The key is shown this once."""
    body = {"environment": environment, "scopes": scope or None}
    answer = Api(url, admin_key).call("POST", f"/v1/admin/projects/{project}/keys", body).json()
    if as_json:
        _print_json(answer)
    else:
        print(answer["key"])


@keys_app.command("revoke")
def keys_revoke(
    project: Annotated[str, typer.Argument(help="The project's id.")],
    key_id: Annotated[str, typer.Argument(help="The key's id, from `projects show`.")],
) -> None:
    """End a key at once."""
    Api().call("DELETE", f"/v1/admin/projects/{project}/keys/{key_id}")
    console.print(f"{key_id} is revoked")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check this machine and these settings, and say what to do about what is wrong."""
    from api.doctor import examine

    findings = examine(Settings())
    if as_json:
        _print_json({"ok": all(f.ok for f in findings), "checks": [f.as_json() for f in findings]})
    else:
        for finding in findings:
            mark = "[green]ok  [/]" if finding.ok else "[red]FAIL[/]"
            console.print(f"{mark} {finding.name}: {finding.detail}", soft_wrap=True)
            if finding.remedy and not finding.ok:
                console.print(f"     {finding.remedy}", soft_wrap=True)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run all tests of this checkout; further arguments go to pytest."""
    if not (PROJECT_ROOT / "tests").is_dir():
        raise typer.BadParameter("there are no tests here; run it from a checkout")
    raise typer.Exit(subprocess.call([sys.executable, "-m", "pytest", *context.args], cwd=PROJECT_ROOT))


def _replay(
    file: Path, as_json: bool, stay: bool, data_dir: Path | None, projects: int, rounds: int, *, spoil: bool
) -> None:
    from api.display import Display, print_report
    from api.replay import Progress, Target
    from api.replay import replay as run
    from api.stack import Stack
    from streams.trace import read_trace

    trace = read_trace(file)
    started_at = time.monotonic()
    _stop_on_signals()
    with ExitStack() as cleanup:
        if data_dir is None:
            data_dir = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="meterline-")))
        settings = Settings().model_copy(update={"data_dir": data_dir})
        if not stay:
            settings.api_port = settings.clickhouse_front_port = 0
        progress = Progress()
        try:
            display = cleanup.enter_context(Display(console, progress, quiet=as_json))
            stack = Stack(settings, progress=not as_json, tell=display.tell)
            cleanup.enter_context(stack)
            target = Target(stack.settings, stack.url, stack.clickhouse_url, stack.admin_key)

            def on_progress() -> None:
                stack.check()
                display.update()

            report = asyncio.run(
                run(
                    target,
                    trace,
                    project_count=projects,
                    rounds=rounds,
                    spoil=spoil,
                    started_at=started_at,
                    progress=progress,
                    on_progress=on_progress,
                )
            )
            display.stop()
            if as_json:
                _print_json(report.as_json())
            else:
                print_report(Console(highlight=False), report, stack.url)
            if stay:
                _tell_where(stack, None)
                while True:
                    stack.check()
                    time.sleep(0.25)
        except KeyboardInterrupt:
            console.print("stopped")
            raise typer.Exit(0 if stay else 130) from None
    if report.balance_drift_microcredits:
        raise typer.Exit(1)


def _tell_where(stack: Any, seconds: float | None) -> None:
    if seconds is not None:
        console.print(f"Meterline is up ({seconds:.1f} s)")
    console.print(f"  API         {stack.url}    docs {stack.url}/docs", soft_wrap=True)
    console.print(f"  ClickHouse  {stack.clickhouse_url}    (curl '{stack.clickhouse_url}/?query=...')", soft_wrap=True)
    console.print(f"  Kafka       {stack.settings.kafka_url}", soft_wrap=True)
    console.print(f"  admin key   {stack.settings.data_dir / 'admin-key'}", soft_wrap=True)
    console.print(f"  logs        {stack.logs_dir}", soft_wrap=True)
    console.print("Ctrl-C stops it")


def _stop_on_signals() -> None:
    """Let SIGTERM end a command the way Ctrl-C does, so that what was started is stopped."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
