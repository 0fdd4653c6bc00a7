"""Packed records stay within the size that a broker takes, whatever is packed into them."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.commands import Envelope
from streams.kafka.codecs import RECORD_BYTES_MAX, RECORD_ITEMS_MAX, decode_intake, encode_envelope, packed
from tests.core.builders import usage


@given(st.lists(st.integers(0, 40_000), max_size=60))
def test_packs_keep_order_and_bounds(sizes: list[int]) -> None:
    usages = [usage(str(number), metadata="é" * size) for number, size in enumerate(sizes)]
    envelopes = []
    for record in packed(usages, encode_envelope):
        envelope = decode_intake(record)
        assert isinstance(envelope, Envelope)
        assert len(record) <= RECORD_BYTES_MAX or len(envelope.events) == 1
        envelopes.append(envelope)
    assert [each for envelope in envelopes for each in envelope.events] == usages


def test_a_pack_has_a_bounded_count() -> None:
    usages = [usage(str(number)) for number in range(2 * RECORD_ITEMS_MAX + 1)]
    counts = list(packed(usages, lambda pack: b"%d" % len(pack)))
    assert counts == [b"%d" % RECORD_ITEMS_MAX, b"%d" % RECORD_ITEMS_MAX, b"1"]
