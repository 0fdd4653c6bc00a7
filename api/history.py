"""The history process behind `meterline historian`: the historians and, where ClickHouse is embedded, its engine and
the engine's HTTP front. It shares no process with the API, so nothing that an analyst asks holds up an admission."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import uvicorn
import uvloop
from prometheus_client import CollectorRegistry, Gauge, Histogram, PlatformCollector, ProcessCollector, generate_latest

from api.connections import ConnectionLimits, Connections
from api.server import listen, until_one_ends
from streams.clickhouse.answer_sink import answer_sink
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.delivery_sink import delivery_sink
from streams.clickhouse.historian import Historian, dead_letter_sink, journal_sink
from streams.clickhouse.migrations import migrate
from streams.clickhouse.retention import keep_passing_facts
from streams.collector import tune_collector
from streams.embedded.clickhouse_front import create_front, stop_queries
from streams.embedded.running import front_token
from streams.kafka.stored import check_stored
from streams.kafka.topic_creation import create_topics
from streams.open_files import OPEN_FILES_OWN, raise_open_files
from streams.settings import Settings

# History gives way to decisions where both want the processor.
NICENESS = 5
# Whoever reads a long result row by row may pause for longer than a caller of the API.
READ_SECONDS = 300.0


def run_historian(settings: Settings) -> None:
    """Write the journal and the dead letters into ClickHouse until SIGTERM or SIGINT. Where ClickHouse is embedded, run
    the engine, and serve its HTTP front too."""
    open_files = raise_open_files()
    tune_collector()
    if settings.clickhouse_url is None:
        _give_way()
        limits = ConnectionLimits.of(settings, open_files - OPEN_FILES_OWN)
        connections = Connections(replace(limits, write_seconds=max(limits.write_seconds, READ_SECONDS)))
        uvloop.run(_run_embedded(settings, listen("127.0.0.1", settings.clickhouse_front_port), connections))
    else:
        uvloop.run(_run_beside_server(settings))


async def _run_beside_server(settings: Settings) -> None:
    await create_topics(settings)
    await check_stored(settings, "journal")
    clickhouse = await asyncio.to_thread(ClickHouse, settings)
    try:
        await asyncio.to_thread(migrate, clickhouse)
        await asyncio.to_thread(keep_passing_facts, clickhouse, settings)
        await until_one_ends([asyncio.create_task(each.run()) for each in historians_of(settings, clickhouse)])
    finally:
        await asyncio.to_thread(clickhouse.close)


async def _run_embedded(settings: Settings, listening: socket.socket, connections: Connections) -> None:
    clickhouse = await asyncio.to_thread(ClickHouse, settings)
    try:
        await asyncio.to_thread(migrate, clickhouse)
        await asyncio.to_thread(keep_passing_facts, clickhouse, settings)
        historians = historians_of(settings, clickhouse)
        front = create_front(
            clickhouse, token=front_token(settings), open_to_uid=os.getuid(), metrics=_metrics_of(historians)
        )
        config = uvicorn.Config(
            front,
            http=connections.protocol(),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )
        # The front answers at once: what is written already can be asked for while Kafka is away.
        serving = asyncio.create_task(uvicorn.Server(config).serve(sockets=[listening]))
        guarding = asyncio.create_task(connections.run())
        await until_one_ends([serving, guarding, asyncio.create_task(_write(settings, historians))])
    finally:
        await asyncio.to_thread(stop_queries, clickhouse)
        await asyncio.to_thread(clickhouse.close)


async def _write(settings: Settings, historians: Sequence[Historian]) -> None:
    await create_topics(settings)
    await check_stored(settings, "journal")
    tasks = [asyncio.create_task(each.run()) for each in historians]
    try:
        await asyncio.gather(*tasks)
    finally:
        # Where one ends for good, the others leave their groups before ClickHouse is closed.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


_VISIBLE_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30, 60, 300, 3_600)


def _metrics_of(historians: Sequence[Historian]) -> Callable[[], bytes]:
    registry = CollectorRegistry(auto_describe=False)
    for collector in (ProcessCollector, PlatformCollector):
        collector(registry=registry)
    rows = Gauge(
        "meterline_history_rows_total", "Rows this process has written to ClickHouse", ["table"], registry=registry
    )
    stopped = Gauge(
        "meterline_history_stopped", "1 where a record that can't be read stops it", ["table"], registry=registry
    )
    partitions = Gauge(
        "meterline_history_partitions", "Partitions that this process reads on", ["table"], registry=registry
    )
    visible = Histogram(
        "meterline_history_visible_seconds",
        "From when a record was written to the log until its rows could be read",
        ["table"],
        registry=registry,
        buckets=_VISIBLE_SECONDS,
    )
    for each in historians:
        each.on_visible = visible.labels(each.sink.table).observe
        partitions.labels(each.sink.table).set_function(partial(getattr, each, "partitions"))
        stopped.labels(each.sink.table).set_function(partial(_is_stopped, each))
        rows.labels(each.sink.table).set_function(partial(getattr, each, "rows_written"))
    return partial(generate_latest, registry)


def _is_stopped(historian: Historian) -> int:
    return int(bool(historian.stopped))


def historians_of(settings: Settings, clickhouse: ClickHouse) -> list[Historian]:
    """The historians of one history: one writes the journal, one the dead letters, one the answers, one the
    deliveries."""
    return [
        Historian(settings, clickhouse, journal_sink(settings)),
        Historian(settings, clickhouse, dead_letter_sink(settings)),
        Historian(settings, clickhouse, answer_sink(settings)),
        Historian(settings, clickhouse, delivery_sink(settings)),
    ]


def _give_way() -> None:
    """Lower this process's priority, before it has other threads: they inherit it."""
    os.nice(NICENESS)
    # Linux may schedule sessions as groups; then niceness counts within a session only, and the group has its own.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICENESS))
