"""Commands that run one process of Meterline, or prepare what the processes need. Each imports only its own parts."""

from __future__ import annotations

import asyncio

import typer

from api.cli.output import console
from streams import logs
from streams.settings import Settings

app = typer.Typer()


@app.command()
def worker() -> None:
    """Run a worker: it accepts usage, and owns and decides accounts."""
    from streams.worker.app import run_worker

    settings = Settings()
    logs.configure(settings, settings.worker_name)
    run_worker(settings)


@app.command()
def api() -> None:
    """Run the HTTP service; with the embedded ClickHouse, the historian and the cashier too."""
    from api.server import run_api

    settings = Settings()
    logs.configure(settings, settings.api_name)
    run_api(settings)


@app.command()
def historian() -> None:
    """Run a historian: it writes the journal into the ClickHouse server of METERLINE_CLICKHOUSE_URL."""
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
    """Create the Kafka topics that are missing, and check the others."""
    from streams.kafka.topics import create_topics, topics_of

    settings = Settings()
    created = asyncio.run(create_topics(settings))
    for name in topics_of(settings).configs():
        console.print(f"{name}: {'created' if name in created else 'there'}, {settings.partitions} partitions")


@app.command()
def migrate() -> None:
    """Bring the ClickHouse schema up to date."""
    from streams.clickhouse.client import ClickHouse
    from streams.clickhouse.migrations import migrate as apply

    clickhouse = ClickHouse(Settings())
    try:
        applied = apply(clickhouse)
    finally:
        clickhouse.close()
    console.print("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")
