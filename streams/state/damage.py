"""Damage to local state: it is set aside, said in one line, and rebuilt from Kafka, which holds all of it.

RocksDB verifies a checksum with every block, manifest record and footer that it reads, so damage shows as an error. A
disk that is full, read-only or failing is not damage: nothing is wrong with the files, and they stay where they are.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from streams.errors import OperatorError

log = logging.getLogger(__name__)

# How many damaged copies of one file are kept, for whoever wants to know what happened. Each is as large as the file.
KEPT_MAX = 2

# What says in RocksDB's errors that a file is not as it was written, or is not there.
_DAMAGE = (
    *("Corruption", "Invalid argument", "Not implemented", "NotFound", "Result incomplete"),
    *(os.strerror(code) for code in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)),
)
# What the system says of itself in them. RocksDB calls some of these a corruption, for want of the file.
_SYSTEM = (
    *map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)),
    *map(os.strerror, (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EBUSY)),
    os.strerror(errno.ENOLCK),
)


class DamagedError(OperatorError):
    """Local state is damaged. It is set aside already; the process that used it ends, and rebuilds it when it starts
    again."""


class StateError(OperatorError):
    """The system does not let local state be read or written; the message has its reason. Nothing is damaged."""


def is_damage(error: Exception) -> bool:
    """Whether an error that RocksDB raised says that its files are damaged, and not that the system can't serve them
    now."""
    told = str(error)
    return any(word in told for word in _DAMAGE) and not any(word in told for word in _SYSTEM)


def failure_of(path: Path, error: Exception) -> OperatorError:
    """The error to raise for one that RocksDB raised on a file of the state at `path`. Where it is damage, that state
    is set aside first."""
    told = str(error).strip().replace("\n", " ")
    if is_damage(error):
        return DamagedError(set_aside(path, told))
    return StateError(f"{path} can't be used: {told}. Free space, or make it readable and writable; nothing is lost")


def set_aside(path: Path, why: str) -> str:
    """Rename the state at `path`, so that the next one to open it begins anew; gives the line that says so."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    line = f"{path} is damaged ({why}): set aside as {aside.name}, and rebuilt from Kafka"
    try:
        path.rename(aside)
    except FileNotFoundError:
        return line  # it was found damaged a moment ago, and said so
    except OSError as error:
        raise StateError(f"{path} is damaged ({why}), and can't be set aside: {error.strerror}. Remove it") from None
    log.error("%s", line)
    for old in sorted(path.parent.glob(f"{path.name}.damaged-*"))[:-KEPT_MAX]:
        old.unlink() if old.is_file() else shutil.rmtree(old, ignore_errors=True)
    return line


Place = TypeVar("Place")
File = TypeVar("File")


def opened(open_file: Callable[[Place], File], place: Place) -> File:
    """Open the state at a place, or, where it turns out to be damaged, new and empty state instead."""
    try:
        return open_file(place)
    except DamagedError:
        return open_file(place)
