"""Envelopes: usage events packed into intake records, by partition."""

from __future__ import annotations

from collections import defaultdict

from schemas.events import Usage
from streams.kafka.codecs import encode_envelope, packed
from streams.kafka.topics import partition_of

# Events go from decoding to encoding in groups of about this size, so that the objects of a group take the place of the
# previous group's in the processor's cache. Whole batches took nearly twice as long.
PACKED_AT_ONCE = 500


class Envelopes:
    """An Envelopes packs usage into intake records, by partition, as the usage comes."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._waiting: dict[int, list[Usage]] = defaultdict(list)
        self._of_project: dict[str, list[Usage]] = {}
        self._records: dict[int, list[tuple[bytes | None, bytes]]] = defaultdict(list)

    def add(self, usages: list[Usage]) -> None:
        """Add usage. A partition that now has enough of it for a record is encoded at once."""
        of_project = self._of_project
        for usage in usages:
            waiting = of_project.get(usage.project)
            if waiting is None:
                waiting = self._waiting[partition_of(usage.project, self._partitions)]
                of_project[usage.project] = waiting
            waiting.append(usage)
        for partition, waiting in self._waiting.items():
            if len(waiting) >= PACKED_AT_ONCE:
                self._pack(partition, waiting)

    def records(self) -> dict[int, list[tuple[bytes | None, bytes]]]:
        """The (key, value) records of all usage that was added, by partition, in order."""
        for partition, waiting in self._waiting.items():
            self._pack(partition, waiting)
        return self._records

    def _pack(self, partition: int, waiting: list[Usage]) -> None:
        self._records[partition] += [(None, value) for value in packed(waiting, encode_envelope)]
        waiting.clear()
