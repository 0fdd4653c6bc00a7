"""Thousands of seeded worlds in which everything goes wrong, each then checked against the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from schemas.accounts import Hold
from schemas.commands import Admit
from schemas.events import Usage
from streams.core import admission, fold
from streams.core.booking import Booking
from streams.core.ledger import state_again
from streams.core.marks import Claim, mark_of
from streams.state.rocks import SegmentedFile
from streams.worker import agents, decider
from streams.worker.agents import Owner
from streams.worker.decider import Decided, KeptRows
from streams.worker.lease import Lease
from tests.seeds import BASE, ONE_WORLD, WORLD_PARTS, WORLDS, WORLDS_BRIEF_REPLIES
from tests.simulation.checks import simulate


def each_ends_well(part: int, worlds: int, hazards: frozenset[str], tests: str) -> None:
    """Simulate a part of so many worlds, or only the one that is asked for."""
    if ONE_WORLD is not None:
        simulate(int(ONE_WORLD), hazards, print)
        return
    for seed in range(BASE + part, BASE + worlds, len(WORLD_PARTS)):
        try:
            simulate(seed, hazards, None)
        except Exception as error:
            again = f"METERLINE_SIMULATION_SEED={seed} uv run meterline test tests/simulation -x -s -k {tests}"
            raise AssertionError(f"{error}\n\nreplay it: {again}") from error


@pytest.mark.seeded
@pytest.mark.parametrize("part", WORLD_PARTS)
def test_every_world_ends_as_the_model_says(part: int) -> None:
    each_ends_well(part, WORLDS, frozenset(), "every_world")


@pytest.mark.seeded
@pytest.mark.parametrize("part", WORLD_PARTS)
def test_worlds_that_keep_replies_briefly_lean_on_the_dedup_index(part: int) -> None:
    """Found by it: accounts written before the index, and a crash between, let a retried request be charged again."""
    each_ends_well(part, WORLDS_BRIEF_REPLIES, frozenset({"brief-replies"}), "keep_replies_briefly")


def _nothing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decider, "claim_of", lambda value, since_day: None)


def _segments_flush_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    write = SegmentedFile.write

    def forgetful(self: SegmentedFile, rows: object, changelog_offset: int | None) -> None:
        self._noted_in = None
        write(self, rows, changelog_offset)  # type: ignore[arg-type]

    monkeypatch.setattr(SegmentedFile, "write", forgetful)


def _redelivery_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    applied = fold._Batch._applied

    def forgetful(self: fold._Batch, account: fold.Account, item: fold.IntakeItem) -> None:
        applied(self, account, item)
        account.last_offset = -1

    monkeypatch.setattr(fold._Batch, "_applied", forgetful)


def _assignments_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Lease.check
    monkeypatch.setattr(Lease, "check", lambda self, generation: check(self, self._generation))
    monkeypatch.setattr(Lease, "revoke", lambda self: None)


def _kept_replies_come_with_the_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between the two loses the replies: the accounts say that the records are applied."""
    publish, store = Owner._publish_facts, Owner._store

    async def forgetful(self: Owner, partition: int, decided: Decided, first: Any) -> list[int | None]:
        rows, decided.kept_rows = decided.kept_rows, KeptRows([], [])
        offsets = await publish(self, partition, decided, first)
        decided.kept_rows = rows
        return offsets

    async def late(self: Owner, partition: int, decided: Decided, first: Any, offsets: list[int | None]) -> None:
        by_key, by_request = (agents.reply_records(rows, first.offset) for rows in decided.kept_rows)
        await store(self, partition, decided, first, offsets)
        at = await self.publisher.send_all(self.topics.replies_changelog, partition, by_key)
        await self.publisher.send_all(self.topics.recent_replies_changelog, partition, by_request)
        if at is not None:
            self.decider.tables.replies.file(partition).write(decided.kept_rows.by_key, at)

    monkeypatch.setattr(Owner, "_publish_facts", forgetful)
    monkeypatch.setattr(Owner, "_store", late)


def _a_crashs_replies_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(self: fold._Batch, item: fold.IntakeItem, command: fold.AnyCommand) -> fold.Reply | None:
        stored = self.kept.by_key.get(fold.key_hash(command)) if command.idempotency_key else None
        if stored is not None and item.at_ms - stored.at_ms < self.kept_for.key_ms:
            return fold._repeated(command, stored)
        return repeat(self, item, command)

    repeat = fold._Batch._repeat
    monkeypatch.setattr(fold._Batch, "_repeat", trusting)


def _an_event_is_swallowed_by_its_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def swallow(booking: Booking, usage: Usage, held: Hold) -> list[tuple[bytes, bytes]]:
        state_again(booking, usage, Claim(booking.offset))
        return [(usage.dedup_hash, mark_of(usage))]

    monkeypatch.setattr(fold, "capture_for", swallow)


def _what_finds_a_hold_claims_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    def claimed(command: fold.AnyCommand, reply: fold.Reply) -> list[tuple[bytes, bytes]]:
        if isinstance(command, Admit) and reply.already_decided:
            return [(command.usage.dedup_hash, mark_of(command.usage))]
        return honest(command, reply)

    honest = fold.claimed
    monkeypatch.setattr(fold, "claimed", claimed)


def _another_content_passes_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_reused", lambda booking, command: "")


def _marks_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = agents.seen_rows
    monkeypatch.setattr(
        agents, "seen_rows", lambda seen, day: rows({dedup: Claim(each.offset) for dedup, each in seen.items()}, day)
    )


@pytest.mark.parametrize(
    "spoil",
    [
        _nothing_is_seen,
        _segments_flush_apart,
        _redelivery_is_not_told,
        _assignments_do_not_end,
        _kept_replies_come_with_the_accounts,
        _a_crashs_replies_count,
        _an_event_is_swallowed_by_its_hold,
        _what_finds_a_hold_claims_its_id,
        _another_content_passes_for_the_same,
        _marks_are_not_written,
    ],
)
def test_the_simulation_finds_what_is_broken(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[pytest.MonkeyPatch], None]
) -> None:
    spoil(monkeypatch)
    for seed in range(2_000):
        try:
            simulate(seed, frozenset(), None)
        except Exception:
            return
    pytest.fail("2,000 worlds did not notice")
