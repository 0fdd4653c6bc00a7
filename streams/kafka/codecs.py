"""Codecs between the schemas and the bytes on Kafka: MessagePack behind the number of its format, but JSON for dead
letters, answers and attempts at deliveries.

Every function here that decodes raises UnreadableError for bytes that can't be read, FormatError for those of a version
that is not read here, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from schemas.accounts import Account
from schemas.answers import Answer
from schemas.commands import AnyCommand, Commands, Envelope, IntakeRecord, Replies
from schemas.courier import CourierRecord
from schemas.events import DeadLetter, PackedUsage, Usage
from schemas.facts import Fact, FactHead, FactPack
from schemas.notices import DeliveryAttempt
from schemas.replies import KeptReply, Reply
from streams.core.foreign import UnreadableError, read
from streams.core.packed_usage import pack, unpack
from streams.core.price_list import Prices, prices_from
from streams.kafka.formats import ACCOUNTS, COURIER, FACTS, HEAD_BYTES, INTAKE, KEPT_REPLIES, REPLIES, UNMARKED, USAGE

_encoder = msgspec.msgpack.Encoder()

T = TypeVar("T")

encode = _encoder.encode
encode_json = msgspec.json.Encoder().encode
decode_answers: Callable[[bytes], list[Answer]] = partial(read, msgspec.json.Decoder(list[Answer]).decode)
decode_attempt: Callable[[bytes], DeliveryAttempt] = partial(read, msgspec.json.Decoder(DeliveryAttempt).decode)
encode_attempt: Callable[[DeliveryAttempt], bytes] = encode_json
decode_dead_letter: Callable[[bytes], DeadLetter] = partial(read, msgspec.json.Decoder(DeadLetter).decode)

_decode_intake: Callable[[memoryview], IntakeRecord] = msgspec.msgpack.Decoder(IntakeRecord).decode
_decode_replies = msgspec.msgpack.Decoder(Replies).decode
_decode_raw_pack = msgspec.msgpack.Decoder(FactPack[msgspec.Raw]).decode
_decode_pack = msgspec.msgpack.Decoder(FactPack[list[Fact]]).decode
_decode_heads = msgspec.msgpack.Decoder(FactPack[list[FactHead]]).decode
_decode_raw_facts = msgspec.msgpack.Decoder(FactPack[list[msgspec.Raw]]).decode
_decode_fact = msgspec.msgpack.Decoder(Fact).decode
_decode_account = msgspec.msgpack.Decoder(Account).decode
_decode_courier: Callable[[memoryview], CourierRecord] = msgspec.msgpack.Decoder(CourierRecord).decode
_decode_kept_reply = msgspec.msgpack.Decoder(KeptReply).decode
_decode_kept_replies = msgspec.msgpack.Decoder(list[tuple[bytes, msgspec.Raw]]).decode


def encode_account(account: Account) -> bytes:
    """The bytes of an account behind its last applied offset, big-endian: the newer of two values shows without
    decoding."""
    return (account.last_offset + 1).to_bytes(VERSION_BYTES, "big") + ACCOUNTS.head + encode(account)


def decode_account(value: bytes) -> Account:
    """The account in a value that `encode_account` gave."""
    return read(_decode_account, account_body(value))


def offset_of_account(value: bytes) -> int:
    """The offset of the last intake record applied to the account in a value that `encode_account` gave."""
    return int.from_bytes(value[:VERSION_BYTES], "big") - 1


def account_body(value: bytes) -> memoryview:
    """The MessagePack of the account in a value that `encode_account` gave."""
    return ACCOUNTS.body(value, VERSION_BYTES)


def check_account(value: bytes) -> None:
    """Raise FormatError where an account's value is of a format that is not read here."""
    ACCOUNTS.check(value, VERSION_BYTES)


def prices_of(value: bytes | None) -> Prices:
    """The price list in a stored value of `PRICES_ID`; None stands for a partition to which nothing was announced
    yet."""
    return prices_from(decode_account(value).books) if value is not None else Prices()


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


def encode_intake(record: IntakeRecord) -> bytes:
    """The bytes of an intake record."""
    return INTAKE.head + encode(record)


def decode_intake(value: bytes) -> IntakeRecord:
    """The intake record of these bytes."""
    value = value or b""  # a tombstone has none
    if not value.startswith(INTAKE.head):
        check_intake(value)
        if INTAKE.oldest > UNMARKED == INTAKE.number_of(value):
            raise UnreadableError("It bears no format")
    return read(_decode_intake, INTAKE.body(value))


def check_intake(value: bytes) -> None:
    """Raise FormatError where an intake record is of a format that is not read here. One that bears no format is no
    record of ours: were it taken for an old one, a stranger's would stop the workers."""
    if INTAKE.number_of(value):
        INTAKE.check(value)


