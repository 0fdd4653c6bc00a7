"""Endpoints: what of a project hears of its notices, and the platform's own, which hear of every project.

No secret and no target is in a fact: whoever delivers notices has them from the account (docs/decisions/0062).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from schemas.accounts import Account, Endpoint
from schemas.commands import (
    DeleteEndpoint,
    DisableEndpoint,
    PutEndpoint,
    ReplayNotices,
    RotateEndpoint,
    TestEndpoint,
)
from schemas.notices import NOTICE_TYPES
from schemas.problems import Rejection
from schemas.replies import Reply
from schemas.times import DAY_MS
from streams.core.booking import Booking, available, note

# The platform's endpoints are kept in an account of their own, under an id that no project can have.
PLATFORM_ID: Final = "platform:"
ENDPOINTS_MAX = 8
TARGET_CHARS_MAX = 512
DESCRIPTION_CHARS_MAX = 200
EVENT_TYPES_MAX = 16
REPLAY_DAYS_MAX = 30
# The secret before the last rotation signs too for so long.
ROTATION_MS = DAY_MS
KINDS: Final = ("webhook", "slack", "email")
ENVIRONMENTS: Final = ("production", "preview")
ALL: Final = "*"
# An endpoint hears of `webhook.test` when it is asked to, whatever it hears of otherwise.
_NAMES: Final = frozenset(NOTICE_TYPES) - {"webhook.test"}
HEARD_OF: Final = (ALL, *sorted({f"{name.partition('.')[0]}.*" for name in _NAMES}), *sorted(_NAMES))
_NOTICE_ID = re.compile(r"ntc-\d{1,19}-\d{1,19}-\d{1,19}", re.ASCII)
_EMAIL = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@(?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.)+[A-Za-z]{2,24}", re.ASCII
)
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?|\[[0-9A-Fa-f:.]+\]", re.ASCII)


def put(booking: Booking, command: PutEndpoint) -> Reply:
    """Make an endpoint, or change one. A change that changes nothing states nothing. Raises Rejection."""
    _check(command)
    if command.is_change:
        return _change(booking, command)
    account = booking.account
    if any(each.id == command.endpoint_id for each in account.endpoints):
        raise Rejection("endpoint_exists", f"Endpoint {command.endpoint_id!r} exists", "endpoint_id")
    if len(account.endpoints) >= ENDPOINTS_MAX:
        raise Rejection("too_many_endpoints", f"{_whose(account.project)} has {ENDPOINTS_MAX} endpoints already")
    if command.kind is None or command.target is None:
        field = "kind" if command.kind is None else "target"
        raise Rejection("invalid_request", f"A new endpoint has a `{field}`", field)
    made = Endpoint(
        id=command.endpoint_id,
        kind=command.kind,
        target=command.target,
        event_types=_once([ALL] if command.event_types is None else command.event_types),
        environments=_once(command.environments or []),
        is_ordered=bool(command.is_ordered),
        created_at_ms=booking.at_ms,
        state=command.state or "active",
        description=command.description or "",
    )
    account.endpoints.append(made)
    return _done(booking, booking.state("endpoint", reason="created", metadata=_note(made)), 201)


def rotate(booking: Booking, command: RotateEndpoint) -> Reply:
    """Give a webhook its next secret. Raises Rejection."""
    endpoint = endpoint_of(booking.account, command.endpoint_id)
    if endpoint.kind != "webhook":
        raise Rejection("invalid_request", f"An endpoint of kind {endpoint.kind} has no secret", "endpoint_id")
    endpoint.secret_version += 1
    endpoint.rotated_at_ms = booking.at_ms
    return _done(booking, booking.state("endpoint", reason="rotated", metadata=_note(endpoint)))


def delete(booking: Booking, command: DeleteEndpoint) -> Reply:
    """Delete an endpoint. Raises Rejection."""
    endpoint = endpoint_of(booking.account, command.endpoint_id)
    booking.account.endpoints.remove(endpoint)
    return _done(booking, booking.state("endpoint", reason="deleted", metadata=_note(endpoint)))


def disable(booking: Booking, command: DisableEndpoint) -> Reply:
    """Disable an endpoint; one that is disabled stays so, and nothing is stated again. Raises Rejection."""
    endpoint = endpoint_of(booking.account, command.endpoint_id)
    if endpoint.state == "disabled":
        return _nothing_done(booking)
    endpoint.state = "disabled"
    metadata = note(endpoint_id=endpoint.id, kind=endpoint.kind, reason=command.reason[:DESCRIPTION_CHARS_MAX])
    return _done(booking, booking.state("endpoint", reason="disabled", metadata=metadata))


def test(booking: Booking, command: TestEndpoint) -> Reply:
    """Have a test notice sent to an endpoint. Raises Rejection."""
    endpoint = _active(booking.account, command.endpoint_id)
    return _done(booking, booking.state("endpoint", reason="tested", metadata=_note(endpoint)))


def replay(booking: Booking, command: ReplayNotices) -> Reply:
    """Have notices sent to an endpoint again: one, or those since a time within the last 30 days. Raises Rejection."""
    endpoint = _active(booking.account, command.endpoint_id)
    if command.notice_id:
        if command.since_ms or command.only_failed:
            raise Rejection("invalid_request", "Name one notice, or a time since when, not both", "notice_id")
        if not _NOTICE_ID.fullmatch(command.notice_id):
            raise Rejection("invalid_request", f"{command.notice_id[:80]!r} is no notice's id", "notice_id")
        asked = note(endpoint_id=endpoint.id, notice_id=command.notice_id)
    else:
        earliest_ms = booking.at_ms - REPLAY_DAYS_MAX * DAY_MS
        if not earliest_ms <= command.since_ms <= booking.at_ms:
            detail = f"Notices are sent again since a time within the last {REPLAY_DAYS_MAX} days"
            raise Rejection("invalid_request", detail, "since")
        asked = note(endpoint_id=endpoint.id, since_ms=command.since_ms, only_failed=command.only_failed or None)
    return _done(booking, booking.state("endpoint", reason="replayed", metadata=asked))


def endpoint_of(account: Account, endpoint_id: str) -> Endpoint:
    """The endpoint of an id. Raises Rejection `unknown_endpoint`."""
    for each in account.endpoints:
        if each.id == endpoint_id:
            return each
    raise no_endpoint(account.project, endpoint_id)


def no_endpoint(project: str, endpoint_id: str) -> Rejection:
    """The Rejection for an endpoint that is not there."""
    return Rejection("unknown_endpoint", f"{_whose(project)} has no endpoint {endpoint_id[:80]!r}")


def hears_of(endpoint: Endpoint, notice_type: str, environment: str) -> bool:
    """Whether an endpoint, whatever its state, is to hear of notices of a type in an environment; "" is none, of which
    every endpoint hears."""
    family = f"{notice_type.partition('.')[0]}.*"
    is_in = not environment or not endpoint.environments or environment in endpoint.environments
    return is_in and any(each in (ALL, family, notice_type) for each in endpoint.event_types)


def check_target(kind: str, target: str, *, is_http_allowed: bool = False) -> None:
    """Check a target by its text: an https URL with a host and without a user's name, or an email address. Nothing is
    resolved: whoever connects checks the addresses then. Raises Rejection `invalid_request`."""
    if not target or len(target) > TARGET_CHARS_MAX:
        raise Rejection("invalid_request", f"A target has from 1 to {TARGET_CHARS_MAX} characters", "target")
    if kind == "email":
        if not _EMAIL.fullmatch(target):
            raise Rejection(
                "invalid_request", "An endpoint of kind email has an address such as ops@acme.example", "target"
            )
        return
    if any(not "!" <= each <= "~" or each in '\\"<>^`{|}' for each in target):
        raise Rejection("invalid_request", "A URL has printable ASCII characters only, without spaces", "target")
    try:
        parts = urlsplit(target)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise Rejection("invalid_request", "This is no URL: its host or its port can't be read", "target") from None
    if parts.scheme != "https" and not (is_http_allowed and parts.scheme == "http"):
        raise Rejection("invalid_request", "A target is an https URL", "target")
    if "@" in parts.netloc:
        raise Rejection("invalid_request", "A target has no user name or password in it", "target")
    if parts.fragment:
        raise Rejection("invalid_request", "A target has no fragment", "target")
    if not _HOST.fullmatch(f"[{host}]" if ":" in host else host):
        raise Rejection("invalid_request", "A target has a host, by its name in ASCII or by its address", "target")


def shown_target(endpoint: Endpoint) -> str:
    """The target as answers show it: of a Slack webhook, whose path is its secret, the host alone."""
    if endpoint.kind != "slack":
        return endpoint.target
    parts = urlsplit(endpoint.target)
    return f"{parts.scheme}://{parts.netloc}/…"


def _change(booking: Booking, command: PutEndpoint) -> Reply:
    endpoint = endpoint_of(booking.account, command.endpoint_id)
    if command.kind not in (None, endpoint.kind):
        raise Rejection("invalid_request", "An endpoint stays of its kind; make another one", "kind")
    before = _terms(endpoint)
    if command.target is not None:
        endpoint.target = command.target
    if command.event_types is not None:
        endpoint.event_types = _once(command.event_types)
    if command.environments is not None:
        endpoint.environments = _once(command.environments)
    if command.is_ordered is not None:
        endpoint.is_ordered = command.is_ordered
    if command.description is not None:
        endpoint.description = command.description
    is_other, fact_ids = _terms(endpoint) != before, []
    if is_other:
        fact_ids.append(booking.state("endpoint", reason="changed", metadata=_note(endpoint)))
    if command.state is not None and command.state != endpoint.state:
        endpoint.state = command.state
        reason = "paused" if command.state == "paused" else "resumed"
        fact_ids.append(booking.state("endpoint", reason=reason, metadata=_note(endpoint)))
    return _done(booking, fact_ids[0]) if fact_ids else _nothing_done(booking)


def _check(command: PutEndpoint) -> None:
    """Check the form of all that a command says; whoever takes a target from a caller has checked what it is."""
    target, types = command.target, command.event_types
    if command.kind is not None and command.kind not in KINDS:
        raise Rejection("invalid_request", f"No kind {command.kind[:80]!r}; there are {', '.join(KINDS)}", "kind")
    if target is not None and not 0 < len(target) <= TARGET_CHARS_MAX:
        raise Rejection("invalid_request", f"A target has from 1 to {TARGET_CHARS_MAX} characters", "target")
    if types is not None:
        unknown = next((each for each in types if each not in HEARD_OF), None)
        if unknown is not None:
            detail = f"No event type {unknown[:80]!r}; there are {', '.join(HEARD_OF)}"
            raise Rejection("invalid_request", detail, "event_types")
        if not 0 < len(types) <= EVENT_TYPES_MAX:
            detail = f"An endpoint hears of 1 to {EVENT_TYPES_MAX} event types; `{ALL}` is all"
            raise Rejection("invalid_request", detail, "event_types")
    if any(each not in ENVIRONMENTS for each in command.environments or []):
        raise Rejection("invalid_request", f"The environments are {' and '.join(ENVIRONMENTS)}", "environments")
    if len(command.description or "") > DESCRIPTION_CHARS_MAX:
        detail = f"A description has at most {DESCRIPTION_CHARS_MAX} characters"
        raise Rejection("invalid_request", detail, "description")
    if command.state not in (None, "active", "paused"):
        raise Rejection("invalid_request", "An endpoint is set to active or paused", "state")


def _active(account: Account, endpoint_id: str) -> Endpoint:
    endpoint = endpoint_of(account, endpoint_id)
    if endpoint.state != "active":
        raise Rejection("endpoint_inactive", f"Endpoint {endpoint.id!r} is {endpoint.state}")
    return endpoint


def _terms(endpoint: Endpoint) -> tuple[object, ...]:
    return endpoint.target, endpoint.event_types, endpoint.environments, endpoint.is_ordered, endpoint.description


def _once(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _note(endpoint: Endpoint) -> str:
    return note(
        endpoint_id=endpoint.id,
        kind=endpoint.kind,
        event_types=", ".join(endpoint.event_types),
        environments=", ".join(endpoint.environments),
    )


def _whose(project: str) -> str:
    return "The platform" if project == PLATFORM_ID else f"Project {project!r}"


def _done(booking: Booking, fact_id: str, status: int = 200) -> Reply:
    return Reply(status, "", "", 0, available(booking.account, "production"), fact_id)


def _nothing_done(booking: Booking) -> Reply:
    left = available(booking.account, "production")
    return Reply(200, "", "It is so already; nothing was changed", 0, left, "", already_decided=True)
