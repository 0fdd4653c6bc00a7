"""The courier's records: deliveries that wait, how those ended that do not, and how its endpoints fare."""

from __future__ import annotations

import msgspec

from schemas.notices import Notice


class Delivery(msgspec.Struct, tag="waits", array_like=True, frozen=True):
    """A delivery waits: `notice` is to reach an endpoint of `account`, a project's or the platform's.

    `place` is that of the notice's fact, (offset, index). `attempts` were made in all, `earlier` of them before it was
    last asked for again (a replay); the next is not made before `next_at_ms`, Unix milliseconds.
    """

    notice: Notice
    account: str
    endpoint_id: str
    place: tuple[int, int]
    attempts: int = 0
    earlier: int = 0
    next_at_ms: int = 0


class EndedDelivery(msgspec.Struct, tag="ended", array_like=True, frozen=True):
    """A delivery that has ended, well or not, at `ended_at_ms`, after so many attempts; its notice is of `at_ms`."""

    is_delivered: bool
    attempts: int
    at_ms: int
    ended_at_ms: int


class EndpointHealth(msgspec.Struct, tag="health", array_like=True, frozen=True):
    """The health of an endpoint: so many attempts have failed since `failing_since_ms`, and none has succeeded."""

    failing_since_ms: int
    failures: int


class JournalMark(msgspec.Struct, tag="mark", array_like=True, frozen=True):
    """How far a journal partition was read: `journal_offset` is the next record, and (offset, index) the place of the
    last fact. `epoch` counts the couriers that have had the partition: what an earlier one writes late is older."""

    epoch: int
    journal_offset: int
    offset: int = -1
    index: int = -1


class WantedReplay(msgspec.Struct, tag="replay", array_like=True, frozen=True):
    """A replay that was asked for: the notices from `since_ms` on, or the one of `notice_id`, that stand before
    `until_offset` of the journal; with `only_failed` those that the endpoint never took."""

    account: str
    endpoint_id: str
    since_ms: int
    only_failed: bool
    notice_id: str
    until_offset: int


CourierRecord = Delivery | EndedDelivery | EndpointHealth | JournalMark | WantedReplay
