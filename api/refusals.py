"""Refusals at the edge: requests that this process refuses by itself, since the owner would, and how they are counted.

A request that a full window stops would be a record on Kafka, an account to write and a fact, for ever. The copy of the
account that this process has says as much, and costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from dataclasses import dataclass

import msgspec

from schemas.accounts import Account
from schemas.commands import CountRefused
from schemas.events import Usage
from schemas.replies import RateState
from streams.core.ledger import settled
from streams.core.limits import limits_of
from streams.core.price_list import Prices
from streams.core.waits import passes_at_ms
from streams.core.windows import advance, rate_state, request_retry_at_ms
from streams.kafka.clock import now_ms
from streams.kafka.command_client import CommandClient

log = logging.getLogger(__name__)

# A copy of the accounts that is older says nothing about now: limits may have been raised.
COPY_LAG_MS_MAX = 1_000
EVERY_SECONDS = 1.0
# A key and a method at a time; what is beside them is counted without its key.
TALLIES_A_PROJECT_MAX = 64
# Some 100 bytes each.
KEYS_REMEMBERED_MAX = 100_000


def may_be_full(account: Account) -> bool:
    """Whether it is worth asking `full_window`: nearly always it is not, and this costs next to nothing."""
    window = account.window
    return window is not None and window.requests >= limits_of(account).requests_per_minute


def full_window(account: Account, prices: Prices, owner_ms: int) -> RateState | None:
    """The state of a project's window where it is certain that the owner refuses what comes at `owner_ms` or before;
    None where it may pass.

    `account` is a copy that the owner may be ahead of; it is settled here. The owner's window holds what the copy's
    does, and more: requests only add, and time alone takes away. So a window that is full here is full there.
    `owner_ms` is the latest that the owner's clock, which is the broker's, can show.
    """
    settled(account, owner_ms, prices)
    window, limits = account.window, limits_of(account)
    if window is None:
        return None
    advance(window, limits, owner_ms)
    if not request_retry_at_ms(window, limits):
        return None
    return rate_state(window, limits, owner_ms, passes_at_ms(account, prices, window.at_ms))


def full_for(account: Account, prices: Prices, full: RateState, usage: Usage, is_job: bool) -> RateState:
    """The state of a window that is `full`, for an admission: one that costs something waits for the cost ceiling too.
    `account` is the copy that `full_window` has settled."""
    assert account.window is not None
    retry_at_ms = passes_at_ms(account, prices, account.window.at_ms, usage, is_job=is_job)
    return msgspec.structs.replace(full, retry_at_ms=retry_at_ms)


@dataclass(slots=True)
class _Tally:
    count: int
    first_at_ms: int
    last_at_ms: int

    def add(self, other: _Tally) -> None:
        self.count += other.count
        self.first_at_ms = min(self.first_at_ms, other.first_at_ms)
        self.last_at_ms = max(self.last_at_ms, other.last_at_ms)


class DecidedKeys:
    """DecidedKeys remembers under which Idempotency-Keys the owners have decided for this process of late:
    KEYS_REMEMBERED_MAX of them, the oldest go first.

    A repeat under such a key costs nothing, for its answer is kept: where the window stops it, it waits for no cost
    ceiling. To know all keys that are kept is the owners' business alone.
    """

    def __init__(self) -> None:
        self._hashes: dict[int, None] = {}

    def add(self, project: str, key: str) -> None:
        """Remember a key that an owner has decided under."""
        self._hashes[hash((project, key))] = None
        if len(self._hashes) > KEYS_REMEMBERED_MAX:
            del self._hashes[next(iter(self._hashes))]

    def has(self, project: str, key: str) -> bool:
        """Whether an owner has decided under this key of late."""
        return hash((project, key)) in self._hashes


# The key's id, its environment, and the call's operation.
_Kind = tuple[str, str, str]


class Refusals:
    """Refusals are counted here, and told to the owner: one command a second for each project, of one key and one
    operation, those with the most refusals first. A process that is killed loses what it has not told."""

    def __init__(self, commands: CommandClient) -> None:
        self.total = 0
        self._commands = commands
        self._tallies: dict[str, dict[_Kind, _Tally]] = defaultdict(dict)

    def add(self, project: str, key_id: str, environment: str, operation: str, count: int = 1) -> None:
        """Count requests of a project that were refused just now."""
        self.total += count
        now = now_ms()
        self._add(project, (key_id, environment, operation), _Tally(count, now, now))

    async def run(self) -> None:
        """Tell the owners every second, until cancelled."""
        while True:
            began_at = time.monotonic()
            await self.tell()
            await asyncio.sleep(max(0.0, EVERY_SECONDS - (time.monotonic() - began_at)))

    async def tell(self) -> None:
        """Tell one command for each project in which requests were refused; what can't be sent is kept for later."""
        taken = []
        for project, tallies in list(self._tallies.items()):
            kind = max(tallies, key=lambda each: tallies[each].count)
            taken.append((project, kind, tallies.pop(kind)))
            if not tallies:
                del self._tallies[project]
        sent = await asyncio.gather(*(self._send(*each) for each in taken), return_exceptions=True)
        failed = [error for error in sent if isinstance(error, BaseException)]
        if failed:
            log.warning("the refused requests of %d projects are told later: %r", len(failed), failed[0])
        for (project, kind, tally), error in zip(taken, sent, strict=True):
            if isinstance(error, BaseException):
                self._add(project, kind, tally)

    async def tell_all(self, seconds: float = 2.0) -> None:
        """Tell all that is left, before this process ends, in this time at most."""
        try:
            async with asyncio.timeout(seconds):
                while self._tallies:
                    await self.tell()
        except TimeoutError:
            log.warning("the refused requests of %d projects were not told", len(self._tallies))

    def _add(self, project: str, kind: _Kind, tally: _Tally) -> None:
        tallies = self._tallies[project]
        if kind not in tallies and len(tallies) >= TALLIES_A_PROJECT_MAX:
            kind = ("", kind[1], "*")
        if kind in tallies:
            tallies[kind].add(tally)
        else:
            tallies[kind] = tally

    async def _send(self, project: str, kind: _Kind, tally: _Tally) -> None:
        key_id, environment, operation = kind
        await self._commands.tell(
            CountRefused(
                project=project,
                operation=operation,
                environment=environment,
                count=tally.count,
                first_at_ms=tally.first_at_ms,
                last_at_ms=tally.last_at_ms,
                **self._commands.addressing(actor=key_id) | {"reply_instance": ""},
            )
        )
