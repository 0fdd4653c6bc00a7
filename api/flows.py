"""Flows and members, as one look at Kafka after another shows them. They are told the time, and read no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

# Of older looks every second one is forgotten, but never the oldest.
LOOKS_KEPT_MAX = 600
# So many complete changes of a group's members within so many seconds are a worker that ends again and again.
TURNOVERS_LOOPING = 3
TURNOVERS_SECONDS = 60.0
# Members that stay this long have ended it.
SETTLED_SECONDS = 15.0


@dataclass(slots=True)
class Flow:
    """A Flow is what a group reads of a topic: how many records wait, for how long, and since when it stands still."""

    records: int = 0
    note: str = ""
    # When a look was begun at which nothing that was there waits any more; None before the first.
    complete_at: float | None = None
    _ends: deque[tuple[float, Mapping[int, int]]] = field(default_factory=deque)
    _committed: Mapping[int, int] = field(default_factory=dict)
    _moved_at: float = 0.0
    _no_records_in: tuple[Mapping[int, int], Mapping[int, int]] | None = None

    def look(self, at: float, committed: Mapping[int, int], ends: Mapping[int, int], note: str = "") -> None:
        """Take in what is committed and where the topic ends now, by partition; `note` is what the reader says of
        itself."""
        self.note = note
        if (committed, ends) == self._no_records_in:
            ends = committed
        self.records = sum(max(0, end - committed.get(partition, 0)) for partition, end in ends.items())
        if committed != self._committed or not self.records:
            self._moved_at = at
        self._committed = committed
        self._ends.append((at, ends))
        if len(self._ends) > LOOKS_KEPT_MAX:
            self._ends = deque(list(self._ends)[::2])
        while self._ends and not self._waits_in(self._ends[0][1]):
            self.complete_at, _ = self._ends.popleft()

    def waiting_seconds(self, at: float) -> float:
        """How long the oldest record that is not taken yet has been seen to wait; 0 where none waits."""
        return at - self._ends[0][0] if self._ends else 0.0

    def still_seconds(self, at: float) -> float:
        """How long nothing has been taken while records wait; 0 where none waits."""
        return at - self._moved_at if self.records else 0.0

    def waiting_at(self) -> dict[int, tuple[int, int]]:
        """The partitions in which records wait, each with its committed offset and its end."""
        ends = self._ends[-1][1] if self._ends else {}
        offsets = {partition: (self._committed.get(partition, 0), end) for partition, end in ends.items()}
        return {partition: span for partition, span in offsets.items() if span[0] < span[1]}

    def nothing_waits(self) -> None:
        """Take back the last look's records, until something changes: what stands after the committed offsets is no
        record."""
        self._no_records_in = self._committed, self._ends[-1][1]
        self.records = 0
        self.complete_at = self._ends[-1][0]
        self._ends.clear()

    def _waits_in(self, ends: Mapping[int, int]) -> bool:
        return any(end > self._committed.get(partition, 0) for partition, end in ends.items())


@dataclass(slots=True)
class Members:
    """The Members of a group come and go. One that starts again comes with a new id."""

    now: frozenset[str] = frozenset()
    joins: int = 0
    _last: frozenset[str] = frozenset()
    _empty_since: float | None = None
    _turnovers: deque[float] = field(default_factory=lambda: deque(maxlen=TURNOVERS_LOOPING))

    def look(self, at: float, members: frozenset[str]) -> None:
        """Take in the ids of the group's members now."""
        if self._last:
            self.joins += len(members - self._last)
        if members and self._last and not members & self._last:
            self._turnovers.append(at)
        self.now = members
        self._last = members or self._last
        if members:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = at

    @property
    def were_seen(self) -> bool:
        """Whether the group has ever had a member."""
        return bool(self._last)

    def empty_seconds(self, at: float) -> float:
        """How long the group has had no member; 0 where it has one."""
        return 0.0 if self._empty_since is None else at - self._empty_since

    def is_looping(self, at: float) -> bool:
        """Whether all members have been replaced again and again of late. Workers that are replaced one after the
        other, as a new version is rolled out, are not: some stay each time."""
        return (
            len(self._turnovers) == TURNOVERS_LOOPING
            and at - self._turnovers[0] < TURNOVERS_SECONDS
            and at - self._turnovers[-1] < SETTLED_SECONDS
        )


@dataclass(slots=True)
class OpenTransactions:
    """The partitions in which records wait behind a transaction that somebody has left open, and since when."""

    _held: dict[int, tuple[float, int]] = field(default_factory=dict)

    def look(self, at: float, stable: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Take in each partition's last stable offset, up to which records can be read, and its end."""
        held = {partition: offset for partition, offset in stable.items() if ends.get(partition, 0) > offset}
        before = self._held
        self._held = {
            partition: before[partition] if before.get(partition, (at, -1))[1] == offset else (at, offset)
            for partition, offset in held.items()
        }

    def seconds(self, at: float) -> dict[int, float]:
        """How long each partition has been held up at one offset."""
        return {partition: at - since for partition, (since, _) in sorted(self._held.items())}
