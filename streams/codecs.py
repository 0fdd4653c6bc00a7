"""Bytes on Kafka, to and from the schemas: MessagePack inside, JSON for dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from schemas.commands import IntakeRecord, ReplyRecord
from schemas.events import DeadLetter, Usage
from schemas.ledger import Account, Fact
from streams.rocks import VERSION_BYTES

_encoder = msgspec.msgpack.Encoder()

encode = _encoder.encode
encode_json = msgspec.json.Encoder().encode
decode_intake: Callable[[bytes], IntakeRecord] = msgspec.msgpack.Decoder(IntakeRecord).decode
decode_facts = msgspec.msgpack.Decoder(list[Fact]).decode
# The same as plain lists, a value for each of Fact's fields: for columns, objects would only be taken apart again.
decode_fact_rows: Callable[[bytes], list[list[Any]]] = msgspec.msgpack.Decoder(list[list[Any]]).decode
decode_reply = msgspec.msgpack.Decoder(ReplyRecord).decode
decode_dead_letter = msgspec.json.Decoder(DeadLetter).decode

_decode_account = msgspec.msgpack.Decoder(Account).decode


def encode_account(account: Account) -> bytes:
    """The last applied offset, big-endian, then the account: which of two values is newer shows without decoding."""
    return (account.last_offset + 1).to_bytes(VERSION_BYTES, "big") + encode(account)


def decode_account(value: bytes) -> Account:
    """The account of a value that encode_account gave."""
    return _decode_account(memoryview(value)[VERSION_BYTES:])


T = TypeVar("T")

# Well under what a broker takes in one record (8 MiB), and enough for its compression to work on.
RECORD_BYTES_MAX = 1024 * 1024
RECORD_ITEMS_MAX = 1000


def packed(items: Iterable[T], bytes_of: Callable[[T], int]) -> Iterator[list[T]]:
    """`items` in lists for one record each, in order; `bytes_of` estimates an item's size from above."""
    pack: list[T] = []
    size = 0
    for item in items:
        item_size = bytes_of(item)
        if pack and (size + item_size > RECORD_BYTES_MAX or len(pack) >= RECORD_ITEMS_MAX):
            yield pack
            pack, size = [], 0
        pack.append(item)
        size += item_size
    if pack:
        yield pack


def usage_bytes(usage: Usage) -> int:
    """At most 4 bytes a character, and the short fields together."""
    return 1024 + 4 * (len(usage.source) + len(usage.event_id) + len(usage.job_id) + len(usage.metadata))


def fact_bytes(fact: Fact) -> int:
    """As usage_bytes."""
    return 1024 + 4 * (len(fact.source) + len(fact.event_id) + len(fact.job_id) + len(fact.metadata))
