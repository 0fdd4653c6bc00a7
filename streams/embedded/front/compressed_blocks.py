"""ClickHouse's compressed blocks: what `compress=1` asks the front to answer with, and `decompress=1` says of a body.

A block is a CityHash128 (version 1.0.2) of what follows it, a byte that names the method, the length of the method, the
lengths and the packed bytes together, the length of the unpacked bytes, and the packed bytes; numbers are
little-endian. See ClickHouse's src/Compression/ICompressionCodec.h and CompressedReadBufferBase.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cramjam
from clickhouse_cityhash.cityhash import CityHash128

BLOCK_BYTES = 1024 * 1024

_CHECKSUM = struct.Struct("<QQ")
_HEADER = struct.Struct("<BII")
_NONE, _LZ4, _ZSTD = 0x02, 0x82, 0x90

# What a client may say of the blocks of an answer, beside `compress=1`. No level of ZSTD is worth more of this CPU.
SETTINGS_OF_BLOCKS = frozenset({"network_compression_method", "network_zstd_compression_level"})


class BadBlocks(ValueError):
    """Bytes are no compressed blocks, or unpack to too much, or a method is unknown; the message says which."""


def _as_is(data: bytes) -> bytes:
    return data


def _lz4(data: bytes) -> Any:
    return cramjam.lz4.compress_block(data, store_size=False)


def _zstd(data: bytes) -> Any:
    return cramjam.zstd.compress(data, 1)


# By the names that the setting `network_compression_method` has for them.
METHODS: dict[str, tuple[int, Callable[[bytes], Any]]] = {
    "LZ4": (_LZ4, _lz4),
    "LZ4HC": (_LZ4, _lz4),
    "ZSTD": (_ZSTD, _zstd),
    "NONE": (_NONE, _as_is),
}


def packer(params: Mapping[str, str]) -> Callable[[bytes], bytes]:
    """How an answer to a request is packed: not at all, unless its parameters ask for it. Raises BadBlocks."""
    if params.get("compress") != "1":
        return _as_is
    method = params.get("network_compression_method", "LZ4").upper()
    if method not in METHODS:
        raise BadBlocks(f"network_compression_method is not one of {', '.join(METHODS)}")
    return lambda data: pack(data, method)


def pack(data: bytes, method: str = "LZ4") -> bytes:
    """Pack bytes into compressed blocks by one of METHODS. No bytes are no blocks."""
    return b"".join(_packed(data, *METHODS[method]))


def _packed(data: bytes, code: int, compress: Callable[[bytes], Any]) -> Iterator[bytes]:
    for start in range(0, len(data), BLOCK_BYTES):
        plain = data[start : start + BLOCK_BYTES]
        packed = bytes(compress(plain))
        block = _HEADER.pack(code, _HEADER.size + len(packed), len(plain)) + packed
        yield _checksum(block) + block


def unpack(data: bytes, bytes_max: int) -> bytes:
    """Unpack compressed blocks into at most `bytes_max` bytes. Raises BadBlocks."""
    plain = bytearray()
    start = 0
    while start < len(data):
        checksum, start = data[start : start + _CHECKSUM.size], start + _CHECKSUM.size
        header = data[start : start + _HEADER.size]
        if len(header) < _HEADER.size:
            raise BadBlocks("A compressed block ends within its header")
        code, packed_bytes, plain_bytes = _HEADER.unpack(header)
        if code not in (_NONE, _LZ4, _ZSTD):
            raise BadBlocks(f"A compressed block is packed by the method {code:#04x}; LZ4 is 0x82, ZSTD is 0x90")
        block = data[start : start + packed_bytes]
        start += packed_bytes
        if len(block) < packed_bytes or packed_bytes <= _HEADER.size:
            raise BadBlocks("A compressed block is shorter than it says")
        if len(plain) + plain_bytes > bytes_max:
            raise BadBlocks(f"Compressed blocks unpack to more than {bytes_max} bytes")
        if _checksum(block) != checksum:
            raise BadBlocks("A compressed block has another checksum than it says")
        plain += _unpacked(code, block[_HEADER.size :], plain_bytes)
    return bytes(plain)


def _unpacked(code: int, packed: bytes, plain_bytes: int) -> bytes:
    plain = bytearray(plain_bytes)
    try:
        if code == _LZ4:
            written = cramjam.lz4.decompress_block_into(packed, plain, plain_bytes)
        elif code == _ZSTD:
            written = cramjam.zstd.decompress_into(packed, plain)
        else:
            plain[:], written = packed, len(packed)
    except (cramjam.DecompressionError, ValueError) as error:
        raise BadBlocks(f"A compressed block cannot be unpacked: {error}") from error
    if written != plain_bytes:
        raise BadBlocks("A compressed block unpacks to another length than it says")
    return bytes(plain)


def _checksum(block: bytes) -> bytes:
    number = CityHash128(block)
    return _CHECKSUM.pack(number >> 64, number & 0xFFFF_FFFF_FFFF_FFFF)
