"""The parts that the API process runs: commands, the accounts view, ClickHouse, and, where ClickHouse is embedded, the
historians and the cashier."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from streams.cashier.payments import payments_of
from streams.cashier.purchases import Cashier
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.historian import Historian, dead_letter_sink, journal_sink
from streams.clickhouse.migrations import migrate
from streams.collector import tune_collector
from streams.history.month_end import Closing
from streams.kafka.command_client import CommandClient
from streams.kafka.publisher import Publisher
from streams.kafka.topics import Topics, create_topics, topics_of
from streams.reconcile.drift import DriftCheck
from streams.settings import Settings
from streams.state.accounts_view import AccountsView
from streams.state.price_broadcast import PriceBroadcast

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Services:
    """The running parts of this API process. Without `historians` and `cashier`, other processes do their work."""

    settings: Settings
    topics: Topics
    publisher: Publisher
    commands: CommandClient
    accounts: AccountsView
    clickhouse: ClickHouse
    drift: DriftCheck
    price_broadcast: PriceBroadcast
    historians: list[Historian] = field(default_factory=list)
    cashier: Cashier | None = None
    closing: Closing = field(init=False)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.closing = Closing(self.settings, self.clickhouse)

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
        """Start the historians and the cashier in this process; in production they are processes of their own."""
        self.historians = historians_of(self.settings, self.clickhouse)
        self.cashier = Cashier(self.settings, payments_of(self.settings), self.publisher, self.commands)
        self._tasks = {f"historian of {each.sink.table}": asyncio.create_task(each.run()) for each in self.historians}
        self._tasks["cashier"] = asyncio.create_task(self.cashier.run())

    async def end_embedded(self) -> None:
        """Stop the embedded historians and cashier."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def parts_ready(self) -> dict[str, bool]:
        """The names of the parts, and for each whether it can serve."""
        parts = {"accounts": self.accounts.is_ready}
        if self.historians:
            parts["history"] = all(each.ready.is_set() for each in self.historians)
        return parts


@asynccontextmanager
async def running_services(settings: Settings) -> AsyncIterator[Services]:
    """Start every part, in the order in which they need each other; on leaving, stop them in reverse."""
    await create_topics(settings)
    clickhouse = await asyncio.to_thread(ClickHouse, settings)
    try:
        await asyncio.to_thread(migrate, clickhouse)
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
            ]
            tune_collector()
            try:
                yield services
            finally:
                for each in background:
                    each.cancel()
        finally:
            await services.end_embedded()
            await services.accounts.stop()
            await services.commands.stop()
            await publisher.stop()
    finally:
        await asyncio.to_thread(clickhouse.close)


def historians_of(settings: Settings, clickhouse: ClickHouse) -> list[Historian]:
    """The historians of one history: one writes the journal, the other the dead letters."""
    return [
        Historian(settings, clickhouse, journal_sink(settings)),
        Historian(settings, clickhouse, dead_letter_sink(settings)),
    ]
