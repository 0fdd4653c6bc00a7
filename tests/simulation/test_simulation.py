"""Thousands of seeded worlds in which everything goes wrong, each then checked against the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streams.core import fold
from streams.state.rocks import SegmentedFile
from streams.worker import decider
from streams.worker.lease import Lease
from tests.seeds import BASE, ONE_WORLD, WORLD_PARTS, WORLDS, WORLDS_FEW_REPLIES
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
def test_worlds_that_keep_few_replies_lean_on_the_dedup_index(part: int) -> None:
    """Found by it: accounts written before the index, and a crash between, let a retried request be charged again."""
    each_ends_well(part, WORLDS_FEW_REPLIES, frozenset({"few-replies"}), "few_replies")


def _nothing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decider, "first_offset_of", lambda value, since_day: None)


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


@pytest.mark.parametrize(
    "spoil", [_nothing_is_seen, _segments_flush_apart, _redelivery_is_not_told, _assignments_do_not_end]
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
