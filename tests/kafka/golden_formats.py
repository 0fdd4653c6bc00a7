"""Golden bytes of every stored shape, in tests/golden/formats: what each format's bytes must decode to, for good.

`python -m tests.kafka.golden_formats` writes the files of the present formats that are not there yet, and changes none.
Of each format there is its bytes (`facts-1.bin`), what they decode to (`facts-1.json`), and its fields with their
types (`facts-1.shape.json`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from schemas.accounts import Account
from schemas.commands import AnyCommand, Commands, IntakeRecord, Replies
from schemas.courier import CourierRecord
from schemas.events import PackedUsage
from schemas.facts import Fact, FactPack
from schemas.replies import KeptReply, Reply
from streams.kafka.codecs import (
    decode_account,
    decode_courier,
    decode_facts,
    decode_intake,
    decode_kept_replies,
    decode_kept_reply,
    decode_replies,
    decode_usage,
    encode,
    encode_account,
    encode_courier,
    encode_facts,
    encode_intake,
    encode_kept_replies,
    encode_kept_reply,
    encode_usage,
    replies_to,
)
from streams.kafka.formats import ACCOUNTS, COURIER, FACTS, INTAKE, KEPT_REPLIES, REPLIES, USAGE, Format

FOLDER = Path(__file__).parent.parent / "golden" / "formats"


@dataclass(frozen=True)
class Golden:
    """A stored shape: its format, the types that its bytes are made of, a value's bytes, and how they are decoded."""

    name: str
    format: Format
    types: Iterable[Any]
    written: Callable[[], list[bytes]]
    decoded: Callable[[bytes], object]

    def path(self, kind: str, number: int | None = None) -> Path:
        """The file of this shape with bytes (`bin`), what they decode to (`json`), or fields (`shape.json`)."""
        return FOLDER / f"{self.name}-{self.format.number if number is None else number}.{kind}"


def _commands() -> list[bytes]:
    kinds = [sample(each) for each in inspect.type_info(AnyCommand).types]
    return [encode_intake(each) for each in (Commands(kinds), *_others(), kinds[0])]


def _others() -> list[Any]:
    return [sample(each) for each in inspect.type_info(IntakeRecord).types if each.cls.__name__ in ("Envelope", "Tick")]


def _courier() -> list[bytes]:
    return [encode_courier(sample(each), 7) for each in inspect.type_info(CourierRecord).types]


def _kept_replies() -> list[bytes]:
    return [encode_kept_replies([(b"name".ljust(16), encode_kept_reply(sample(inspect.type_info(KeptReply))))])]


def _usage() -> list[bytes]:
    return [encode_usage([encode(sample(inspect.type_info(PackedUsage))) for _ in range(2)])]


def _read_kept_replies(value: bytes) -> object:
    return [(name, decode_kept_reply(row)) for name, row in decode_kept_replies(value)]


GOLDEN = (
    Golden(
        "accounts", ACCOUNTS, (Account,), lambda: [encode_account(sample(inspect.type_info(Account)))], decode_account
    ),
    Golden(
        "facts",
        FACTS,
        (FactPack[list[Fact]],),
        lambda: [encode_facts([sample(inspect.type_info(Fact)) for _ in range(2)])],
        decode_facts,
    ),
    Golden("intake", INTAKE, (IntakeRecord,), _commands, decode_intake),
    Golden(
        "replies",
        REPLIES,
        (Replies,),
        lambda: [replies_to("instance")([("correlation", sample(inspect.type_info(Reply)))])],
        decode_replies,
    ),
    Golden("courier", COURIER, (CourierRecord,), _courier, decode_courier),
    Golden("kept-replies", KEPT_REPLIES, (KeptReply,), _kept_replies, _read_kept_replies),
    Golden("usage-packed", USAGE, (PackedUsage,), _usage, decode_usage),
)


