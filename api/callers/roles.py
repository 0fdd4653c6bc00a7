"""Roles of admins: which call each may make. What is not listed here is allowed to nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from schemas.problems import Rejection
from streams.settings import Role

_OWNER: Final[frozenset[Role]] = frozenset({"owner"})
_FINANCE: Final[frozenset[Role]] = _OWNER | {"finance"}
_SUPPORT: Final[frozenset[Role]] = _OWNER | {"support"}
_ALL: Final[frozenset[Role]] = _FINANCE | _SUPPORT | {"read-only"}
_PROJECT = "/v1/admin/projects/{project}"
_BILLING = "/v1/admin/billing-accounts"
_ASKED = ("rotate", "test", "replay")


def _endpoints(prefix: str, changing: frozenset[Role]) -> dict[str, frozenset[Role]]:
    """The calls about endpoints, which everybody may look at."""
    one = f"{prefix}/{{endpoint_id}}"
    looks = (f"GET {prefix}", f"GET {one}", f"GET {one}/health", f"GET {one}/deliveries")
    changes = (f"POST {prefix}", f"PATCH {one}", f"DELETE {one}", *(f"POST {one}/{each}" for each in _ASKED))
    return dict.fromkeys(looks, _ALL) | dict.fromkeys(changes, changing)


# Money and credits are finance's; access, jobs and limits are support's. What concerns all customers at once, or ends
# what a customer pays for, is an owner's alone.
MAY: Final[Mapping[str, frozenset[Role]]] = {
    "POST /v1/admissions": _OWNER,
    "POST /v1/admissions/batch": _OWNER,
    "POST /v1/events": _OWNER,
    "GET /v1/holds": _ALL,
    "GET /v1/holds/settled": _ALL,
    "GET /v1/holds/{hold_id}": _ALL,
    "POST /v1/holds/{hold_id}/capture": _SUPPORT,
    "POST /v1/holds/{hold_id}/release": _SUPPORT,
    "POST /v1/holds/{hold_id}/extend": _SUPPORT,
    "GET /v1/balance": _ALL,
    "GET /v1/ledger": _ALL,
    "GET /v1/ledger/stream": _ALL,
    "GET /v1/usage": _ALL,
    "GET /v1/projects/me": _ALL,
    "GET /v1/limits": _ALL,
    "GET /v1/items": _ALL,
    "GET /v1/events/{source}/{id}": _ALL,
    "GET /v1/receipts": _ALL,
    "GET /v1/receipts/{id}": _ALL,
    "GET /v1/notices": _ALL,
    "GET /v1/notice-rules": _ALL,
    "PUT /v1/notice-rules": _SUPPORT,
    "GET /v1/audit": _ALL,
    "GET /v1/audit/keys": _ALL,
    "GET /v1/invoices": _ALL,
    "GET /v1/invoices/{month}": _ALL,
    "POST /v1/admin/rehearsals": _ALL,
    "POST /v1/admin/rehearsals/limits": _ALL,
    "POST /v1/admin/price-books": _OWNER,
    "DELETE /v1/admin/price-books/{version}": _OWNER,
    "GET /v1/admin/status": _ALL,
    "POST /v1/admin/projects": _SUPPORT,
    "GET /v1/admin/projects": _ALL,
    f"GET {_PROJECT}": _ALL,
    f"PUT {_PROJECT}/plan": _FINANCE,
    f"PUT {_PROJECT}/state": _OWNER,
    f"PUT {_PROJECT}/standing": _FINANCE,
    f"PUT {_PROJECT}/badge": _SUPPORT,
    f"GET {_PROJECT}/keys": _ALL,
    f"POST {_PROJECT}/keys": _SUPPORT,
    f"POST {_PROJECT}/keys/{{key_id}}/rotation": _SUPPORT,
    f"DELETE {_PROJECT}/keys/{{key_id}}": _SUPPORT,
    f"POST {_PROJECT}/top-ups": _FINANCE,
    f"POST {_PROJECT}/refunds": _FINANCE,
    f"POST {_PROJECT}/grants": _FINANCE,
    f"GET {_PROJECT}/auto-recharge": _ALL,
    f"PUT {_PROJECT}/auto-recharge": _FINANCE,
    f"PUT {_PROJECT}/items/{{item}}": _FINANCE,
    f"GET {_PROJECT}/limits": _ALL,
    f"PUT {_PROJECT}/limits": _SUPPORT,
    f"POST {_PROJECT}/limit-raises": _SUPPORT,
    f"DELETE {_PROJECT}/limit-raises/{{raise_id}}": _SUPPORT,
    f"POST {_PROJECT}/corrections": _FINANCE,
    f"POST {_PROJECT}/erasures": _OWNER,
    f"GET {_PROJECT}/erasures/{{entry_id}}": _ALL,
    f"PUT {_PROJECT}/billing-account": _FINANCE,
    "POST /v1/portal-links": _SUPPORT,
    "DELETE /v1/portal-links": _SUPPORT,
    f"POST {_PROJECT}/portal-links": _SUPPORT,
    f"DELETE {_PROJECT}/portal-links": _SUPPORT,
    **_endpoints("/v1/webhook-endpoints", _SUPPORT),
    **_endpoints("/v1/admin/webhook-endpoints", _OWNER),
    "GET /v1/admin/dead-letters": _ALL,
    "GET /v1/admin/dead-letters/{dead_letter_id}": _ALL,
    f"POST {_BILLING}": _FINANCE,
    f"GET {_BILLING}": _ALL,
    f"GET {_BILLING}/{{billing_account}}": _ALL,
    f"PUT {_BILLING}/{{billing_account}}": _FINANCE,
    f"GET {_BILLING}/{{billing_account}}/invoices": _ALL,
    f"GET {_BILLING}/{{billing_account}}/invoices/{{month}}": _ALL,
}


def require_role(role: Role, operation: str) -> None:
    """Require that admins of a role may make a call, as in "GET /v1/balance". Raises Rejection `missing_role`."""
    roles = MAY.get(operation, frozenset())
    if role not in roles:
        whose = f"; it is for {', '.join(sorted(roles))}" if roles else ""
        raise Rejection("missing_role", f"An admin with the role {role!r} may not {operation}{whose}")
