"""Commands that run one process of Meterline, or prepare what the processes need. Each imports only its own parts."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from api.cli.output import console, print_json
from streams import logs
from streams.settings import Settings

app = typer.Typer()

# As in api.cli.options, which a process does without.
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")]

PRINCIPAL = "User:meterline-"


@app.command()
def worker() -> None:
    """Run a worker: it accepts usage, and owns and decides accounts."""
    from streams.worker.app import run_worker

    settings = Settings()
    logs.configure(settings, settings.worker_name)
    run_worker(settings)


@app.command()
def api() -> None:
    """Run the HTTP service; where ClickHouse is embedded, the cashier too."""
    from api.server import run_api

    settings = Settings()
    logs.configure(settings, settings.api_name)
    run_api(settings)


@app.command()
def historian() -> None:
    """Run a historian: it writes the journal into ClickHouse; without METERLINE_CLICKHOUSE_URL, the embedded one."""
    from api.history import run_historian

    settings = Settings()
    logs.configure(settings, "historian")
    run_historian(settings)


@app.command()
def cashier() -> None:
    """Run a cashier: it makes the purchases of auto-recharge, through METERLINE_PAYMENTS."""
    from api.server import run_cashier

    settings = Settings()
    logs.configure(settings, "cashier")
    run_cashier(settings)


@app.command()
def courier() -> None:
    """Run a courier: it delivers notices to webhooks and other endpoints, and tries again where they fail."""
    from api.server import run_courier

    settings = Settings()
    logs.configure(settings, settings.courier_name)
    run_courier(settings)


def _principal(role: str) -> Any:
    return typer.Option(f"--{role}", help=f"With --acls: the principal of the {role}, as in {PRINCIPAL}.")


@app.command()
def topics(
    acls: Annotated[
        bool, typer.Option("--acls", help="Create nothing: print who may use which topic, as kafka-acls.sh commands.")
    ] = False,
    as_json: JsonOption = False,
    worker: Annotated[str, _principal("worker")] = f"{PRINCIPAL}worker",
    api: Annotated[str, _principal("api")] = f"{PRINCIPAL}api",
    historian: Annotated[str, _principal("historian")] = f"{PRINCIPAL}historian",
    cashier: Annotated[str, _principal("cashier")] = f"{PRINCIPAL}cashier",
    courier: Annotated[str, _principal("courier")] = f"{PRINCIPAL}courier",
    operator: Annotated[str, _principal("operator")] = f"{PRINCIPAL}operator",
    producer: Annotated[str, _principal("producer")] = f"{PRINCIPAL}producer",
    gateway: Annotated[
        str, typer.Option("--gateway", help="With --acls: a gateway that asks by Kafka. It could forge top-ups.")
    ] = "",
    transactions: Annotated[
        bool, typer.Option("--transactions", help="With --acls: let producers use transactions.")
    ] = False,
) -> None:
    """Create the Kafka topics that are missing, and check the others."""
    from streams.kafka.acls import Role, access_rules
    from streams.kafka.topic_creation import create_topics
    from streams.kafka.topics import topics_of

    settings = Settings()
    if acls:
        named: dict[Role, str] = {
            "worker": worker,
            "api": api,
            "historian": historian,
            "cashier": cashier,
            "courier": courier,
            "operator": operator,
            "producer": producer,
            "gateway": gateway,
        }
        principals = {role: principal for role, principal in named.items() if principal}
        rules = list(access_rules(topics_of(settings), principals, transactions))
        if as_json:
            print_json([rule.as_json() for rule in rules])
        else:
            print("\n".join(rule.command(settings.kafka_url or "localhost:9092") for rule in rules))
        return
    created = asyncio.run(create_topics(settings))
    if as_json:
        there = {name: "created" if name in created else "there" for name in topics_of(settings).configs()}
        print_json({"partitions": settings.partitions, "topics": there})
        return
    for name in topics_of(settings).configs():
        console.print(f"{name}: {'created' if name in created else 'there'}, {settings.partitions} partitions")


@app.command()
def migrate(as_json: JsonOption = False) -> None:
    """Bring the ClickHouse schema up to date, and wait until older rows have what is new. Ctrl-C leaves that to
    ClickHouse."""
    from api.cli.history import show_backfill
    from streams.clickhouse.client import ClickHouse
    from streams.clickhouse.migrations import migrate as apply
    from streams.clickhouse.retention import keep_passing_facts

    settings = Settings()
    clickhouse = ClickHouse(settings)
    try:
        applied = apply(clickhouse)
        keep_passing_facts(clickhouse, settings)
        show_backfill(clickhouse)
    finally:
        clickhouse.close()
    if as_json:
        print_json({"applied": applied})
        return
    console.print("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")
