"""The tick: idle projects in which something is due are named on intake, and the owner books it.

Nothing is decided here. A project that is touched in time is settled then; the entries are the same either way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from itertools import islice

import msgspec

from schemas.commands import Tick
from streams.core.foreign import UnreadableError, read
from streams.kafka.clock import now_ms
from streams.kafka.codecs import account_body, encode_intake
from streams.kafka.publisher import Publisher
from streams.kafka.topics import Topics
from streams.settings import Settings
from streams.state.damage import DamagedError
from streams.state.rocks import PartitionFile
from streams.worker.tables import BatchTable

log = logging.getLogger(__name__)

PROJECTS_A_TICK = 200
# Rows read at a time: so few that a batch of usage waits some milliseconds at most.
ROWS_AT_ONCE = 500
# A sweep over many accounts is spread out: it takes at most this part of a core.
SHARE_OF_A_CORE = 0.02


class _Due(msgspec.Struct, array_like=True):
    """An account as a sweep reads it: only `project` and `due_at_ms` are decoded."""

    project: str
    name: msgspec.Raw
    plan: msgspec.Raw
    allowance: msgspec.Raw
    signed_up_at_ms: msgspec.Raw
    renews_at_ms: msgspec.Raw
    grants: msgspec.Raw
    keys: msgspec.Raw
    opened_offset: msgspec.Raw
    last_offset: msgspec.Raw
    last_at_ms: msgspec.Raw
    next_plan: msgspec.Raw = msgspec.Raw()
    next_allowance: msgspec.Raw = msgspec.Raw()
    is_in_good_standing: msgspec.Raw = msgspec.Raw()
    closed_at_ms: msgspec.Raw = msgspec.Raw()
    price_cents: msgspec.Raw = msgspec.Raw()
    next_price_cents: msgspec.Raw = msgspec.Raw()
    billing_account: msgspec.Raw = msgspec.Raw()
    holds: msgspec.Raw = msgspec.Raw()
    items: msgspec.Raw = msgspec.Raw()
    month_ends_at_ms: msgspec.Raw = msgspec.Raw()
    auto_recharge: msgspec.Raw = msgspec.Raw()
    badge_off: msgspec.Raw = msgspec.Raw()
    due_at_ms: int = 0


_decode_due = msgspec.msgpack.Decoder(_Due).decode


class Sweeper:
    """A Sweeper looks through the accounts of this worker's partitions, again and again."""

    def __init__(self, settings: Settings, topics: Topics, publisher: Publisher, accounts: BatchTable) -> None:
        self._every_seconds = settings.tick_seconds
        self._topic = topics.intake
        self._publisher = publisher
        self._accounts = accounts

    async def run(self) -> None:
        """Sweep every open partition for ever, unless the settings turn it off. A sweep that fails is tried again."""
        while self._every_seconds:
            await asyncio.sleep(self._every_seconds)
            try:
                for partition in self._accounts.open_partitions():
                    await self.sweep(partition)
            except (asyncio.CancelledError, DamagedError):
                raise
            except Exception:
                log.exception("idle projects could not be looked through; trying again")

    async def sweep(self, partition: int) -> None:
        """Name on intake the projects of a partition in which something is due."""
        after = b""
        while partition in self._accounts.open_partitions():
            began_at = time.perf_counter()
            file = self._accounts.file(partition)
            assert isinstance(file, PartitionFile)
            rows = list(islice(file.items(after), ROWS_AT_ONCE))
            due = list(_due(rows[1:] if after and rows and rows[0][0] == after else rows, now_ms()))
            if due:
                records = [
                    (None, encode_intake(Tick(due[start : start + PROJECTS_A_TICK])))
                    for start in range(0, len(due), PROJECTS_A_TICK)
                ]
                await self._publisher.send_all(self._topic, partition, records)
            if len(rows) < ROWS_AT_ONCE:
                return
            after = rows[-1][0]
            await asyncio.sleep((time.perf_counter() - began_at) / SHARE_OF_A_CORE)


def _due(rows: list[tuple[bytes, bytes]], now_ms: int) -> Iterator[str]:
    for key, value in rows:
        try:
            account = read(_decode_due, account_body(value))
        except UnreadableError as error:
            log.error("the account %r can't be read, and is passed over: %s", key, error)
            continue
        if account.due_at_ms <= now_ms:
            yield account.project
