"""Credits in text: decimal strings in, decimal strings out, exact to the microcredit."""

import pytest

from schemas.problems import Rejection
from streams.core.booking import format_credits, note, parse_credits


@pytest.mark.parametrize(
    ("text", "microcredits"),
    [("0", 0), ("1", 1_000_000), ("0.02", 20_000), ("12.5", 12_500_000), ("0.000001", 1), ("7.123456", 7_123_456)],
)
def test_credits_are_read_to_the_microcredit(text: str, microcredits: int) -> None:
    assert parse_credits(text, "credits") == microcredits
    assert format_credits(microcredits) == text
    assert format_credits(-microcredits) == (f"-{text}" if microcredits else "0")


@pytest.mark.parametrize(
    "text", ["", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", "0.0000001", "1.2.3", " 1", "1\n", "\u0661", "NaN"]
)
def test_what_is_no_decimal_string_is_refused(text: str) -> None:
    with pytest.raises(Rejection) as refused:
        parse_credits(text, "amount")
    told = refused.value
    assert (told.code, told.field) == ("invalid_request", "amount")
    assert told.detail == "Credits are a decimal string with at most 6 decimals"


def test_a_note_has_what_there_is() -> None:
    assert note(a="x", b="", c=None, d=0, e=False) == '{"a":"x","d":0,"e":false}'
    assert note(a="", b=None) == ""
