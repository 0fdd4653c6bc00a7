"""Portals: links by which a platform's own customers look at a project, each opened once (docs/decisions/0066)."""

from __future__ import annotations

from schemas.accounts import Account
from schemas.commands import EndPortals, OpenPortal
from schemas.problems import Rejection
from schemas.replies import Reply
from schemas.times import utc
from streams.core.booking import Booking, available, note


def open_link(booking: Booking, command: OpenPortal) -> Reply:
    """Open a portal link. That it is opened once follows from its id, which is the command's idempotency key. Raises
    Rejection."""
    if not command.idempotency_key:
        raise Rejection("invalid_request", "A portal link is opened under its id", "Idempotency-Key")
    if command.expires_at_ms <= booking.at_ms:
        raise Rejection(
            "portal_link_expired", f"The link could be opened until {utc(command.expires_at_ms):%H:%M:%S} UTC"
        )
    account = booking.account
    if has_ended(account, command.known_offset):
        raise Rejection("portal_ended", f"All earlier portal links of project {account.project!r} were ended")
    fact_id = booking.state(
        "portal",
        environment=command.environment,
        reason="opened",
        metadata=note(
            link_id=command.idempotency_key, session_id=command.session_id, customer_sha256=command.customer_sha256
        ),
    )
    return Reply(201, "", "", 0, available(account, command.environment), fact_id)


def end_all(booking: Booking, command: EndPortals) -> Reply:
    """End all portal links that were made before, and their sessions."""
    booking.account.portals_ended_offset = booking.offset
    fact_id = booking.state("portal", reason="ended", metadata=note(reason=command.reason))
    return Reply(200, "", "", 0, available(booking.account, "production"), fact_id)


def has_ended(account: Account, known_offset: int) -> bool:
    """Whether links are ended whose maker knew the account as of the intake record at `known_offset`, and the sessions
    that came of them."""
    return known_offset < account.portals_ended_offset
