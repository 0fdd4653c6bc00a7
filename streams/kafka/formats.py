"""Formats: the versions of what is stored on Kafka, so that bytes of another version are told from garbage.

A change of a stored shape raises its number here; CONTRIBUTING.md ("Change a stored shape") has the steps.
"""

from __future__ import annotations

from streams.errors import LastingError

# 0xc1 is no byte of MessagePack, nor of UTF-8: what a stranger writes does not begin so by accident.
MARK = b"\xc1MF"
HEAD_BYTES = len(MARK) + 1
# Records from before there were formats have no mark. Their shapes are those of format 1: arrays of MessagePack.
UNMARKED = 0
_ARRAY_HEADS = frozenset([*range(0x90, 0xA0), 0xDC])


class FormatError(LastingError):
    """Stored bytes are of a version that this process does not read; the message says which, and the remedy."""


class Format:
    """A Format is the version of one stored shape: `number` is written, and all from `oldest` on are read."""

    def __init__(self, shape: str, number: int, oldest: int) -> None:
        self.shape = shape
        self.number = number
        self.oldest = oldest
        self.head = MARK + bytes([number])

    def body(self, value: bytes, start: int = 0) -> memoryview:
        """The shape's own bytes in a stored value, whose head is at `start`. Raises FormatError."""
        end = start + HEAD_BYTES
        if value[start:end] != self.head:
            found = self.number_of(value, start)
            self._check(found)
            if not found:
                end = start
        return memoryview(value)[end:]

    def check(self, value: bytes, start: int = 0) -> None:
        """Raise FormatError where a stored value is of a format that is not read here."""
        if value[start : start + HEAD_BYTES] != self.head:
            self._check(self.number_of(value, start))

    def number_of(self, value: bytes, start: int = 0) -> int | None:
        """The number of the format that a stored value is in, or None where Meterline never wrote it."""
        if value[start : start + len(MARK)] == MARK and len(value) >= start + HEAD_BYTES:
            return value[start + len(MARK)]
        return UNMARKED if len(value) > start and value[start] in _ARRAY_HEADS else None

    def _check(self, found: int | None) -> None:
        if found is None:
            return  # garbage, which whoever decodes it finds out
        read = f"{self.oldest} to {self.number}" if self.oldest < self.number else f"{self.number}"
        what = f"{self.shape} of format {found}, and this version reads {read}"
        if found > self.number:
            raise FormatError(f"{what}: they were written by a newer version; upgrade this process")
        if found < self.oldest:
            raise FormatError(
                f"{what}: they were written by an older version; run that one, or start anew with another "
                "METERLINE_TOPIC_PREFIX and METERLINE_DATA_DIR"
            )


# One for each shape. `oldest` is raised with `number` only where the new shape can't read the old one's bytes.
ACCOUNTS = Format("accounts", 8, 2)
FACTS = Format("facts", 1, UNMARKED)
INTAKE = Format("intake records", 9, UNMARKED)
REPLIES = Format("replies", 2, UNMARKED)
KEPT_REPLIES = Format("kept replies", 2, UNMARKED)
COURIER = Format("the courier's records", 1, 1)
# On a topic that is open to producers: there another version's record is a dead letter, and stops nobody.
USAGE = Format("packed usage", 1, 1)
