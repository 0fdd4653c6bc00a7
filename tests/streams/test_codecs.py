"""Records stay within what a broker takes, whatever is packed into them."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.commands import Envelope
from streams.codecs import RECORD_BYTES_MAX, RECORD_ITEMS_MAX, decode_intake, encode, packed, usage_bytes
from tests.core.builders import usage


@given(st.lists(st.integers(0, 40_000), max_size=60))
def test_packs_keep_order_and_bounds(sizes: list[int]) -> None:
    usages = [usage(str(number), metadata="é" * size) for number, size in enumerate(sizes)]
    packs = list(packed(usages, usage_bytes))
    assert [each for pack in packs for each in pack] == usages
    for pack in packs:
        record = encode(Envelope(pack))
        assert len(record) <= RECORD_BYTES_MAX or len(pack) == 1
        assert decode_intake(record) == Envelope(pack)


def test_a_pack_has_a_bounded_count() -> None:
    packs = list(packed([usage(str(number)) for number in range(2 * RECORD_ITEMS_MAX + 1)], lambda _: 1))
    assert [len(pack) for pack in packs] == [RECORD_ITEMS_MAX, RECORD_ITEMS_MAX, 1]
