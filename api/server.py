"""The processes behind `meterline api` and `meterline historian`."""

from __future__ import annotations

import asyncio
import signal

import uvicorn

from api.app import create_app
from api.services import historians_of
from streams.clickhouse import ClickHouse
from streams.migrations import migrate
from streams.settings import Settings
from streams.topics import create_topics


def run_api(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    uvicorn.run(
        create_app(settings),
        host=settings.api_host,
        port=settings.api_port,
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )


def run_historian(settings: Settings) -> None:
    """Write history until SIGTERM or SIGINT."""
    asyncio.run(_write_history(settings))


async def _write_history(settings: Settings) -> None:
    await create_topics(settings)
    clickhouse = await asyncio.to_thread(ClickHouse, settings)
    try:
        await asyncio.to_thread(migrate, clickhouse)
        tasks = [asyncio.create_task(each.run()) for each in historians_of(settings, clickhouse)]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: [task.cancel() for task in tasks])
        results = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        await asyncio.to_thread(clickhouse.close)
    for result in results:
        if isinstance(result, Exception):
            raise result
