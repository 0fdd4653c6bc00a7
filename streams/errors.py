"""Errors that end a command with one clear line."""

from __future__ import annotations

import errno
from collections.abc import Iterator

# As RocksDB, ClickHouse and the JVM word it, whose errors are no OSError.
_NO_SPACE_WORDS = ("No space left on device", "NOT_ENOUGH_SPACE", "Not enough space", "Cannot reserve")


class OperatorError(Exception):
    """An error that whoever runs Meterline has to put right; the message says what and how."""


def no_space(error: BaseException, directory: object) -> str | None:
    """The sentence for an error that a full disk caused, or None for any other. `directory` is where the process writes
    if the error does not say itself."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return no_space_text(cause.filename or directory)
        if any(word in str(cause) for word in _NO_SPACE_WORDS):
            return no_space_text(directory)
    return None


def no_space_text(path: object) -> str:
    """The sentence that says where no space is left."""
    return (
        f"no space left on {path}: free some, or move METERLINE_DATA_DIR to a larger disk; nothing that was "
        "acknowledged is lost, and the work goes on once there is space"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
