"""The worker: a Faust app whose agents are `accept` and `owner`."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import sys
import time
from collections.abc import Collection
from importlib.metadata import version
from typing import Any, NoReturn

import faust
import uvloop
from aiokafka import TopicPartition
from faust.exceptions import ConsumerNotStarted
from faust.types import TP
from yarl import URL

from streams.collector import tune_collector
from streams.errors import EXIT_LASTING, LastingError, OperatorError
from streams.kafka.publisher import Publisher
from streams.kafka.stored import check_stored
from streams.kafka.topic_creation import create_topics, first_record_from
from streams.kafka.topics import FETCH_BYTES, Topics, kafka_client_settings, topics_of
from streams.open_files import raise_open_files
from streams.settings import Settings
from streams.space import no_space
from streams.state.directory import claim
from streams.worker.accept import Accept
from streams.worker.agents import GATHER_SECONDS, Owner
from streams.worker.batches import work
from streams.worker.clocks import Clocks, check_clocks
from streams.worker.decider import OwnTables
from streams.worker.lease import Lease
from streams.worker.membership import leave_for_predecessor, lock
from streams.worker.port import Figures, WorkerPort
from streams.worker.recovery import TableManager
from streams.worker.sweeper import Sweeper
from streams.worker.tables import accounts_table, reply_tables, seen_table
from streams.worker.transport import Transport
from streams.worker.watchdog import Watchdog

log = logging.getLogger(__name__)

EXIT_FAILED = 70


class WorkerApp(faust.App):  # type: ignore[misc]
    """The Faust app of a worker, with our own transport and producer."""

    settings: Settings
    publisher: Publisher
    lease: Lease
    figures: Figures

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self, loop=self.loop)

    async def on_start(self) -> None:
        """Connect our producer before any agent runs."""
        await super().on_start()
        await self.publisher.start()

    async def on_shutdown(self) -> None:
        """Disconnect our producer after the last agent has stopped.

        During `on_stop` agents still run: one that finds the producer closed would end the process before it has left
        the group.
        """
        await super().on_shutdown()
        await self.publisher.stop()

    def _crash(self, reason: BaseException) -> None:
        """End the process where one of Faust's services has failed for a reason that needs no traceback."""
        if isinstance(reason, OperatorError):
            _exit(str(reason), told=True, code=_code_of(reason))
        super()._crash(reason)


def create_app(settings: Settings) -> WorkerApp:
    """Create the worker's app, its agents wired to their topics and tables."""
    topics = topics_of(settings)
    app = _faust_app(settings, topics)
    app.settings = settings
    publisher = app.publisher = Publisher(settings)
    figures = app.figures = Figures()
    app.lease = Lease(settings.session_timeout_seconds)
    accounts = accounts_table(app, settings)
    tables = OwnTables(accounts, seen_table(app, settings), *reply_tables(app, settings))

    def committed(partition: int) -> int | None:
        offset: int | None = app.consumer._committed_offset.get(TP(topics.intake, partition))
        return offset

    async def first_record(partition: int, offset: int) -> int | None:
        return await first_record_from(settings, TopicPartition(topics.intake, partition), offset)

    accept = Accept(settings, topics, publisher, accounts)
    owner = Owner(settings, topics, publisher, tables, app.lease, committed, first_record)
    decide = figures.counting("intake", Clocks(settings).before(owner.apply))
    take_usage = figures.counting("usage", accept.apply)
    sweeper = Sweeper(settings, topics, publisher, accounts)
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}

    @app.agent(app.topic(topics.usage, **raw), name="meterline.accept")  # type: ignore[untyped-decorator]
    async def accept_usage(stream: Any) -> None:
        await _or_exit(work(stream, settings.batch_records_max, is_current, take_usage), settings)

    @app.agent(app.topic(topics.intake, **raw), name="meterline.owner")  # type: ignore[untyped-decorator]
    async def own_accounts(stream: Any) -> None:
        await _or_exit(work(stream, settings.batch_records_max, is_current, decide, GATHER_SECONDS), settings)

    @app.task  # type: ignore[untyped-decorator]
    async def tick() -> None:
        await _or_exit(sweeper.run(), settings)

    @app.task  # type: ignore[untyped-decorator]
    async def run_on() -> None:
        while True:
            figures.ran_at = time.monotonic()
            await asyncio.sleep(1.0)

    def is_current(event: Any) -> bool:
        return bool(event.message.generation_id == app.consumer_generation_id)

    return app


