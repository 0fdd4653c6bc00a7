"""The ids, their batches and the clock that the contenders of bench dedup share."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil

from schemas.events import HASH_BYTES

# As many ids as a worker's batch of 64 envelopes brings to one of four partitions.
BATCH_IDS = 8_000
_REPEAT_SEED = 7

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Phase:
    """A phase is one kind of work, timed a batch at a time; the time between batches is not counted."""

    ids: int = 0
    seconds: float = 0.0

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do the work on one batch, timed."""
        began_at = time.perf_counter()
        result = work(*args, **kwargs)
        self.seconds += time.perf_counter() - began_at
        self.ids += BATCH_IDS
        return result

    @property
    def per_second(self) -> int | None:
        """The rate in ids a second, or None where there were none."""
        return round(self.ids / self.seconds) if self.seconds else None


def batch_count(ids: int) -> int:
    """How many batches hold `ids` ids; the last one is filled up."""
    return -(-ids // BATCH_IDS)


def ids_of(batch: int) -> list[bytes]:
    """The ids of a batch, sorted: the same number gives the same ids, another number gives others."""
    # The seed is a text, since texts are hashed: as numbers, 257 and 2**40 + 257 would give the same ids.
    drawn = random.Random(f"batch {batch}").randbytes(HASH_BYTES * BATCH_IDS)
    return sorted(drawn[at : at + HASH_BYTES] for at in range(0, len(drawn), HASH_BYTES))


def in_another_order(batches: int) -> list[int]:
    """The numbers of all batches, in a shuffled order."""
    numbers = list(range(batches))
    random.Random(_REPEAT_SEED).shuffle(numbers)
    return numbers


def rss_mb() -> int:
    """The resident memory of this process and its children, in megabytes."""
    me = psutil.Process()
    return round(sum(each.memory_info().rss for each in (me, *me.children(recursive=True))) / 1e6)


def bytes_on_disk(directory: Path) -> int:
    """The size of all files below a directory, in bytes."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
