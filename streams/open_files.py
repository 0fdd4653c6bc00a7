"""The number of files and connections that a process may have open."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)

# What a process of ours needs beside its callers: tables, Kafka, ClickHouse, logs.
OPEN_FILES_OWN = 512
_ENOUGH = 4096


def raise_open_files() -> int:
    """Raise the number of files that this process may have open as far as the system lets it, and give that number.
    Where it is low, the log says so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    elif hard == resource.RLIM_INFINITY and soft != hard and soft < 1 << 20:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, hard))
        soft = 1 << 20
    if soft != resource.RLIM_INFINITY and soft < _ENOUGH:
        log.warning(
            "only %d files and connections may be open at once: raise `ulimit -Hn` to %d or more", soft, _ENOUGH
        )
    return soft if soft != resource.RLIM_INFINITY else 1 << 20
