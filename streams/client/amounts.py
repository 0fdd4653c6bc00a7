"""Amounts of credits as callers of the client write and read them: `Decimal`, or a decimal string. Microcredits stay
inside, and no float is ever one."""

from __future__ import annotations

from decimal import Decimal

from schemas.problems import Rejection
from streams.core.booking import format_credits, parse_credits

Credits = Decimal | str


def microcredits_of(credits: Credits, name: str) -> int:
    """The microcredits of an amount: `name` is what the caller calls it.

    Raises TypeError where it is neither a Decimal nor a string: whoever writes 16 may mean credits or microcredits, and
    a float is never exact. Raises ValueError where it is negative, not finite, no number, or has more than 6 decimals.
    """
    if not isinstance(credits, Decimal | str):
        what = f"{credits!r} is {'an' if isinstance(credits, int) else 'a'} {type(credits).__name__}"
        raise TypeError(f'{name}: {what}; write credits as Decimal("{credits}") or "{credits}"')
    text = format(credits, "f") if isinstance(credits, Decimal) else credits
    if isinstance(credits, Decimal) and "." in text:
        text = text.rstrip("0").rstrip(".")
    try:
        return parse_credits(text, name)
    except Rejection:
        raise ValueError(
            f'{name}: {credits!r} is no amount of credits: from 0 on, with at most 6 decimals, as "0.02"'
        ) from None


def credits_of(microcredits: int) -> Decimal:
    """An amount in credits, exact: 20000 microcredits are Decimal("0.02")."""
    return Decimal(format_credits(microcredits))
