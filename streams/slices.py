"""Slices: long work in an event loop, done a little at a time, so that all others of the loop have their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")


async def in_slices(steps: Generator[None, None, T]) -> T:
    """The result of work in steps; after each step whatever else waits in the loop has its turn."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)
