"""The user behind a connection to this machine's loopback address, as the kernel tells it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# What Linux shows for a user that this process's namespace does not know. It is nobody in particular.
OVERFLOW_UID = 65534


def uid_of(client: tuple[str, int], server: tuple[str, int]) -> int | None:
    """The user id of the process that holds the connection from `client` to `server`; None where that can't be told, as
    on other systems than Linux.

    The tables have a connection's other end on this machine as a socket of its own, with the user who made it. A socket
    that nobody holds any more (inode 0) has no user, though the table shows 0, which is root's.
    """
    for name, wanted in (("tcp", _hex_pair(client, server)), ("tcp6", _hex_pair(client, server, mapped=True))):
        with suppress(OSError):
            for local, remote, uid, inode in _connections(Path("/proc/net") / name):
                if (local, remote) == wanted and inode != 0 and uid != OVERFLOW_UID:
                    return uid
    return None


def _connections(table: Path) -> Iterator[tuple[str, str, int, int]]:
    with table.open() as lines:
        next(lines, None)
        for line in lines:
            fields = line.split()
            yield fields[1], fields[2], int(fields[7]), int(fields[9])


def _hex_pair(client: tuple[str, int], server: tuple[str, int], *, mapped: bool = False) -> tuple[str, str]:
    """Two addresses as /proc/net/tcp writes them, or as tcp6 does where `mapped`: words in the host's byte order."""
    return _hex(client, mapped), _hex(server, mapped)


def _hex(address: tuple[str, int], mapped: bool) -> str:
    host, port = address[:2]
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    if mapped and len(packed) == 4:
        packed = bytes(10) + b"\xff\xff" + packed
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{port:04X}"
