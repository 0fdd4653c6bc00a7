"""The history process behind `meterline historian`: the historians and, where ClickHouse is embedded, its engine and
the engine's HTTP front. It shares no process with the API, so nothing that an analyst asks holds up an admission."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path

import uvicorn

from api.server import listen, until_one_ends
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.historian import Historian, dead_letter_sink, journal_sink
from streams.clickhouse.migrations import migrate
from streams.collector import tune_collector
from streams.embedded.clickhouse_front import create_front, stop_queries
from streams.embedded.running import front_token
from streams.kafka.topics import create_topics
from streams.settings import Settings

# History gives way to decisions where both want the processor.
NICENESS = 5


def run_historian(settings: Settings) -> None:
    """Write the journal and the dead letters into ClickHouse until SIGTERM or SIGINT. Where ClickHouse is embedded, run
    the engine, and serve its HTTP front too."""
    tune_collector()
    if settings.clickhouse_url is None:
        _give_way()
        asyncio.run(_run_embedded(settings, listen("127.0.0.1", settings.clickhouse_front_port)))
    else:
        asyncio.run(_run_beside_server(settings))


async def _run_beside_server(settings: Settings) -> None:
    await create_topics(settings)
    clickhouse = await asyncio.to_thread(ClickHouse, settings)
    try:
        await asyncio.to_thread(migrate, clickhouse)
        await until_one_ends([asyncio.create_task(each.run()) for each in historians_of(settings, clickhouse)])
    finally:
        await asyncio.to_thread(clickhouse.close)


async def _run_embedded(settings: Settings, listening: socket.socket) -> None:
    clickhouse = await asyncio.to_thread(ClickHouse, settings)
    try:
        await asyncio.to_thread(migrate, clickhouse)
        front = create_front(clickhouse, token=front_token(settings), open_to_uid=os.getuid())
        config = uvicorn.Config(
            front,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )
        # The front answers at once: what is written already can be asked for while Kafka is away.
        serving = asyncio.create_task(uvicorn.Server(config).serve(sockets=[listening]))
        await until_one_ends([serving, asyncio.create_task(_write(settings, clickhouse))])
    finally:
        await asyncio.to_thread(stop_queries, clickhouse)
        await asyncio.to_thread(clickhouse.close)


async def _write(settings: Settings, clickhouse: ClickHouse) -> None:
    await create_topics(settings)
    await asyncio.gather(*(each.run() for each in historians_of(settings, clickhouse)))


def historians_of(settings: Settings, clickhouse: ClickHouse) -> list[Historian]:
    """The historians of one history: one writes the journal, the other the dead letters."""
    return [
        Historian(settings, clickhouse, journal_sink(settings)),
        Historian(settings, clickhouse, dead_letter_sink(settings)),
    ]


def _give_way() -> None:
    """Lower this process's priority, before it has other threads: they inherit it."""
    os.nice(NICENESS)
    # Linux may schedule sessions as groups; then niceness counts within a session only, and the group has its own.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICENESS))
