"""The parts that the API process runs: commands, the accounts view, questions to ClickHouse, and on a laptop, where
ClickHouse is embedded, the cashier."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from api.answers import KeptAnswers
from api.invoice_logo import logo_url
from api.live_ledger import LiveLedger
from api.pipeline import Pipeline
from api.reads import HistoryReads
from api.refusals import DecidedKeys, Refusals
from streams.cashier.payments import payments_of
from streams.cashier.purchases import Cashier
from streams.clickhouse.client import CALLS_AT_ONCE_MAX, ClickHouse
from streams.collector import tune_collector
from streams.embedded.running import asking_history
from streams.history.month_end import Closing
from streams.kafka.clock import now_ms
from streams.kafka.command_client import CommandClient
from streams.kafka.publisher import Publisher
from streams.kafka.stored import check_stored
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import Topics, topics_of
from streams.reconcile.drift import DriftCheck
from streams.settings import Settings
from streams.state.accounts_view import AccountsView
from streams.state.price_broadcast import PriceBroadcast

log = logging.getLogger(__name__)

THREADS_MAX = 2 * CALLS_AT_ONCE_MAX + 8


@dataclass(slots=True)
class Services:
    """The running parts of this API process. Without a `cashier`, another process does its work."""

    settings: Settings
    topics: Topics
    publisher: Publisher
    commands: CommandClient
    accounts: AccountsView
    clickhouse: ClickHouse
    drift: DriftCheck
    price_broadcast: PriceBroadcast
    cashier: Cashier | None = None
    pipeline: Pipeline = field(init=False)
    closing: Closing = field(init=False)
    reads: HistoryReads = field(init=False)
    live_ledger: LiveLedger = field(init=False)
    refusals: Refusals = field(init=False)
    answers: KeptAnswers = field(init=False)
    invoice_logo: str = field(init=False)
    decided_keys: DecidedKeys = field(default_factory=DecidedKeys)
    started_at_ms: int = field(default_factory=now_ms)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.closing = Closing(self.settings, self.clickhouse)
        self.reads = HistoryReads(self.settings, self.clickhouse)
        self.live_ledger = LiveLedger(self.settings, self.accounts, self.reads)
        self.pipeline = Pipeline(self.settings, self.commands, self.accounts)
        self.refusals = Refusals(self.commands)
        self.answers = KeptAnswers(self.settings, self.publisher, self.commands.reply_partition)
        self.invoice_logo = logo_url(self.settings)

    async def watch(self) -> None:
        """End this process, as SIGTERM would, once a part has failed for good. Its supervisor starts it afresh."""
        while True:
            await asyncio.sleep(0.5)
            alive = {
                "publisher": self.publisher.is_alive,
                "replies": self.commands.is_alive,
                "accounts": self.accounts.is_alive,
            } | {name: not task.done() for name, task in self._tasks.items()}
            failed = [name for name, is_alive in alive.items() if not is_alive]
            if failed:
                log.critical("the API stops: %s failed", ", ".join(failed))
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def embed(self) -> None:
        """Start the cashier in this process; in production it is a process of its own."""
        self.cashier = Cashier(self.settings, payments_of(self.settings), self.publisher, self.commands)
        self._tasks["cashier"] = asyncio.create_task(self.cashier.run())

    async def end_embedded(self) -> None:
        """Stop the embedded cashier."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def parts_ready(self) -> dict[str, bool]:
        """The names of the parts, and for each whether it can serve."""
        return {part: not why for part, why in self.pipeline.waiting().items()}

    async def dead_letters_by_code(self) -> list[tuple[str, int]]:
        """How many dead letters history has of each code."""
        sql = "SELECT code, count() FROM dead_letters GROUP BY code ORDER BY code"
        return [(row[0], row[1]) for row in await asyncio.to_thread(self.clickhouse.query, sql)]


@asynccontextmanager
async def running_services(settings: Settings) -> AsyncIterator[Services]:
    """Start every part, in the order in which they need each other; on leaving, stop them in reverse.

    ClickHouse need not be there: money does not wait for history, and what asks for history says that it is away.
    """
    # Questions that wait for a history that hangs must not use up the threads that others work in.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS_MAX, "work"))
    await create_topics(settings)
    await check_stored(settings, "accounts", "journal", "replies")
    clickhouse = ClickHouse(asking_history(settings), connect=False)
    try:
        publisher = Publisher(settings)
        accounts = AccountsView(settings, settings.api_dir)
        commands = CommandClient(settings, publisher)
        services = Services(
            settings,
            topics_of(settings),
            publisher,
            commands,
            accounts,
            clickhouse,
            DriftCheck(accounts, clickhouse),
            PriceBroadcast(commands, accounts, settings.partitions),
        )
        await publisher.start()
        try:
            await services.commands.start()
            await services.accounts.start()
            if settings.clickhouse_url is None:
                services.embed()
            background = [
                asyncio.create_task(services.watch()),
                asyncio.create_task(services.drift.run()),
                asyncio.create_task(services.price_broadcast.run()),
                asyncio.create_task(services.pipeline.run()),
                asyncio.create_task(services.pipeline.count_dead_letters(services.dead_letters_by_code)),
                asyncio.create_task(services.refusals.run()),
                asyncio.create_task(services.answers.run()),
                asyncio.create_task(services.live_ledger.run()),
            ]
            tune_collector()
            try:
                yield services
            finally:
                for each in background:
                    each.cancel()
                await services.refusals.tell_all()
                await services.answers.send()
        finally:
            await services.live_ledger.stop()
            services.reads.close()
            await services.end_embedded()
            await services.accounts.stop()
            await services.commands.stop()
            await publisher.stop()
    finally:
        await asyncio.to_thread(clickhouse.close)