def encode_usage(events: Sequence[bytes]) -> bytes:
    """The bytes of a usage record of packed events."""
    return USAGE.head + pack(events)


def decode_usage(value: bytes) -> list[PackedUsage]:
    """The packed events of a usage record that are all well-formed."""
    return unpack(usage_body(value))


def usage_body(value: bytes) -> bytes:
    """The pack in a usage record that begins with the mark of a format. Raises FormatError where another version made
    it."""
    USAGE.check(value)
    return value[HEAD_BYTES:]


def encode_envelope(usages: Sequence[Usage]) -> bytes:
    """The bytes of an intake record of accepted usage."""
    return encode_intake(Envelope(list(usages)))


def encode_commands(commands: Sequence[AnyCommand]) -> bytes:
    """The bytes of an intake record of commands."""
    return encode_intake(Commands(list(commands)) if len(commands) > 1 else commands[0])


def replies_to(instance: str) -> Callable[[Sequence[tuple[str, Reply]]], bytes]:
    """The function that encodes (correlation, reply) pairs for one API process as a record."""
    return lambda replies: REPLIES.head + encode(Replies(instance, list(replies)))


def decode_replies(value: bytes) -> Replies:
    """The replies of a record."""
    return read(_decode_replies, REPLIES.body(value or b""))


def encode_kept_reply(kept: KeptReply) -> bytes:
    """The bytes of a kept reply, as it stands in a local table and within a record of its changelog."""
    return encode(kept)


def decode_kept_reply(value: bytes) -> KeptReply:
    """The kept reply of these bytes."""
    return read(_decode_kept_reply, value)


def encode_kept_replies(rows: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The bytes of a changelog record of kept replies: each with the name that it is kept under."""
    return KEPT_REPLIES.head + encode([(name, msgspec.Raw(value)) for name, value in rows])


def decode_kept_replies(value: bytes) -> list[tuple[bytes, bytes]]:
    """The kept replies of a changelog record, as `encode_kept_replies` took them."""
    return [(name, bytes(raw)) for name, raw in read(_decode_kept_replies, KEPT_REPLIES.body(value or b""))]


def encode_facts(facts: Sequence[Fact]) -> bytes:
    """The bytes of a journal record, with the first and last place of its facts beside them."""
    first, last = facts[0], facts[-1]
    booked = [fact.booked_at_ms for fact in facts]
    return FACTS.head + encode(
        FactPack(
            (first.offset, first.index), (last.offset, last.index), min(booked), max(booked), len(facts), list(facts)
        )
    )


def decode_facts(value: bytes) -> list[Fact]:
    """The facts of a journal record."""
    return read(_decode_pack, FACTS.body(value or b"")).facts


def decode_raw_pack(value: bytes) -> FactPack[msgspec.Raw]:
    """The pack of a journal record, its facts as MessagePack with every field that a fact has now."""
    pack = read(_decode_raw_pack, FACTS.body(value or b""))
    if value.startswith(FACTS.head):
        return pack
    return msgspec.structs.replace(pack, facts=msgspec.Raw(encode(decode_facts(value))))


def decode_fact_heads(value: bytes) -> FactPack[list[FactHead]]:
    """The pack of a journal record, of each fact only its head."""
    return read(_decode_heads, FACTS.body(value or b""))


def decode_some_facts(value: bytes, numbers: Sequence[int]) -> list[Fact]:
    """The facts of a journal record that have these numbers in it; others are not decoded, where they are most."""
    body = FACTS.body(value)
    head = read(_decode_raw_facts, body)
    if 2 * len(numbers) > head.count:
        facts = read(_decode_pack, body).facts
        return [facts[number] for number in numbers]
    return [read(_decode_fact, head.facts[number]) for number in numbers]


VERSION_BYTES = 8


def encode_courier(record: CourierRecord, epoch: int) -> bytes:
    """The bytes of a record of the courier behind its epoch, big-endian: the newer of two values shows without
    decoding."""
    return epoch.to_bytes(VERSION_BYTES, "big") + COURIER.head + encode(record)


def decode_courier(value: bytes) -> CourierRecord:
    """The record in a value that `encode_courier` gave."""
    return read(_decode_courier, COURIER.body(value, VERSION_BYTES))


def check_courier(value: bytes) -> None:
    """Raise FormatError where a courier's value is of a format that is not read here."""
    COURIER.check(value, VERSION_BYTES)


def epoch_of(value: bytes) -> int:
    """The epoch of a value that `encode_courier` gave."""
    return int.from_bytes(value[:VERSION_BYTES], "big")
