"""Amounts of credits at the client: decimals in, decimals out. Nobody can take a microcredit for a credit."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streams.client
from streams.client import Away, HttpAdmissions, KafkaAdmissions
from streams.client.admissions import Decision
from streams.client.amounts import Credits, credits_of, microcredits_of
from streams.client.gateway import Charge
from streams.settings import Settings

HELD = Decision(200, "", "", "p1", "image", Decimal(32), Decimal(218), "0-1-0", 1, hold_id="0-1-0")
HTTP = HttpAdmissions("http://127.0.0.1:9", "mtl_live_x")
KAFKA = KafkaAdmissions(Settings(kafka_url="127.0.0.1:9"))

# Whatever takes credits, in its name for them.
TAKERS: dict[str, Callable[[Any], object]] = {
    "Charge.capture": lambda credits: Charge(HELD, is_held=True).capture(credits),
    "HttpAdmissions.capture": lambda credits: asyncio.run(HTTP.capture("p1", "0-1-0", credits)),
    "KafkaAdmissions.capture": lambda credits: asyncio.run(KAFKA.capture("p1", "0-1-0", credits)),
    "Away.credits_max": lambda credits: Away(Path("/nowhere"), credits_max=credits),
    "Away.total_credits_max": lambda credits: Away(Path("/nowhere"), total_credits_max=credits),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("credits", [16, 16_000_000, 0, True, 1.5, float("nan"), b"16", ["16"]])
def test_what_is_no_decimal_is_refused_with_the_right_form(taker: str, credits: Any) -> None:
    with pytest.raises(TypeError, match="credits") as refused:
        TAKERS[taker](credits)
    name = taker.partition(".")[2].replace("capture", "credits")
    assert str(refused.value).startswith(f"{name}: ") and "Decimal(" in str(refused.value)


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("credits", ["", " 16", "16 ", "-1", "1e3", "0.0000001", "sixteen", "1_000", "٣", "9" * 13])
def test_a_text_that_is_no_amount_is_refused_by_name(taker: str, credits: str) -> None:
    with pytest.raises(ValueError, match="credits"):
        TAKERS[taker](credits)


@pytest.mark.parametrize(
    "credits", [Decimal("NaN"), Decimal("Infinity"), Decimal("-0.5"), Decimal("1e-7"), Decimal("1e13")]
)
def test_a_decimal_that_is_no_amount_is_refused_by_name(credits: Decimal) -> None:
    with pytest.raises(ValueError, match=r"^credits: "):
        microcredits_of(credits, "credits")


@given(st.integers(0, 10**18 - 1))
def test_an_amount_comes_back_as_it_was(microcredits: int) -> None:
    credits = credits_of(microcredits)
    assert credits * 1_000_000 == microcredits
    assert "E" not in str(credits)
    for written in (credits, str(credits), credits.normalize(), Decimal(f"{credits:.6f}")):
        assert microcredits_of(written, "credits") == microcredits


def test_a_hold_of_32_credits_is_captured_for_16_and_not_for_16_microcredits() -> None:
    charge = Charge(HELD, is_held=True)
    with pytest.raises(TypeError, match=r'^credits: 16 is an int; write credits as Decimal\("16"\) or "16"$'):
        charge.capture(16)  # type: ignore[arg-type]
    assert charge.outcome is None
    for written in ("16", Decimal(16)):
        charge.capture(written)
        assert (charge.outcome, charge.credits) == ("capture", Decimal(16))
    with pytest.raises(ValueError, match=r"^credits: 33 are not held \(32 are\)$"):
        charge.capture("33")


def test_nothing_public_takes_or_gives_credits_as_a_number_of_another_kind() -> None:
    amounts = {"credits", "available", "credits_max", "total_credits_max", "leased", "uncovered", "overdraft_max"}
    seen = set()
    classes = [
        getattr(streams.client, name)
        for name in streams.client.__all__
        if inspect.isclass(getattr(streams.client, name))
    ]
    for cls in [*classes, Decision, Charge, streams.client.away.AwayCounts]:
        for name, member in inspect.getmembers(cls):
            if name.startswith("_") and name != "__init__":
                continue
            told: dict[str, Any] = {}
            if inspect.isfunction(member):
                told = dict(member.__annotations__)
            elif isinstance(member, property) and member.fget is not None:
                told = {name: member.fget.__annotations__["return"]}
            for each, annotation in (told | getattr(cls, "__annotations__", {})).items():
                assert "micro" not in each, (cls, each)
                if each in amounts:
                    seen.add(each)
                    assert annotation in ("Decimal", "Credits", "Decimal | None", "Credits | None"), (cls, name, each)
    assert seen == amounts
    assert Credits == Decimal | str
