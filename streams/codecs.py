"""Bytes on Kafka, to and from the schemas: MessagePack inside, JSON for dead letters."""

from __future__ import annotations

import msgspec

from schemas.commands import IntakeRecord, ReplyRecord
from schemas.events import DeadLetter
from schemas.ledger import Account, Fact

_encoder = msgspec.msgpack.Encoder()

encode = _encoder.encode
encode_json = msgspec.json.Encoder().encode
decode_intake = msgspec.msgpack.Decoder(IntakeRecord).decode
decode_account = msgspec.msgpack.Decoder(Account).decode
decode_facts = msgspec.msgpack.Decoder(list[Fact]).decode
decode_reply = msgspec.msgpack.Decoder(ReplyRecord).decode
decode_dead_letter = msgspec.json.Decoder(DeadLetter).decode
