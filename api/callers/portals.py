"""Portals: what may be seen by whoever has opened a portal link.

It is a few calls that read, of one project or of one customer of it (docs/decisions/0066).
"""

from __future__ import annotations

from typing import Final

from api.callers.keys import Caller, admin_with_id, key_with_id
from api.callers.links import PortalLink
from api.callers.roles import MAY
from schemas.accounts import Account
from schemas.problems import Rejection
from streams.core.portals import has_ended
from streams.core.projects import check_not_closed
from streams.kafka.clock import now_ms
from streams.settings import Settings

SCOPE: Final = "portal:write"
_MAKING = "POST /v1/portal-links"

# What a portal's session may ask for; what is not listed here is refused. The customer's own are narrowed to the
# customer by their routes (`only_of`).
OF_CUSTOMER: Final = frozenset({"GET /v1/usage", "GET /v1/ledger", "GET /v1/ledger/stream"})
OF_PROJECT: Final = OF_CUSTOMER | {
    "GET /v1/balance",
    "GET /v1/limits",
    "GET /v1/items",
    "GET /v1/projects/me",
    "GET /v1/receipts/{id}",
    "GET /v1/invoices",
    "GET /v1/invoices/{month}",
}


def portal_caller(settings: Settings, account: Account, link: PortalLink, at_ms: int) -> Caller:
    """The caller behind a link that was opened, as things are now: whoever made it has to be able to make it still, an
    admin by the same key.
    Raises Rejection: `portal_ended`, `project_closed`, `key_revoked`, `unauthenticated`, `missing_scope` or
    `missing_role`."""
    if has_ended(account, link.known_offset):
        raise Rejection("portal_ended", "All earlier links to these pages were ended")
    check_not_closed(account)
    if link.maker.startswith("admin:"):
        admin = admin_with_id(link.maker, settings.admins, settings.admin_key_hashes, link.mark)
        if admin is None:
            raise Rejection("unauthenticated", "Whoever made the link is not an admin any more, or has another key")
        if admin.role not in MAY[_MAKING]:
            raise Rejection("missing_role", "Whoever made the link may not make such links any more")
    else:
        key_with_id(account, link.maker, at_ms).require(SCOPE)
    is_whole = not link.customer and link.environment == "production"
    return Caller(
        account.project,
        f"portal:{link.id}",
        link.environment,
        ("content:read", "billing:read") if is_whole else ("content:read",),
        portal=link,
    )


def caller_of_portal(settings: Settings, account: Account, link: PortalLink, at_ms: int) -> Caller:
    """The caller behind a link, as `portal_caller` has it, for somebody who need not know who made the link, nor why it
    is of no use any more. Raises Rejection `portal_ended`."""
    try:
        return portal_caller(settings, account, link, at_ms)
    except Rejection:
        raise Rejection("portal_ended", "These pages are not shown any more") from None


def check_portal(settings: Settings, link: PortalLink, account: Account) -> None:
    """Check that a portal that was opened has not ended. Raises Rejection `portal_ended`."""
    caller_of_portal(settings, account, link, now_ms())


def is_shown(caller: Caller, operation: str) -> bool:
    """Whether a portal shows what a call asks for, as in "GET /v1/usage"."""
    return operation in (OF_PROJECT if caller.customer is None else OF_CUSTOMER)


def require_shown(caller: Caller, operation: str) -> None:
    """Require that a portal shows what a call asks for. Raises Rejection `not_in_portal`."""
    if not is_shown(caller, operation):
        raise Rejection("not_in_portal", f"A portal does not show {operation}")


def only_of(caller: Caller, customer: str | None) -> str | None:
    """The customer that a reading is about, None for all: a portal of one customer is about that one alone, whatever
    is asked for."""
    return customer if caller.customer is None else caller.customer
