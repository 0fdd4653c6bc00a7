"""Requests of the simulation's clients."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.commands import AnyCommand


@dataclass(slots=True)
class Request:
    """A request is a command that someone wants an answer to; each attempt has a correlation of its own."""

    command: AnyCommand
    # The partition of its project; a price book goes to every partition, by a request for each.
    partition: int
    correlations: list[str] = field(default_factory=list)
    # The intake offset of its first attempt, and the index of the first fact that it may leave.
    offset: int = -1
    index: int = 0
