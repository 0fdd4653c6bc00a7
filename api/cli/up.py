"""`meterline up` runs all of Meterline on this machine."""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType
from typing import Annotated, Any

import typer

from api.cli.output import console, styled
from streams.settings import Settings

app = typer.Typer()


@app.command()
def up(
    workers: Annotated[int, typer.Option("--workers", min=1, max=16, help="How many worker processes to run.")] = 1,
) -> None:
    """Run all of Meterline until Ctrl-C: Kafka, worker, API and ClickHouse."""
    from api.stack import Stack

    settings = Settings()
    stop_on_signals()
    started_at = time.monotonic()
    stack = Stack(settings, workers=workers, progress=True, tell=lambda text: console.print(styled((text, "dim"))))
    try:
        with stack:
            tell_where(stack, time.monotonic() - started_at)
            while True:
                stack.check()
                time.sleep(0.25)
    except KeyboardInterrupt:
        console.print("stopped")


def tell_where(stack: Any, seconds: float | None) -> None:
    """Print where a running stack can be reached, and how many seconds its start took if that is given."""
    if seconds is not None:
        console.print(f"Meterline is up ({seconds:.1f} s)")
    console.print(f"  API         {stack.url}    docs {stack.url}/docs", soft_wrap=True)
    console.print(f"  dashboard   {stack.url}/dashboard", soft_wrap=True)
    console.print(f"  ClickHouse  {stack.clickhouse_url}    (curl '{stack.clickhouse_url}/?query=...')", soft_wrap=True)
    if sys.platform != "linux":  # elsewhere the kernel does not tell who asks
        console.print(
            f"              with -H \"X-ClickHouse-Key: $(cat '{stack.settings.front_token_path}')\"", soft_wrap=True
        )
    console.print(f"  metrics     {stack.metrics_url}", soft_wrap=True)
    console.print(f"  Kafka       {stack.settings.kafka_url}", soft_wrap=True)
    console.print(f"  admin key   {stack.settings.data_dir / 'admin-key'}", soft_wrap=True)
    console.print(f"  logs        {stack.logs_dir}", soft_wrap=True)
    console.print("Ctrl-C stops it")


def stop_on_signals() -> None:
    """Let SIGTERM end a command the way Ctrl-C does, so that what was started is stopped."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
