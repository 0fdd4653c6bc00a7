"""Marks tell what an id was claimed for: no two uses that can be asked for share one."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.events import QUANTITY_MAX
from schemas.prices import FIRST_PRICE_BOOK
from schemas.problems import CODES
from streams.core.marks import (
    MARK_BYTES,
    Claim,
    _mark,
    amount_of,
    came_of,
    is_charged_in_part,
    mark_in_part,
    mark_of,
    mark_of_amount,
)
from tests.core.builders import usage

SURCHARGES = ("", "social_post.image", "social_post.video")
contents = st.fixed_dictionaries(
    {
        "operation": st.sampled_from(sorted(FIRST_PRICE_BOOK.rates)) | st.text(min_size=1),
        "quantity": st.integers(1, QUANTITY_MAX),
        "surcharge": st.sampled_from(SURCHARGES),
        "environment": st.sampled_from(("production", "preview")),
    }
)
codes = st.sampled_from(["", *CODES])


def test_no_two_uses_of_the_price_book_share_a_mark() -> None:
    make = _mark.__wrapped__
    uses = [
        (operation, quantity, surcharge, environment)
        for operation in FIRST_PRICE_BOOK.rates
        for surcharge in (SURCHARGES if operation == "social_post.text" else ("",))
        for environment in ("production", "preview")
        for quantity in range(1, QUANTITY_MAX + 1)
    ]
    marks = {make(*use) for use in uses}
    assert len(marks) == len(uses) > 300_000
    assert {len(mark) for mark in marks} == {MARK_BYTES}


@given(contents, codes, contents, codes)
def test_a_claim_tells_what_came_of_the_same_content_and_of_no_other(one, code, other, other_code) -> None:
    claim = Claim(3, mark_of(usage("e", **one), code))
    assert came_of(claim, usage("another id", **one)) == code
    if other != one:
        assert came_of(claim, usage("e", **other)) is None
    assert (mark_of(usage(**one), code) == mark_of(usage(**other), other_code)) == ((one, code) == (other, other_code))


@given(contents, contents, codes)
def test_a_use_that_was_charged_in_part_is_told_from_one_that_was_refused(one, other, code) -> None:
    claim = Claim(3, mark_in_part(usage("e", **one)))
    assert is_charged_in_part(claim) and len(claim.mark) == MARK_BYTES
    assert came_of(claim, usage("another id", **one)) == ""
    assert not is_charged_in_part(Claim(3, mark_of(usage(**other), code)))
    assert not is_charged_in_part(Claim(3))


@given(contents)
def test_a_claim_of_an_older_version_is_taken_for_the_same_content(content) -> None:
    assert came_of(Claim(3), usage(**content)) == ""


@given(st.integers(0, 2**63))
def test_a_captured_hold_is_marked_with_its_microcredits(amount: int) -> None:
    assert amount_of(Claim(1, mark_of_amount(amount))) == amount
