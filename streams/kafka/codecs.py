"""Codecs between the schemas and the bytes on Kafka: MessagePack, but JSON for dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

from schemas.accounts import Account
from schemas.commands import AnyCommand, Commands, Envelope, IntakeRecord, Replies
from schemas.events import DeadLetter, Usage
from schemas.facts import Fact, FactPack
from schemas.replies import Reply
from streams.core.price_list import Prices

_encoder = msgspec.msgpack.Encoder()

encode = _encoder.encode
encode_json = msgspec.json.Encoder().encode
decode_intake: Callable[[bytes], IntakeRecord] = msgspec.msgpack.Decoder(IntakeRecord).decode
decode_raw_pack = msgspec.msgpack.Decoder(FactPack[msgspec.Raw]).decode
decode_replies = msgspec.msgpack.Decoder(Replies).decode
decode_dead_letter = msgspec.json.Decoder(DeadLetter).decode

_decode_pack = msgspec.msgpack.Decoder(FactPack[list[Fact]]).decode
_decode_account = msgspec.msgpack.Decoder(Account).decode


def encode_account(account: Account) -> bytes:
    """The bytes of an account behind its last applied offset, big-endian: the newer of two values shows without
    decoding."""
    return (account.last_offset + 1).to_bytes(VERSION_BYTES, "big") + encode(account)


def decode_account(value: bytes) -> Account:
    """The account in a value that `encode_account` gave."""
    return _decode_account(memoryview(value)[VERSION_BYTES:])


def prices_of(value: bytes | None) -> Prices:
    """The price list in a stored value of `PRICES_ID`; None stands for a partition to which nothing was announced
    yet."""
    return Prices([announced.book for announced in decode_account(value).books] if value is not None else ())


T = TypeVar("T")

# Well under the 8 MiB that a broker takes in one record, and enough for compression to work well.
RECORD_BYTES_MAX = 1024 * 1024
RECORD_ITEMS_MAX = 1000


def packed(items: Sequence[T], encode_pack: Callable[[Sequence[T]], bytes]) -> Iterator[bytes]:
    """Pack `items` into records, in order, each within both limits; an item too large for them has a record of its
    own."""
    for start in range(0, len(items), RECORD_ITEMS_MAX):
        yield from _within_bytes(items[start : start + RECORD_ITEMS_MAX], encode_pack)


def _within_bytes(items: Sequence[T], encode_pack: Callable[[Sequence[T]], bytes]) -> Iterator[bytes]:
    record = encode_pack(items)
    if len(record) <= RECORD_BYTES_MAX or len(items) == 1:
        yield record
    else:
        half = len(items) // 2
        yield from _within_bytes(items[:half], encode_pack)
        yield from _within_bytes(items[half:], encode_pack)


def encode_envelope(usages: Sequence[Usage]) -> bytes:
    """The bytes of an intake record of accepted usage."""
    return encode(Envelope(list(usages)))


def encode_commands(commands: Sequence[AnyCommand]) -> bytes:
    """The bytes of an intake record of commands."""
    return encode(Commands(list(commands)) if len(commands) > 1 else commands[0])


def replies_to(instance: str) -> Callable[[Sequence[tuple[str, Reply]]], bytes]:
    """The function that encodes (correlation, reply) pairs for one API process as a record."""
    return lambda replies: encode(Replies(instance, list(replies)))


def encode_facts(facts: Sequence[Fact]) -> bytes:
    """The bytes of a journal record, with the first and last place of its facts beside them."""
    first, last = facts[0], facts[-1]
    booked = [fact.booked_at_ms for fact in facts]
    return encode(
        FactPack(
            (first.offset, first.index), (last.offset, last.index), min(booked), max(booked), len(facts), list(facts)
        )
    )


def decode_facts(value: bytes) -> list[Fact]:
    """The facts of a journal record."""
    return _decode_pack(value).facts


VERSION_BYTES = 8
