"""A helper that sends commands to a running stack directly, without the HTTP service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from schemas.commands import AnyCommand
from schemas.replies import Reply
from streams.kafka.command_client import CommandClient
from streams.kafka.publisher import Publisher
from streams.settings import Settings

MakeCommand = Callable[[dict[str, Any]], AnyCommand]


def decide(settings: Settings, *makers: MakeCommand) -> list[tuple[Reply, int]]:
    """Send commands, and return their replies, each with its intake offset. A maker makes a command from the fields
    that say who asks."""

    async def ask() -> list[tuple[Reply, int]]:
        publisher = Publisher(settings)
        await publisher.start()
        client = CommandClient(settings, publisher)
        await client.start()
        try:
            return [await client.decide(make(client.addressing())) for make in makers]
        finally:
            await client.stop()
            await publisher.stop()

    return asyncio.run(ask())
