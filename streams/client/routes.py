"""Routes say what a gateway's requests are: the operation that a method and a path stand for, and its details."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta
from starlette.requests import Request

from streams.client.admissions import Details
from streams.client.arguments import ArgumentError, HoldSeconds, check, check_operation, checked_event

# How long a hold lasts unless its Route says otherwise: long enough for an answer that the client waits for. A job that
# goes on after the answer needs longer, by its Route or by `extend`.
HOLD_SECONDS = 600
DETAIL_FIELDS = tuple(Details.__annotations__)
_SAID = ("metadata", "environment", "job_id", "key_id")

Computed = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Route:
    """A route maps requests to an operation. `path` may have {parameters}, as Starlette's; a GET route takes HEAD too.

    With `hold`, credits are held for `hold_seconds` and charged by the outcome; without `hold`, they are charged at
    once, for good. `details` are the fields that the price depends on, `metadata`, `environment`, `job_id` and
    `key_id`, or a function of the request that gives them, which may read its body and raise Rejection. A service that
    takes a path in other spellings (a trailing slash) needs a route for each. Raises ArgumentError for what can never
    match, or never be admitted.
    """

    method: str
    path: str
    operation: str
    hold: bool = True
    hold_seconds: int = HOLD_SECONDS
    details: Computed | Callable[[Request], Computed | Awaitable[Computed]] | None = None

    def __post_init__(self) -> None:
        check("method", self.method, Annotated[str, Meta(pattern=r"^[A-Z]+$")])
        check("path", self.path, Annotated[str, Meta(pattern=r"^/")])
        check("hold", self.hold, bool)
        check("hold_seconds", self.hold_seconds, HoldSeconds)
        check_operation("operation", self.operation)
        if self.details is not None and not callable(self.details):
            data = {name: value for name, value in known(self.details).items() if name != "key_id"}
            checked_event("-", "-", "-", "", {"operation": self.operation, **data})


def known(computed: Computed) -> Computed:
    """The details of a route as they are. Raises ArgumentError where one is not of those that a route may have."""
    check("details", computed, dict)
    for name in computed:
        if name not in DETAIL_FIELDS and name not in _SAID:
            raise ArgumentError("details", f"{name!r} is none of {', '.join((*DETAIL_FIELDS, *_SAID))}")
    return computed
