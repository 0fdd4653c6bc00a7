"""What the contenders of bench dedup share: the ids, their batches, and a clock."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil

from streams.worker.tables import HASH_BYTES

# What a worker's batch of 64 envelopes brings to one of four partitions.
BATCH_IDS = 8_000
_REPEAT_SEED = 7

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Phase:
    """One kind of work, timed a batch at a time; what is between the batches is not counted."""

    ids: int = 0
    seconds: float = 0.0

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do it, on one batch."""
        began_at = time.perf_counter()
        result = work(*args, **kwargs)
        self.seconds += time.perf_counter() - began_at
        self.ids += BATCH_IDS
        return result

    @property
    def per_second(self) -> int | None:
        """Ids a second, or None where there were none."""
        return round(self.ids / self.seconds) if self.seconds else None


def batch_count(ids: int) -> int:
    """How many batches hold `ids` ids; the last one is filled up."""
    return -(-ids // BATCH_IDS)


def ids_of(batch: int) -> list[bytes]:
    """A batch's ids, sorted: the same for the same number, others for another."""
    # By text, which is hashed: by number, 257 and 2**40 + 257 give the same ids.
    drawn = random.Random(f"batch {batch}").randbytes(HASH_BYTES * BATCH_IDS)
    return sorted(drawn[at : at + HASH_BYTES] for at in range(0, len(drawn), HASH_BYTES))


def in_another_order(batches: int) -> list[int]:
    """The numbers of all batches, shuffled."""
    numbers = list(range(batches))
    random.Random(_REPEAT_SEED).shuffle(numbers)
    return numbers


def rss_mb() -> int:
    """Of this process and its children, in megabytes."""
    me = psutil.Process()
    return round(sum(each.memory_info().rss for each in (me, *me.children(recursive=True))) / 1e6)


def bytes_on_disk(directory: Path) -> int:
    """Of every file below it."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
