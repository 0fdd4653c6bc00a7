"""The price broadcast gives every partition the same price books in the same order, whatever was cut short, and takes
withdrawn ones from all."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from api.stack import Stack
from schemas.commands import PublishPrices, WithdrawPrices
from schemas.prices import FIRST_PRICE_BOOK, PriceBook
from schemas.times import DAY_MS
from streams.core.price_list import PRICES_ID
from streams.kafka.command_client import CommandClient
from streams.kafka.publisher import Publisher
from streams.settings import Settings
from streams.state.accounts_view import AccountsView
from streams.state.price_broadcast import PriceBroadcast

PARTITIONS = 4


def book(version: str, number: int) -> PriceBook:
    now_ms = time.time_ns() // 1_000_000
    rates = FIRST_PRICE_BOOK.rates | {"op.new": 10 - number}
    return PriceBook(version, now_ms + number, rates, FIRST_PRICE_BOOK.plan_required, {}, now_ms)


def test_a_partition_that_was_left_out_is_told_in_order(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(api_port=0, clickhouse_front_port=0, partitions=PARTITIONS)

    async def scenario(live: Settings) -> None:
        publisher = Publisher(live)
        commands, accounts = CommandClient(live, publisher), AccountsView(live, tmp_path / "view")
        await publisher.start()
        await commands.start()
        await accounts.start()
        try:
            await until(lambda: accounts.is_ready)
            one, two = book("one", 1), book("two", 2)

            async def tell(partition: int, told: PriceBook, after: str) -> Any:
                command = PublishPrices(project=PRICES_ID, book=told, after=after, **commands.addressing())
                return (await commands.decide(command, partition))[0]

            # The process that announced the first book died after two partitions.
            for partition in (0, 2):
                assert (await tell(partition, one, "2026-01")).status == 200
            # Another operator's book can't overtake the first one where that is missing.
            assert (await tell(3, two, "one")).code == "price_list_changed"
            assert (await tell(0, two, "2026-01")).code == "price_list_changed"
            await until(lambda: accounts.prices().version("one") is not None)
            broadcast = PriceBroadcast(commands, accounts, PARTITIONS)
            await broadcast.announce(two, "one")
            await until(lambda: all(versions(accounts, each) == ["one", "two"] for each in range(PARTITIONS)))

            async def withdraw(partition: int, told: PriceBook) -> Any:
                addressing = commands.addressing()
                command = WithdrawPrices(project=PRICES_ID, book=told, is_decided=partition != 0, **addressing)
                return (await commands.decide(command, partition))[0]

            # The process that withdrew the third book died after two partitions; one had never been told of the book.
            three, four = replace(book("three", 3), in_days=1), replace(book("four", 4), in_days=2)
            for partition in (0, 1, 2):
                assert (await tell(partition, three, "two")).status == 200
            for partition in (0, 1):
                assert (await withdraw(partition, three)).code == ""
            await until(lambda: accounts.prices().is_withdrawn("three"))
            await broadcast.announce(four, "two")
            await until(lambda: all(versions(accounts, each) == ["one", "two", "four"] for each in range(PARTITIONS)))
            assert all(accounts.prices_in(each).is_withdrawn("three") for each in range(PARTITIONS))
            await broadcast.withdraw(four)
            await until(lambda: all(versions(accounts, each) == ["one", "two"] for each in range(PARTITIONS)))
        finally:
            await accounts.stop()
            await commands.stop()
            await publisher.stop()

    with Stack(settings) as stack:
        asyncio.run(scenario(stack.settings))


def replace(book: PriceBook, in_days: int) -> PriceBook:
    """The book, in effect in so many days."""
    return msgspec.structs.replace(book, effective_at_ms=book.effective_at_ms + in_days * DAY_MS)


def versions(accounts: AccountsView, partition: int) -> list[str]:
    return [each.version for each in accounts.prices_in(partition).books[1:]]


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not check():
            await asyncio.sleep(0.02)
