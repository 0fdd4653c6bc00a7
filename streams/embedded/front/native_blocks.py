"""ClickHouse's Native format as a client of some protocol version expects it, which the engine itself does not write.

`FORMAT Native` of an embedded engine is that of version 0. Since then a block begins with facts about itself, and each
column says whether its values are written in some other way than its type's. The bytes of the values are the same, and
the engine's format `Buffers` gives them with the length of each column, so that no type is parsed here. The names and
types are what DESCRIBE says of the same statement.
See ClickHouse's src/Formats/NativeWriter.cpp and src/Core/ProtocolDefines.h; docs/decisions/0033.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from streams.embedded.front.statements import Judged

# The first version with types of low cardinality; those before it would need them written as plain ones.
VERSION_MIN = 54405
_HAS_CUSTOM_SERIALIZATION = 54454
# Types whose bytes are others since some version, and what to do instead.
_CHANGED = {
    "AggregateFunction": (54452, "finish it with finalizeAggregation()"),
    "Dynamic": (54473, "use toString()"),
    "JSON": (54473, "use toJSONString()"),
}
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`", re.DOTALL)

# Field 1, is_overflows: no. Field 2, bucket_num: -1. No more fields.
_BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"
_LENGTH = struct.Struct("<Q")

_CHANGE_TYPES = ("output_format_native_encode_types_in_binary_format", "output_format_native_write_json_as_string")
_NAMES_AND_TYPES = "JSONCompactEachRowWithNamesAndTypes"


class NotGiven(Exception):
    """An answer cannot be given in the version that is asked for; the message says what to do."""


class Column(NamedTuple):
    name: str
    type: str


def version_of(asked: str) -> int:
    """The protocol version that a client asks for. Raises NotGiven."""
    version = int(asked) if re.fullmatch(r"[0-9]{1,9}", asked) else -1
    if version and version < VERSION_MIN:
        raise NotGiven(
            f"client_protocol_version {asked[:64]!r} is not spoken here: send {VERSION_MIN} or later, or none"
        )
    return version


def settings_for(sql: str) -> dict[str, str]:
    """The settings that `columns_of` needs for a formatted statement."""
    # Else DESCRIBE writes a tuple with names on several lines, which is not the name of its type.
    return {"print_pretty_type_names": "0"} if _is_describable(sql) else {}


def read_native(
    connection: Any, judged: Judged, parameters: Mapping[str, str], settings: Mapping[str, str], version: int
) -> tuple[Any, Iterator[bytes | memoryview]]:
    """Run a judged statement, its settings and `settings_for` it set. Returns the engine's result, and its rows in
    Native of a protocol version, in pieces. Raises NotGiven."""
    for name in _CHANGE_TYPES:
        if {**settings, **judged.settings}.get(name, "0") not in ("0", "false"):
            raise NotGiven(f"{name} is not given with a client_protocol_version: leave one of them out")
    # What can follow FORMAT is SETTINGS, which are set, and have no blank in their values.
    sql = judged.sql if judged.format is None else judged.sql[: judged.sql.rindex(" FORMAT ")]
    columns = columns_of(connection, sql, parameters)
    _check(columns, version)
    result = connection.query(sql, "Buffers", params=parameters)
    return result, blocks(columns, result.bytes(), version)


def columns_of(connection: Any, sql: str, parameters: Mapping[str, str]) -> list[Column]:
    """The columns of what a statement gives. `sql` is formatted and names no format, and `settings_for` it are set."""
    if _is_describable(sql):
        described = connection.query(f"DESCRIBE TABLE ({sql})", "JSONCompactEachRow", params=parameters).bytes()
        return [Column(*json.loads(line)[:2]) for line in described.splitlines()]
    # SHOW, DESCRIBE, EXPLAIN and EXISTS are asked twice. They are short.
    first, second = connection.query(sql, _NAMES_AND_TYPES, params=parameters).bytes().splitlines()[:2]
    return [Column(*pair) for pair in zip(json.loads(first), json.loads(second), strict=True)]


def blocks(columns: Sequence[Column], buffers: bytes, version: int) -> Iterator[bytes | memoryview]:
    """Native blocks of a protocol version, in pieces, of what the engine gave in the format Buffers.

    No rows are one block of none, which tells the columns.
    """
    heads = [_text(column.name) + _text(column.type) for column in columns]
    if version >= _HAS_CUSTOM_SERIALIZATION:
        heads = [head + b"\x00" for head in heads]
    info = _BLOCK_INFO if version else b""
    if not buffers and version:
        yield info + _varint(len(columns)) + _varint(0) + b"".join(heads)
    view = memoryview(buffers)
    at = 0
    while at < len(view):
        count, rows = _number(view, at), _number(view, at + 8)
        at += 16
        assert count == len(columns), f"{count} columns came, and {len(columns)} were described"
        yield info + _varint(count) + _varint(rows)
        for head in heads:
            length = _number(view, at)
            at += 8
            assert at + length <= len(view), "the engine's buffers end within a column"
            yield head
            yield view[at : at + length]
            at += length


def _is_describable(sql: str) -> bool:
    return sql.lstrip("(").startswith(("SELECT", "WITH", "FROM"))


def _check(columns: Sequence[Column], version: int) -> None:
    for column in columns:
        words = set(re.findall(r"\w+", _QUOTED.sub("", column.type)))
        for word, (since, remedy) in _CHANGED.items():
            if version >= since and word in words:
                raise NotGiven(
                    f"Column {column.name[:64]!r} of the type {column.type[:64]} is not given in Native at "
                    f"client_protocol_version {version}: {remedy}"
                )


def _number(view: memoryview, at: int) -> int:
    return int(_LENGTH.unpack_from(view, at)[0])


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _varint(len(encoded)) + encoded


def _varint(number: int) -> bytes:
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
