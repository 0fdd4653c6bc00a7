"""The workload that benchmarks charge: usage that is skewed, realistic, the same for the same seed, quick to make."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import msgspec

from schemas.events import EVENT_TYPE, UsageData
from schemas.prices import FIRST_PRICE_BOOK, MICROCREDITS_PER_CREDIT
from streams.kafka.topics import partition_of

# Each project starts with so much that nothing of a workload is refused.
OPENING_BALANCE = 1_000_000_000 * MICROCREDITS_PER_CREDIT

# (percent of the events, operation, quantity): most are cheap, a few are dear.
_MIX = (
    (55, "chat.message", None),
    (25, "page.edit", None),
    (6, "read", None),
    (4, "social_post.text", None),
    (4, "image", None),
    (3, "translation", 3),
    (1, "image", 4),
    (1, "content_plan", None),
    (1, "blog_post", None),
)
_CUSTOMERS = 40
# The project at rank k has a share proportional to 1 / k ** _SKEW: of 10,000, the first has 4 % of all events, 70 times
# the mean and 1,600 times the last.
_SKEW = 0.8

_BLOCK_EVENTS = 1 << 14
# An event's number is multiplied by this to give its id: ids that count up would compress better than any producer's.
# The factor is odd, so that no two numbers give the same id.
_ID_FACTOR = 0x9E3779B97F4A7C15
_ID_MASK = (1 << 64) - 1


class UsageRecord(NamedTuple):
    """A record for the usage topic: `value` is a JSON array of `events` events, of projects of `partition`."""

    partition: int
    value: bytes
    events: int


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload is `events` usage events of `projects` projects. A longer one of the same seed begins with a shorter.

    (source, id) is unique within a seed and between seeds. `time` is the time of all events, RFC 3339; "" leaves it
    out.
    """

    events: int
    projects: int
    seed: int = 1
    time: str = ""

    def project_ids(self) -> tuple[str, ...]:
        """The ids of all projects that may occur; the same for every seed."""
        return _project_ids(self.projects)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """The events in order, each as (project, the event's JSON)."""
        projects = _project_ids(self.projects)
        subjects, data, head = self._parts()
        for first, picks, looks in self._blocks():
            number = first
            for project, look in zip(picks, looks, strict=True):
                id = number * _ID_FACTOR & _ID_MASK
                yield projects[project], b"%b%016x%b%b" % (head, id, subjects[project], data[look])
                number += 1

    def records(self, pack: int, partitions: int) -> Iterator[UsageRecord]:
        """The same events, packed: `pack` events a record; those left over at the end make a shorter record for each
        partition."""
        partition_ids = [partition_of(project, partitions) for project in _project_ids(self.projects)]
        subjects, data, head = self._parts()
        packs: list[list[bytes]] = [[] for _ in range(partitions)]
        for first, picks, looks in self._blocks():
            number = first
            for project, look in zip(picks, looks, strict=True):
                texts = packs[partition_ids[project]]
                id = number * _ID_FACTOR & _ID_MASK
                texts.append(b"%b%016x%b%b" % (head, id, subjects[project], data[look]))
                number += 1
                if len(texts) == pack:
                    yield UsageRecord(partition_ids[project], b"[%b]" % b",".join(texts), pack)
                    texts.clear()
        for partition, texts in enumerate(packs):
            if texts:
                yield UsageRecord(partition, b"[%b]" % b",".join(texts), len(texts))

    def expected(self) -> dict[str, tuple[int, int]]:
        """The (events, microcredits) that each project that occurs must be charged."""
        costs = [cost for _, cost in _shapes()]
        counts, spent = [0] * self.projects, [0] * self.projects
        for _, picks, looks in self._blocks():
            for project, look in zip(picks, looks, strict=True):
                counts[project] += 1
                spent[project] += costs[look]
        return {
            project: (count, amount)
            for project, count, amount in zip(_project_ids(self.projects), counts, spent, strict=True)
            if count
        }

    def _parts(self) -> tuple[list[bytes], list[bytes], bytes]:
        """The parts of an event's JSON around its id: the text after it for each project, the text after that for each
        shape, and the text before the id."""
        subjects = [b'","subject":"%b","data":' % project.encode() for project in _project_ids(self.projects)]
        data = [text + b"}" for text, _ in _shapes()]
        time = f'"time":"{self.time}",' if self.time else ""
        head = f'{{"specversion":"1.0","type":"{EVENT_TYPE}","source":"/gateway/eu-1",{time}"id":"req-{self.seed:06x}-'
        return subjects, data, head.encode()

    def _blocks(self) -> Iterator[tuple[int, list[int], list[int]]]:
        """The events, a block at a time: the number of its first event, the events' projects, the events' shapes."""
        slots = _slots(self.projects)
        slot_mask, shape_mask = len(slots) - 1, len(_shapes()) - 1
        chance = random.Random(self.seed)
        for first in range(0, self.events, _BLOCK_EVENTS):
            # A block is drawn whole even where less is wanted, so that a longer workload begins with a shorter one.
            drawn = memoryview(chance.randbytes(8 * _BLOCK_EVENTS)).cast("I")
            events = min(_BLOCK_EVENTS, self.events - first)
            picks = [slots[number & slot_mask] for number in drawn[:events]]
            looks = [number & shape_mask for number in drawn[_BLOCK_EVENTS : _BLOCK_EVENTS + events]]
            yield first, picks, looks


@lru_cache(maxsize=4)
def _project_ids(projects: int) -> tuple[str, ...]:
    """The project ids, the busiest first. They are numbered at random, or the busy ones would be neighbours in every
    sorted store."""
    numbers = list(range(projects))
    random.Random(0).shuffle(numbers)
    return tuple(f"bench-{number:06d}" for number in numbers)


@lru_cache(maxsize=4)
def _slots(projects: int) -> array[int]:
    """Slots to draw a project from: a project has as many as its share asks for, at least one; a power of two in
    all."""
    size = 1 << max(16, (16 * projects - 1).bit_length())
    edges = list(accumulate(rank**-_SKEW for rank in range(1, projects + 1)))
    slots = array("I")
    for project, edge in enumerate(edges):
        slots.extend(array("I", [project]) * (round(edge / edges[-1] * size) - len(slots)))
    return slots


@lru_cache(maxsize=1)
def _shapes() -> tuple[tuple[bytes, int], ...]:
    """The shapes of events, each (`data` as JSON, its cost): every operation in its share, with changing customers."""
    chance = random.Random(0)
    shapes: list[tuple[bytes, int]] = []
    encode = msgspec.json.Encoder().encode
    edges = list(accumulate(percent for percent, _, _ in _MIX))
    size = 1 << 12
    for (_, operation, quantity), edge in zip(_MIX, edges, strict=True):
        for _ in range(round(edge / edges[-1] * size) - len(shapes)):
            metadata: dict[str, str | int | float | bool | None] = {
                "customer_id": f"cus_{chance.randrange(_CUSTOMERS):04d}"
            }
            data = UsageData(operation, quantity=quantity, metadata=metadata)
            shapes.append((encode(data), FIRST_PRICE_BOOK.rates[operation] * (quantity or 1)))
    return tuple(shapes)
