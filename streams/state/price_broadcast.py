"""The price broadcast tells every partition of a price book, or of its withdrawal, and tells a partition that a crash
left out again.

The first partition decides: what it refuses is refused. The others follow, each in its own log, so that a
partition rebuilt from its log prices every record as it did the first time.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise

from schemas.commands import PublishPrices, WithdrawPrices
from schemas.prices import PriceBook
from schemas.problems import Rejection
from schemas.replies import Reply
from streams.core.price_list import PRICES_ID
from streams.kafka.command_client import CommandClient
from streams.state.accounts_view import AccountsView

log = logging.getLogger(__name__)

EVERY_SECONDS = 5.0
READ_BACK_SECONDS_MAX = 5.0


class PriceBroadcast:
    """A PriceBroadcast carries price books and their withdrawals to every partition."""

    def __init__(self, commands: CommandClient, accounts: AccountsView, partitions: int) -> None:
        self._commands = commands
        self._accounts = accounts
        self._partitions = partitions

    async def announce(self, book: PriceBook, after: str, actor: str = "") -> None:
        """Announce a book behind the version `after`, by the key `actor`. Returns once every partition has the book.

        Raises the Rejection of the first partition; `decision_timeout` where another one does not answer: `run`
        tells that one again.
        """
        reply = await self._tell(0, book, after, actor)
        if reply.code:
            raise Rejection(reply.code, reply.detail, reply.field or None)
        while self._accounts.prices().version(book.version) is None:
            if not await self._accounts.advanced(READ_BACK_SECONDS_MAX):
                raise Rejection("not_ready", "It is announced; this process has not read it back in time")
        await self.complete()

    async def withdraw(self, book: PriceBook, actor: str = "") -> None:
        """Withdraw a book, by the key `actor`. Returns once no partition has the book in its price list. Raises as
        `announce` does."""
        reply = await self._withdraw(0, book, actor)
        if reply.code:
            raise Rejection(reply.code, reply.detail, reply.field or None)
        while not self._accounts.prices().is_withdrawn(book.version):
            if not await self._accounts.advanced(READ_BACK_SECONDS_MAX):
                raise Rejection("not_ready", "It is withdrawn; this process has not read it back in time")
        await self.complete()

    async def run(self) -> None:
        """Tell partitions the books and withdrawals they lack, for ever."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            if not self._accounts.is_ready:
                continue
            try:
                await self.complete()
            except Rejection as rejection:
                log.warning("a price book could not be carried to every partition yet: %s", rejection.detail)

    async def complete(self) -> None:
        """Tell each partition, in order, the withdrawals and then the books that the first partition has and it has
        not: a book goes behind the last one that holds."""
        prices = self._accounts.prices()
        for book in (book for book, withdrawn_at_ms in prices.announcements if withdrawn_at_ms):
            lacking = [each for each in self._others() if not self._accounts.prices_in(each).is_withdrawn(book.version)]
            await asyncio.gather(*(self._withdraw(partition, book) for partition in lacking))
        for before, book in pairwise(prices.books):
            lacking = [each for each in self._others() if book not in self._accounts.prices_in(each).books]
            replies = await asyncio.gather(*(self._tell(partition, book, before.version) for partition in lacking))
            for partition, reply in zip(lacking, replies, strict=True):
                if reply.code:
                    # The partition lacks the book before, or another process was quicker: the next round will tell.
                    log.warning("price book %s: partition %d says %s", book.version, partition, reply.detail)

    def _others(self) -> range:
        return range(1, self._partitions)

    async def _withdraw(self, partition: int, book: PriceBook, actor: str = "") -> Reply:
        addressing = self._commands.addressing(actor=actor)
        command = WithdrawPrices(project=PRICES_ID, book=book, is_decided=partition != 0, **addressing)
        reply, _ = await self._commands.decide(command, partition)
        return reply

    async def _tell(self, partition: int, book: PriceBook, after: str, actor: str = "") -> Reply:
        command = PublishPrices(project=PRICES_ID, book=book, after=after, **self._commands.addressing(actor=actor))
        reply, _ = await self._commands.decide(command, partition)
        return reply
