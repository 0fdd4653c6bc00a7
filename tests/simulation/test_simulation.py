"""Thousands of seeded worlds in which everything goes wrong, each then checked against the model."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from streams.core import fold
from streams.state.rocks import SegmentedFile
from streams.worker import decider
from streams.worker.lease import Lease
from tests.simulation.checks import simulate

# The same worlds each time, unless a base is given: `meterline test --deep` draws one, and says which.
BASE = int(os.environ.get("METERLINE_SEED_BASE", "0"))
WORLDS = int(os.environ.get("METERLINE_SIMULATION_WORLDS", "300"))
ONE_SEED = os.environ.get("METERLINE_SIMULATION_SEED")
ONE_HAZARDS = os.environ.get("METERLINE_SIMULATION_HAZARDS", "")
# Each a test, so that two lanes share them.
CHUNK = 100


def run_worlds(seeds: range, hazards: frozenset[str]) -> None:
    """Simulate the world of each seed; a failure says how to replay it."""
    if ONE_SEED is not None:
        pytest.fail("METERLINE_SIMULATION_SEED replays one world: ask for `-k replay`")
    for seed in seeds:
        try:
            simulate(seed, hazards, None)
        except Exception as error:
            which = f"METERLINE_SIMULATION_SEED={seed} METERLINE_SIMULATION_HAZARDS={','.join(sorted(hazards))}"
            again = f"{which} uv run meterline test tests/simulation -x -s -k replay"
            raise AssertionError(f"{error}\n\nreplay it: {again}") from error


def test_replay_of_one_world() -> None:
    """The world of METERLINE_SIMULATION_SEED, told step by step; without one, world 0 in silence."""
    hazards = frozenset(filter(None, ONE_HAZARDS.split(",")))
    simulate(int(ONE_SEED or 0), hazards, print if ONE_SEED is not None else None)


@pytest.mark.parametrize("start", range(0, WORLDS, CHUNK))
def test_every_world_ends_as_the_model_says(start: int) -> None:
    run_worlds(range(BASE + start, BASE + min(start + CHUNK, WORLDS)), frozenset())


def test_worlds_that_keep_few_replies_lean_on_the_dedup_index() -> None:
    """A regression that these worlds found: accounts were written before the dedup index, and a crash in between let a
    retried request be charged again."""
    run_worlds(range(BASE, BASE + WORLDS // 5), frozenset({"few-replies"}))


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
