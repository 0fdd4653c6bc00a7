"""Portal links, and what may be seen with one: a few calls that read, of one project or of one customer of it.

A link is a signed text that says what it shows, who made it and until when it can be opened; nothing of it is stored
before it is opened (docs/decisions/0066).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Final

from itsdangerous import BadSignature, URLSafeSerializer

from api.callers.keys import Caller, admin_with_id, key_with_id
from api.callers.roles import MAY
from schemas.accounts import Account
from schemas.problems import Rejection
from streams.core.portals import has_ended
from streams.core.projects import check_not_closed
from streams.settings import Settings

SCOPE: Final = "portal:write"
TOKEN_CHARS_MAX = 2048
_MAKING = "POST /v1/portal-links"

# What a portal's session may ask for; what is not listed here is refused. The customer's own are narrowed to the
# customer by their routes (`only_of`).
OF_CUSTOMER: Final = frozenset({"GET /v1/usage", "GET /v1/ledger"})
OF_PROJECT: Final = OF_CUSTOMER | {
    "GET /v1/balance",
    "GET /v1/items",
    "GET /v1/projects/me",
    "GET /v1/receipts/{id}",
    "GET /v1/invoices",
    "GET /v1/invoices/{month}",
}


@dataclass(frozen=True, slots=True)
class PortalLink:
    """A link to a project's pages, or, with a `customer`, to those of one customer. `maker` is the id of the key or
    admin that made it, who knew the account as of the intake record at `known_offset`. `expires_at` is a Unix second.
    """

    id: str
    project: str
    environment: str
    customer: str
    maker: str
    known_offset: int
    expires_at: int


class PortalLinks:
    """The signer of portal links, all APIs' with the same key."""

    def __init__(self, key: str) -> None:
        signing = {"digest_method": sha256, "key_derivation": "hmac"}
        self._seal = URLSafeSerializer(key, salt="meterline portal link", signer_kwargs=signing)

    @classmethod
    def of(cls, settings: Settings) -> PortalLinks:
        """The signer that the settings have the key of. Raises Rejection `portal_not_set_up` where they have none."""
        if settings.session_key is None:
            raise Rejection("portal_not_set_up", "Portal links need METERLINE_SESSION_KEY, the same at all APIs")
        return cls(settings.session_key.get_secret_value())

    def token(self, link: PortalLink) -> str:
        """The signed text of a link."""
        value = self._seal.dumps(list(asdict(link).values()))
        return value if isinstance(value, str) else value.decode()

    def link(self, token: str) -> PortalLink:
        """The link of a token that we have signed, whether it can still be opened or not. Raises Rejection
        `portal_link_invalid`."""
        try:
            if len(token) > TOKEN_CHARS_MAX:
                raise BadSignature("")
            return PortalLink(*self._seal.loads(token))
        except (BadSignature, TypeError):
            raise Rejection("portal_link_invalid", "This is no link of ours, or not all of it") from None


def portal_caller(settings: Settings, account: Account, link: PortalLink, now_ms: int) -> Caller:
    """The caller behind a link that was opened, as things are now: whoever made it has to be able to make it still.
    Raises Rejection: `portal_ended`, `project_closed`, `key_revoked`, `unauthenticated`, `missing_scope` or
    `missing_role`."""
    if has_ended(account, link.known_offset):
        raise Rejection("portal_ended", "All earlier links to these pages were ended")
    check_not_closed(account)
    if link.maker.startswith("admin:"):
        admin = admin_with_id(link.maker, settings.admins, settings.admin_key_hashes)
        if admin is None:
            raise Rejection("unauthenticated", "Whoever made the link is not an admin any more")
        if admin.role not in MAY[_MAKING]:
            raise Rejection("missing_role", "Whoever made the link may not make such links any more")
    else:
        key_with_id(account, link.maker, now_ms).require(SCOPE)
    is_whole = not link.customer and link.environment == "production"
    return Caller(
        account.project,
        f"portal:{link.id}",
        link.environment,
        ("content:read", "billing:read") if is_whole else ("content:read",),
        is_portal=True,
        customer=link.customer or None,
    )


def require_shown(caller: Caller, operation: str) -> None:
    """Require that a portal shows what a call asks for, as in "GET /v1/usage". Raises Rejection `not_in_portal`."""
    if operation not in (OF_PROJECT if caller.customer is None else OF_CUSTOMER):
        raise Rejection("not_in_portal", f"A portal does not show {operation}")


def only_of(caller: Caller, customer: str | None) -> str | None:
    """The customer that a reading is about, None for all: a portal of one customer is about that one alone, whatever
    is asked for."""
    return customer if caller.customer is None else caller.customer