def sample(kind: Any, name: str = "") -> Any:
    """A value of a type with something in every field; the same at every call."""
    if isinstance(kind, inspect.StructType):
        return kind.cls(**{field.name: sample(field.type, field.name) for field in kind.fields})
    if isinstance(kind, inspect.UnionType):
        return sample(next(each for each in kind.types if not isinstance(each, inspect.NoneType)), name)
    if isinstance(kind, inspect.ListType):
        return [sample(kind.item_type, name)]
    if isinstance(kind, inspect.TupleType):
        return tuple(sample(each, name) for each in kind.item_types)
    if isinstance(kind, inspect.DictType):
        return {sample(kind.key_type, f"{name}_key"): sample(kind.value_type, name)}
    if isinstance(kind, inspect.LiteralType):
        return kind.values[0]
    if isinstance(kind, inspect.BoolType):
        return True
    if isinstance(kind, inspect.IntType):
        return 1_000 + sum(name.encode())
    if isinstance(kind, inspect.BytesType):
        return name.encode().ljust(16, b"\0")
    if isinstance(kind, inspect.RawType):
        return msgspec.Raw(encode(name))
    assert isinstance(kind, inspect.StrType), kind
    return f"{name} é"


def described(value: Any) -> Any:
    """A decoded value as JSON can have it, with the name of every field."""
    if isinstance(value, msgspec.Struct):
        fields = {name: described(getattr(value, name)) for name in value.__struct_fields__}
        return {"": type(value).__name__} | fields
    if isinstance(value, list | tuple):
        return [described(each) for each in value]
    if isinstance(value, dict):
        return {key: described(each) for key, each in value.items()}
    return bytes(value).hex() if isinstance(value, bytes | msgspec.Raw) else value


def shape_of(types: Iterable[Any]) -> dict[str, list[str]]:
    """Every struct within these types, with its tag, and its fields, their types and defaults, in order."""
    found: dict[str, list[str]] = {}
    for each in types:
        _collect(inspect.type_info(each), found)
    return dict(sorted(found.items()))


def _collect(kind: Any, found: dict[str, list[str]]) -> str:
    if isinstance(kind, inspect.StructType):
        name = kind.cls.__name__
        if name not in found:
            found[name] = [f"tag {kind.tag}"] if kind.tag else []
            for field in kind.fields:
                default = "" if field.required else f" = {_default(field)}"
                found[name].append(f"{field.name}: {_collect(field.type, found)}{default}")
        return name
    if isinstance(kind, inspect.UnionType):
        return " | ".join(_collect(each, found) for each in kind.types)
    if isinstance(kind, inspect.ListType):
        return f"list[{_collect(kind.item_type, found)}]"
    if isinstance(kind, inspect.TupleType):
        return f"tuple[{', '.join(_collect(each, found) for each in kind.item_types)}]"
    if isinstance(kind, inspect.DictType):
        return f"dict[{_collect(kind.key_type, found)}, {_collect(kind.value_type, found)}]"
    # A new literal may be met by a reader that does not know it, so all of them are part of the shape.
    return f"{kind.values}" if isinstance(kind, inspect.LiteralType) else type(kind).__name__.removesuffix("Type")


def _default(field: Any) -> str:
    return "factory" if field.default is msgspec.NODEFAULT else repr(field.default)


def main() -> None:
    """Write the golden files of formats that have none."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for golden in GOLDEN:
        values = golden.written()
        for kind, content in (
            ("bin", b"".join(len(value).to_bytes(4, "big") + value for value in values)),
            ("json", _json([described(golden.decoded(value)) for value in values])),
            ("shape.json", _json(shape_of(golden.types))),
        ):
            if not golden.path(kind).exists():
                golden.path(kind).write_bytes(content)
                print(f"wrote {golden.path(kind)}")


def values_in(content: bytes) -> list[bytes]:
    """The values in a file of golden bytes: each is behind its length, four bytes, big-endian."""
    values = []
    while content:
        end = 4 + int.from_bytes(content[:4], "big")
        values.append(content[4:end])
        content = content[end:]
    return values


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


if __name__ == "__main__":
    main()