def _faust_app(settings: Settings, topics: Topics) -> WorkerApp:
    """The Faust app as our settings have it, without agents."""
    assert settings.kafka_url is not None
    return WorkerApp(
        topics.worker_app,
        broker=[URL(f"kafka://{address}") for address in settings.kafka_url.split(",")],
        broker_credentials=_credentials(settings),
        # Whoever looks at the group sees who is in it: `meterline status` does.
        broker_client_id=f"{settings.worker_name}@{version('meterline')}",
        store="memory://",
        datadir=str(settings.worker_dir / "faust"),
        topic_partitions=settings.partitions,
        topic_replication_factor=settings.replication_factor,
        # `create_topics` has made all topics, with our settings; Faust's own would differ.
        topic_allow_declare=False,
        topic_disable_leader=True,
        # A standby copy may miss a record when the flow stops (docs/decisions/0010).
        table_standby_replicas=0,
        processing_guarantee="at_least_once",
        consumer_auto_offset_reset="earliest",
        broker_commit_interval=0.5,
        broker_session_timeout=settings.session_timeout_seconds,
        broker_heartbeat_interval=max(0.3, settings.session_timeout_seconds / 3),
        # Records may have a megabyte each: these two bound how many a worker holds.
        broker_max_poll_records=100,
        stream_buffer_maxsize=100,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        stream_publish_on_commit=False,
        producer_request_timeout=30.0,
        consumer_max_fetch_size=FETCH_BYTES,
        TableManager=TableManager,
        web_enabled=False,
        worker_redirect_stdouts=False,
    )


def run_worker(settings: Settings) -> NoReturn:
    """Run a worker until it is told to stop (SIGTERM, SIGINT) or fails. Never returns.

    Raises TopicError where the topics are not as they must be.
    """
    held = lock(settings.worker_dir, "worker")
    asyncio.run(_prepare(settings))
    uvloop.install()
    app = create_app(settings)
    raise_open_files()
    tune_collector()
    _watchdog(app, settings).start()
    if settings.worker_metrics_port is not None:
        WorkerPort(settings, app.figures, lambda: _assigned(app)).start()
    worker = faust.Worker(app, loglevel=settings.log_level, override_logging=False, redirect_stdouts=False, quiet=True)
    with held:
        raise SystemExit(worker.execute_from_commandline())


def _watchdog(app: WorkerApp, settings: Settings) -> Watchdog:
    def recovered() -> int:
        return sum(app.tables.recovery.active_offsets.copy().values())

    return Watchdog(settings, lambda: _assigned(app), recovered, _exit)


def _assigned(app: WorkerApp) -> Collection[tuple[str, int]]:
    """The partitions that this worker has. Threads ask for them."""
    try:
        return app.consumer.assignment() if app._consumer is not None else ()
    except ConsumerNotStarted:
        return ()


async def _prepare(settings: Settings) -> None:
    await create_topics(settings)
    await check_stored(settings, "accounts", "journal", "intake", "kept replies", "recent replies")
    await claim(settings.worker_dir, settings)
    await check_clocks(settings)
    await leave_for_predecessor(settings, settings.worker_dir, topics_of(settings).worker_app)


async def _or_exit(running: Any, settings: Settings) -> None:
    try:
        await running
    except asyncio.CancelledError:
        raise
    except OperatorError as error:
        _exit(str(error), told=True, code=_code_of(error))
    except BaseException as error:
        full = no_space(error, settings.worker_dir)
        _exit(full or "an agent failed", told=full is not None)


def _code_of(error: OperatorError) -> int:
    return EXIT_LASTING if isinstance(error, LastingError) else EXIT_FAILED


def _exit(why: str, told: bool = False, code: int = EXIT_FAILED) -> NoReturn:
    """End the process at once, acknowledging nothing. Records in flight are redelivered to the next worker. Where `why`
    has `told` all there is to tell, no traceback follows it."""
    log.critical("worker stops: %s", why, exc_info=not told)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)


def _credentials(settings: Settings) -> Any:
    protocol = settings.kafka_security_protocol
    if protocol == "PLAINTEXT":
        return None
    context = kafka_client_settings(settings).get("ssl_context")
    if protocol == "SSL":
        return faust.SSLCredentials(context=context)
    assert context is None or isinstance(context, ssl.SSLContext)
    return faust.SASLCredentials(
        mechanism=settings.kafka_sasl_mechanism,
        username=settings.kafka_sasl_username,
        password=settings.kafka_sasl_secret,
        ssl_context=context,
    )
