"""Poison: records and bodies that are no usage events, of every kind that has ever stopped a reader; a seed gives them.

Some are arrays with one good event beside the bad ones: its neighbours must not cost it its charge.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from schemas.events import UsageEvent

_encode = msgspec.json.Encoder().encode

# Bad elements of an array. Each is at fault by itself, and leaves strings and brackets around it intact.
_BAD_ELEMENTS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    lambda _, event: event.replace(b'"specversion"', b'"note":"\\ud83d","specversion"', 1),
    lambda _, event: event.replace(b'"specversion"', b'"note":"\x01","specversion"', 1),
    lambda _, event: event.replace(b'"specversion"', b'"note":01,"specversion"', 1),
    lambda _, event: event.replace(b'"specversion"', b'"note":NaN,"specversion"', 1),
    lambda _, event: event.replace(b'"specversion"', b'"note":"\xff\xfe","specversion"', 1),
    lambda _, event: event.replace(b'"specversion"', b'"note":"\\x","specversion"', 1),
    lambda _, event: event.replace(b'"specversion"', b'"note":1e999999,"specversion"', 1),
    lambda _, event: event.replace(b'"specversion"', b'"note":' + b"[" * 997 + b"]" * 997 + b',"specversion"', 1),
    lambda chance, event: event.replace(b'"data"', b'"data":' + b"9" * chance.randrange(1, 5000) + b',"date"', 1),
    lambda _, __: b"{}",
    lambda _, __: b"null",
    lambda _, __: b"[]",
)
# Whole records with nothing good in them.
_BAD_RECORDS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    lambda _, __: b"[" * 998,
    lambda _, __: b'{"a":' * 5000,
    lambda _, __: b"[" * 100_000 + b"]" * 100_000,
    lambda chance, _: chance.randbytes(chance.randrange(1, 2000)),
    lambda chance, event: event[: chance.randrange(1, len(event))],
    lambda _, __: b"",
    lambda _, __: b"\x00" * 1000,
    lambda _, __: b"\xff\xfe[\x00",
    lambda _, event: b"[" + event[:-1],
    lambda _, event: event + event,
    lambda chance, _: b"[" + b"{}," * chance.randrange(10, 3000) + b"{}]",
)


@dataclass(frozen=True, slots=True)
class Poison:
    """A poisoned record, and the place that the good event has in its array; None where there is none in it."""

    value: bytes
    good_at: int | None


def poisons(seed: int, good: Callable[[], UsageEvent | None]) -> Iterator[tuple[Poison, UsageEvent | None]]:
    """Poisoned records without end, each with the good event that is in it. `good` gives the next good event, or None
    where there is to be none."""
    chance = random.Random(seed)
    while True:
        event = good()
        if event is None:
            text = _encode(UsageEvent("1.0", "poison", "/poison", "usage", "poison", {"operation": "read"}))  # type: ignore[arg-type]
            yield Poison(chance.choice(_BAD_RECORDS)(chance, text), None), None
            continue
        text = _encode(event)
        bad = [chance.choice(_BAD_ELEMENTS)(chance, text) for _ in range(chance.randrange(1, 4))]
        place = chance.randrange(len(bad) + 1)
        yield Poison(b"[" + b",".join([*bad[:place], text, *bad[place:]]) + b"]", place), event
