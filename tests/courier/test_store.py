"""The courier's state of a partition, by what its changelog says: the newer epoch counts, and what can't be read is
passed over."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.courier import CourierRecord, Delivery, EndedDelivery, EndpointHealth, JournalMark, WantedReplay
from schemas.notices import Notice
from streams.core.foreign import finished
from streams.courier.store import (
    KEPT_MS,
    DeliveryStore,
    again,
    ended,
    ended_key,
    health_key,
    replay_key,
    waiting_key,
)
from streams.kafka.codecs import encode_courier, epoch_of
from streams.kafka.formats import COURIER, MARK, FormatError
from streams.kafka.publisher import Publisher
from streams.settings import Settings
from streams.worker.lease import LeaseLostError

AT_MS = 1_760_000_000_000


def delivery(notice_id: str, attempts: int = 0) -> Delivery:
    return Delivery(Notice(notice_id, "plan.changed", "p1", "", AT_MS, "{}"), "p1", "ep_1", (1, 0), attempts)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DeliveryStore]:
    settings = Settings(kafka_url="127.0.0.1:1", data_dir=tmp_path)
    made = DeliveryStore(settings, Publisher(settings), 0)
    yield made
    made._file.close()


def merge(store: DeliveryStore, *rows: tuple[bytes, CourierRecord | None], epoch: int = 1, offset: int = 0) -> None:
    store.merge([(key, None if record is None else encode_courier(record, epoch)) for key, record in rows], offset)


def test_what_waits_ends_and_waits_again(store: DeliveryStore) -> None:
    first, second = delivery("n1"), delivery("n2")
    merge(store, *again(first), *again(second), (replay_key("0-1-0"), WantedReplay("p1", "ep_1", 1, True, "", 9)))
    merge(store, *ended(second, True, 1, AT_MS + 5), (health_key("ep_1"), EndpointHealth(AT_MS, 3)), offset=8)
    assert (finished(store.waiting()), store.delivery("ep_1", "n1")) == ([first], first)
    assert store.delivery("ep_1", "n2") is None
    assert store.ended("ep_1", "n2") == EndedDelivery(True, 1, AT_MS, AT_MS + 5)
    assert [store.is_known("ep_1", name) for name in ("n1", "n2", "n3")] == [True, True, False]
    assert finished(store.health()) == [("ep_1", EndpointHealth(AT_MS, 3))]
    assert [key for key, _ in finished(store.replays())] == [replay_key("0-1-0")]
    merge(store, *again(second), (replay_key("0-1-0"), None), offset=9)
    assert (len(finished(store.waiting())), store.ended("ep_1", "n2"), finished(store.replays())) == (2, None, [])
    assert store.changelog_offset() == 9


def test_what_an_earlier_courier_wrote_late_is_dropped(store: DeliveryStore) -> None:
    merge(store, (waiting_key("ep_1", "n1"), delivery("n1", 2)), (b"mark", JournalMark(5, 70, 3, 0)), epoch=5)
    merge(store, (waiting_key("ep_1", "n1"), delivery("n1", 1)), (b"mark", JournalMark(4, 60, 2, 0)), epoch=4, offset=1)
    assert store.delivery("ep_1", "n1") == delivery("n1", 2)
    assert store.has(b"mark", encode_courier(JournalMark(5, 70, 3, 0), 5))
    assert epoch_of(encode_courier(delivery("n1"), 5)) == 5


def test_what_an_earlier_courier_wrote_late_does_not_wait_again_once_it_has_ended(store: DeliveryStore) -> None:
    merge(store, *ended(delivery("n1"), True, 1, AT_MS), epoch=5)
    # It was on its way while its writer was paused, and its successor delivered the notice.
    merge(store, (waiting_key("ep_1", "n1"), delivery("n1", 1)), epoch=4, offset=1)
    assert finished(store.waiting()) == []
    merge(store, *again(delivery("n1", 1)), epoch=5, offset=2)
    assert finished(store.waiting()) == [delivery("n1", 1)]


@pytest.mark.asyncio
async def test_nothing_is_written_for_a_partition_that_is_anothers(tmp_path: Path) -> None:
    def check() -> None:
        raise LeaseLostError("it is")

    # Nothing could be sent: it is checked before.
    settings = Settings(kafka_url="127.0.0.1:1", data_dir=tmp_path)
    store = DeliveryStore(settings, Publisher(settings), 0, check)
    with pytest.raises(LeaseLostError):
        await store.write(again(delivery("n1")), [b"report"])
    assert not store.is_known("ep_1", "n1")
    await store.close()


def test_how_deliveries_ended_is_known_for_thirty_days(store: DeliveryStore) -> None:
    merge(store, *ended(delivery("old"), True, 1, AT_MS), *ended(delivery("new"), False, 6, AT_MS + 2))
    assert finished(store.expired(AT_MS + KEPT_MS)) == []
    assert finished(store.expired(AT_MS + KEPT_MS + 1)) == [ended_key("ep_1", "old")]


def test_a_record_that_cannot_be_read_stops_no_other_and_another_versions_stops_all(store: DeliveryStore) -> None:
    foreign = b"\0" * 8 + COURIER.head + b"\x91garbage"
    rows = [(waiting_key("ep_1", name), foreign) for name in ("n0", "n2")]
    store.merge(rows, 1)
    merge(store, (waiting_key("ep_1", "n1"), delivery("n1")), (waiting_key("ep_1", "n3"), JournalMark(1, 1)), offset=2)
    assert finished(store.waiting()) == [delivery("n1")]
    assert store.delivery("ep_1", "n0") is None and store.delivery("ep_1", "n3") is None
    with pytest.raises(FormatError, match="newer version"):
        store.merge([(b"mark", b"\0" * 8 + MARK + bytes([COURIER.number + 1]))], 3)
