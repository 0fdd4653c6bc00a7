"""Space on the disk: a process that finds none says where, and what to do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

# As RocksDB, SQLite, ClickHouse and the JVM word it, whose errors are no OSError.
_NO_SPACE = re.compile(r"No space left on device|NOT_ENOUGH_SPACE|disk is full|errno: 28\b")
_PATH = re.compile(r"/[^\s:'\"]+")
# With less than this, Kafka, RocksDB and ClickHouse can't begin a new file.
_SPACE_BYTES_MIN = 4 * 1024 * 1024


def no_space(error: BaseException, directory: object) -> str | None:
    """The sentence for an error that a full disk caused, or None for any other. `directory` is where the process writes
    if the error does not say itself."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return no_space_text(cause.filename or directory)
        if _NO_SPACE.search(str(cause)):
            named = _PATH.search(str(cause))
            return no_space_text(named[0] if named else directory)
    return None


def no_space_text(path: object) -> str:
    """The sentence that says where no space is left."""
    return (
        f"no space left on {path}: free some, or move METERLINE_DATA_DIR to a larger disk. Nothing that was "
        "acknowledged is lost, and the work goes on once there is space"
    )


def is_full(directory: Path) -> bool:
    """Whether the disk of a directory has no room for another file. A log on that disk could not say so."""
    disk = os.statvfs(next(path for path in (directory, *directory.absolute().parents) if path.exists()))
    return disk.f_bavail * disk.f_frsize < _SPACE_BYTES_MIN


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
